"""Every model gives the detections that the published code (arXiv 2305.18060) gave with the same weights and frames.

The weights and frames are made by rule (`reference/fill.py`); the detections were recorded on the CPU in float32.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.optimize import linear_sum_assignment

from tests.conftest import load_tool
from tests.modeling.reference import fill
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import Builder, LazyConfig
from ultravid.utils.tool import run_tool

FOLDER = Path(__file__).with_name("reference")
EXPECTED = np.load(FOLDER / "detections.npz")
MODELS = json.loads((FOLDER / "models.json").read_text())
SEED = 20240611
# (number, frames, height, width, output height, output width); L is longer than any memory, D is no multiple of 16.
VIDEOS = {
    "A": (0, 12, 256, 320, 256, 320),
    "B": (1, 1, 256, 320, 256, 320),
    "L": (2, 20, 192, 256, 192, 256),
    "D": (3, 2, 234, 310, 351, 465),
}
FRAMES = {"UltraDet": 9, "MEGA": 13}
"""Frames of L that are compared, if they are more than 2: up to the second key frame, and until the memory is used."""


@functools.cache
def filled(name, shape):
    return fill.fill(name, shape, torch.float32, SEED)


@functools.cache
def frames(video):
    number, count, height, width = VIDEOS[video][:4]
    return torch.from_numpy(fill.frames(1000 * SEED + number, count, height, width))


def weights_of(name):
    """Under the names of the published code; constants are left out, as in the files of some models."""
    calibration, weights = MODELS[name]["calibration"], {}
    for row in str(EXPECTED[f"{name}_names"]).splitlines():
        entry, shape = row.split(" ")
        value = filled(fill.canonical(entry), tuple(map(int, shape.split("x"))) if shape else ())
        known = calibration.get(fill.canonical(entry))
        weights[entry] = fill.calibrate(value, **known) if known else value
    return weights


def write_yaml(folder, keys):
    """The keys of a config in two files, of which the second has the first as its base."""
    nested = {}
    for key, value in keys.items():
        *above, last = key.split(".")
        node = nested
        for step in above:
            node = node.setdefault(step, {})
        node[last] = value
    (folder / "Base.yaml").write_text(yaml.safe_dump({"MODEL": nested.pop("MODEL")}))
    (folder / "model.yaml").write_text(yaml.safe_dump({"_BASE_": "Base.yaml", **nested}))
    return str(folder / "model.yaml")


def convert(folder, name, *, keys=None):
    """The model that `tools/convert_checkpoint.py` makes of the published weights."""
    torch.save({"model": weights_of(name), "iteration": 9999}, folder / "published.pth")
    config = write_yaml(folder, {**MODELS[name]["keys"], **(keys or {})})
    output = folder / "converted"
    arguments = ["--config", config, "--weights", str(folder / "published.pth"), "--output", str(output)]
    assert run_tool(load_tool("convert_checkpoint").main, arguments) == 0
    (folder / "published.pth").unlink()
    model = Builder(LazyConfig.load(output / "config.yaml")).build("model").eval()
    DetectionCheckpointer(model).load(output / "model_final.pth", strict=True)
    return model


@pytest.fixture(scope="module", params=MODELS)
def converted(request, tmp_path_factory):
    return request.param, convert(tmp_path_factory.mktemp(request.param), request.param)


def differences(name, model, video, count):
    """The largest distance of a box and of a score, and the frames in which not all detections have a partner."""
    return differences_in(name, model, video, frames(video)[:count], VIDEOS[video][-2:])


def differences_in(name, model, video, images, output_size):
    """`differences` for some frames, whose detections are recorded under the name of a video."""
    num = EXPECTED[f"{name}_{video}_num"].astype(int)
    cut = np.cumsum(num)[:-1]
    recorded = zip(*(np.split(EXPECTED[f"{name}_{video}_{a}"], cut) for a in ("boxes", "scores")), strict=True)
    height, width = output_size
    box, score, unequal = 0.0, 0.0, []
    tolerance = MODELS[name]["tolerance"]
    for t, (image, (boxes, scores)) in enumerate(zip(images, recorded, strict=False)):
        (output,) = model([{"image": image, "height": height, "width": width, "stream_id": "one"}])
        found = output["instances"]
        # Scores of one frame may be closer than rounding noise, so partners are sought, not taken by order.
        gap = np.abs(found.pred_boxes.tensor.numpy()[:, None] - boxes[None]).max(axis=2)
        of_score = np.abs(found.scores.numpy()[:, None] - scores[None])
        rows, columns = linear_sum_assignment(np.minimum(gap / tolerance[0] + of_score / tolerance[1], 1e3))
        if len(found) != len(boxes):
            unequal.append(t)
        if len(rows):
            box, score = max(box, gap[rows, columns].max()), max(score, of_score[rows, columns].max())
        if f"{name}_{video}_ids" in EXPECTED:
            ids = np.split(EXPECTED[f"{name}_{video}_ids"], cut)[t]
            assert list(found.track_ids.numpy()[rows]) == list(ids[columns])
    return box, score, unequal


def test_a_converted_model_detects_what_was_recorded_after_a_reset_too(converted):
    name, model = converted
    tolerance = MODELS[name]["tolerance"]
    for video, count in (("D", 1), ("L", FRAMES.get(name, 2))):
        model.reset()
        box, score, unequal = differences(name, model, video, count)
        assert (box <= tolerance[0], score <= tolerance[1], unequal) == (True, True, []), (video, box, score)


@pytest.mark.parametrize("converted", ["CVANet"], indirect=True)
def test_a_video_that_follows_another_under_one_stream_id_is_its_continuation(converted):
    """The published CVA-Net never forgets a video; what was recorded of it is what one stream of both videos gives."""
    name, model = converted
    model.reset()
    lag = model.feature_context.window.num_frames - 1
    for image in frames("A")[-lag:]:  # what is further back is not used
        model([{"image": image, "stream_id": "one"}])
    (image,) = frames("B")
    box, score, unequal = differences_in(name, model, "Bleak", [image], VIDEOS["B"][-2:])
    tolerance = MODELS[name]["tolerance"]
    assert (box <= tolerance[0], score <= tolerance[1], unequal) == (True, True, [])
    model.reset()
    assert differences_in(name, model, "Bleak", [image], VIDEOS["B"][-2:])[0] > 1  # alone, it is another video


@pytest.mark.slow_models
def test_a_converted_model_remembers_what_the_published_one_did(converted):
    name, model = converted
    model.reset()
    box, score, unequal = differences(name, model, "L", VIDEOS["L"][1])
    tolerance = MODELS[name]["tolerance"]
    assert (box <= tolerance[0], score <= tolerance[1], unequal) == (True, True, []), (box, score)
