"""Parts of two-stage detectors, each against a case worked by hand or an independent computation."""

import math
import re

import pytest
import torch

from tests.modeling.random_models import clip, describe
from ultravid.config import LazyCall, LazyConfig, instantiate
from ultravid.layers import Box2BoxTransform, RelationModule
from ultravid.modeling import FrameWindow, Matcher, subsample_labels
from ultravid.modeling.frame_window import temporal_mask
from ultravid.modeling.types import Targets


def test_relation_follows_its_formula_pair_by_pair():
    torch.manual_seed(0)
    module = RelationModule(dim=8, num_heads=2, num_layers=1, geometry_dim=16)
    x = torch.randn(3, 8)
    boxes = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 30], [40, 2, 60, 8]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    layer = module.layers[0]
    q, k, v = (torch.relu(f(x)) for f in (layer.linear_q, layer.linear_k, layer.linear_v))
    waves = [1000 ** (8 * i / 16) / 100 for i in range(2)]
    size = [(b[2] - b[0], b[3] - b[1]) for b in boxes.tolist()]
    centre = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes.tolist()]
    out = torch.zeros(3, 8)
    for i in range(3):
        scores = torch.full((2, 3), -math.inf)
        for j in range(3):
            if not mask[i, j]:
                continue
            parts = [math.log(abs(centre[j][a] - centre[i][a]) / size[j][a] + 1e-4) for a in (0, 1)]
            parts += [math.log(size[i][a] / size[j][a] + 1e-4) for a in (0, 1)]
            embedding = [f(p / w) for p in parts for f in (math.sin, math.cos) for w in waves]
            weight = torch.relu(layer.geo_trans(torch.tensor(embedding)))
            for h in range(2):
                cols = slice(4 * h, 4 * h + 4)
                scores[h, j] = torch.log(weight[h] + 1e-6) + q[i, cols] @ k[j, cols] / 2
        attention = scores.softmax(1)
        gathered = torch.cat([attention[h] @ v[:, 4 * h : 4 * h + 4] for h in range(2)])
        out[i] = x[i] + torch.relu(layer.linear_o(gathered))
    assert torch.allclose(module(x, boxes, mask), out, atol=1e-5)
    assert torch.allclose(module(x, boxes, mask, num_last=1), out[2:], atol=1e-5)


def test_matcher_by_hand_and_without_ground_truth():
    iou = torch.tensor([[0.1, 0.3, 0.6, 0.0], [0.2, 0.0, 0.7, 0.25]])
    matches, labels = Matcher((0.3, 0.7), (0, -1, 1))(iou)
    assert matches.tolist() == [1, 0, 1, 1] and labels.tolist() == [0, -1, 1, 0]
    _, labels = Matcher((0.3, 0.7), (0, -1, 1), allow_low_quality_matches=True)(iou[:1])
    assert labels.tolist() == [0, -1, 1, 0]
    _, labels = Matcher((0.3, 0.7), (0, -1, 1))(torch.zeros(0, 3))
    assert labels.tolist() == [0, 0, 0]


def test_sampling_fills_up_with_background():
    labels = torch.tensor([1] * 3 + [0] * 20 + [-1] * 5)
    positive, negative = subsample_labels(labels, 10, 0.5)
    assert sorted(positive.tolist()) == [0, 1, 2] and len(negative) == 7
    assert labels[negative].eq(0).all() and len(set(negative.tolist())) == 7


def test_box_deltas_undo_each_other():
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    source = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 30]])
    target = torch.tensor([[2.0, 1, 14, 18], [4, 4, 9, 40]])
    assert torch.allclose(transform.apply_deltas(transform.get_deltas(source, target), source), target, atol=1e-4)
    assert transform.get_deltas(source[:1], target[:1])[0].tolist() == pytest.approx(
        [10 * 0.3, 10 * -0.025, 5 * math.log(1.2), 5 * math.log(0.85)], abs=1e-5
    )


def test_a_window_counts_its_stride_back_from_the_newest():
    window = FrameWindow(3, stride=2)
    state = window.initial_state(torch.device("cpu"), place=((), torch.float32))
    first = state
    for t in range(8):
        state = window.push(state, place=torch.tensor(float(t)))
        if t == 2:
            assert window.window(state)["valid"].tolist() == [False, True, True]
    assert window.window(state)["place"].tolist() == [3, 5, 7] and not first["valid"].any()


def test_which_frames_see_each_other_by_hand():
    assert temporal_mask(3, 0, causal=True).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert temporal_mask(3, 1, causal=True).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert temporal_mask(3, 5, causal=False).all()


