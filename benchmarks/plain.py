"""The yardstick of the benchmarks: the published models with the operations that their published code is made of.

`ultravid` computes the same with less: `plain_operations` undoes what it saves in layers, `plain_model` what it saves in a stream. Nothing
is slower here than there; small things are faster (detectron2's wrappers, the padding of images, the flow network's cropped upsampling).

In layers: everything in NCHW; frozen batch norm is an operation of its own (in training two: a product and a sum); RoIAlign is
torchvision's; attention is that of `torch.nn.MultiheadAttention` with its weights as a second result; the geometry of boxes is an embedding
of every pair, which each relation layer projects by itself; the flow network is given pairs of whole images, which it averages itself.

In a stream, for each frame again:

- BasicDet, SELSA: all layers, and the geometry, over all boxes of 16 frames.
- MEGA: the same over 10 frames, whose keys are those of the memory too.
- UltraDet: the same over 16 frames, each layer with its attention to contexts; in a key frame one batch of pairs for all frames before.
- FGFA: a flow for each of 16 pairs, which is then replaced by zero; 16 maps warped, 17 embedded.
- CVA-Net: all 16 maps joined, of which two are averaged.
- TransVOD: both temporal layers and the temporal decoder for all 16 frames.
- PTSEFormer: all blocks and the decoder for each of 16 frames, of which the last is kept. The keys of the second block are projected again
  for each frame.
- the others have nothing to compute again.
"""

# ruff: noqa: ARG002 - the plain parts have the signatures of those that they replace

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, roi_align

from ultravid.config import LazyConfig, get_config, instantiate
from ultravid.layers import Conv2d, RelationModule
from ultravid.layers.attention import Attention
from ultravid.layers.relation import MASKED
from ultravid.modeling import FlowNet, TokenMixer, VideoDetector
from ultravid.modeling.backbone import resnet
from ultravid.modeling.feature_context import FeatureContext
from ultravid.modeling.flow.warp import warp_maps
from ultravid.modeling.organs import classify
from ultravid.modeling.published import PUBLISHED_MODELS
from ultravid.modeling.query.base import FrameQueries, QueryContext, QueryPredictions
from ultravid.modeling.query.decoder import refine
from ultravid.modeling.roi import RoIPooler
from ultravid.modeling.types import FrameTokens, Pool, State

__all__ = ["plain_model", "plain_operations", "published_model"]

WINDOW = 16  # frames
MEGA_LOCAL, MEGA_USED, MEGA_KEPT = 10, 10, 16

# --- models


def published_model(name: str, depth: int, seed: int = 0) -> VideoDetector:
    """A published model at full size, in evaluation mode, with random weights of a trained one's size, so that scores spread."""
    published = PUBLISHED_MODELS[name]
    config = get_config(published.config)
    config.model.backbone.depth = depth
    config = LazyConfig.apply_overrides(config, [f"++model.{override}" for override in published.overrides])
    torch.manual_seed(seed)
    model: VideoDetector = instantiate(config.model)
    _spread_detections(model)
    return model.eval()


