"""Flow, warping, and the parts that rest on them: aggregated maps (FGFA) and contexts from key frames (UltraDet)."""

import numpy as np
import pytest
import torch

from ultravid.config import get_config, instantiate
from ultravid.modeling import FlowAggregation, FlowNet, FlowWarp, VideoStream, ZeroFlow
from ultravid.modeling.flow import Flow, FlowEstimator, warp_maps
from ultravid.structures import Boxes, Clip, Instances


class ConstantFlow(FlowEstimator):
    """The same displacement in pixels, and the same scale, whatever the images show."""

    def __init__(self, x, y, scale=None):
        super().__init__()
        self.x, self.y, self.scale = x, y, scale

    def reduced_shape(self, image_size):
        return (0, 1, 1)

    def reduce(self, images):
        return images[:, :0, :1, :1]

    def forward(self, target, source):
        moved = torch.tensor([self.x, self.y]).view(1, 2, 1, 1).expand(len(target), 2, 2, 3)
        return Flow(moved, None if self.scale is None else torch.full((len(target), 1, 2, 3), self.scale))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def frames(length, height=64, width=80, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (length, 3, height, width), np.uint8))


def small(name, **token_mixer):
    """A shipped small model, whose flow and contexts are not zero, so that it matters what they are."""
    torch.manual_seed(0)
    description = get_config(f"common/models/{name}.py").model
    for key, value in token_mixer.items():
        description.token_mixer[key] = value
    model = instantiate(description).eval()
    for part in model.modules():
        if isinstance(part, FlowNet):
            torch.nn.init.normal_(part.flow.weight, std=0.1)
            if part.scale is not None:
                torch.nn.init.normal_(part.scale.weight, std=0.1)
    return model


def stream(model, images):
    run = VideoStream(model, tuple(images.shape[-2:]))
    return [run(image) for image in images]


def largest_gap(detections, found):
    """Between a clip's detections and those of its frames in a stream."""
    gaps = []
    for t, instances in enumerate(found):
        valid = detections.valid[t]
        assert int(valid.sum()) == len(instances)
        gaps.append((detections.boxes[t][valid] - instances.pred_boxes.tensor).abs().max())
        gaps.append((detections.scores[t][valid] - instances.scores).abs().max())
    return float(max(gaps))


# --- warping


