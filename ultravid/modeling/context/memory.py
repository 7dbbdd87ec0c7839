"""A detector's memory of the last frames of a video; its length is bounded.

Legend: ``N`` boxes of a frame, ``D`` width of a token.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from torch import Tensor

__all__ = ["FrameMemory", "FrameTokens"]


class FrameTokens(NamedTuple):
    """The objects of one frame.

    Attributes:
        inputs: ``(N, D)`` each: the inputs of the relation layers that have been applied so far, in the order of the layers.
        boxes: ``(N, 4)`` XYXY, pixels.
    """

    inputs: list[Tensor]
    boxes: Tensor


class FrameMemory:
    """Every ``stride``-th of the last frames, counted back from the newest.

    A video may be endless: frames further back than ``num_frames * stride`` are forgotten.

    Args:
        num_frames: number of frames in a window, the newest included.
        stride: frames from one to the next in a window.
    """

    def __init__(self, num_frames: int, stride: int = 1) -> None:
        if num_frames < 1 or stride < 1:
            raise ValueError(f"num_frames={num_frames} and stride={stride} must be at least 1.")
        self.stride = stride
        self._frames: deque[FrameTokens] = deque(maxlen=(num_frames - 1) * stride + 1)

    def append(self, frame: FrameTokens) -> None:
        """Add the next frame."""
        self._frames.append(frame)

    def window(self) -> list[FrameTokens]:
        """The remembered frames, oldest first, the newest last."""
        return list(self._frames)[:: -self.stride][::-1]

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def __len__(self) -> int:
        return len(self._frames)
