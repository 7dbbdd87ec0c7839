"""Classifiers with weights for each organ."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ultravid.config import get_config, instantiate
from ultravid.data.class_checks import check_organs
from ultravid.datasets.video import Frame, Video
from ultravid.modeling import OrganConv2d, OrganLinear, VideoStream, classify, organ_classifier
from ultravid.structures import Boxes, Clip, Instances
from ultravid.utils.errors import UserError

ORGANS = {"breast": 3, "thyroid": 2}


def small_model(**overrides):
    torch.manual_seed(0)
    cfg = get_config("common/models/basicdet_small.py").model
    cfg.box_predictor.num_classes = 3
    cfg.box_predictor.organ_classes = ORGANS
    for key, value in overrides.items():
        cfg[key] = value
    return instantiate(cfg)


def clip_of(organ, seed=0, length=2):
    frames = torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (length, 3, 64, 72), np.uint8))
    one = Instances(
        (64, 72), gt_boxes=Boxes([[10, 12, 40, 45]]), gt_classes=torch.ones(1).long(), gt_ids=torch.zeros(1).long()
    )
    return Clip(frames, [one] * length, ["v"] * length, list(range(length)), organ=organ)


def of_organ(weight, place):
    """Of the two organs' weights, or their gradient, those of one."""
    return weight.unflatten(0, (2, -1))[place]


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_each_frame_gets_the_layer_of_its_organ_and_the_background_is_every_organs(kind):
    torch.manual_seed(0)
    convolution = kind == "convolution"
    x = torch.randn(5, 6, 7, 4) if convolution else torch.randn(5, 7, 6)
    made = []

    def make():
        made.append(nn.Conv2d(6, 8, 3, padding=1) if convolution else nn.Linear(6, 8))
        return made[-1]

    layer = organ_classifier(make, ORGANS, 3, background=True)  # two anchors of three classes and the background
    assert isinstance(layer, OrganConv2d if convolution else OrganLinear) and len(list(layer.parameters())) == 2
    organ = torch.tensor([0, 1, 1, 0, 1])
    out = classify(layer, x, organ)
    for frame, place in enumerate(organ.tolist()):
        expected = made[place](x[frame : frame + 1])[0]
        axis = 0 if convolution else -1
        kept = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7] if place == 0 else [0, 1, 3, 4, 5, 7])
        torch.testing.assert_close(out[frame].index_select(axis, kept), expected.index_select(axis, kept))
        if place == 1:
            masked = out[frame].index_select(axis, torch.tensor([2, 6]))
            assert masked.sigmoid().eq(0).all() and out[frame].softmax(axis).isfinite().all()
        torch.testing.assert_close(classify(layer, x[frame : frame + 1], organ[frame : frame + 1])[0], out[frame])
    out.masked_fill(out < -100, 0).square().sum().backward()
    assert all(of_organ(p.grad, place)[:2].any() for p in layer.parameters() for place in (0, 1))
    assert of_organ(layer.weight.grad, 1)[[2, 6]].eq(0).all()  # of the class that the organ does not have
    layer.zero_grad()
    classify(layer, x, torch.ones_like(organ)).clamp(-9).sum().backward()
    # zero, not None, which DDP needs
    assert all(of_organ(p.grad, 0).eq(0).all() and of_organ(p.grad, 1).any() for p in layer.parameters())


def test_without_organs_the_layer_is_the_plain_one():
    plain = organ_classifier(lambda: nn.Linear(4, 2), None, 1, background=True)
    assert type(plain) is nn.Linear and classify(plain, torch.zeros(1, 3, 4), None).shape == (1, 3, 2)
    with pytest.raises(ValueError, match="'thyroid' 4 classes; the head has num_classes=3"):
        organ_classifier(lambda: nn.Linear(4, 4), {"thyroid": 4}, 3)
    with pytest.raises(ValueError, match="no organ is given"):
        classify(organ_classifier(lambda: nn.Linear(4, 4), ORGANS, 3), torch.zeros(1, 3, 4), None)


def test_streams_of_two_organs_do_not_meet_and_their_classifiers_differ():
    model = small_model().eval()
    with torch.no_grad():
        model.box_predictor.cls_score.weight.mul_(20)
    frames = clip_of("breast").frames
    alone = {organ: [VideoStream(model, (64, 72), organ=organ)(f)] for organ in ORGANS for f in frames[:1]}
    streams = {organ: VideoStream(model, (64, 72), organ=organ) for organ in ORGANS}
    seen: dict[str, list[Instances]] = {organ: [] for organ in ORGANS}
    for frame in frames:
        for organ, stream in streams.items():
            seen[organ].append(stream(frame))
    for organ in ORGANS:
        torch.testing.assert_close(seen[organ][0].scores, alone[organ][0].scores)
        (through_forward,) = model([{"image": frames[0], "video_id": f"of {organ}", "organ": organ}])
        torch.testing.assert_close(through_forward["instances"].scores, alone[organ][0].scores)
    assert not torch.allclose(seen["breast"][0].scores[:3], seen["thyroid"][0].scores[:3])
    assert set(seen["breast"][0].pred_classes.tolist()) == {0, 1, 2}
    assert set(seen["thyroid"][0].pred_classes.tolist()) == {0, 1}  # the third class scores 0 and is no detection


