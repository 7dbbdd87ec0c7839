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
    """Turns the tokens of boxes into tokens that include information from other boxes, of the same frame or of other frames."""

    num_phases = 1
    """Number of different computations that frames of a stream take, see `phase`."""
    detaches_memory = False
    """Whether memory frames of a clip get no gradient from the mixer, so that their feature maps can be computed without."""

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

        Returns:
            A number from 0 to ``num_phases - 1``.
        """
        del frame_number
        return 0

    @abstractmethod
    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """All frames of clips at once.

        Args:
            frames: the tokens, boxes and masks of ``T`` frames of ``B`` clips.
            pool: makes tokens ``(B, N, D)`` of feature maps and boxes, for mixers that change the maps.

        Returns:
            ``(B, T, N, D)``, row by row for ``frames.tokens``. Rows that are not valid must not influence valid ones, whatever they hold.
        """

    def training_clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """`clip` in training, with the same arguments and result. A part that computes a random subset of the frames draws it here."""
        return self.clip(frames, pool)

    @abstractmethod
    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """The next frame of a stream.

        Args:
            frame: the tokens, boxes and masks of the frame, without leading axes.
            pool: as of `clip`, for one frame.
            state: from `initial_state` or the previous step; it must not be written to.
            phase: what the method `phase` gives for the frame's number.

        Returns:
            ``(N, D)``, and the next state, with the same keys, shapes and dtypes.
        """


class NoMixer(TokenMixer):
    """No relation between boxes: tokens are returned unchanged."""

    def clip(self, frames: FrameTokens, pool: Pool) -> Tensor:
        """Return ``frames.tokens`` unchanged."""
        del pool
        return frames.tokens

    def step(self, frame: FrameTokens, pool: Pool, state: State, phase: int = 0) -> tuple[Tensor, State]:
        """Return ``frame.tokens`` and ``state`` unchanged."""
        del pool, phase
        return frame.tokens, state
