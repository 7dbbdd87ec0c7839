"""Parts of query-based detectors against plain loops, other implementations and cases worked by hand."""

import itertools
import math

import pytest
import torch
from torch import nn

from tests.modeling.random_models import clip, describe, random_model, randomize
from ultravid.config import instantiate
from ultravid.layers.attention import Attention
from ultravid.modeling import FrameFusion, HungarianAssigner, ProgressiveAggregation, QueryCriterion, TemporalQueries
from ultravid.modeling.query import (
    Cells,
    DeformableAttention,
    DeformableEncoder,
    FrameQueries,
    QueryDecoder,
    QueryPredictions,
    detections_of_queries,
    sine_positions,
)
from ultravid.modeling.types import Targets
from ultravid.utils.events import EventStorage


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def randomized(module, seed=0):
    randomize(module, seed)
    return module.eval()


# --- deformable attention, positions


def look(cells, x, y):
    """The map ``(d, h, w)`` at a place in shares of the map, bilinear between the cells' centres, 0 outside."""
    d, h, w = cells.shape
    column, row = x * w - 0.5, y * h - 0.5
    total = torch.zeros(d)
    for r, c in itertools.product((math.floor(row), math.floor(row) + 1), (math.floor(column), math.floor(column) + 1)):
        if 0 <= r < h and 0 <= c < w:
            total += cells[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return total


@pytest.mark.parametrize("coordinates", [2, 4])
def test_deformable_attention_follows_its_formula_point_by_point(coordinates):
    h, w, heads, points = 3, 4, 2, 3
    attention = randomized(DeformableAttention(dim=8, num_heads=heads, num_points=points))
    query, value = torch.randn(2, 2, 8), torch.randn(2, h * w, 8)
    reference = torch.rand(2, 2, coordinates)
    valid = torch.ones(2, h * w, dtype=torch.bool)
    valid[1, ::4] = False
    expected = torch.zeros(2, 2, 8)
    for b, q in itertools.product(range(2), range(2)):
        maps = (attention.value_proj(value[b]) * valid[b][:, None]).T.view(heads, 4, h, w)
        offsets = attention.sampling_offsets(query[b, q]).view(heads, points, 2).tolist()
        weights = attention.attention_weights(query[b, q]).view(heads, points).softmax(1)
        x, y, *size = reference[b, q].tolist()
        gathered = torch.zeros(heads, 4)
        for m, p in itertools.product(range(heads), range(points)):
            dx, dy = offsets[m][p]
            if size:
                place = (x + dx / points * size[0] * 0.5, y + dy / points * size[1] * 0.5)
            else:
                place = (x + dx / w, y + dy / h)
            gathered[m] += weights[m, p] * look(maps[m], *place)
        expected[b, q] = attention.output_proj(gathered.flatten())
    assert torch.allclose(attention(query, reference, value, (h, w), valid), expected, atol=1e-5)


def test_queries_look_in_a_ring_of_directions_at_first():
    attention = DeformableAttention(dim=16, num_heads=8, num_points=2)
    offsets = attention.sampling_offsets.bias.view(8, 2, 2)
    assert torch.allclose(offsets[:3, 0], torch.tensor([[1.0, 0], [1, 1], [0, 1]]), atol=1e-6)
    assert torch.allclose(offsets[:, 1], 2 * offsets[:, 0])


def test_positions_are_sines_and_cosines_of_the_row_then_of_the_column():
    positions = sine_positions((2, 3), 8)[0].view(2, 3, 8)
    row, column = (1 + 0.5) / (2 + 1e-6) * 2 * math.pi, (2 + 0.5) / (3 + 1e-6) * 2 * math.pi
    expected = [f(c / t) for c in (row, column) for t in (1, 100) for f in (math.sin, math.cos)]
    assert positions[1, 2].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_small_image_in_a_padded_batch_is_seen_as_it_is_alone():
    encoder = randomized(DeformableEncoder(in_channels=6, dim=16, num_layers=2, num_heads=2, norm_groups=4))
    decoder = randomized(QueryDecoder(dim=16, num_queries=5, num_layers=3, num_heads=2, ffn_dim=32))
    maps = torch.randn(2, 6, 5, 7)
    cells = Cells.of(torch.tensor([[80.0, 100.0], [65.0, 40.0]]), 16, (5, 7))
    assert cells.size.tolist() == [[5, 7], [5, 3]] and cells.valid[1].sum() == 15
    together = decoder(encoder(maps, cells), cells).predictions
    alone = decoder(encoder(maps[1:, :, :, :3])).predictions
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a.logits[1], b.logits[0], atol=1e-4)
        assert torch.allclose(a.boxes[1], b.boxes[0], atol=1e-5)
    whole = decoder(encoder(maps[:1])).predictions[-1]
    assert torch.allclose(together[-1].boxes[0], whole.boxes[0], atol=1e-5)


