"""Parts of two-stage detectors, each against a case worked by hand or an independent computation."""

import math

import pytest
import torch

from ultravid.layers import Box2BoxTransform, RelationModule
from ultravid.modeling import FrameWindow, Matcher, subsample_labels
from ultravid.modeling.frame_window import frames_see


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
    assert frames_see(3, 0, causal=True).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert frames_see(3, 1, causal=True).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert frames_see(3, 5, causal=False).all()