def test_a_shift_of_whole_pixels_moves_the_map_and_repeats_its_border():
    maps = torch.rand(2, 3, 5, 7, generator=seeded())
    warp = FlowWarp(estimator=ConstantFlow(32.0, -16.0, scale=3.0), map_stride=16)
    target = torch.zeros(2, 0, 1, 1)
    rows, columns = (torch.arange(5) - 1).clamp(min=0), (torch.arange(7) + 2).clamp(max=6)
    expected = 3.0 * maps[:, :, rows][..., columns]
    assert torch.allclose(warp(maps, target, target), expected, atol=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_warping_equals_bilinear_interpolation_by_hand(mixed):
    maps = torch.rand(1, 1, 4, 6, generator=seeded())
    flow = torch.randn(1, 2, 4, 6, generator=seeded(1)) * 2
    warped = warp_maps(maps, flow, mixed)[0, 0].numpy()
    source = maps[0, 0].numpy().astype(np.float64)
    for r in range(4):
        for c in range(6):
            place = np.array([r, c]) + flow[0, :, r, c].numpy()[::-1]
            size = np.array([4, 6])
            if mixed:  # as a share of the way between the corners' centres, taken of the way between the edges
                place = place / (size - 1) * size - 0.5
            place = place.clip(0, size - 1)
            low = np.floor(place).astype(int)
            high = np.minimum(low + 1, size - 1)
            fy, fx = place - low
            value = (1 - fy) * ((1 - fx) * source[low[0], low[1]] + fx * source[low[0], high[1]])
            value += fy * ((1 - fx) * source[high[0], low[1]] + fx * source[high[0], high[1]])
            assert warped[r, c] == pytest.approx(value, abs=1e-5)


def test_zero_flow_is_the_identity_and_has_no_weights():
    maps = torch.rand(2, 3, 5, 7, generator=seeded())
    warp = FlowWarp(estimator=ZeroFlow(), map_stride=16)
    reduced = warp.reduce(torch.rand(2, 3, 80, 112, generator=seeded()))
    assert warp(maps, reduced, reduced) is maps
    mixed = FlowWarp(estimator=ZeroFlow(), map_stride=16, mixed_corners=True)
    assert not torch.allclose(mixed(maps, reduced, reduced), maps)
    aggregation = FlowAggregation(warp=warp, channels=8, embedding_channels=(8, 8))
    assert {name.split(".")[0] for name in aggregation.state_dict()} == {"embedding"}


@pytest.mark.parametrize("size", [(31, 47), (64, 80), (129, 97)])
@pytest.mark.parametrize(("num_levels", "reduction", "output_reduction"), [(6, 4, 4), (4, 2, 1), (2, 1, 2)])
def test_flow_has_one_cell_for_each_cell_of_the_second_level(size, num_levels, reduction, output_reduction):
    net = FlowNet(
        channels=(4, 6, 8, 10, 12, 14),
        num_levels=num_levels,
        reduction=reduction,
        output_reduction=output_reduction,
        scale_channels=5,
    )
    images = torch.rand(2, 3, *size, generator=seeded())
    reduced = net.reduce(images)
    assert tuple(reduced.shape[1:]) == net.reduced_shape(size)
    flow = net(reduced, reduced.flip(0))
    cells = size
    for side in (reduction, 2, 2, output_reduction):
        cells = tuple(-(-n // side) for n in cells)
    assert flow.displacement.shape == (2, 2, *cells) and flow.scale.shape == (2, 5, *cells)
    assert (flow.displacement == 0).all() and (flow.scale == 1).all()  # before training nothing moves


# --- detectors


@pytest.mark.parametrize(("interval", "contexts"), [(2, 2), (3, 1)])
def test_causal_ultradet_gives_a_clip_what_it_gives_a_stream(interval, contexts):
    model = small("ultradet_small", context_stride=1, context_frames=3, key_interval=interval, num_contexts=contexts)
    images = frames(7)
    together = model.detect_clip(images)
    assert largest_gap(together, stream(model, images)) < 1e-4
    # The contexts matter, and a later frame does not.
    blind = small("ultradet_small", context_stride=1, context_frames=3, key_interval=8)
    assert largest_gap(blind.detect_clip(images[:7]), stream(model, images)) > 1e-3
    changed = torch.cat((images[:5], frames(2, seed=1)))
    assert torch.equal(model.detect_clip(changed).scores[:5], together.scores[:5])


@pytest.mark.parametrize("zero", [False, True])
def test_aggregation_gives_a_clip_what_it_gives_a_stream(zero):
    warp = FlowWarp(
        estimator=ZeroFlow() if zero else FlowNet(channels=(4, 4, 4), num_levels=3, reduction=2, scale_channels=0),
        map_stride=8,
        mixed_corners=zero,
    )
    torch.manual_seed(0)
    part = FlowAggregation(warp=warp, channels=6, embedding_channels=(5, 4), context_frames=2).eval()
    if not zero:
        torch.nn.init.normal_(warp.estimator.flow.weight, std=0.5)
    maps, images = torch.randn(1, 5, 6, 4, 6, generator=seeded()), torch.randn(1, 5, 3, 31, 47, generator=seeded(1))
    together = part.clip(maps, images, torch.ones(1, 5, dtype=torch.bool))
    state = part.initial_state((31, 47))
    for t in range(5):
        found, state = part.step(maps[:, t], images[:, t], state)
        assert torch.allclose(found, together[:, t], atol=1e-5)
    assert not torch.allclose(together[:, 4], maps[:, 4])
    # Frames that pad a clip reach no other one, whether or not later frames are seen.
    part.causal = False
    padded = torch.tensor([[True, True, True, False, False]])
    other = torch.cat((maps[:, :3], maps[:, 3:] + 9.0), dim=1)
    first, second = (part.clip(m, images, padded)[:, :3] for m in (maps, other))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    first = part.training_clip(maps, images, padded)[:, :3]
    torch.manual_seed(0)
    assert torch.allclose(first, part.training_clip(other, images, padded)[:, :3], atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_training_that_draws_every_frame_computes_the_clip_and_a_causal_one_draws_no_later_frame(causal):
    warp = FlowWarp(estimator=FlowNet(channels=(4, 4, 4), num_levels=3, reduction=2, scale_channels=0), map_stride=8)
    torch.manual_seed(0)
    part = FlowAggregation(
        warp=warp, channels=6, embedding_channels=(5, 4), context_frames=2, num_drawn=5, causal=causal
    )
    torch.nn.init.normal_(warp.estimator.flow.weight, std=0.5)
    maps, images = torch.randn(1, 5, 6, 4, 6, generator=seeded()), torch.randn(1, 5, 3, 31, 47, generator=seeded(1))
    valid = torch.ones(1, 5, dtype=torch.bool)
    whole = part.training_clip(maps, images, valid)
    assert torch.allclose(whole, part.clip(maps, images, valid), atol=1e-5)
    part.num_drawn = 1
    changed = torch.cat((maps[:, :3], maps[:, 3:] + 9.0), dim=1)
    same = []
    for seed in range(6):
        torch.manual_seed(seed)
        first = part.training_clip(maps, images, valid)[:, :3]
        torch.manual_seed(seed)
        same.append(torch.allclose(first, part.training_clip(changed, images, valid)[:, :3], atol=1e-6))
    assert all(same) is causal


def test_weights_of_the_aggregation_equal_a_computation_cell_by_cell():
    torch.manual_seed(0)
    part = FlowAggregation(warp=FlowWarp(estimator=ZeroFlow(), map_stride=8), channels=6, embedding_channels=(5, 4))
    maps = torch.randn(1, 3, 6, 2, 3, generator=seeded())
    found = part.clip(maps, torch.zeros(1, 3, 3, 16, 24), torch.ones(1, 3, dtype=torch.bool))[0, 2]
    embedded = part.embedding(maps[0])
    similarity = torch.cosine_similarity(embedded, embedded[2:], dim=1)
    expected = (similarity.exp() / similarity.exp().sum(0))[:, None] * maps[0]
    assert torch.allclose(found, expected.sum(0), atol=1e-5)


def test_published_key_frames_recompute_the_contexts_of_the_window():
    model = small("ultradet_small", context_stride=1, context_frames=3, key_interval=2, causal=False)
    assert [model.phase(n) for n in range(5)] == [1, 0, 1, 0, 1] and model.num_phases == 2
    images = frames(6)
    image, state = images.float(), model.initial_state((64, 80))
    boxes, tokens, maps = [], [], []
    for n in range(6):
        _, state = model.step(image[n], state, model.phase(n))
        boxes.append(state["token_mixer"]["window"]["boxes"][-1])
        tokens.append(state["token_mixer"]["window"]["tokens"][-1])
        maps.append(model.backbone(model.normalize(image[n])[None]))
    mixer, window = model.token_mixer, state["token_mixer"]["window"]
    reduced = [mixer.warp.reduce(model.normalize(i)[None]) for i in image]
    for place, j in enumerate((2, 3, 4, 5)):
        for slot, key in enumerate((2, 4)):
            pooled = model.roi_pooler(mixer.warp(maps[key], reduced[j], reduced[key]), boxes[j][None])[0]
            valid = window["box_valid"][place]
            assert torch.allclose(window["contexts"][place, slot][valid], pooled[valid], atol=1e-4)
    # However a video is split into calls, and after another one, its detections are the same.
    expected = stream(model, images)
    for _ in range(2):
        calls = [{"image": i, "video_id": "a"} for i in images]
        found = [*model(calls[:2]), *model(calls[2:3]), *model(calls[3:])]
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a["instances"].scores, b.scores)
        model([{"image": images[3], "video_id": "b"}])


@pytest.mark.parametrize("name", ["ultradet_small", "fgfa_small"])
@pytest.mark.parametrize("causal", [True, False])
def test_losses_are_finite_and_reach_every_weight_of_the_flow(name, causal):
    model = small(name).train()
    (model.token_mixer if name == "ultradet_small" else model.feature_context).causal = causal

    def clip(length, height, width, num_boxes):
        boxes = torch.rand(num_boxes, 4, generator=seeded()) * 20
        boxes[:, 2:] += boxes[:, :2] + 1
        zeros = torch.zeros(num_boxes, dtype=torch.int64)
        found = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=zeros, gt_ids=zeros)
        return Clip(frames(length, height, width), [found] * length, ["v"] * length, list(range(length)))

    losses = model([clip(6, 64, 80, 1), clip(1, 31, 47, 0)])
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    for parameter in model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    net = next(part for part in model.modules() if isinstance(part, FlowNet))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