# --- attention


def test_attention_in_all_its_forms_equals_that_of_torch():
    attention, other = Attention(dim=16, num_heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    other.load_state_dict(attention.state_dict())
    frames, query = torch.randn(5, 7, 16), torch.randn(7, 16)  # 5 frames, 7 places
    valid = torch.tensor([False, True, True, False, True])
    keys = frames.transpose(0, 1)
    expected, _ = other(query[:, None], keys, keys, key_padding_mask=(~valid).expand(7, -1))
    assert torch.allclose(attention.across_frames(query, frames, valid), expected[:, 0], atol=1e-5)
    assert torch.allclose(attention(query[:, None], keys, keys, valid[None, None]), expected, atol=1e-5)
    single, _ = other(query[:, None], keys[:, :1], keys[:, :1])
    assert torch.allclose(attention.single_key(frames[0]), single[:, 0], atol=1e-5)


# --- contexts: what a stream computes is what a clip computes


def temporal_queries(num_queries=3, length=7):
    predictions = QueryPredictions(torch.randn(1, length, num_queries, 1), torch.rand(1, length, num_queries, 4))
    return FrameQueries(
        content=torch.randn(1, length, num_queries, 16),
        position=torch.randn(num_queries, 16),
        memory=torch.randn(1, length, 6, 16),
        map_size=(2, 3),
        cells=None,
        predictions=(predictions,),
        organ=None,
    )


def one_frame(queries, t):
    flat = queries._replace(
        content=queries.content[0],
        memory=queries.memory[0],
        predictions=tuple(QueryPredictions(p.logits[0], p.boxes[0]) for p in queries.predictions),
    )
    return flat.frame(t)


@pytest.mark.parametrize("causal", [True, False])
def test_temporal_queries_of_a_stream_are_those_of_a_clip(causal):
    context = TemporalQueries(dim=16, num_queries=3, num_heads=2, ffn_dim=32, context_frames=3, causal=causal)
    randomized(context)
    queries = temporal_queries()
    state, streamed = context.initial_state((32, 48)), []
    for t in range(7):
        found, state = context.step(one_frame(queries, t), state)
        streamed.append(found)
    if causal:
        final = context.clip(queries, torch.ones(1, 7, dtype=torch.bool))[-1]
        compared = [(streamed[t], final.logits[0, t], final.boxes[0, t]) for t in range(7)]
    else:  # a stream sees all frames of its window: that is a clip of these frames, and its last one
        last = queries._replace(
            content=queries.content[:, 3:],
            memory=queries.memory[:, 3:],
            predictions=tuple(QueryPredictions(p.logits[:, 3:], p.boxes[:, 3:]) for p in queries.predictions),
        )
        final = context.clip(last, torch.ones(1, 4, dtype=torch.bool))[-1]
        compared = [(streamed[6], final.logits[0, 3], final.boxes[0, 3])]
    for found, logits, boxes in compared:
        assert torch.allclose(found.logits, logits, atol=1e-5)
        assert torch.allclose(found.boxes, boxes, atol=1e-5)


@pytest.mark.parametrize("transitions", [None, 1, 2])
def test_progressive_aggregation_of_a_stream_is_that_of_a_clip(transitions):
    context = ProgressiveAggregation(
        dim=16, stride=8, num_heads=2, ffn_dim=32, context_frames=3, num_transitions=transitions, causal=True
    )
    randomized(context)
    maps, images = torch.randn(1, 6, 16, 2, 3), torch.zeros(1, 6, 3, 16, 24)
    state, streamed = context.initial_state((16, 24)), []
    for t in range(6):
        found, state = context.step(maps[:, t], images[:, t], state)
        streamed.append(found[0])
    together = context.clip(maps, images, torch.ones(1, 6, dtype=torch.bool))[0]
    with torch.no_grad():
        without_gradient = context.clip(maps, images, torch.ones(1, 6, dtype=torch.bool))[0]
    assert torch.allclose(together, torch.stack(streamed), atol=1e-5)
    assert torch.allclose(together, without_gradient, atol=1e-6)


def test_progressive_aggregation_follows_its_formulas():
    context = ProgressiveAggregation(dim=8, stride=8, num_layers=1, num_heads=2, ffn_dim=16, context_frames=2)
    randomized(context)
    frames = torch.randn(3, 8)  # one cell in three frames

    def layer(block, x, keys, other=None):
        part = block[0]
        attended = part.attention(x[None], keys, keys)[0]
        if other is not None:
            gate = part.gate(torch.cat((x, other))).sigmoid()
            x = (1 - gate) * other + gate * x
        x = part.norm(x + attended)
        return part.ffn_norm(x + part.linear2(torch.relu(part.linear1(x))))

    current = frames[-1]
    moved = torch.stack([layer(context.transition, m, current[None], current) for m in frames])
    x = layer(context.temporal, current, frames)
    x = layer(context.spatial, x, moved)
    expected = layer(context.fusion, x, frames, current)
    state = context.initial_state((8, 8))
    for m in frames:
        found, state = context.step(m.view(1, 8, 1, 1), torch.zeros(1, 3, 8, 8), state)
    assert torch.allclose(found.flatten(), expected, atol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
def test_frames_are_fused_with_the_one_before_by_the_lag_or_the_first(pairs):
    fusion = FrameFusion(channels=4, stride=8, lag=2, channel_pairs=pairs)
    maps = torch.arange(5.0)[None, :, None, None, None] + torch.tensor([0.0, 10, 20, 30])[:, None, None]
    fused = fusion.clip(maps, maps, torch.ones(1, 5, dtype=torch.bool))[0, :, :, 0, 0]
    if pairs:  # the earlier frame's channels in the first half, the current one's in the second
        assert fused[4].tolist() == [2 + 5, 2 + 25, 4 + 5, 4 + 25] and fused[1].tolist() == [5, 25, 6, 26]
    else:
        assert fused[:, 0].tolist() == [0, 0.5, 1, 2, 3]
    state = fusion.initial_state((8, 8))
    for t in range(5):
        found, state = fusion.step(maps[:, t], maps, state)
        assert torch.equal(found.flatten(), fused[t])


# --- matching and losses


def test_the_matcher_finds_the_lowest_cost_of_all_permutations():
    assigner = HungarianAssigner()
    logits, boxes = torch.randn(2, 3, 4, 2), torch.rand(2, 3, 4, 4) * 0.5 + 0.2
    gt_boxes, classes = torch.rand(3, 3, 4) * 0.5 + 0.2, torch.randint(2, (3, 3))
    valid = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    rows, paired = assigner(logits, boxes, classes, gt_boxes, valid)
    assert torch.equal(paired, valid.expand(2, 3, 3))
    for layer, b in itertools.product(range(2), range(3)):
        present = valid[b].nonzero()[:, 0].tolist()

        def cost(query, row, layer=layer, b=b):
            p = logits[layer, b, query, classes[b, row]].sigmoid().item()
            focal = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
            distance = (boxes[layer, b, query] - gt_boxes[b, row]).abs().sum().item()
            return 2 * focal + 5 * distance - 2 * giou(boxes[layer, b, query].tolist(), gt_boxes[b, row].tolist())

        best = min(
            itertools.permutations(range(4), len(present)),
            key=lambda queries: sum(cost(q, r) for q, r in zip(queries, present, strict=True)),
        )
        assert rows[layer, b, present].tolist() == list(best)


def giou(a, b):
    """Of two boxes (cx, cy, w, h)."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = ((x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a, b))
    inter = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = a[2] * a[3] + b[2] * b[3] - inter
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return inter / union - (hull - union) / hull


def test_more_lesions_than_queries_match_as_many_as_there_are_queries():
    valid = torch.ones(1, 200, dtype=torch.bool)
    rows, paired = HungarianAssigner()(
        torch.randn(1, 4, 1),
        torch.rand(1, 4, 4),
        torch.zeros(1, 200, dtype=torch.int64),
        torch.rand(1, 200, 4),
        valid,
    )
    assert paired.sum() == 4 and sorted(rows[paired].tolist()) == [0, 1, 2, 3]


def test_losses_of_a_case_worked_by_hand():
    # Two frames of 100 x 200 px with one box each, the second of weight 0; two queries, score 0.5 each but one of 0.8.
    targets = Targets(
        boxes=torch.tensor([[[40.0, 20, 120, 60]], [[0.0, 0, 50, 50]]]),
        classes=torch.zeros(2, 1, dtype=torch.int64),
        valid=torch.ones(2, 1, dtype=torch.bool),
        weight=torch.tensor([1.0, 0.0]),
        image_sizes=torch.tensor([[100.0, 200.0], [100.0, 200.0]]),
    )
    logits = torch.tensor([[0.0, math.log(4.0)], [0.0, 0.0]])[..., None]
    boxes = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.5, 0.4, 0.4, 0.4]]).expand(2, 2, 4)
    with EventStorage() as storage:
        losses = QueryCriterion(final_weights=(1.0, 1.0, 1.0))([QueryPredictions(logits, boxes)] * 2, targets)
        storage.step()
        # One query of a frame is above 0.5, and the frame has one box.
        assert storage.latest()["cardinality_error"][0] == 0
    # The box is (cx, cy, w, h) = (0.4, 0.4, 0.4, 0.4); the second query is matched, shifted by 0.1 in x.
    empty, matched = 0.75 * 0.25 * math.log(2), 0.25 * 0.04 * -math.log(0.8)
    iou = 0.3 / 0.5
    expected = {"loss_cls": empty + matched, "loss_l1": 0.1, "loss_giou": 1 - iou}
    weights = {"loss_cls": 2.0, "loss_l1": 5.0, "loss_giou": 2.0}
    assert set(losses) == {name + end for name in expected for end in ("", "_layer0")}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4)
        assert losses[f"{name}_layer0"].item() == pytest.approx(weights[name] * value, rel=1e-4)


def test_detections_are_the_best_pairs_of_a_query_and_a_class():
    logits = torch.tensor([[[2.0, 1.0], [-3.0, -2.0], [-4.0, 0.5]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.5, 0.52]]])
    found = detections_of_queries(QueryPredictions(logits, boxes), torch.tensor([[100, 200]]), 0.7)
    # The third query overlaps the first's box of the same class; of the second query, no pair is among the three best.
    assert found.valid.tolist() == [[True, True, False]] and found.classes[0, :2].tolist() == [0, 1]
    assert torch.equal(found.scores[0, :2], logits[0, 0].sigmoid())
    assert found.boxes[0, :2].tolist() == [[50.0, 25.0, 150.0, 75.0]] * 2


def test_memory_frames_carry_no_loss_and_are_not_decoded():
    model = random_model("cvanet", lag=2).train()
    whole, seen = clip(0, 4, 64, 80), []
    whole.num_memory = 2
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    losses = model([whole])
    assert seen == [2] and all(torch.isfinite(v) for v in losses.values())
    for instances in whole.instances[:2]:
        instances.gt_boxes.tensor += 5
    again = model([whole])
    assert all(torch.equal(losses[k], again[k]) for k in losses)


@pytest.mark.parametrize("key", ["num_classes", "num_queries"])
def test_temporal_queries_must_fit_the_decoder(key):
    config = describe("transvod")
    config.decoder[key] = 3
    with pytest.raises(ValueError, match=f"query_context has {key}=.*, decoder {key}=3: they must be the same"):
        instantiate(config)