@torch.no_grad()
def _spread_detections(model: nn.Module) -> None:
    """Draw weights so that scores spread and boxes keep their size: all proposals survive, as with a trained model."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | Attention):
            factor = 0.1 if path.endswith(("anchor_deltas", "bbox_pred")) else 1.0
            for parameter in module.parameters(recurse=False):
                if parameter.dim() > 1:
                    parameter.normal_(std=factor * parameter[0].numel() ** -0.5)
                elif not path.endswith("sampling_offsets"):
                    parameter.zero_()  # initial biases against detections
        if isinstance(module, resnet.BasicBlock) and isinstance(module.conv2.norm, FrozenBatchNorm2d):
            module.conv2.norm.weight.fill_(0.5)  # with 1, maps grow with every block


def plain_model(name: str, depth: int, seed: int = 0) -> VideoDetector:
    """`published_model` whose parts compute everything again for each frame; run it within `plain_operations`."""
    model = published_model(name, depth, seed)
    if name in PLAIN_PARTS:
        attribute, make = PLAIN_PARTS[name]
        setattr(model, attribute, make(getattr(model, attribute)))
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            module.inplace = True
    return model.eval()


# --- operations


def _plain_conv(self: Conv2d, x: Tensor) -> Tensor:
    x = self._conv_forward(x, self.weight, self.bias)
    x = x if self.norm is None else self.norm(x)
    if self.activation in (F.relu, F.silu):
        return self.activation(x, inplace=True)
    return x if self.activation is None else self.activation(x)


def _plain_frozen_norm(self: FrozenBatchNorm2d, x: Tensor) -> Tensor:
    if not x.requires_grad:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)
    scale = self.weight * (self.running_var + self.eps).rsqrt()
    return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def _plain_pooled(self: RoIPooler, feature_maps: Tensor, boxes: Tensor) -> Tensor:
    pooler = self.box_pooler
    frame = torch.arange(len(boxes), dtype=boxes.dtype)[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat((frame, boxes), dim=-1).flatten(0, 1)
    size, ratio = pooler.output_size, pooler.sampling_ratio
    return roi_align(feature_maps.contiguous(), rois, size, pooler.spatial_scale, ratio, pooler.aligned)


def _attended(part: nn.Module, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
    """`torch.nn.MultiheadAttention` of sequences ``(N, B, C)``; ``allowed`` ``(B, Q, K)``."""
    mask = None if allowed is None else (~allowed).repeat_interleave(part.num_heads, 0)
    weights = (part.in_proj_weight, part.in_proj_bias, None, None, False, 0.0, part.out_proj.weight, part.out_proj.bias)
    return F.multi_head_attention_forward(
        query, key, value, query.shape[-1], part.num_heads, *weights, training=False, attn_mask=mask
    )[0]


def _plain_attention(self: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    sequences = [x.flatten(0, -3).transpose(0, 1) if x.dim() > 2 else x[:, None] for x in (query, key, value)]
    if mask is not None:
        mask = mask.expand(*query.shape[:-1], key.shape[-2]).reshape(-1, query.shape[-2], key.shape[-2])
    return _attended(self, *sequences, mask).transpose(0, 1).reshape(query.shape)


def _embedding(query_boxes: Tensor, key_boxes: Tensor, wavelengths: Tensor) -> Tensor:
    """``(..., Q, K, G)``."""
    (cx_q, cy_q, w_q, h_q), (cx_k, cy_k, w_k, h_k) = (
        (
            (b[..., 0] + b[..., 2]) / 2,
            (b[..., 1] + b[..., 3]) / 2,
            (b[..., 2] - b[..., 0]).clamp(min=1e-4),
            (b[..., 3] - b[..., 1]).clamp(min=1e-4),
        )
        for b in (query_boxes[..., :, None, :], key_boxes[..., None, :, :])
    )
    ratios = ((cx_k - cx_q).abs() / w_k, (cy_k - cy_q).abs() / h_k, w_q / w_k, h_q / h_k)
    place = torch.stack([torch.log(r + 1e-4) for r in ratios], dim=-1)[..., None] / wavelengths
    return torch.cat((place.sin(), place.cos()), dim=-1).flatten(-2)


def _log_weight(layer: nn.Module, embedding: Tensor) -> Tensor:
    return (F.relu(layer.geo_trans(embedding).movedim(-1, -3)) + 1e-6).log()


def _plain_log_weights(
    self: RelationModule,
    query_boxes: Tensor,
    key_boxes: Tensor,
    mask: Tensor | None = None,
    layers: slice = slice(None),
) -> Tensor:
    embedding = _embedding(query_boxes, key_boxes, self.div_mat)
    weights = torch.stack([_log_weight(layer, embedding) for layer in self.stack()[layers]])
    return weights if mask is None else weights.masked_fill(~mask[..., None, :, :], MASKED)


def _whole_images(self: FlowNet, images: Tensor) -> Tensor:
    return images / self.image_divisor


_forward = FlowNet.forward


def _averaging_flow(self: FlowNet, target: Tensor, source: Tensor) -> object:
    pairs = F.avg_pool2d(torch.cat((target, source), dim=1), self.reduction, self.reduction, ceil_mode=True)
    return _forward(self, *pairs.chunk(2, dim=1))


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Layers compute as the published code does."""
    replaced: list[tuple[object, str, object]] = [
        (Conv2d, "forward", _plain_conv),
        (FrozenBatchNorm2d, "forward", _plain_frozen_norm),
        (RoIPooler, "_pooled", _plain_pooled),
        (Attention, "forward", _plain_attention),
        (RelationModule, "log_weights", _plain_log_weights),
        (FlowNet, "reduce", _whole_images),
        (FlowNet, "forward", _averaging_flow),
        (resnet, "to_fast_layout", lambda x, _: x.contiguous()),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, plain in replaced:
            stack.enter_context(mock.patch.object(owner, name, plain))
        yield


# --- relations of tokens


class PlainWindow(TokenMixer):
    """BasicDet's relation over the boxes of the whole window."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        return {"frames": []}

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        raise NotImplementedError

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        found = (frame.tokens[frame.valid], frame.boxes[frame.valid])
        frames = [*state["frames"], found][-WINDOW:]
        related = self.related(torch.cat([f[0] for f in frames]), torch.cat([f[1] for f in frames]))
        return _in_rows(related, frame), {"frames": frames}

    def related(self, tokens: Tensor, boxes: Tensor) -> Tensor:
        """``(N, D)`` of all boxes of the window."""
        relation = self.part.relation
        embedding = _embedding(boxes, boxes, relation.div_mat)
        for layer in relation.stack():
            tokens = layer(tokens, tokens, _log_weight(layer, embedding))
        return tokens


class PlainSELSA(PlainWindow):
    """The same without geometry."""

    def related(self, tokens: Tensor, boxes: Tensor) -> Tensor:
        """``(N, D)`` of all boxes of the window."""
        for layer in self.part.relation.stack():
            query, (key, value) = layer.project_query(tokens), layer.project_key(tokens)
            weight = (query @ key.T * query.shape[-1] ** -0.5).softmax(dim=-1)
            tokens = layer.linear(tokens) + layer.linear_out(weight @ value)
        return tokens


class PlainMEGA(PlainWindow):
    """The local window with the memory as keys, of which each layer's inputs are kept."""

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        return {"local": [], "memory": []}

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        local = [*state["local"], (frame.tokens[frame.valid], frame.boxes[frame.valid])][-MEGA_LOCAL:]
        tokens, boxes = (torch.cat(each) for each in zip(*local, strict=True))
        used = state["memory"][-MEGA_USED:] if len(state["memory"]) > MEGA_LOCAL else []
        relation, inputs = self.part.relation, []
        embedding = _embedding(boxes, torch.cat((boxes, *(m[0] for m in used))), relation.div_mat)
        for index, layer in enumerate(relation.stack()):
            inputs.append(tokens[-len(local[-1][0]) :])
            keys = torch.cat((tokens, *(m[1][index] for m in used)))
            tokens = layer(tokens, keys, _log_weight(layer, embedding))
        memory = [*state["memory"], (local[-1][1], inputs)][-MEGA_KEPT:]
        return _in_rows(tokens, frame), {"local": local, "memory": memory}


class PlainUltraDet(PlainWindow):
    """Contexts for the frames before a key frame in one batch, for the newest frame in another; then all layers over the window."""

    num_phases = 2

    def phase(self, frame_number: int) -> int:
        return self.part.phase(frame_number)

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        return {"frames": [], "keys": []}

    def contexts(self, frames: Sequence[tuple], keys: Sequence[tuple], pool: Pool) -> Tensor:
        """``(keys, frames, N, D)``: tokens of the frames' boxes on the keys' maps, warped to the frames."""
        images = torch.stack([f[0] for f in frames]).repeat(len(keys), 1, 1, 1)
        key_images = torch.stack([k[0] for k in keys]).repeat_interleave(len(frames), 0)
        maps = torch.stack([k[1] for k in keys]).repeat_interleave(len(frames), 0)
        boxes = torch.stack([f[2] for f in frames]).repeat(len(keys), 1, 1)
        warped = self.part.warp(maps, images, key_images)
        return pool(warped, boxes).unflatten(0, (len(keys), len(frames)))

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        image = self.part.warp.reduce(frame.image)  # whole, within `plain_operations`
        keys, frames = state["keys"], state["frames"]
        if phase:
            keys = [*keys, (image, frame.feature_map)][-self.part.num_contexts :]
            if frames:
                added = self.contexts(frames, keys[-1:], pool)[0]
                frames = [
                    (*f[:-1], torch.cat((f[-1], a[None]))[-self.part.num_contexts :])
                    for f, a in zip(frames, added, strict=True)
                ]
        newest = (image, frame.tokens, frame.boxes, frame.valid)
        frames = [*frames, (*newest, self.contexts([newest], keys, pool)[:, 0])][-WINDOW:]
        tokens, boxes, valid = (torch.stack([f[i] for f in frames]) for i in (1, 2, 3))
        contexts = torch.stack([f[4] for f in frames], dim=1).flatten(1, 2)  # (K, frames * N, D)
        relation = self.part.relation
        boxes, tokens, mask = boxes.flatten(0, 1), tokens.flatten(0, 1), ~valid.flatten()
        embedding = _embedding(boxes, boxes, relation.div_mat)
        for attend, layer in zip(self.part.context_layers, relation.stack(), strict=True):
            tokens = attend.norm(tokens + _attended(attend, tokens[None], contexts, contexts)[0])
            tokens = layer(tokens, tokens, _log_weight(layer, embedding).masked_fill(mask, MASKED))
        return tokens[-len(frame.tokens) :], {"frames": frames, "keys": keys}


def _in_rows(related: Tensor, frame: FrameTokens) -> Tensor:
    """The newest frame's tokens in the rows of its valid boxes."""
    rows = frame.tokens.clone()
    rows[frame.valid] = related[len(related) - int(frame.valid.sum()) :]
    return rows


# --- feature maps of several frames


class _PlainContext(FeatureContext):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        return {"frames": []}

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        raise NotImplementedError


class PlainFGFA(_PlainContext):
    """A flow of every pair, thrown away; each map of the window warped and embedded."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__(part)
        self.flownet = FlowNet(scale_channels=0, image_divisor=255.0)

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        frames = [*state["frames"], (self.flownet.reduce(image), feature_map)][-WINDOW:]
        images, maps = (torch.cat(each) for each in zip(*frames, strict=True))
        self.flownet(images[-1:].repeat(len(images), 1, 1, 1), images)
        warped = warp_maps(maps, maps.new_zeros(len(maps), 2, *maps.shape[-2:]), True)
        embedded = self.part.embedding(torch.cat((feature_map, warped)))
        current, others = (e / (e.norm(dim=1, keepdim=True) + 1e-10) for e in (embedded[:1], embedded[1:]))
        weights = (others * current).sum(dim=1, keepdim=True).softmax(dim=0)
        return (weights * warped).sum(dim=0, keepdim=True), {"frames": frames}


class PlainCVANet(_PlainContext):
    """All maps of the window joined, then neighbouring channels of two of them averaged."""

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        frames = [*state["frames"], feature_map][-WINDOW:]
        maps = torch.cat(frames)
        both = torch.cat((maps[None, max(0, len(maps) - 1 - self.part.lag)], maps[None, -1]), dim=1)
        return F.adaptive_avg_pool3d(both, (maps.shape[1], None, None)), {"frames": frames}


class PlainPTSEFormer(_PlainContext):
    """All blocks for each frame of the window: ``(frames, C, h, w)``, the newest first, which is the one that is kept after the decoder."""

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        frames = [feature_map.flatten(2).transpose(1, 2), *state["frames"]][:WINDOW]
        maps, part = torch.cat(frames), self.part  # (frames, h * w, C)
        transitions = [self.block(part.transition, m[None], m[None]) for m in maps]
        moved = transitions[0]  # of all, the published code keeps one
        x = torch.cat([self.block(part.temporal, m[None], maps) for m in maps])
        x = torch.cat([self.block(part.spatial, m[None], moved) for m in x])
        x = self.block(part.fusion, x, maps)
        return x.transpose(1, 2).unflatten(2, feature_map.shape[-2:]), {"frames": frames}

    def block(self, layers: nn.ModuleList, x: Tensor, frames: Tensor) -> Tensor:
        """Layers of attention to frames, cell by cell; a gate mixes x with the frames of the same number."""
        for layer in layers:
            attended = _attended(layer.attention, x, frames, frames)
            if layer.gate is not None:
                gate = layer.gate(torch.cat((x, frames), dim=-1)).sigmoid()
                x = (1 - gate) * frames + gate * x
            x = layer.norm(x + attended)
            x = layer.ffn_norm(x + layer.linear2(F.relu(layer.linear1(x))))
        return x


# --- queries of several frames


class PlainTransVOD(QueryContext):
    """Both temporal layers and the temporal decoder for all frames of the window."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        return {"frames": []}

    def clip(self, queries: FrameQueries, frame_valid: Tensor) -> tuple[QueryPredictions, ...]:
        raise NotImplementedError

    def step(self, queries: FrameQueries, state: State) -> tuple[QueryPredictions, State]:
        frames = [*state["frames"], (queries.content, queries.reference, queries.memory)][-WINDOW:]
        x, reference, memory = (torch.stack(each) for each in zip(*frames, strict=True))
        position, part = queries.position, self.part
        for layer in part.layers:
            place = (x + position).transpose(0, 1)
            x = layer.self_norm(x + _attended(layer.self_attention, place, place, x.transpose(0, 1)).transpose(0, 1))
            place = x + position
            x = layer.ffn(layer.cross_norm(x + _attended(layer.cross_attention, place, place, x)))
        for layer in part.decoder:
            x = layer(x, position, reference, memory, queries.map_size, None)
        organ = None if queries.organ is None else queries.organ.expand(len(x))
        predictions = QueryPredictions(classify(part.class_head, x, organ), refine(part.box_head(x), reference))
        return predictions.frame(-1), {"frames": frames}


PLAIN_PARTS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "BasicDet": ("token_mixer", PlainWindow),
    "SELSA": ("token_mixer", PlainSELSA),
    "MEGA": ("token_mixer", PlainMEGA),
    "UltraDet": ("token_mixer", PlainUltraDet),
    "FGFA": ("feature_context", PlainFGFA),
    "CVANet": ("feature_context", PlainCVANet),
    "PTSEFormer": ("memory_context", PlainPTSEFormer),
    "TransVOD": ("query_context", PlainTransVOD),
}