def test_the_loss_weight_of_an_organ_scales_its_losses_exactly():
    def losses(clips, **weights):
        model = small_model(organ_loss_weights=weights).train()
        torch.manual_seed(1)
        return model, model(clips)

    _, one = losses([clip_of("thyroid")])
    model, four = losses([clip_of("thyroid")], thyroid=4.0)
    for name, value in one.items():
        assert float(four[name].detach()) == 4 * float(value.detach()) and np.isfinite(float(value.detach()))
    sum(four.values()).backward()
    grad = model.box_predictor.cls_score.weight.grad
    assert of_organ(grad, 0).eq(0).all() and of_organ(grad, 1)[:2].any()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_an_unknown_organ_is_refused_by_name():
    model = small_model()
    assert model.organs == ("breast", "thyroid")
    assert copy.deepcopy(model).organs == model.organs
    with pytest.raises(ValueError, match=r"'thyriod' is not an organ of the model\. Did you mean 'thyroid'"):
        model.initial_state((64, 64), "thyriod")
    with pytest.raises(ValueError, match=r"has a classifier per organ \(breast, thyroid\), but the organ is not known"):
        model.train()([clip_of("")])
    with pytest.raises(ValueError, match="organ_loss_weights names 'liver'"):
        small_model(organ_loss_weights={"liver": 2.0})
    with pytest.raises(
        ValueError, match="model's organs are thyroid, breast, those of its classifiers breast, thyroid"
    ):
        small_model(organs=["thyroid", "breast"])


def test_organs_and_classes_of_the_data_are_compared_with_the_models_before_training():
    def loader(organ, classes=(0,), given=None):
        boxes = np.array([[1, 1, 5, 5]] * len(classes), np.float32)
        frame = Frame(
            "a.png", 0, 8, 8, boxes=boxes, classes=np.array(classes), track_ids=np.zeros(len(classes), np.int64)
        )
        videos = [Video("v0", [frame], "p", metadata={"organ": organ} if organ else {})]
        return SimpleNamespace(dataset=SimpleNamespace(videos=videos, organ=given))

    model = small_model()
    check_organs(model, loader("breast", classes=(2,)))
    check_organs(model, loader("", given="thyroid"))
    check_organs(model, SimpleNamespace(loaders={"thyroid": loader("")}))  # a mixed loader's name is its clips' organ
    check_organs(nn.Linear(1, 1), loader(""))
    for wrong, message in [
        (loader("neck"), "'neck', the organ of 1 of the videos, the first 'v0', is not an organ of the model"),
        (loader(""), "the organ of 1 of the videos, the first 'v0', is not known: state it"),
        (
            {"test": loader("thyroid", classes=(0, 2))},
            "'v0' of organ 'thyroid' has a box of class 2, but the model has 2",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            check_organs(model, wrong)


@pytest.mark.parametrize("name", ["retinanet", "fcos", "defcn", "yolox"])
def test_a_dense_head_takes_organs_by_one_line(name):
    torch.manual_seed(0)
    cfg = get_config(f"common/models/{name}_small.py").model
    cfg.dense_head.num_classes = 3
    cfg.dense_head.organ_classes = ORGANS
    model = instantiate(cfg).train()
    weight = model.dense_head.cls_score.weight
    assert 0.003 < of_organ(weight, 1).std() < 0.4 and model.dense_head.cls_score.bias.max() < -4
    losses = model([clip_of("thyroid"), clip_of("thyroid", 1)])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    used = of_organ(weight.grad, 1)
    assert of_organ(weight.grad, 0).eq(0).all() and used.any() and used.unflatten(0, (-1, 3))[:, 2].eq(0).all()
    model.to(memory_format=torch.channels_last)  # as a model that is prepared for inference
    torch.nn.init.constant_(model.dense_head.cls_score.bias, 1.0)
    found = {o: VideoStream(model.eval(), (64, 72), organ=o)(clip_of(o).frames[0]).pred_classes for o in ORGANS}
    assert 2 in found["breast"] and len(found["thyroid"]) and 2 not in found["thyroid"]


@pytest.mark.parametrize("name", ["ultradet", "cvanet", "transvod"])
def test_detectors_of_several_frames_take_organs(name):
    torch.manual_seed(0)
    cfg = get_config(f"common/models/{name}_small.py").model
    heads = [cfg.box_predictor] if name == "ultradet" else [cfg.decoder]
    for head in [*heads, *([cfg.query_context] if name == "transvod" else [])]:
        head.num_classes, head.organ_classes = 3, ORGANS
    model = instantiate(cfg).train()
    memory = 1 if name == "cvanet" else 0
    sum(model([dataclasses.replace(clip_of("thyroid", length=4), num_memory=memory)]).values()).backward()
    layers = [m for m in model.modules() if isinstance(m, OrganLinear)]
    assert layers and all(
        of_organ(m.weight.grad, 0).eq(0).all() and of_organ(m.weight.grad, 1)[:2].any() for m in layers
    )
    frames = clip_of("breast", length=3).frames
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(20)
    streams = {organ: VideoStream(model.eval(), (64, 72), organ=organ) for organ in ORGANS}
    last = [{organ: stream(frame) for organ, stream in streams.items()} for frame in frames][-1]
    alone = VideoStream(model, (64, 72), organ="thyroid")
    torch.testing.assert_close([alone(frame).scores for frame in frames][-1], last["thyroid"].scores)
    assert last["thyroid"].pred_classes.max() <= 1
    assert last["breast"].scores.shape != last["thyroid"].scores.shape or not torch.allclose(
        last["breast"].scores, last["thyroid"].scores
    )
    for organ in ORGANS:
        of_clip = model.detect_clip(frames, organ)
        assert of_clip.scores[of_clip.valid].isfinite().all()
