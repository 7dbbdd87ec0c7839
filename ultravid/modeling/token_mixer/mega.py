"""Relations between local frames and a memory of results for earlier frames.

Source: Chen et al., "Memory enhanced global-local aggregation for video object detection" (MEGA), CVPR 2020, section 3.3. Its global
stage, which draws frames from the whole video, needs the video's end and has no counterpart in a stream.

Legend: ``B`` clips, ``T`` frames of a clip, ``N`` boxes of a frame, ``D`` width of a token, ``L`` layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.layers.relation import MASKED, Projections, TokenRelation
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

__all__ = ["MEGAMixer"]


class MEGAMixer(TokenMixer):
    """Relation layers over the local frames, each of which has the memory's tokens at its own input as further keys.

    When a frame leaves the local window, its tokens at the input of each layer, as the window's last step computed them, enter the
    memory and never change again (the paper's long-range memory). They were computed with the memory as it was then, so each layer
    reaches ``memory_frames`` further back than the one before it.

    In training the first `Clip.num_memory` frames of a clip are the memory: related only to each other, without gradient and
    without loss. The clips of the published recipe have 6, and 10 local frames.

    Args:
        relation: the layers.
        local_frames: number of frames of the local window, the newest included, that are related to each other.
        memory_frames: number of frames of the memory.
        context_stride: frames from one frame of the window to the next in a stream, and in the memory; sample training clips with
            the same stride.
        causal: a frame's tokens see no later frame, in training and in a stream, which then computes only the newest. What a layer
            made of a frame is the same in the local window and in the memory.
        recent_memory_frames: if above 0, the memory of the published code in place of the long-range one, which reaches no further
            back than the local window: this number of frames before the newest one, each as computed when it was the newest.
            The memory is empty until one more frame than this has preceded the newest.
        gt_memory_keys: boxes of the memory that are copies of the ground truth are keys in training, as in the published code. A
            stream has no ground truth, so by default they are only queries, as those of the local frames are.

    Raises:
        ValueError: ``recent_memory_frames`` with ``causal``, or more of them than ``memory_frames``.
    """

    detaches_memory = True

    def __init__(
        self,
        *,
        relation: TokenRelation,
        local_frames: Positive = 10,
        memory_frames: Positive = 16,
        context_stride: Positive = 1,
        causal: bool = False,
        recent_memory_frames: NotNegative = 0,
        gt_memory_keys: bool = False,
    ) -> None:
        super().__init__()
        if recent_memory_frames and causal:
            raise ValueError("recent_memory_frames is what the published code does, which is not causal: set it to 0.")
        if recent_memory_frames > memory_frames:
            raise ValueError(f"recent_memory_frames={recent_memory_frames} of memory_frames={memory_frames}.")
        self.relation = relation
        self.local_frames = local_frames
        self.memory_frames = recent_memory_frames or memory_frames
        self.recent = recent_memory_frames > 0
        self.causal = causal
        self.gt_memory_keys = gt_memory_keys
        if self.recent:  # the frame before the memory's first says whether the memory is used already
            self.window = FrameWindow(max(local_frames, recent_memory_frames + 2))
        else:
            self.window = FrameWindow(local_frames + memory_frames)
        self.streams = InterleavedStreams(context_stride)

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        """As `TokenMixer.initial_state`: what each layer needs of the local window and of the memory."""
        del image_size
        if self.causal:
            return self.streams.initial_state(causal_state(self.relation, self.window, num_boxes, device))
        token, f32 = ((num_boxes, self.relation.dim), torch.float32)
        rings = self.window.initial_state(
            device,
            key=(token, f32),
            value=(token, f32),
            boxes=((num_boxes, 4), f32),
            box_valid=((num_boxes,), torch.bool),
        )
        lengths = {"tokens": self.local_frames, "query": self.local_frames}
        lengths |= {name: self.memory_frames for i in range(1, len(self.relation.layers)) for name in _of_memory(i)}
        more = {name: torch.zeros((length, *token), dtype=f32, device=device) for name, length in lengths.items()}
        pairs = pair_weights_state(self.relation, num_boxes, self.local_frames, self.window.num_frames, device)
        return self.streams.initial_state({**rings, **more, **pairs})

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """As `TokenMixer.clip`: tokens of local frames are related to each other and to the memory, tokens of the memory only to the memory."""
        del pool
        length, num_boxes = frames.tokens.shape[1:3]
        key = ~frames.is_gt
        if self.gt_memory_keys:
            key = key | frames.is_memory[..., None]
        key = key & frames.valid & frames.frame_valid[..., None]
        see = ~frames.is_memory[:, :, None] | frames.is_memory[:, None, :]  # (B, T, T)
        if self.causal:
            see = see & temporal_mask(length, self.window.num_frames - 1, causal=True, device=see.device)
        mask = see.repeat_interleave(num_boxes, 1).repeat_interleave(num_boxes, 2) & key.flatten(1)[:, None, :]
        tokens, boxes = frames.tokens.flatten(1, 2), frames.boxes.flatten(1, 2)
        memory = frames.is_memory.repeat_interleave(num_boxes, 1)[..., None]
        has_key = mask.any(dim=-1)
        for layer, weights in zip(self.relation.stack(), self.relation.log_weights(boxes, boxes, mask), strict=True):
            tokens = torch.where(memory, tokens.detach(), tokens)
            tokens = layer(tokens, tokens, weights, has_key)
        return tokens.unflatten(1, (length, num_boxes))

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """As `TokenMixer.step`: the frame's tokens, related to those of the local window and of the memory, ``(N, D)``."""
        del pool, phase
        current = self.streams.current(state)
        if self.causal:
            tokens, current = causal_step(self.relation, self.window, frame, current)
        else:
            tokens, current = self._step_window(frame, current)
        return tokens, self.streams.advance(state, current)

    def _step_window(self, frame: FrameTokens, state: State) -> tuple[Tensor, State]:
        first, *others = self.relation.stack()
        projected = first.project(frame.tokens)
        append = self.window.append
        ring = self.window.push(
            state, key=projected.key, value=projected.value, boxes=frame.boxes, box_valid=frame.valid
        )
        local = {"tokens": append(state["tokens"], frame.tokens), "query": append(state["query"], projected.query)}
        inner, last, pairs = push_pair_weights(
            self.relation, state, ring["boxes"], ring["box_valid"], self.local_frames
        )
        inner, last = (self._memory_then_local(weights, ring["valid"]) for weights in (inner, last))
        keys, values = (self._places(ring[name], 0).flatten(0, 1) for name in ("key", "value"))
        new_state = {**ring, **local, **pairs}
        if not others:
            return first.relate(frame.tokens, Projections(projected.query, keys, values), last), new_state
        tokens = first.relate(
            local["tokens"].flatten(0, 1), Projections(local["query"].flatten(0, 1), keys, values), inner[0]
        )
        stored = slice(-len(frame.tokens), None) if self.recent else slice(len(frame.tokens))  # newest or oldest frame
        for i, layer in enumerate(others, start=1):
            newest = layer.project_key(tokens)
            names = _of_memory(i)
            keys, values = (torch.cat((state[n].flatten(0, 1), x)) for n, x in zip(names, newest, strict=True))
            new_state.update({n: append(state[n], x[stored]) for n, x in zip(names, newest, strict=True)})
            if i == len(others):
                tokens, weights = tokens[-len(frame.tokens) :], last
            else:
                weights = inner[i]
            tokens = layer.relate(tokens, Projections(layer.project_query(tokens), keys, values), weights)
        return tokens, new_state

    def _places(self, ring: Tensor, dim: int) -> Tensor:
        """The memory's frames, then the local ones, along an axis of the window's frames."""
        if not self.recent:
            return ring  # the memory ends where the local window begins
        frames = ring.shape[dim]
        memory = ring.narrow(dim, frames - 1 - self.memory_frames, self.memory_frames)
        return torch.cat((memory, ring.narrow(dim, frames - self.local_frames, self.local_frames)), dim=dim)

    def _memory_then_local(self, weights: Tensor, valid: Tensor) -> Tensor:
        """Weights ``(..., keys)`` of the window's frames as those of the memory's and the local frames."""
        if not self.recent:
            return weights
        weights = self._places(weights.unflatten(-1, (self.window.num_frames, -1)), weights.dim() - 1)
        used = valid[-self.memory_frames - 2].expand(self.memory_frames)
        used = torch.cat((used, used.new_ones(self.local_frames)))
        return weights.masked_fill(~used[:, None], MASKED).flatten(-2)


def _of_memory(layer: int) -> tuple[str, str]:
    """Names in a state of the memory's keys and values of a layer."""
    return f"memory_key_{layer}", f"memory_value_{layer}"
