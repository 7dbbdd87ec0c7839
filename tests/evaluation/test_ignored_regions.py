"""Regions to ignore, from the annotations through a run's evaluation, its files and a conversion: the same values everywhere."""

import json
import logging

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import load_tool
from ultravid.data import build_video_test_loader
from ultravid.datasets import load_coco_video, load_cva_bus
from ultravid.evaluation import FramePictures, VideoDetectionEvaluator, inference_on_dataset
from ultravid.evaluation.evaluator import DatasetEvaluators
from ultravid.structures import Boxes, Instances
from ultravid.utils.errors import UserError
from ultravid.utils.tool import run_tool

LESION, REGION, INSIDE = [1.5, 2, 20, 20], [30, 30.25, 20, 20.5], [31, 31, 5, 5]
# Of each frame: its annotations, and the detections (box, score), each [x, y, width, height].
FRAMES = [
    ([{"bbox": LESION}, {"bbox": REGION, "iscrowd": 1}], [(LESION, 0.9), (REGION, 0.95), (INSIDE, 0.94)]),
    ([{"bbox": LESION}, {"bbox": REGION, "ignore": 1}], [(LESION, 0.8), (REGION, 0.93), (INSIDE, 0.7)]),
    ([{"bbox": REGION, "difficult": 1}, {"bbox": REGION}], [(REGION, 0.6)]),  # on a lesion too: a hit
    ([], [(REGION, 0.2)]),
    ([{"bbox": LESION, "iscrowd": 1}], []),
]
IGNORED = 3


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ULTRAVID_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    images = [{"id": 10 + n, "video_id": 1, "frame_id": n, "height": 64, "width": 64} for n in range(len(FRAMES))]
    for image in images:
        image["file_name"] = f"{image['frame_id']}.png"
        cv2.imwrite(str(folder / image["file_name"]), np.full((64, 64), image["id"], np.uint8))
    rows = [{"image_id": 10 + n, "category_id": 1, **row} for n, (rows, _) in enumerate(FRAMES) for row in rows]
    rows = [{"id": n, **({} if "iscrowd" in row else {"instance_id": 0}), **row} for n, row in enumerate(rows)]
    content = {"videos": [{"id": 1, "name": "v", "fps": 25}], "images": images, "annotations": rows}
    content["categories"] = [{"id": 1, "name": "tumour"}]
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


class Recorded(torch.nn.Module):
    """Gives the detections of `FRAMES`."""

    def forward(self, inputs):
        found = FRAMES[inputs[0]["frame_index"]][1]
        boxes = Boxes([[x, y, x + width, y + height] for (x, y, width, height), _ in found])
        scores = torch.tensor([score for _, score in found])
        return [{"instances": Instances((64, 64), pred_boxes=boxes, scores=scores)}]


def run_model(videos, folder, **options):
    evaluators = [VideoDetectionEvaluator(folder, **options), FramePictures(folder)]
    inference_on_dataset(Recorded(), build_video_test_loader(videos=videos), DatasetEvaluators(evaluators))
    return json.loads((folder / "metrics.json").read_text())


def evaluate(predictions, folder, *more):
    command = ["--predictions", predictions, "--output-dir", folder, *more]
    assert run_tool(load_tool("evaluate").main, list(map(str, command))) == 0
    return json.loads((folder / "metrics.json").read_text())


def test_a_runs_evaluation_equals_that_of_its_files_and_of_converted_data(data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = run_model(load_coco_video(json_file=data), tmp_path / "run")
    assert f"{IGNORED} detections lie on regions that the annotations mark" in caplog.text
    assert metrics["count/detections_on_ignored_regions"] == IGNORED
    assert (metrics["count/detections"], metrics["count/lesion_boxes"]) == (5, 3)
    rows = json.loads((tmp_path / "run/predictions.json").read_text())
    assert len(rows) == 5 + IGNORED  # all that was found is kept
    truth = ["--annotations", data]
    assert evaluate(tmp_path / "run", tmp_path / "again") == metrics
    assert evaluate(tmp_path / "run", tmp_path / "again", *truth) == metrics
    assert evaluate(tmp_path / "run/predictions.json", tmp_path / "again 2", *truth) == metrics

    page = tmp_path / "report.html"
    command = [tmp_path / "run", "--output", page, "--bootstrap", 0, "--score-threshold", 0.1]
    assert run_tool(load_tool("report").main, list(map(str, command))) == 0
    assert "grey: 1 regions to ignore" in page.read_text()

    command = ["--format", "coco-video", "--path", data, "--output", tmp_path / "out", "--split", "test"]
    assert run_tool(load_tool("convert_dataset").main, list(map(str, command))) == 0
    converted = load_cva_bus(root=tmp_path / "out", splits=["test"])
    assert run_model(converted, tmp_path / "run of converted") == metrics
    truth = ["--annotations", tmp_path / "out/test.json"]
    assert evaluate(tmp_path / "run of converted/predictions.json", tmp_path / "again 3", *truth) == metrics
    for _ in range(2):  # the second time from the index
        before, after = load_coco_video(json_file=data), load_cva_bus(root=tmp_path / "out", splits=["test"])
        regions = [
            [(f.boxes.tolist(), f.ignored.tolist(), f.ignored_crowds.tolist()) for f in videos[0].frames]
            for videos in (before, after)
        ]
        assert regions[0] == regions[1]
        x, y, width, height = REGION
        corners = [x, y, x + width, y + height]
        assert [frame[1:] for frame in regions[0][:4]] == [
            *(([corners], [True]), ([corners], [False]), ([corners], [False]), ([], []))
        ]


def test_an_evaluation_is_not_resumed_with_other_regions(data, tmp_path):
    run_model(load_coco_video(json_file=data), tmp_path / "run")
    (tmp_path / "run/predictions/manifest.json").unlink()
    run_model(load_coco_video(json_file=data), tmp_path / "run", resume=True)
    (tmp_path / "run/predictions/manifest.json").unlink()
    data.write_text(data.read_text().replace('"iscrowd": 1', '"ignore": 1'))
    with pytest.raises(UserError, match="Video 'v' frame 0: its image, size or annotation has changed"):
        run_model(load_coco_video(json_file=data), tmp_path / "run", resume=True)
