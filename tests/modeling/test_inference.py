"""A prepared model detects what the plain one does, and leaves it as it is; threads on the CPU."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.modeling.random_models import SMALL, clip, random_model, video
from ultravid.layers import FrozenBatchNorm2d
from ultravid.layers.box_tensors import iou_matrix
from ultravid.layers.roi_align import pool_boxes, roi_align
from ultravid.modeling import InferenceDetector, VideoStream, prepare_for_inference
from ultravid.modeling.inference import CompileError
from ultravid.utils.threads import SMALL_MODEL, SPIN_COUNT, threads_for

SIZE = (64, 80)


def assert_same(plain, prepared, frames, box_px=0.05, score=1e-4):
    one, other = VideoStream(plain, SIZE), VideoStream(prepared, SIZE)
    for frame in frames:
        expected, found = one(frame), other(frame)
        assert len(expected) == len(found)
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=box_px, rtol=0)
        torch.testing.assert_close(found.scores, expected.scores, atol=score, rtol=0)
        assert torch.equal(found.pred_classes, expected.pred_classes)


def models(*names):
    """All models, of which these are run by default."""
    return [pytest.param(name, marks=[] if name in names else [pytest.mark.slow_models]) for name in SMALL]


@pytest.mark.parametrize("name", models("ultradet", "fgfa", "yolox", "transvod"))
def test_a_prepared_model_detects_the_same_and_the_given_one_stays_as_it_is(name):
    model = random_model(name)
    before, form = copy.deepcopy(model.state_dict()), repr(model)
    prepared = prepare_for_inference(model, SIZE)
    assert isinstance(prepared, InferenceDetector) and prepared.num_phases == model.num_phases
    assert not any(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in prepared.modules())
    assert_same(model, prepared, video(1, 9 if model.num_phases > 1 else 4, *SIZE))
    assert repr(model) == form and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) and v.stride() == before[k].stride() for k, v in model.state_dict().items())
    frames = [{"image": frame, "video_id": "v"} for frame in video(1, 2, *SIZE)]
    assert [len(out["instances"]) for out in prepared(frames)] == [len(out["instances"]) for out in model(frames)]


def test_a_prepared_model_refuses_another_size_training_and_options_that_do_not_fit():
    prepared = prepare_for_inference(random_model("faster_rcnn"), SIZE)
    with pytest.raises(ValueError, match="prepared for frames of 80x64 px, got 64x64"):
        VideoStream(prepared, (64, 64))
    with pytest.raises(RuntimeError, match="can't be trained"):
        prepared.losses([])
    with pytest.raises(ValueError, match="needs image_size"):
        prepare_for_inference(random_model("faster_rcnn"), None, compile=True)
    with pytest.raises(ValueError, match="winograd=True needs image_size"):
        prepare_for_inference(random_model("faster_rcnn"), SIZE, precision="bfloat16", winograd=True)
    with pytest.raises(ValueError, match="CUDA graphs need"):
        prepare_for_inference(random_model("faster_rcnn"), SIZE, cuda_graphs=True)


@pytest.mark.parametrize("name", models("basicdet"))
def test_bfloat16_finds_nearly_the_same_and_keeps_the_state_in_float32(name):
    """Its seven bits move boxes and scores a little, and now and then another box of an object is kept: most have a close partner."""
    model = random_model(name)
    prepared = prepare_for_inference(model, SIZE, precision="bfloat16")
    states = model.initial_state(SIZE), prepared.initial_state(SIZE)
    has_partner = []
    for number, image in enumerate(video(1, 3, *SIZE).float()):
        phase = model.phase(number)
        expected, plain = model.step(image, states[0], phase)
        found, state = prepared.step(image, states[1], phase)
        states = plain, state
        dtypes = {t.dtype for t in torch.utils._pytree.tree_leaves(state)}
        assert torch.bfloat16 not in dtypes and found.boxes.dtype == found.scores.dtype == torch.float32
        iou = iou_matrix(expected.boxes[expected.valid], found.boxes[found.valid])
        apart = (expected.scores[expected.valid][:, None] - found.scores[found.valid]).abs()
        has_partner += ((iou > 0.9) & (apart < 0.03)).any(dim=1).tolist()
    assert sum(has_partner) >= 0.8 * len(has_partner) > 0, has_partner


def test_a_model_that_is_not_one_graph_is_reported_with_the_reason(monkeypatch):
    model = random_model("faster_rcnn")
    step = type(model).step
    monkeypatch.setattr(type(model), "step", lambda self, *a: step(self, *a) if a[0].sum() > 0 else None)
    with pytest.raises(CompileError, match=r"TwoStage\(ResNet, .*\) does not compile to one graph"):
        prepare_for_inference(model, SIZE, compile=True)


@pytest.mark.slow_models
@pytest.mark.parametrize("name", ["faster_rcnn", "ultradet"])
def test_a_compiled_model_detects_the_same(name):
    model = random_model(name)
    assert_same(model, prepare_for_inference(model, SIZE, compile=True), video(1, 9, *SIZE))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pooling_of_boxes_equals_roi_align_in_values_and_gradients(sampling_ratio, aligned):
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 9, 13, generator=draw, requires_grad=True)
    centre, size = (torch.rand(2, 5, 2, generator=draw) * torch.tensor([104.0, 72.0]) for _ in range(2))
    boxes = torch.cat((centre - size / 2, centre + size / 2), dim=-1)
    boxes[0, 0] = 5.0  # no area
    rois = torch.cat((torch.arange(2.0).repeat_interleave(5)[:, None], boxes.flatten(0, 1)), dim=1)
    weight = torch.randn(10, 3, 7, 7, generator=draw)
    expected = roi_align(maps, rois, 7, 1 / 8, sampling_ratio, aligned)
    found = pool_boxes(maps, boxes, 7, 1 / 8, sampling_ratio, aligned)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad((pooled * weight).sum(), maps)[0] for pooled in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=0)


def test_gradient_checkpointing_changes_no_loss_and_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = random_model("retinanet").train()
        model.gradient_checkpointing = checkpointing
        sum(model([clip(0, 2, *SIZE)]).values()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_threads_are_chosen_by_the_models_size():
    assert threads_for(SMALL_MODEL // 2, available=8) == 1 and threads_for(10 * SMALL_MODEL, available=8) == 8


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(given):
    ours = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": SPIN_COUNT}
    environment = {k: v for k, v in os.environ.items() if k not in ours} | given
    code = f"import os, sys, ultravid; assert 'torch' not in sys.modules; print({{k: os.environ[k] for k in {list(ours)} if k in os.environ}})"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(given or ours)
