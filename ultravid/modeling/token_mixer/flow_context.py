"""What key frames show at the place of each box, before boxes are related to each other.

Source: Yu et al., "UltraDet: a temporal-context detector for lesions in ultrasound video", MICCAI 2023, arXiv 2305.18060 (negative temporal
context), and its published code.

Legend: ``B`` clips, ``T`` frames of a clip, ``N`` boxes of a frame, ``D`` width of a token, ``K`` contexts of a frame, ``C, h, w`` channels,
height, width of a feature map, ``L`` frames that are kept, ``R`` frames of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ultravid.layers.relation import TokenRelation
from ultravid.modeling.flow import FlowWarp
from ultravid.modeling.frame_window import FrameWindow, frames_see
from ultravid.modeling.token_mixer.base import TokenMixer
from ultravid.modeling.token_mixer.kept import device_of
from ultravid.modeling.types import FrameTokens, Pool, State
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["ContextAttention", "FlowContextMixer"]

ORDINARY, KEY = 0, 1


class ContextAttention(nn.Module):
    """Attention of each token to its own few contexts, a residual, and a layer norm.

    The weights are packed as in `torch.nn.MultiheadAttention`, which is made for sequences that are longer than these.

    Args:
        dim: ``D``.
        num_heads: number of heads.
    """

    def __init__(self, dim: Positive, num_heads: Positive) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}.")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor, contexts: Tensor, valid: Tensor) -> Tensor:
        """``(..., N, D)`` of tokens ``(..., N, D)``, contexts ``(..., K, N, D)`` and ``(..., K)`` bool, which contexts there are."""
        dim = tokens.shape[-1]
        weight_q, weight_kv = self.in_proj_weight.split((dim, 2 * dim))
        bias_q, bias_kv = self.in_proj_bias.split((dim, 2 * dim))
        query = nn.functional.linear(tokens, weight_q, bias_q).unflatten(-1, (self.num_heads, -1))
        key, value = (
            nn.functional.linear(contexts, weight_kv, bias_kv).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        )
        score = (query[..., None, :, :, :] * key).sum(dim=-1) / (dim // self.num_heads) ** 0.5  # (..., K, N, heads)
        weight = score.float().masked_fill(~valid[..., None, None], -1e9).softmax(dim=-3)
        gathered = (weight[..., None].to(value.dtype) * value).sum(dim=-4).flatten(-2)
        attended: Tensor = self.norm(tokens + self.out_proj(gathered))
        return attended


class FlowContextMixer(TokenMixer):
    """Relation layers, before each of which a token attends to what the last key frames show where its box is (UltraDet).

    Every ``key_interval``-th frame of the window's is a key frame. A context of a box is the token that is pooled at the box from a key frame's
    map, warped to the box's frame.

    Args:
        relation: the relation layers.
        warp: warps the key frames' maps.
        num_heads: heads of the attention to contexts.
        map_channels: ``C``.
        num_contexts: number ``K`` of key frames that are kept.
        key_interval: key frames are the first frame of a stream, and each one so many places of the window further.
        context_frames: number of earlier frames in the window that the relation layers see.
        context_stride: frames from one place of the window to the next in a stream; sample training clips with the same stride.
        causal: the contexts of a frame come from the key frames up to it, itself included, and are never computed again; nor are the
            inputs of the layers. Training follows the same rule by place in the clip. Without it, as in the published code, a
            key frame adds a context to all frames of the window, which come before it, and the relation layers of the whole window are
            computed for each frame; a key frame then costs several times what the others do. Training draws ``K`` frames
            of each clip as the contexts of all its frames (from torch's global generator), which see each other without order.
    """

    num_phases = 2

    def __init__(
        self,
        *,
        relation: TokenRelation,
        warp: FlowWarp,
        num_heads: Positive = 8,
        map_channels: Positive = 256,
        num_contexts: Positive = 2,
        key_interval: Positive = 8,
        context_frames: NotNegative = 15,
        context_stride: Positive = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.relation = relation
        self.warp = warp
        self.context_layers = nn.ModuleList(ContextAttention(relation.dim, num_heads) for _ in relation.layers)
        self.map_channels = map_channels
        self.num_contexts = num_contexts
        self.key_interval = key_interval
        self.context_frames = context_frames
        self.causal = causal
        self.key_frames = FrameWindow(num_contexts)
        self.window = FrameWindow(context_frames + 1, context_stride)

    def phase(self, frame_number: int) -> int:
        """1 for key frames, 0 for the others."""
        return KEY if frame_number % (self.key_interval * self.window.stride) == 0 else ORDINARY

    def initial_state(self, image_size: tuple[int, int], num_boxes: int) -> State:
        """Reduced images and maps of the key frames, and of the window's frames what the layers need of them."""
        f32, rows = torch.float32, (num_boxes, self.relation.dim)
        device = device_of(self.relation)
        image = (self.warp.estimator.reduced_shape(image_size), f32)
        key_map = ((self.map_channels, *self.warp.map_size(image_size)), f32)
        kept: dict[str, tuple[tuple[int, ...], torch.dtype]]
        if self.causal:
            kept = {f"tokens_{i}": (rows, f32) for i in range(len(self.relation.layers))}
        else:
            kept = {"tokens": (rows, f32), "contexts": ((self.num_contexts, *rows), f32), "image": image}
        boxes = {"boxes": ((num_boxes, 4), f32), "box_valid": ((num_boxes,), torch.bool)}
        return {
            "key_frames": self.key_frames.initial_state(device, image=image, map=key_map),
            "window": self.window.initial_state(device, **kept, **boxes),
        }

    # --- a clip

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """``(B, T, N, D)``."""
        length, num_boxes = frames.tokens.shape[1:3]
        contexts, context_valid = self._clip_contexts(frames, pool)
        see = frames_see(length, self.context_frames, self.causal, frames.tokens.device)
        see = see.repeat_interleave(num_boxes, 0).repeat_interleave(num_boxes, 1)
        key = (frames.valid & ~frames.is_gt & frames.frame_valid[..., None]).flatten(1)
        mask = see & key[:, None, :]
        boxes = frames.boxes.flatten(1, 2)
        tokens, has_key = frames.tokens, mask.any(dim=-1)
        log_weights = self.relation.log_weights(boxes, boxes, mask)
        for attend, relate, log_weight in zip(self.context_layers, self.relation.stack(), log_weights, strict=True):
            inputs = attend(tokens, contexts, context_valid).flatten(1, 2)
            tokens = relate(inputs, inputs, log_weight, has_key).unflatten(1, (length, num_boxes))
        return tokens

    def _clip_contexts(self, frames: FrameTokens, pool: Pool) -> tuple[Tensor, Tensor]:
        """Contexts ``(B, T, K, N, D)`` and ``(B, T, K)`` bool, which there are; one flow and one pooling for all that there are."""
        count, length, num_boxes, dim = frames.tokens.shape
        frame, slot, source = self._context_places(frames.frame_valid)
        clip = torch.arange(count, device=source.device)[:, None]
        reduced = self.warp.estimator.reduce(frames.image.flatten(0, 1)).unflatten(0, (count, length))
        maps = frames.feature_map[clip, source].flatten(0, 1)
        warped = self.warp(maps, reduced[:, frame].flatten(0, 1), reduced[clip, source].flatten(0, 1))
        pooled = pool(warped, frames.boxes[:, frame].flatten(0, 1)).unflatten(0, (count, len(frame)))
        contexts = pooled.new_zeros((count, length, self.num_contexts, num_boxes, dim))
        contexts = contexts.index_put((clip, frame[None], slot[None]), pooled)
        valid = torch.zeros(contexts.shape[:3], dtype=torch.bool, device=source.device)
        return contexts, valid.index_put((clip, frame[None], slot[None]), frames.frame_valid[clip, source])

    def _context_places(self, frame_valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ``P`` contexts of a clip: the frame's place ``(P,)``, its place among the frame's contexts, and the source's place ``(B, P)``."""
        count, length = frame_valid.shape
        device = frame_valid.device
        if self.causal:
            places = [
                (t, slot, place)
                for t in range(length)
                for slot in range(self.num_contexts)
                if (place := (t // self.key_interval - slot) * self.key_interval) >= 0
            ]
            frame, slot, source = torch.tensor(places, device=device).unbind(1)
            return frame, slot, source.expand(count, -1)
        order = torch.rand(frame_valid.shape, device=device).masked_fill(~frame_valid, -1.0)
        drawn = order.topk(min(self.num_contexts, length), dim=1).indices
        frame = torch.arange(length, device=device).repeat_interleave(drawn.shape[1])
        slot = torch.arange(drawn.shape[1], device=device).repeat(length)
        return frame, slot, drawn[:, slot]

    # --- a stream

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """``(N, D)``: the frame's tokens, related to those of the window."""
        image = self.warp.estimator.reduce(frame.image[None])
        key_frames = state["key_frames"]
        if phase == KEY:
            key_frames = self.key_frames.push(key_frames, image=image[0], map=frame.feature_map)
        step = self._step_causal if self.causal else self._step_published
        tokens, window = step(frame, pool, image, key_frames, state["window"], phase)
        return tokens, {"key_frames": key_frames, "window": window}

    def _own_contexts(self, key_frames: State, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps, targets, sources and boxes of the pairs of the current frame with each key frame."""
        count = self.num_contexts
        return (
            key_frames["map"],
            image.expand(count, -1, -1, -1),
            key_frames["image"],
            boxes.expand(count, -1, -1),
        )

    def _step_causal(
        self, frame: FrameTokens, pool: Pool, image: Tensor, key_frames: State, ring: State, phase: int
    ) -> tuple[Tensor, State]:
        del phase
        maps, targets, sources, boxes = self._own_contexts(key_frames, image, frame.boxes)
        contexts = pool(self.warp(maps, targets, sources), boxes)
        new_ring = self.window.push(ring, boxes=frame.boxes, box_valid=frame.valid)
        window = self.window.window(new_ring)
        key = (window["box_valid"] & window["valid"][:, None]).flatten()
        log_weights = self.relation.log_weights(frame.boxes, window["boxes"].flatten(0, 1), key[None])
        tokens = frame.tokens
        for index, (attend, relate) in enumerate(zip(self.context_layers, self.relation.stack(), strict=True)):
            tokens = attend(tokens, contexts, key_frames["valid"])
            name = f"tokens_{index}"
            new_ring[name] = torch.cat((ring[name][1:], tokens[None].float()))
            inputs = self.window.window({name: new_ring[name]})[name].flatten(0, 1)
            tokens = relate(tokens, inputs.to(tokens.dtype), log_weights[index])
        return tokens, {name: new_ring[name] for name in ring}  # in one order always

    def _step_published(
        self, frame: FrameTokens, pool: Pool, image: Tensor, key_frames: State, ring: State, phase: int
    ) -> tuple[Tensor, State]:
        maps, targets, sources, boxes = self._own_contexts(key_frames, image, frame.boxes)
        if phase == KEY:  # one more context, from this frame, for all frames that stay in the window
            num_earlier = self.window.length - 1
            maps = torch.cat((maps, frame.feature_map.expand(num_earlier, -1, -1, -1)))
            targets = torch.cat((targets, ring["image"][1:]))
            sources = torch.cat((sources, image.expand(num_earlier, -1, -1, -1)))
            boxes = torch.cat((boxes, ring["boxes"][1:]))
        pooled = pool(self.warp(maps, targets, sources), boxes).float()
        own, added = pooled[: self.num_contexts], pooled[self.num_contexts :]
        if phase == KEY:
            moved_up = torch.cat((ring["contexts"][1:, 1:], added[:, None]), dim=1)
            ring = {**ring, "contexts": torch.cat((ring["contexts"][:1], moved_up))}
        ring = self.window.push(
            ring, tokens=frame.tokens, contexts=own, image=image[0], boxes=frame.boxes, box_valid=frame.valid
        )
        window = self.window.window(ring)
        return self._related(window, key_frames["valid"], len(frame.tokens)).to(frame.tokens.dtype), ring

    def _related(self, window: State, context_valid: Tensor, num_boxes: int) -> Tensor:
        """``(N, D)`` of the newest frame, after the layers of all frames of the window."""
        key = (window["box_valid"] & window["valid"][:, None]).flatten()
        boxes = window["boxes"].flatten(0, 1)
        log_weights = self.relation.log_weights(boxes, boxes, key[None])
        tokens = window["tokens"]
        for index, (attend, relate) in enumerate(zip(self.context_layers, self.relation.stack(), strict=True)):
            inputs = attend(tokens, window["contexts"], context_valid).flatten(0, 1)
            last = index == len(self.context_layers) - 1
            first = len(inputs) - num_boxes if last else 0
            related = relate(inputs[first:], inputs, log_weights[index][..., first:, :])
            tokens = related.unflatten(0, (-1, num_boxes))
        return tokens[-1]
