"""Relation, SELSA and MEGA against formulas that are written out here frame by frame, pair by pair."""

import math

import pytest
import torch

from ultravid.config import get_config, instantiate
from ultravid.layers import RelationModule, SELSALayer, SELSAModule
from ultravid.modeling import FrameTokens, MEGAMixer, RelationMixer
from ultravid.structures import Boxes, Clip, Instances

DIM, N = 16, 3


def relation(num_layers=2):
    torch.manual_seed(3)
    module = RelationModule(dim=DIM, num_heads=2, num_layers=num_layers, geometry_dim=16)
    for layer in module.layers:
        torch.nn.init.uniform_(layer.geo_trans.bias, -0.3, 0.6)  # some weights are cut off by ReLU, some are not
    return module


def selsa(num_layers=2):
    torch.manual_seed(4)
    return SELSAModule(dim=DIM, num_layers=num_layers)


def make_boxes(*shape):
    corner = torch.rand(*shape, 2) * 60
    return torch.cat((corner, corner + 3 + torch.rand(*shape, 2) * 30), dim=-1)


def make_clip(batch=1, length=5, seed=0):
    torch.manual_seed(seed)
    valid = torch.rand(batch, length, N) < 0.8
    valid[..., 0] = True
    no = torch.zeros(batch, length, dtype=torch.bool)
    return FrameTokens(
        tokens=torch.randn(batch, length, N, DIM),
        boxes=make_boxes(batch, length, N) * valid[..., None],
        valid=valid,
        is_gt=torch.zeros_like(valid),
        frame_valid=~no,
        is_memory=no,
        image=torch.zeros(batch, length, 3, 1, 1),
        feature_map=torch.zeros(batch, length, 1, 1, 1),
    )


def frame_of(clip, t):
    return FrameTokens(*(field[0, t] for field in clip))


def run_stream(mixer, clip):
    state, outputs = mixer.initial_state((64, 64), N), []
    for t in range(clip.tokens.shape[1]):
        tokens, state = mixer.step(frame_of(clip, t), None, state)
        outputs.append(tokens)
    return torch.stack(outputs)


def weights_of_geometry(layer, query_box, key_boxes):
    """``(heads, keys)``: g of each pair, from the numbers of its boxes."""
    embeddings = []
    for key_box in key_boxes:
        (w, height), (wk, hk) = ([max(b[2 + a] - b[a], 1e-4) for a in (0, 1)] for b in (query_box, key_box))
        shift = [abs((key_box[a] + key_box[2 + a]) - (query_box[a] + query_box[2 + a])) / 2 for a in (0, 1)]
        p = [math.log(v + 1e-4) for v in (shift[0] / wk, shift[1] / hk, w / wk, height / hk)]
        waves = [1000 ** (8 * i / 16) / 100 for i in range(2)]
        embeddings.append([f(v / u) for v in p for f in (math.sin, math.cos) for u in waves])
    return torch.relu(layer.geo_trans(torch.tensor(embeddings, dtype=torch.float64))).T


def attend(layer, x, query_box, keys, key_boxes):
    """One layer for one query and a list of keys, in double precision."""
    if isinstance(layer, SELSALayer):
        gathered = torch.zeros(DIM, dtype=torch.float64)
        if keys:
            keys = torch.stack(keys)
            weights = (layer.linear_k(keys) @ layer.linear_q(x) / math.sqrt(DIM)).softmax(0)
            gathered = weights @ layer.linear_v(keys)
        return layer.linear(x) + layer.linear_out(gathered)
    gathered = torch.zeros(DIM, dtype=torch.float64)
    if keys:
        keys = torch.stack(keys)
        q, k, v = (torch.relu(y) for y in (layer.linear_q(x), layer.linear_k(keys), layer.linear_v(keys)))
        g = weights_of_geometry(layer, query_box, key_boxes)
        for h in range(2):
            part = slice(8 * h, 8 * h + 8)
            gathered[part] = (torch.log(g[h] + 1e-6) + k[:, part] @ q[part] / math.sqrt(8)).softmax(0) @ v[:, part]
    return x + torch.relu(layer.linear_o(gathered))


def through_layers(module, inputs, boxes, sees):
    """Tokens of rows by id at each layer's input and at the end; ``sees(layer, row)`` lists the (tokens, box) of its keys."""
    levels = [inputs]
    for index, layer in enumerate(module.layers):
        new = {}
        for row, x in levels[-1].items():
            keys = sees(index, row, levels[-1])
            new[row] = attend(layer, x, boxes[row], [k for k, _ in keys], [b for _, b in keys])
        levels.append(new)
    return levels


def rows_of(clip, frames=None, clip_index=0):
    """Tokens and boxes of valid rows of some frames, by (frame, row), in double precision."""
    frames = range(clip.tokens.shape[1]) if frames is None else frames
    ids = [(t, n) for t in frames if clip.frame_valid[clip_index, t] for n in range(N) if clip.valid[clip_index, t, n]]
    return (
        {i: clip.tokens[clip_index][i].double() for i in ids},
        {i: clip.boxes[clip_index][i].tolist() for i in ids},
    )


