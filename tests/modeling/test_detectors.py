import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ultravid.config import LazyConfig, get_config, instantiate
from ultravid.layers import Box2BoxTransform, RelationModule
from ultravid.modeling import FrameMemory, FrameTokens, Matcher, subsample_labels
from ultravid.modeling.detector import relation_mask
from ultravid.structures import Boxes, Clip, Instances

PROJECT = Path(__file__).parents[2] / "projects/basicdet/configs"


def small_model(kind="basicdet"):
    torch.manual_seed(0)
    if kind == "basicdet":
        return instantiate(get_config("common/models/basicdet_small.py").model)
    if kind == "one_frame":
        return instantiate(LazyConfig.load(PROJECT / "phantom_one_frame.py").model)
    return instantiate(LazyConfig.load(PROJECT / "coco_stills.py").model)


KINDS = ("basicdet", "one_frame", "faster_rcnn")


def make_clip(seed=0, length=4, height=96, width=80):
    rng = np.random.default_rng(seed)
    frames = torch.from_numpy(rng.integers(0, 255, (length, 3, height, width), np.uint8))
    instances = []
    for t in range(length):
        boxes = Boxes([[10 + t, 20, 40 + t, 45]]) if t != 1 else Boxes([])
        zeros = torch.zeros(len(boxes), dtype=torch.int64)
        instances.append(Instances((height, width), gt_boxes=boxes, gt_classes=zeros, gt_ids=zeros))
    return Clip(frames, instances, ["v"] * length, list(range(length)))


def stream(model, frames, video="v"):
    model.eval()
    return [model([{"image": f, "video_id": video, "frame_index": t}])[0]["instances"] for t, f in enumerate(frames)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_on_one_clip_and_clips_of_two_sizes_are_taken(kind):
    model = small_model(kind).train()
    clips = [make_clip(0), make_clip(1, height=64, width=96)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for step in range(12):
        torch.manual_seed(step)
        losses = model(clips)
        assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert np.mean(totals[-3:]) < 0.7 * np.mean(totals[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_detections_lie_in_the_asked_frame_by_falling_score(kind):
    (found,) = small_model(kind).eval()(
        [{"image": make_clip().frames[0], "height": 192, "width": 160, "video_id": "v"}]
    )
    instances = found["instances"]
    assert instances.image_size == (192, 160) and len(instances) > 0
    assert instances.pred_boxes.inside_box((192, 160), 1).all()
    assert instances.scores.diff().le(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_survive_a_round_trip(kind, tmp_path):
    from ultravid.checkpoint import DetectionCheckpointer

    model, other = small_model(kind), small_model(kind)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    DetectionCheckpointer(model, tmp_path).save("x")
    DetectionCheckpointer(other, tmp_path).load(tmp_path / "x.pth")
    frames = make_clip().frames
    for a, b in zip(stream(model, frames), stream(other, frames), strict=True):
        assert torch.equal(a.scores, b.scores) and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)


def test_earlier_frames_matter_and_the_future_does_not():
    model, frames = small_model(), make_clip(length=6).frames
    whole = stream(model, frames)
    model.reset()
    cut = stream(model, frames[:4])
    for a, b in zip(whole[:4], cut, strict=True):
        assert torch.equal(a.scores, b.scores)
    model.reset()
    (alone,) = stream(model, frames[4:5])
    assert not torch.equal(alone.scores, whole[4].scores)


def test_streaming_relates_as_training_does():
    description = get_config("common/models/basicdet_small.py").model
    description.context_stride, description.context_frames = 1, 2
    model = instantiate(description).eval()
    torch.manual_seed(0)
    counts = [3, 1, 4, 2, 3]
    tokens, corner = torch.randn(sum(counts), 128), torch.rand(sum(counts), 2) * 50
    boxes = torch.cat((corner, corner + 5 + torch.rand(sum(counts), 2) * 20), dim=1)
    frame = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    together = model.relation(tokens, boxes, relation_mask(frame, 2, causal=True)).split(counts)
    for t, (x, b) in enumerate(zip(tokens.split(counts), boxes.split(counts), strict=True)):
        assert torch.allclose(model.relate_frame(x, b, {"video_id": "v"}), together[t], atol=1e-5)


def test_a_new_video_starts_from_nothing_without_being_told():
    model, frames = small_model(), make_clip().frames
    first = stream(model, frames)
    stream(model, make_clip(5).frames, video="other")
    again = stream(model, frames)
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(first, again, strict=True))


def test_a_video_may_be_endless():
    model = small_model()
    stream(model, make_clip(length=40, height=64, width=64).frames)
    assert len(model.memory) == 31 and len(model.memory.window()) == 16


def test_one_frame_context_sees_its_own_frame_alone():
    model, frames = small_model("one_frame"), make_clip().frames
    whole = stream(model, frames)
    model.reset()
    (alone,) = stream(model, frames[3:])
    assert torch.equal(alone.scores, whole[3].scores)


def test_relation_masks_by_hand():
    frame = torch.tensor([0, 1, 1, 2])
    assert relation_mask(frame, 0, causal=True).int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
    ]
    assert relation_mask(frame, 1, causal=True).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [0, 1, 1, 1],
    ]
    assert relation_mask(frame, 5, causal=False).all()


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


def test_memory_counts_its_stride_back_from_the_newest():
    memory = FrameMemory(3, stride=2)
    for t in range(8):
        memory.append(FrameTokens([torch.tensor([[float(t)]])], torch.zeros(1, 4)))
    assert [f.inputs[0].item() for f in memory.window()] == [3, 5, 7]
