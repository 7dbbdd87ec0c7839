"""Metrics per class and the confusion table, worked by hand, from a model's evaluation and from COCO files."""

import json
import logging
import re

import numpy as np
import pytest
import torch

from tests.conftest import load_tool
from tests.evaluation.cases import FAR, A, B, xywh
from ultravid.evaluation import (
    FrameResult,
    VideoDetectionEvaluator,
    VideoResult,
    all_metrics,
    inference_on_dataset,
)
from ultravid.structures import Boxes, Instances
from ultravid.utils.tool import run_tool

BENIGN, MALIGNANT = 0, 1
# (lesions with their classes, detections with their classes and scores). Five lesions; the four that are found by any class give
# recall 0.8 at the score 0.6, so the detection of 0.5 is below the threshold of the confusion table.
FRAMES = [
    ([(A, BENIGN)], [(A, BENIGN, 0.9)]),
    ([(A, MALIGNANT)], [(A, BENIGN, 0.8), (A, MALIGNANT, 0.5)]),
    ([(A, BENIGN), (B, MALIGNANT)], [(B, MALIGNANT, 0.7), (FAR, MALIGNANT, 0.65)]),
    ([(A, BENIGN)], [(A, BENIGN, 0.6)]),
]
# benign: found, false, found of 3 lesions; malignant: found, false, found of 2.
EXPECTED = {
    "class/benign/AP50": 100 * (1 + 2 / 3) / 3,
    "class/malignant/AP50": 100 * (1 + 2 / 3) / 2,
    "class_mean/AP50": 100 * (1 + 2 / 3) * (1 / 3 + 1 / 2) / 2,
    "confusion/benign/benign": 2,
    "confusion/benign/malignant": 0,
    "confusion/benign/missed": 1,
    "confusion/malignant/benign": 1,
    "confusion/malignant/malignant": 1,
    "confusion/malignant/missed": 0,
    "confusion/false_positive/benign": 0,
    "confusion/false_positive/malignant": 1,
}
IDS = (3, 7)
AGNOSTIC_AP50 = 100 * (1 + 1 + 1 + 4 / 5) / 5


def write_annotations(folder):
    content = {"videos": [{"id": 1, "name": "v", "fps": 25}], "images": [], "annotations": []}
    content["categories"] = [{"id": IDS[0], "name": "benign"}, {"id": IDS[1], "name": "malignant"}]
    for n, (lesions, _) in enumerate(FRAMES):
        content["images"].append({"id": n, "video_id": 1, "frame_id": n, "height": 99, "width": 99})
        for box, kind in lesions:
            row = {"id": len(content["annotations"]), "image_id": n, "category_id": IDS[kind], "bbox": xywh(box)}
            content["annotations"].append({**row, "instance_id": kind})
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def results():
    return [
        {"image_id": n, "category_id": IDS[kind], "bbox": xywh(box), "score": score}
        for n, (_, found) in enumerate(FRAMES)
        for box, kind, score in found
    ]


def evaluate(predictions, annotations, folder):
    command = ["--predictions", predictions, "--output-dir", folder]
    command += ["--annotations", annotations] if annotations else []
    assert run_tool(load_tool("evaluate").main, list(map(str, command))) == 0
    return json.loads((folder / "metrics.json").read_text())


class Recorded(torch.nn.Module):
    """Gives the detections of `FRAMES`."""

    def forward(self, inputs):
        found = FRAMES[inputs[0]["frame_index"]][1]
        boxes, scores = Boxes([box for box, _, _ in found]), torch.tensor([score for _, _, score in found])
        kinds = torch.tensor([kind for _, kind, _ in found])
        return [{"instances": Instances((99, 99), pred_boxes=boxes, scores=scores, pred_classes=kinds)}]


def run_model(folder, names, ids, merged):
    items = []
    for n, (lesions, _) in enumerate(FRAMES):
        kinds = torch.tensor([kind for _, kind in lesions])
        truth = Instances((99, 99), gt_boxes=Boxes([box for box, _ in lesions]), gt_classes=kinds, gt_ids=kinds)
        item = {"image": torch.zeros(3, 9, 9), "height": 99, "width": 99, "video_id": "v", "frame_index": n}
        item |= {"image_id": n, "fps": 25.0, "instances": truth, "class_names": names, "category_ids": ids}
        items.append([{**item, "merged_classes": merged}])
    return inference_on_dataset(Recorded(), items, VideoDetectionEvaluator(folder))


