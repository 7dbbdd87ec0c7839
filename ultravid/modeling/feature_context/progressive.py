"""Maps that gather, cell by cell, what other frames show at the same cell (PTSEFormer).

Source: Wang et al., "PTSEFormer: Progressive temporal-spatial enhanced transformer towards video object detection", ECCV 2022, section 3.
As in UltraDet's published code (arXiv 2305.18060): one level, and attention across frames at one cell, without positions.

Legend: ``B`` clips, ``T`` frames of a clip, ``R`` frames of the window, ``C, h, w`` channels, height, width of a map, ``P`` = h * w cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ultravid.layers.attention import Attention
from ultravid.modeling.feature_context.base import FeatureContext
from ultravid.modeling.frame_window import FrameWindow, temporal_mask
from ultravid.modeling.map_size import map_size
from ultravid.modeling.types import State
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["ProgressiveAggregation"]


class AggregationLayer(nn.Module):
    """What was attended to is added, then a feed-forward network; a gated layer first mixes the tokens with those of another map."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, gated: bool) -> None:
        super().__init__()
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(2 * dim, dim) if gated else None
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, attended: Tensor, other: Tensor | None = None) -> Tensor:
        """One layer.

        Args:
            x: ``(..., C)``.
            attended: what the attention gave for x.
            other: ``(..., C)``, in a gated layer the tokens that x is mixed with; None: x itself, which the mixture leaves as it is.
        """
        if self.gate is not None and other is not None:
            weight_x, weight_other = self.gate.weight.chunk(2, dim=1)
            gate = (F.linear(x, weight_x) + F.linear(other, weight_other, self.gate.bias)).sigmoid()
            x = other + gate * (x - other)
        x = self.norm(x + attended)
        out: Tensor = self.ffn_norm(x + self.linear2(F.relu(self.linear1(x), inplace=True)))
        return out


