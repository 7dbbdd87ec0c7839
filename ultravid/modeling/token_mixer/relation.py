"""Relations by appearance and geometry, within a frame or over a window of frames.

Sources: Hu et al., "Relation networks for object detection", CVPR 2018; Deng et al., "Relation distillation networks for video object
detection", ICCV 2019.

Legend: ``B`` clips, ``T`` frames of a clip, ``N`` boxes of a frame, ``D`` width of a token, ``R`` frames of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.layers import RelationModule, geometry_embedding
from ultravid.modeling.frame_window import FrameWindow, frames_see
from ultravid.modeling.token_mixer.base import TokenMixer
from ultravid.modeling.types import FrameTokens, Pool, State
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["RelationMixer"]


class RelationMixer(TokenMixer):
    """Relation layers over the boxes of a frame (RelationNet) or of a window of frames (BasicDet).

    Args:
        relation: the layers.
        context_frames: number of earlier frames that a frame sees; 0 relates only the boxes of the frame itself.
        context_stride: frames from one context frame to the next in a stream; sample training clips with the same stride.
        causal: a frame's tokens see no later frame, in training and in a stream, which then keeps the outputs of each layer for
            the earlier frames and computes only the newest. Without it all frames of a clip or window see each other, in
            training whatever ``context_frames`` is, as in the published model; a stream never uses a later frame.
    """

    def __init__(
        self,
        *,
        relation: RelationModule,
        context_frames: NotNegative = 15,
        context_stride: Positive = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.relation = relation
        self.context_frames = context_frames
        self.causal = causal
        self.window = FrameWindow(context_frames + 1, context_stride)

    def initial_state(self, image_size: tuple[int, int], num_boxes: int) -> State:
        """The boxes of the window's frames and the inputs of the layers."""
        del image_size
        dim, f32 = self.relation.dim, torch.float32
        shapes = {f"tokens_{i}": ((num_boxes, dim), f32) for i in range(self._kept_layers())}
        return self.window.initial_state(
            self.relation.div_mat.device, **shapes, boxes=((num_boxes, 4), f32), box_valid=((num_boxes,), torch.bool)
        )

    def _kept_layers(self) -> int:
        return len(self.relation.layers) if self.causal else 1

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """``(B, T, N, D)``: the tokens of each clip, related to those that `frames_see` allows."""
        del pool
        length, num_boxes = frames.tokens.shape[1:3]
        see = frames_see(length, self.context_frames, self.causal, frames.tokens.device)
        see = see.repeat_interleave(num_boxes, 0).repeat_interleave(num_boxes, 1)
        key = (frames.valid & ~frames.is_gt & frames.frame_valid[..., None]).flatten(1)
        related = self.relation(frames.tokens.flatten(1, 2), frames.boxes.flatten(1, 2), see & key[:, None, :])
        return related.unflatten(1, (length, num_boxes))

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """``(N, D)``: the frame's tokens, related to those of the window, whose frames are related to each other too."""
        del pool, phase
        num_boxes = len(frame.tokens)
        outputs = {"tokens_0": frame.tokens}
        ring = self.window.push(state, **outputs, boxes=frame.boxes, box_valid=frame.valid)
        window = self.window.window(ring)
        key = (window["box_valid"] & window["valid"][:, None]).flatten()
        if not self.causal:
            tokens, boxes = window["tokens_0"].flatten(0, 1), window["boxes"].flatten(0, 1)
            return self.relation(tokens, boxes, key[None].expand(len(key), -1), num_last=num_boxes), ring
        # The outputs of a layer for an earlier frame do not change any more, so they are kept.
        geometry = geometry_embedding(frame.boxes, window["boxes"].flatten(0, 1), self.relation.div_mat)
        tokens = frame.tokens
        for index, layer in enumerate(self.relation.layers):
            name = f"tokens_{index}"
            earlier = (
                window[name]
                if index == 0
                else self.window.window({name: torch.cat((state[name][1:], tokens[None]))})[name]
            )
            outputs[name] = tokens
            tokens = layer(tokens, earlier.flatten(0, 1), geometry, key[None].expand(num_boxes, -1))
        return tokens, self.window.push(state, **outputs, boxes=frame.boxes, box_valid=frame.valid)
