"""Parts that relate the objects of a frame to each other and to those of other frames.

Legend: ``B`` clips, ``T`` frames of a clip, ``N`` boxes of a frame, ``D`` width of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ultravid.modeling.types import FrameTokens, Pool, State

__all__ = ["NoMixer", "TokenMixer"]


class TokenMixer(nn.Module, ABC):
    """From the tokens of boxes to tokens that know of other boxes, of the same frame or of others."""

    num_phases = 1
    detaches_memory = False
    """Memory frames of a clip get no gradient from it; their maps need none then."""

    def initial_state(self, image_size: tuple[int, int], num_boxes: int, device: torch.device | None = None) -> State:
        """The state before the first frame of a stream.

        Args:
            image_size: (height, width) in pixels.
            num_boxes: ``N``, number of rows of each frame's boxes.
            device: device of the state; None: the CPU.
        """
        del image_size, num_boxes, device
        return {}

    def phase(self, frame_number: int) -> int:
        """Which of the ``num_phases`` computations the frame with this number in its stream takes.

        Args:
            frame_number: how many frames of the stream come before this one.
        """
        del frame_number
        return 0

    @abstractmethod
    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """``(B, T, N, D)`` of all frames of clips; rows that are not valid, and what they hold, reach no valid one.

        Args:
            frames: the tokens, boxes and masks of ``T`` frames of ``B`` clips.
            pool: makes tokens ``(B, N, D)`` of feature maps and boxes, for mixers that change the maps.
        """

    def training_clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """`clip` in training; a part that draws at random what it computes does so here, and here alone."""
        return self.clip(frames, pool)

    @abstractmethod
    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """``(N, D)`` of the next frame of a stream, whose fields have no leading axis, and the next state.

        Args:
            frame: the tokens, boxes and mask of the frame.
            pool: as of `clip`, for one frame.
            state: the state of the stream, from `initial_state` or the previous step; it is not written to.
            phase: what `phase` gives for the frame's number.
        """


class NoMixer(TokenMixer):
    """No relation between boxes: tokens are returned unchanged."""

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """The tokens as they are."""
        del pool
        return frames.tokens

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """The tokens as they are."""
        del pool, phase
        return frame.tokens, state