def test_the_padding_of_a_frame_reaches_neither_proposals_nor_their_losses():
    rpn = instantiate(describe("faster_rcnn", batch_size_per_image=10_000).proposal_head)
    torch.manual_seed(0)
    features, changed = torch.randn(1, 64, 6, 8), torch.full((1, 6, 8), 9.0)
    changed[:, :4, :5] = 0.0  # the cells of an image of 31 x 40 px
    targets = Targets(
        boxes=torch.tensor([[[3.0, 4, 20, 16]]]),
        classes=torch.zeros(1, 1, dtype=torch.int64),
        valid=torch.ones(1, 1, dtype=torch.bool),
        weight=torch.ones(1),
        image_sizes=torch.tensor([[31.0, 40.0]]),
    )
    plain = rpn(features)
    other = plain._replace(logits=plain.logits + changed.flatten(1).repeat_interleave(4, 1))
    (losses, proposals), (others, other_proposals) = (
        (rpn.losses(p, targets), rpn.decode(p, targets.image_sizes)) for p in (plain, other)
    )
    for name, value in losses.items():
        torch.testing.assert_close(others[name], value)
    assert proposals.valid.any()
    assert all(torch.equal(a, b) for a, b in zip(proposals, other_proposals, strict=True))


def test_proposals_of_any_head_are_of_one_class_and_objects_of_several():
    config = describe("faster_rcnn")
    config.proposal_head = describe("fcos").dense_head
    config.box_predictor.num_classes = 3
    shown = clip(1, 2, 48, 64, boxes=3)
    for instances in shown.instances:
        instances.gt_classes = torch.arange(3)
    losses = instantiate(config).train()([shown])
    assert {"loss_fcos_cls", "loss_cls"} <= losses.keys() and all(torch.isfinite(v) for v in losses.values())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "ultradet",
            {
                "proposal_head.anchor_generator.stride": "8, the backbone's stride is 16",
                "token_mixer.warp.map_stride": "8, the backbone's stride is 16",
                "roi_pooler.box_pooler.spatial_scale": "0.125, the backbone's stride is 16, its inverse 1/16",
                "proposal_head.rpn_head.in_channels": "64, the backbone's out_channels are 48",
                "roi_pooler.head.in_channels": "64, the backbone's out_channels are 48",
                "token_mixer.map_channels": "64, the backbone's out_channels are 48",
            },
        ),
        ("fgfa", {"feature_context.channels": "64, the", "feature_context.warp.map_stride": "8, the"}),
        ("retinanet", {"dense_head.anchor_generator.stride": "8, the", "dense_head.in_channels": "64, the"}),
        *(
            (n, {"dense_head.stride": "8, the", "dense_head.in_channels": "64, the"})
            for n in ("fcos", "yolox", "defcn")
        ),
        (
            "cvanet",
            {"feature_context.stride": "8, the", "feature_context.channels": "64, the", "encoder.in_channels": "64"},
        ),
        ("ptseformer", {"memory_context.stride": "8, the", "encoder.in_channels": "64, the"}),
    ],
)
def test_parts_for_another_stride_or_width_than_the_backbones_are_refused_by_name(name, keys):
    model = describe(name)
    model.backbone.strides, model.backbone.out_channels = (1, 2, 2), 48
    with pytest.raises(ValueError, match="don't fit the backbone's map") as raised:
        instantiate(model)
    assert all(f"model.{key} is {text}" in str(raised.value) for key, text in keys.items()), raised.value


def test_parts_for_another_width_than_the_encoders_are_refused_by_name():
    model = describe("transvod")
    model.memory_context = describe("fgfa").feature_context  # as wide as the backbone's map, not as the encoder's
    model.query_context.dim = 48
    with pytest.raises(ValueError, match="the encoder's dim is 96") as raised:
        instantiate(model)
    assert "model.memory_context.channels is 64" in str(raised.value) and "query_context.dim is 48" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("mega", "token_mixer.relation.dim", 96, "model.token_mixer.relation.dim is 96, the tokens of roi_pooler.head"),
        ("ultradet", "box_predictor.in_features", 64, "box_predictor.in_features is 64, the tokens of roi_pooler.head"),
        (
            "selsa",
            "roi_pooler.head.pooled_size",
            5,
            "head.pooled_size is 5, the output_size of roi_pooler.box_pooler is 7",
        ),
        (
            "ultradet",
            "token_mixer.warp.estimator.scale_channels",
            32,
            "scale_channels is 32, the backbone's out_channels",
        ),
        ("basicdet", "proposal_head.rpn_head.num_anchors", 3, "rpn_head has num_anchors=3, anchor_generator 4 shapes"),
        ("retinanet", "dense_head.anchor_generator.shapes", [], "shapes is empty"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_by_name(name, path, value, message):
    model = describe(name)
    LazyConfig.apply_overrides(model, [f"{path}={value}"])
    with pytest.raises(ValueError, match=re.escape(message)):
        instantiate(model)


def test_a_backbone_that_states_neither_stride_nor_width_is_not_checked():
    model = describe("faster_rcnn")
    model.backbone.strides = (1, 2, 2)
    model.backbone = LazyCall(torch.nn.Sequential)(model.backbone)
    assert isinstance(instantiate(model).backbone, torch.nn.Sequential)