def test_coco_files_give_what_is_worked_by_hand(tmp_path, capsys):
    annotations = write_annotations(tmp_path)
    (tmp_path / "found.json").write_text(json.dumps(results()))
    written = evaluate(tmp_path / "found.json", annotations, tmp_path / "out")
    assert {name: written[name] for name in EXPECTED} == pytest.approx(EXPECTED)
    assert written["AP50"] == pytest.approx(AGNOSTIC_AP50) and written["class/benign/mAP"] == pytest.approx(500 / 9)
    printed = capsys.readouterr().out
    assert re.search(r"\| malignant +\| +1 \| +1 \| +0 \|\n\| \(false positives\) +\| +0 \| +1 \|", printed)
    assert "class-agnostic" in printed


def test_without_a_detection_every_class_has_ap_0(tmp_path):
    (tmp_path / "found.json").write_text("[]")
    written = evaluate(tmp_path / "found.json", write_annotations(tmp_path), tmp_path / "out")
    assert written["class/benign/AP50"] == written["class_mean/mAP"] == 0
    assert written["confusion/benign/missed"] is None


def test_a_video_without_a_detection_has_missed_lesions():
    truth = {"gt_track_ids": np.zeros(1, np.int64), "gt_classes": np.zeros(1, np.int64)}
    box, none = np.array([A], np.float32), np.zeros((0, 4), np.float32)
    found = [(box, np.ones(1, np.float32), np.zeros(1, np.int64))] * 4 + [(none, none[:, 0], np.zeros(0, np.int64))]
    videos = [
        VideoResult(f"v{n}", [FrameResult(0, n, box, boxes, scores, classes=kinds, **truth)], class_names=("a", "b"))
        for n, (boxes, scores, kinds) in enumerate(found)
    ]
    metrics = all_metrics(videos)
    assert (metrics["confusion/a/a"], metrics["confusion/a/missed"], metrics["confusion/b/missed"]) == (4, 1, 0)


def test_a_class_called_missed_has_a_column_of_its_own():
    truth = {"gt_track_ids": np.zeros(1, np.int64), "gt_classes": np.ones(1, np.int64)}
    box, kinds = np.array([A], np.float32), np.ones(1, np.int64)
    frame = FrameResult(0, 0, box, box, np.ones(1, np.float32), classes=kinds, **truth)
    metrics = all_metrics([VideoResult("v", [frame], class_names=("a", "missed"))])
    assert (metrics["confusion/class missed/class missed"], metrics["confusion/class missed/missed"]) == (1, 0)


def test_a_models_evaluation_and_its_files_give_the_same(tmp_path, caplog):
    annotations = write_annotations(tmp_path)
    with caplog.at_level(logging.INFO):
        run_model(tmp_path / "run", ("benign", "malignant"), IDS, {})
    assert "Lesion boxes by the class that finds them" in caplog.text
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert [row["category_id"] for row in rows] == [row["category_id"] for row in results()]
    files = [
        (tmp_path / "run", None),
        (tmp_path / "run", annotations),
        (tmp_path / "run/predictions.json", annotations),
    ]
    for number, (predictions, truth) in enumerate(files):
        again = evaluate(predictions, truth, tmp_path / f"out{number}")
        assert {name: again[name] for name in EXPECTED} == pytest.approx(EXPECTED), predictions
    assert {name: written[name] for name in EXPECTED} == pytest.approx(EXPECTED)


def test_a_model_of_one_class_has_no_metrics_per_class(tmp_path, caplog):
    run_model(tmp_path / "run", ("lesion",), (), {"benign": 3, "malignant": 2})
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    read_as_one = {"benign": 3, "malignant": 2}
    assert record["seen"]["classes"] == {"names": ["lesion"], "category_ids": [], "read_as_one": read_as_one}
    rows = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert {row["category_id"] for row in rows} == {1}
    again = evaluate(tmp_path / "run/predictions.json", write_annotations(tmp_path), tmp_path / "out")
    assert again["AP50"] == pytest.approx(AGNOSTIC_AP50)
    assert not [name for name in again if name.startswith(("class", "confusion"))]
    assert "evaluated with one class, so there are no metrics per class" in caplog.text