MODULES = {"relation": relation, "selsa": selsa}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_a_stream_is_related_as_its_window_would_be_alone(kind, stride):
    clip, module = make_clip(length=7), MODULES[kind](3)
    found = run_stream(RelationMixer(relation=module, context_frames=2, context_stride=stride), clip)
    module.double()
    for t in (0, 1, 6):
        tokens, boxes = rows_of(clip, [f for f in (t - 2 * stride, t - stride, t) if f >= 0])
        end = through_layers(module, tokens, boxes, lambda _, __, level, b=boxes: [(level[k], b[k]) for k in level])[-1]
        for (frame, row), expected in end.items():
            if frame == t:
                assert torch.allclose(found[t, row].double(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_a_clip_is_related_as_its_masks_say(kind, context, causal):
    clip, module = make_clip(length=4, batch=2, seed=1), MODULES[kind](1)
    clip = clip._replace(is_gt=clip.is_gt.clone(), frame_valid=clip.frame_valid.clone())
    clip.is_gt[0, 0, 0] = clip.is_gt[0, 1] = True  # a frame of ground truth alone: with context=0 its rows have no key
    clip.frame_valid[0, 3] = False
    found = RelationMixer(relation=module, context_frames=context, causal=causal).clip(clip, None)
    module.double()
    for b in range(2):
        tokens, boxes = rows_of(clip, clip_index=b)

        def sees(_, row, level, b=b, boxes=boxes):
            return [
                (level[k], boxes[k])
                for k in level
                if not clip.is_gt[b][k]
                and (row[0] == k[0] if context == 0 else not causal or 0 <= row[0] - k[0] <= context)
            ]

        for row, expected in through_layers(module, tokens, boxes, sees)[-1].items():
            assert torch.allclose(found[b][row].double(), expected, atol=1e-4)


@pytest.mark.parametrize("recent", [0, 2])
@pytest.mark.parametrize("num_layers", [1, 3])
@torch.no_grad()
def test_mega_remembers_what_its_layers_were_given(recent, num_layers):
    """A list of frames, with nothing kept but what the memory holds."""
    local, size, clip, module = 2, 3, make_clip(length=8, seed=2), relation(num_layers)
    mixer = MEGAMixer(relation=module, local_frames=local, memory_frames=size, recent_memory_frames=recent)
    found = run_stream(mixer, clip)
    module.double()
    memory = []  # (frame, tokens at the input of each layer) by row
    for t in range(8):
        window = range(max(0, t - local + 1), t + 1)
        tokens, boxes = rows_of(clip, window)
        remembered = memory[-size:]
        if recent:
            remembered = memory[-recent:] if len(memory) > recent else []
        _, all_boxes = rows_of(clip)

        def sees(layer, _, level, boxes=boxes, remembered=remembered, all_boxes=all_boxes):
            old = [(x, all_boxes[row]) for levels in remembered for row, x in levels[layer].items()]
            return [(level[k], boxes[k]) for k in level] + old

        levels = through_layers(module, tokens, boxes, sees)
        leaves = t if recent else t - local + 1
        if leaves >= 0:
            memory.append([{row: x for row, x in level.items() if row[0] == leaves} for level in levels[:-1]])
        for row, expected in levels[-1].items():
            if row[0] == t:
                assert torch.allclose(found[t, row[1]].double(), expected, atol=1e-4), t


CAUSAL = {
    "relation": lambda: RelationMixer(relation=relation(), context_frames=2, causal=True),
    "selsa": lambda: RelationMixer(relation=selsa(), context_frames=2, causal=True),
    "mega": lambda: MEGAMixer(relation=relation(), local_frames=2, memory_frames=2, causal=True),
}
MIXERS = CAUSAL | {
    "relation of a frame": lambda: RelationMixer(relation=relation(), context_frames=0),
    "relation of a window": lambda: RelationMixer(relation=relation(), context_frames=2),
    "mega's window": lambda: MEGAMixer(relation=relation(), local_frames=2, memory_frames=2),
    "mega as published": lambda: MEGAMixer(
        relation=relation(), local_frames=2, memory_frames=2, recent_memory_frames=1
    ),
}


@pytest.mark.parametrize("kind", CAUSAL)
@torch.no_grad()
def test_a_causal_clip_equals_the_stream(kind):
    mixer, clip = CAUSAL[kind](), make_clip(length=6)
    valid = clip.valid[0]
    assert torch.allclose(mixer.clip(clip, None)[0][valid], run_stream(mixer, clip)[valid], atol=1e-5)


@pytest.mark.parametrize("kind", MIXERS)
def test_rows_that_hold_nothing_reach_no_other_and_stay_finite(kind):
    mixer, clip = MIXERS[kind](), make_clip(batch=2, length=6, seed=5)
    clip.frame_valid[1, 4:] = False
    clip.is_gt[0, 2, 0] = True
    clip.is_memory[:, :2] = "mega" in kind
    alive = clip.valid & clip.frame_valid[..., None]
    dirty_rows = ~alive | clip.is_gt
    noise = torch.where(dirty_rows[..., None], 100 * torch.randn_like(clip.tokens), 0.0)
    dirty = clip._replace(
        tokens=clip.tokens + noise,
        boxes=torch.where(dirty_rows[..., None], torch.tensor([0.0, 0.0, 1e5, 0.0]), clip.boxes),
    )
    a, b = mixer.clip(clip, None), mixer.clip(dirty, None)
    assert torch.allclose(a[~dirty_rows], b[~dirty_rows], atol=1e-5) and b.isfinite().all()
    with torch.no_grad():
        a, b = (run_stream(mixer, c._replace(valid=~dirty_rows)) for c in (clip, dirty))
    assert torch.allclose(a[~dirty_rows[0]], b[~dirty_rows[0]], atol=1e-5) and b.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_memory_frames_of_a_clip_inform_but_get_no_gradient(causal):
    mixer = MEGAMixer(relation=relation(), local_frames=3, memory_frames=2, causal=causal)
    clip = make_clip(length=5)
    clip.is_memory[:, :2] = True
    tokens = clip.tokens.requires_grad_()
    related = mixer.clip(clip, None)
    related[:, 2:].square().sum().backward()
    assert tokens.grad[:, :2].eq(0).all() and tokens.grad[:, 2:].abs().amax(-1).gt(0)[clip.valid[:, 2:]].all()
    without = clip._replace(frame_valid=clip.frame_valid & ~clip.is_memory)
    valid = clip.valid[:, 2:]
    assert not torch.allclose(mixer.clip(without, None)[:, 2:][valid], related[:, 2:][valid], atol=1e-3)


@torch.no_grad()
def test_ground_truth_among_the_memory_informs_other_frames_only_if_asked_to():
    mixer, clip = MEGAMixer(relation=relation(), local_frames=3, memory_frames=2), make_clip(length=5)
    clip.is_memory[:, :2] = True
    clip.is_gt[:, :, 0] = True

    def change_of_others(frame):
        """How much the other boxes of the local frames change with the ground truth of a frame."""
        tokens = clip.tokens.clone()
        tokens[:, frame, 0] += 3.0
        gap = mixer.clip(clip._replace(tokens=tokens), None) - mixer.clip(clip, None)
        return gap[:, 2:, 1:][clip.valid[:, 2:, 1:]].abs().max()

    assert change_of_others(1) == 0 and change_of_others(3) == 0
    mixer.gt_memory_keys = True
    assert change_of_others(1) > 1e-3 and change_of_others(3) == 0


def test_the_gradient_of_the_geometry_is_that_of_its_formula(monkeypatch):
    from ultravid.layers import geometry_embedding
    from ultravid.layers import relation as source

    monkeypatch.setattr(source, "_BLOCK", 256)  # several blocks
    module = relation().double()
    query, key = make_boxes(2, 5).double(), make_boxes(2, 7).double()
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    up = torch.randn(2, 2, 2, 5, 7, dtype=torch.float64)
    (module.log_weights(query, key) * up).sum().backward()
    found = [p.grad.clone() for layer in module.layers for p in layer.geo_trans.parameters()]
    module.zero_grad()
    embedding = geometry_embedding(query, key, module.div_mat)
    weights = [torch.log(torch.relu(layer.geo_trans(embedding)) + 1e-6).movedim(-1, -3) for layer in module.layers]
    (torch.stack(weights) * up).sum().backward()
    expected = [p.grad for layer in module.layers for p in layer.geo_trans.parameters()]
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("related", "norm"), [(False, "FrozenBN"), (True, "FrozenBN"), (False, "BN")])
def test_maps_that_get_no_gradient_are_computed_without_and_the_losses_of_a_detector_are_the_same(related, norm):
    config = get_config("common/models/mega_small.py").model
    if related:  # through which the maps of memory frames get one
        config.feature_context = get_config("common/models/fgfa_small.py").model.feature_context
        config.feature_context.num_drawn = 4
    config.backbone.norm = norm  # batch norm has one batch of all frames for its statistics
    model = instantiate(config).train()
    zero = torch.zeros(1, dtype=torch.int64)
    found = [Instances((64, 64), gt_boxes=Boxes([[10, 12, 40, 30]]), gt_classes=zero, gt_ids=zero) for _ in range(4)]
    clip = Clip(torch.rand(4, 3, 64, 64) * 255, found, ["v"] * 4, [0, 1, 2, 3], num_memory=2)
    totals, gradients = [], []
    for detaches in (True, False):
        model.token_mixer.detaches_memory = detaches
        model.zero_grad()
        torch.manual_seed(0)
        total = sum(model([clip]).values())
        total.backward()
        totals.append(total.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*totals) and torch.allclose(*gradients, atol=1e-5)
