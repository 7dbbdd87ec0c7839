"""Context from key frames at the place of each box, added before boxes are related to each other.

Source: Yu et al., "UltraDet: a temporal-context detector for lesions in ultrasound video", MICCAI 2023, arXiv 2305.18060 (negative temporal
context), and its published code.

Legend: ``B`` clips, ``T`` frames of a clip, ``N`` boxes of a frame, ``D`` width of a token, ``K`` contexts of a frame, ``C, h, w`` channels,
height, width of a feature map, ``R`` frames of the window.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from ultravid.layers.attention import Attention
from ultravid.layers.relation import TokenRelation
from ultravid.modeling.flow import FlowWarp
from ultravid.modeling.frame_window import FrameWindow, InterleavedStreams, temporal_mask
from ultravid.modeling.token_mixer.base import TokenMixer
from ultravid.modeling.token_mixer.cache import (
    causal_state,
    causal_step,
    pair_weights_state,
    push_pair_weights,
)
from ultravid.modeling.types import FrameTokens, Pool, State
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["ContextAttention", "FlowContextMixer"]

ORDINARY, KEY = 0, 1


class ContextAttention(Attention):
    """Attention of each token to its own few contexts, a residual, and a layer norm.

    Keys and values are projected, which for two contexts takes three quarters of the time of `Attention.across_frames`.

    Args:
        dim: ``D``.
        num_heads: number of heads.
    """

    def __init__(self, *, dim: Positive, num_heads: Positive) -> None:
        super().__init__(dim=dim, num_heads=num_heads)
        self.norm = nn.LayerNorm(dim)

    def attend(self, tokens: Tensor, contexts: Tensor, valid: Tensor) -> Tensor:
        """Add to each token what it gathers from its contexts.

        Args:
            tokens: ``(..., N, D)``.
            contexts: ``(..., K, N, D)``, ``K`` for each token.
            valid: ``(..., K)`` bool, False for places without a context. If none is valid, all have the same weight.

        Returns:
            ``(..., N, D)``, after the layer norm.
        """
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

    In streams and clips, every ``key_interval``-th frame is a key frame, starting with the first. A context of a box is the
    token that is pooled at the box from a key frame's map, warped to the box's frame.

    Args:
        relation: the relation layers.
        warp: warps the key frames' maps.
        num_heads: heads of the attention to contexts.
        map_channels: ``C``.
        num_contexts: number ``K`` of key frames that are kept.
        key_interval: places from one key frame to the next.
        context_frames: number of earlier frames in the window that the relation layers see.
        context_stride: frames from one place to the next in a stream, whose frames so belong to as many streams in turn, each with its
            own window and key frames; sample training clips with the same stride.
        causal: the contexts of a frame come from the key frames up to it, itself included, and are never computed again; nor are the
            inputs of the layers. Training follows the same rule by place in the clip. Without it, as in the published code, a
            key frame adds a context to all frames of the window, which come before it, and the relation layers of the whole window are
            computed for each frame; a key frame then costs several times what the others do. The frames of a clip see each other
            without order, and have the clip's last ``K`` key frames as contexts; training draws any ``K`` frames of the clip in their
            place (from torch's global generator).
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
        self.context_layers = nn.ModuleList(
            ContextAttention(dim=relation.dim, num_heads=num_heads) for _ in relation.layers
        )
        self.map_channels = map_channels
        self.num_contexts = num_contexts
        self.key_interval = key_interval
        self.context_frames = context_frames
        self.causal = causal
        self.key_frames = FrameWindow(num_contexts)
        self.window = FrameWindow(context_frames + 1)
        self.streams = InterleavedStreams(context_stride)

    def _contexts(self) -> list[ContextAttention]:
        return list(cast("Iterable[ContextAttention]", self.context_layers))

    def phase(self, frame_number: int) -> int:
        """As `TokenMixer.phase`: 1 if the frame is a key frame, 0 if it is not.

        Args:
            frame_number: how many frames of the stream come before this one.
        """
        return KEY if frame_number // self.streams.stride % self.key_interval == 0 else ORDINARY

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        """As `TokenMixer.initial_state`: reduced images and maps of the key frames, and what the layers need of the window's frames."""
        f32 = torch.float32
        image = (self.warp.reduced_shape(image_size), f32)
        key_map = ((self.map_channels, *self.warp.map_size(image_size)), f32)
        key_frames = self.key_frames.initial_state(device, image=image, map=key_map)
        if self.causal:
            window = causal_state(self.relation, self.window, num_boxes, device)
        else:
            rows = (num_boxes, self.relation.dim)
            window = self.window.initial_state(
                device,
                tokens=(rows, f32),
                contexts=((self.num_contexts, *rows), f32),
                image=image,
                boxes=((num_boxes, 4), f32),
                box_valid=((num_boxes,), torch.bool),
            )
            length = self.window.num_frames
            window |= pair_weights_state(self.relation, num_boxes, length, length, device)
        return {
            "key_frames": self.streams.initial_state(key_frames),
            "window": self.streams.initial_state(window),
        }

    # --- a clip

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """As `TokenMixer.clip`.

        With ``causal``, a frame gets its contexts from the key frames up to it, otherwise from the last key frames of the clip.
        """
        return self._clip(frames, pool, self._context_places(frames.frame_valid, drawn=False))

    def training_clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """As `clip`, but without ``causal`` the contexts are of ``num_contexts`` random frames of the clip."""
        return self._clip(frames, pool, self._context_places(frames.frame_valid, drawn=True))

    def _clip(self, frames: FrameTokens, pool: Pool, context_places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        length, num_boxes = frames.tokens.shape[1:3]
        contexts, context_valid = self._clip_contexts(frames, pool, *context_places)
        see = temporal_mask(length, self.context_frames, self.causal, frames.tokens.device)
        see = see.repeat_interleave(num_boxes, 0).repeat_interleave(num_boxes, 1)
        mask = see & (frames.valid & ~frames.is_gt & frames.frame_valid[..., None]).flatten(1)[:, None, :]
        boxes, has_key = frames.boxes.flatten(1, 2), mask.any(dim=-1)
        tokens = frames.tokens
        log_weights = self.relation.log_weights(boxes, boxes, mask)
        for context, relate, log_weight in zip(self._contexts(), self.relation.stack(), log_weights, strict=True):
            inputs = context.attend(tokens, contexts, context_valid).flatten(1, 2)
            tokens = relate(inputs, inputs, log_weight, has_key).unflatten(1, (length, num_boxes))
        return tokens

    def _clip_contexts(
        self, frames: FrameTokens, pool: Pool, frame: Tensor, slot: Tensor, source: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Contexts ``(B, T, K, N, D)`` and ``(B, T, K)`` bool, which there are; one flow and one pooling for all that there are."""
        count, length, num_boxes, dim = frames.tokens.shape
        clip = torch.arange(count, device=source.device)[:, None]
        reduced = self.warp.reduce(frames.image.flatten(0, 1)).unflatten(0, (count, length))
        maps = frames.feature_map[clip, source].flatten(0, 1)
        warped = self.warp(maps, reduced[:, frame].flatten(0, 1), reduced[clip, source].flatten(0, 1))
        pooled = pool(warped, frames.boxes[:, frame].flatten(0, 1)).unflatten(0, (count, len(frame)))
        contexts = pooled.new_zeros((count, length, self.num_contexts, num_boxes, dim))
        contexts = contexts.index_put((clip, frame[None], slot[None]), pooled)
        valid = torch.zeros(contexts.shape[:3], dtype=torch.bool, device=source.device)
        return contexts, valid.index_put((clip, frame[None], slot[None]), frames.frame_valid[clip, source])

    def _context_places(self, frame_valid: Tensor, drawn: bool) -> tuple[Tensor, Tensor, Tensor]:
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
        candidates = torch.arange(0, length, 1 if drawn else self.key_interval, device=device)
        order = torch.rand((count, len(candidates)), device=device) if drawn else candidates.expand(count, -1).float()
        order = order.masked_fill(~frame_valid[:, candidates], -1.0)
        source = candidates[order.topk(min(self.num_contexts, len(candidates)), dim=1).indices]
        frame = torch.arange(length, device=device).repeat_interleave(source.shape[1])
        slot = torch.arange(source.shape[1], device=device).repeat(length)
        return frame, slot, source[:, slot]

    # --- a stream

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """As `TokenMixer.step`: the frame's tokens, related to their contexts and to the tokens of the window, ``(N, D)``."""
        image = self.warp.reduce(frame.image[None])
        key_frames, window = self.streams.current(state["key_frames"]), self.streams.current(state["window"])
        if phase == KEY:
            key_frames = self.key_frames.push(key_frames, image=image[0], map=frame.feature_map)
        step = self._step_causal if self.causal else self._step_published
        tokens, window = step(frame, pool, image, key_frames, window, phase)
        return tokens, {
            "key_frames": self.streams.advance(state["key_frames"], key_frames),
            "window": self.streams.advance(state["window"], window),
        }

    def _step_causal(
        self, frame: FrameTokens, pool: Pool, image: Tensor, key_frames: State, window: State, phase: int
    ) -> tuple[Tensor, State]:
        del phase
        contexts = pool(
            self.warp(key_frames["map"], image.expand_as(key_frames["image"]), key_frames["image"]),
            frame.boxes.expand(self.num_contexts, -1, -1),
        )

        def attend(layer: int, tokens: Tensor) -> Tensor:
            attended: Tensor = self._contexts()[layer].attend(tokens, contexts, key_frames["valid"])
            return attended

        return causal_step(self.relation, self.window, frame, window, attend)

    def _step_published(
        self, frame: FrameTokens, pool: Pool, image: Tensor, key_frames: State, window: State, phase: int
    ) -> tuple[Tensor, State]:
        maps, sources = key_frames["map"], key_frames["image"]
        targets, boxes = image.expand_as(sources), frame.boxes.expand(self.num_contexts, -1, -1)
        if phase == KEY:  # one more context, from this frame, for all frames that stay in the window
            num_earlier = self.window.num_frames - 1
            maps = torch.cat((maps, frame.feature_map.expand(num_earlier, -1, -1, -1)))
            targets = torch.cat((targets, window["image"][1:]))
            sources = torch.cat((sources, image.expand(num_earlier, -1, -1, -1)))
            boxes = torch.cat((boxes, window["boxes"][1:]))
        pooled = pool(self.warp(maps, targets, sources), boxes).float()
        own, added = pooled[: self.num_contexts], pooled[self.num_contexts :]
        contexts = window["contexts"]
        if phase == KEY:  # the first row is the frame that leaves the window
            contexts = torch.cat((contexts[:1], torch.cat((contexts[1:, 1:], added[:, None]), dim=1)))
        ring = self.window.push(
            {**window, "contexts": contexts},
            tokens=frame.tokens,
            contexts=own,
            image=image[0],
            boxes=frame.boxes,
            box_valid=frame.valid,
        )
        inner, last, pairs = push_pair_weights(
            self.relation, window, ring["boxes"], ring["box_valid"], self.window.num_frames
        )
        tokens = ring["tokens"]
        layers = zip(self._contexts(), self.relation.stack(), [*inner, last], strict=True)
        for index, (context, relate, log_weight) in enumerate(layers):
            inputs = context.attend(tokens, ring["contexts"], key_frames["valid"])
            queries = inputs if index < len(inner) else inputs[-1:]  # the last layer: only of the newest frame
            related = relate(queries.flatten(0, 1), inputs.flatten(0, 1), log_weight)
            tokens = related.unflatten(0, queries.shape[:2])
        return tokens[-1].to(frame.tokens.dtype), {**ring, **pairs}
