"""Patients and files that are both in training and in evaluation are named before a training begins; folds have none."""

import functools
import json

import cv2
import numpy as np
import pytest
import torch

from ultravid.data import StridedFrameSampler, build_video_test_loader, build_video_train_loader
from ultravid.datasets.formats import load_coco_stills
from ultravid.engine import SimpleTrainer, hooks
from ultravid.evaluation import inference_on_dataset


def stills(folder, name, patients):
    """Videos of one frame of a JSON; patient None is not stated."""
    image = {"height": 24, "width": 32}
    images = [{"id": n, "file_name": f"{name}{n}.png", **image} for n in range(len(patients))]
    for row, patient in zip(images, patients, strict=True):
        cv2.imwrite(str(folder / row["file_name"]), np.full((24, 32), row["id"], np.uint8))
        row.update({} if patient is None else {"patient": patient})
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 9, 8]} for n in range(len(patients))]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "lesion"}]}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return load_coco_stills(json_file=folder / f"{name}.json")


def warnings_of_a_training(caplog, train, test, **fold):
    sampler = {"frame_sampler": StridedFrameSampler(num_frames=1), "transforms": []}
    loader = build_video_train_loader(videos=train, total_batch_size=1, seed=0, **sampler, **fold)
    tested = build_video_test_loader(videos=test, **fold)
    model = torch.nn.Linear(2, 2)
    evaluate = functools.partial(inference_on_dataset, model=model, data_loader=tested, evaluator=None)
    trainer = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), 0.1))
    caplog.clear()
    for _ in range(2):  # as the two halves of a trial run
        hook = hooks.EvalHook(1, evaluate)
        hook.trainer = trainer
        hook.before_train()
    return [r.getMessage() for r in caplog.records if "not independent" in r.getMessage()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stills")
    return stills(folder, "a", ["P01", "P02", "P03", None]), stills(folder, "b", ["p02 ", "P03", "P09", None])


def test_shared_patients_and_files_are_counted_and_the_first_is_named(data, caplog):
    train, test = data
    (said,) = warnings_of_a_training(caplog, train, test)
    assert "2 of its 3 known patients (the first: 'p02 ', of 'a1.png' in training and 'b0.png' in" in said
    assert " files (" not in said
    (said,) = warnings_of_a_training(caplog, train, [*train[3:], *test[2:]])
    assert "known patients" not in said and "1 of its 3 files (the first: " in said and "a3.png)" in said


def test_folds_and_other_patients_are_not_warned_of(data, caplog):
    train, test = data
    assert warnings_of_a_training(caplog, train[:1], test) == []
    both = [*train, *test]
    assert warnings_of_a_training(caplog, both, both, fold=0, num_folds=2) == []
