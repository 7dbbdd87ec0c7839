"""Relations by appearance and geometry, within a frame or over a window of frames.

Sources: Hu et al., "Relation networks for object detection", CVPR 2018; Deng et al., "Relation distillation networks for video object
detection", ICCV 2019; Wu et al., "Sequence level semantics aggregation for video object detection", ICCV 2019.

Legend: ``B`` clips, ``T`` frames of a clip, ``N`` boxes of a frame, ``D`` width of a token, ``R`` frames of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.layers.relation import Projections, TokenRelation
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

__all__ = ["RelationMixer"]


class RelationMixer(TokenMixer):
    """Relation layers over the boxes of a frame (RelationNet) or of a window of frames (BasicDet; with a `SELSAModule`, SELSA).

    Args:
        relation: the layers.
        context_frames: number of earlier frames that a frame sees; 0 relates only the boxes of the frame itself.
        context_stride: frames from one context frame to the next in a stream; sample training clips with the same stride.
        causal: a frame's tokens see no later frame, in training and in a stream, which then keeps the keys and values of each layer
            for the earlier frames and computes only the newest. Without it all frames of a clip or window see each other, in
            training whatever ``context_frames`` is, as in the published model; a stream never uses a later frame.
    """

    def __init__(
        self,
        *,
        relation: TokenRelation,
        context_frames: NotNegative = 15,
        context_stride: Positive = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.relation = relation
        self.context_frames = context_frames
        self.causal = causal
        self.window = FrameWindow(context_frames + 1)
        self.streams = InterleavedStreams(context_stride)

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        """As `TokenMixer.initial_state`: what each layer needs of the window's earlier frames; ``{}`` without context frames."""
        del image_size
        if self.context_frames == 0:
            return {}
        if self.causal:
            return self.streams.initial_state(causal_state(self.relation, self.window, num_boxes, device))
        length = self.window.num_frames
        names = ("tokens", *Projections._fields)
        rings = self.window.initial_state(
            device,
            **dict.fromkeys(names, ((num_boxes, self.relation.dim), torch.float32)),
            boxes=((num_boxes, 4), torch.float32),
            box_valid=((num_boxes,), torch.bool),
        )
        return self.streams.initial_state(
            {**rings, **pair_weights_state(self.relation, num_boxes, length, length, device)}
        )

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """As `TokenMixer.clip`: the tokens of each frame, related to those of the frames that it sees, ``(B, T, N, D)``."""
        del pool
        length, num_boxes = frames.tokens.shape[1:3]
        key = frames.valid & ~frames.is_gt & frames.frame_valid[..., None]
        if self.context_frames == 0:
            by_frame: Tensor = self.relation(frames.tokens, frames.boxes, key[..., None, :])
            return by_frame
        mask = key.flatten(1)[:, None, :]
        if self.causal:
            see = temporal_mask(length, self.context_frames, causal=True, device=mask.device)
            mask = mask & see.repeat_interleave(num_boxes, 0).repeat_interleave(num_boxes, 1)
        related: Tensor = self.relation(frames.tokens.flatten(1, 2), frames.boxes.flatten(1, 2), mask)
        return related.unflatten(1, (length, num_boxes))

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """As `TokenMixer.step`: the frame's tokens, related to those of the window, ``(N, D)``."""
        del pool, phase
        if self.context_frames == 0:
            related: Tensor = self.relation(frame.tokens, frame.boxes, frame.valid[None])
            return related, state
        current = self.streams.current(state)
        if self.causal:
            tokens, current = causal_step(self.relation, self.window, frame, current)
        else:
            tokens, current = self._step_window(frame, current)
        return tokens, self.streams.advance(state, current)

    def _step_window(self, frame: FrameTokens, state: State) -> tuple[Tensor, State]:
        """The frames of the window are related to each other too: their tokens after the first layer change with each new frame.

        What the first layer makes of them by themselves does not, nor do the weights of the pairs of their boxes.
        """
        first, *others = self.relation.stack()
        projected = first.project(frame.tokens)
        ring = self.window.push(
            state, tokens=frame.tokens, **projected._asdict(), boxes=frame.boxes, box_valid=frame.valid
        )
        inner, last, pairs = push_pair_weights(
            self.relation, state, ring["boxes"], ring["box_valid"], self.window.num_frames
        )
        keys, values = ring["key"].flatten(0, 1), ring["value"].flatten(0, 1)
        if not others:
            return first.relate(frame.tokens, Projections(projected.query, keys, values), last), {**ring, **pairs}
        tokens = first.relate(
            ring["tokens"].flatten(0, 1), Projections(ring["query"].flatten(0, 1), keys, values), inner[0]
        )
        for layer, weights in zip(others[:-1], inner[1:], strict=True):
            tokens = layer(tokens, tokens, weights)
        return others[-1](tokens[-len(frame.tokens) :], tokens, last), {**ring, **pairs}
