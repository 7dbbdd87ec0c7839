"""Classes that are read as one are counted; those that are kept have one number everywhere."""

import functools
import json
import re

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import load_tool
from tests.modeling.random_models import SMALL, random_model
from ultravid.data import StridedFrameSampler, build_video_test_loader, build_video_train_loader
from ultravid.data.class_checks import check_num_classes
from ultravid.datasets import DataError
from ultravid.datasets.formats import load_coco_stills, load_cva_bus
from ultravid.engine import SimpleTrainer, hooks
from ultravid.evaluation import inference_on_dataset
from ultravid.utils.errors import UserError
from ultravid.utils.tool import run_tool

MERGED = "benign (2), malignant (1) are read as one class, 'lesion'; class_agnostic=False"
ALL = [{"id": 3, "name": "benign"}, {"id": 7, "name": "malignant"}]


def write(folder, name, kinds, categories):
    """One frame for each category in ``kinds``, in the layout of CVA-BUS."""
    content = {"categories": categories, "videos": [], "images": [], "annotations": []}
    for n, kind in enumerate(kinds):
        file = f"{name}{n}/0.png"
        (folder / "rawframes" / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "rawframes" / file), np.random.default_rng(n).integers(0, 255, (24, 32), np.uint8))
        content["videos"].append({"id": n, "name": f"{name}{n}"})
        size = {"height": 24, "width": 32}
        content["images"].append({"id": n, "video_id": n, "frame_id": 0, "file_name": file, **size})
        content["annotations"].append(
            {"id": n, "image_id": n, "category_id": kind, "instance_id": 0, "bbox": [1, 2, 9, 8]}
        )
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_merged_classes_are_counted_in_the_log_and_in_the_audit(tmp_path, capsys, caplog):
    write(tmp_path, "all", [3, 7, 3], ALL)
    files = {"json_file": tmp_path / "all.json", "image_root": tmp_path / "rawframes"}
    merged = load_coco_stills(**files)
    assert caplog.text.count(MERGED) == 1 and {v.class_names for v in merged} == {("lesion",)}
    again = load_coco_stills(**files)  # from the index
    assert caplog.text.count(MERGED) == 1 and again[1].merged_classes == {"malignant": 1}
    caplog.clear()
    kept = load_coco_stills(**files, class_agnostic=False)
    assert not caplog.records and [v.frames[0].classes.tolist() for v in kept] == [[0], [1], [0]]
    assert (kept[0].class_names, kept[0].category_ids) == (("benign", "malignant"), (3, 7))
    (swapped, *_) = load_coco_stills(**files, class_agnostic=False, classes=["malignant", "benign"])
    assert swapped.frames[0].classes.tolist() == [1] and swapped.category_ids == (7, 3)
    with pytest.raises(DataError, match=r"video 'all1/0\.png' frame 0: class 'malignant' is not one of benign"):
        load_coco_stills(**files, class_agnostic=False, classes=["benign"])

    command = ["--data", f"coco-stills:{files['json_file']}", "--option", f"image_root={files['image_root']}"]
    assert run_tool(load_tool("audit_dataset").main, [*command, "--output", str(tmp_path / "audit.html")]) == 0
    printed, page = " ".join(capsys.readouterr().out.split()), (tmp_path / "audit.html").read_text()
    assert re.search(r"benign +│ 2 / 2 .* malignant +│ 1 / 1", printed) and MERGED in printed
    assert MERGED.replace("'", "&#x27;") in page


def test_splits_that_list_other_categories_number_a_class_alike(tmp_path):
    write(tmp_path, "trainval", [3, 7], ALL)
    write(tmp_path, "test", [7], ALL[1:])
    videos = load_cva_bus(root=tmp_path, splits=["trainval", "test"], class_agnostic=False)
    assert [v.frames[0].classes.tolist() for v in videos] == [[0], [1], [1]]
    assert {(v.class_names, v.category_ids) for v in videos} == {(("benign", "malignant"), (3, 7))}


class Detector(torch.nn.Linear):
    def __init__(self, num_classes):
        super().__init__(2, 2)
        self.num_classes = num_classes


def trainer(root, num_classes, test_videos):
    sampler = {"frame_sampler": StridedFrameSampler(num_frames=1), "transforms": []}
    videos = load_cva_bus(root=root, class_agnostic=False)
    model = Detector(num_classes)
    test_loader = build_video_test_loader(videos=test_videos)
    hook = hooks.EvalHook(
        1, functools.partial(inference_on_dataset, model=model, data_loader=test_loader, evaluator=None)
    )
    loader = build_video_train_loader(videos=videos, total_batch_size=1, seed=0, **sampler)
    return SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), 0.1), hooks={"eval": hook})


@pytest.mark.parametrize("name", SMALL)
def test_every_detector_with_fewer_classes_than_the_data_is_refused(name, tmp_path):
    write(tmp_path, "trainval", [3, 7], ALL)
    loader = build_video_test_loader(videos=load_cva_bus(root=tmp_path, splits=["trainval"], class_agnostic=False))
    with pytest.raises(UserError, match=r"data have 2 classes \(benign, malignant\), but the model has 1: set model"):
        check_num_classes(random_model(name), loader)


def test_model_and_data_of_other_classes_are_refused_before_the_training(tmp_path, caplog):
    write(tmp_path, "trainval", [3, 7], ALL)
    write(tmp_path, "test", [7], ALL[1:])
    right = load_cva_bus(root=tmp_path, splits=["trainval"], class_agnostic=False)
    with pytest.raises(UserError, match=r"data have 2 classes \(benign, malignant\), but the model has 1: set model"):
        trainer(tmp_path, 1, right).train(0, 1)
    model, loader = Detector(3), build_video_test_loader(videos=right)
    model.rpn = Detector(1)  # tells objects from background, of whatever class
    for _ in range(2):
        check_num_classes(model, loader)
    said = "The data have 2 classes (benign, malignant), but the model has 3 (model.num_classes)."
    assert [record.getMessage() for record in caplog.records].count(said) == 1
    other = load_cva_bus(root=tmp_path, splits=["test"], class_agnostic=False)
    with pytest.raises(UserError, match="are benign, malignant in training, but malignant in evaluation"):
        trainer(tmp_path, 2, other).train(0, 1)
    with pytest.raises(DataError, match="classes are benign, malignant in video 'trainval0', but malignant in video"):
        build_video_test_loader(videos=[*right, *other])