class ProgressiveAggregation(FeatureContext):
    """Four blocks of two layers each, for the current frame's map M_c and the window's maps M_j.

    1. Spatial transition: R_j, tokens of M_j that attend to M_c and are gated with it.
    2. Temporal aggregation: M_c attends to all M_j.
    3. The result attends to all R_j.
    4. The result attends to all M_j again, gated with M_c.

    A stream keeps the maps of the window and computes only the newest frame. A single key has the weight 1, so only its value is
    projected.

    Args:
        dim: ``C``.
        stride: pixels from one cell to the next.
        num_layers: number of layers of each block.
        num_heads: number of attention heads.
        ffn_dim: hidden width of the feed-forward networks.
        context_frames: number of earlier frames that a frame sees.
        context_stride: frames from one context frame to the next in a stream; sample training clips with the same stride.
        num_transitions: how many of the newest frames have an R; None: each of the window. The published code has 1, since a list
            is emptied too early: R of the current frame, related to itself. Each further one costs about a third of all the rest.
        causal: in training a frame sees no later frame. Without it all frames of a clip see each other, whatever ``context_frames`` is, as in
            the published model. A stream computes the same in either case.
    """

    def __init__(
        self,
        *,
        dim: Positive = 256,
        stride: Positive = 16,
        num_layers: Positive = 2,
        num_heads: Positive = 8,
        ffn_dim: Positive = 2048,
        context_frames: NotNegative = 15,
        context_stride: Positive = 1,
        num_transitions: Positive | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.stride = stride
        self.context_frames = context_frames
        self.num_transitions = min(num_transitions or context_frames + 1, context_frames + 1)
        self.causal = causal
        self.window = FrameWindow(context_frames + 1, context_stride)

        def block(gated: bool) -> nn.ModuleList:
            return nn.ModuleList(AggregationLayer(dim, num_heads, ffn_dim, gated) for _ in range(num_layers))

        self.transition = block(gated=True)
        self.temporal = block(gated=False)
        self.spatial = block(gated=False)
        self.fusion = block(gated=True)

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        """As `FeatureContext.initial_state`: a ring of the window's maps, ``(h * w, C)`` each."""
        num_cells = math.prod(map_size(image_size, self.stride))
        return self.window.initial_state(device, maps=((num_cells, self.dim), torch.float32))

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        """As `FeatureContext.step`, for the newest frame of the window."""
        del image
        current = feature_map[0].flatten(1).T  # (P, C)
        ring = self.window.push(state, maps=current)
        window = self.window.window(ring)
        frames, valid = window["maps"], window["valid"]  # (R, P, C), (R,)
        x = current
        for layer in _layers(self.temporal):
            x = layer(x, layer.attention.across_frames(x, frames, valid))
        if self.num_transitions == 1:
            moved = self._transition_to_itself(current)
            for layer in _layers(self.spatial):
                x = layer(x, layer.attention.single_key(moved))
        else:
            moved = self._transition(frames[-self.num_transitions :].to(x.dtype), current)
            for layer in _layers(self.spatial):
                x = layer(x, layer.attention.across_frames(x, moved, valid[-self.num_transitions :]))
        for layer in _layers(self.fusion):
            x = layer(x, layer.attention.across_frames(x, frames, valid), current)
        return x.T.unflatten(1, feature_map.shape[-2:])[None], ring

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """As `FeatureContext.clip`; which frames a frame sees depends on ``causal``."""
        del images
        length = maps.shape[1]
        see = temporal_mask(length, self.context_frames, self.causal, maps.device) & frame_valid[:, None, :]
        see = (see | torch.eye(length, dtype=torch.bool, device=maps.device))[:, None]  # no row is empty; (B, 1, T, T)
        current = maps.flatten(3).permute(0, 3, 1, 2)  # (B, P, T, C)
        x = current
        for layer in _layers(self.temporal):
            x = layer(x, layer.attention(x, current, current, see))
        if self.num_transitions == 1:
            moved = self._transition_to_itself(current)
            for layer in _layers(self.spatial):
                x = layer(x, layer.attention.single_key(moved))
        else:
            x = self._relate_to_transitions(x, current, see)
        for layer in _layers(self.fusion):
            x = layer(x, layer.attention(x, current, current, see), current)
        return x.permute(0, 2, 3, 1).unflatten(3, maps.shape[-2:])

    def _transition(self, frames: Tensor, current: Tensor) -> Tensor:
        """R ``(..., C)`` of some frames for the current one; the two are broadcast."""
        x = frames
        for layer in _layers(self.transition):
            x = layer(x, layer.attention.single_key(current), current)
        return x

    def _transition_to_itself(self, current: Tensor) -> Tensor:
        """R ``(..., C)`` of the current frame for itself: the first gate mixes equal tokens."""
        first, *others = _layers(self.transition)
        # In training the gate is computed all the same: DDP needs a gradient of its weights, which is zero.
        x = first(current, first.attention.single_key(current), current if self.training else None)
        for layer in others:
            x = layer(x, layer.attention.single_key(current), current)
        return x

    def _relate_to_transitions(self, x: Tensor, maps: Tensor, see: Tensor) -> Tensor:
        """Block 3 for ``(B, P, T, C)``; each frame has its own R of every other, which would not fit into memory all at once."""
        length = maps.shape[2]
        if self.num_transitions <= self.context_frames:
            see = see & temporal_mask(length, self.num_transitions - 1, True, see.device)

        def one_frame(x: Tensor, current: Tensor, see: Tensor) -> Tensor:
            moved = self._transition(maps, current)
            for layer in _layers(self.spatial):
                x = layer(x, layer.attention(x, moved, moved, see))
            return x

        frames = []
        for t in range(length):
            inputs = (x[:, :, t : t + 1], maps[:, :, t : t + 1], see[:, :, t : t + 1])
            frames.append(
                checkpoint(one_frame, *inputs, use_reentrant=False, preserve_rng_state=False)
                if torch.is_grad_enabled()
                else one_frame(*inputs)
            )
        return torch.cat(frames, dim=2)


def _layers(block: nn.ModuleList) -> Iterable[AggregationLayer]:
    return cast("Iterable[AggregationLayer]", block)
