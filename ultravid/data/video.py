"""What a reader gives: videos, their frames and what is annotated in them, before any picture is opened.

Legend: ``N`` lesions in a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ultravid.utils.errors import UserError

__all__ = ["DataError", "Frame", "Video"]


class DataError(UserError):
    """Data on disk that can't be used; the message names file, video and frame."""


def _no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def _no_ids() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        path: the picture's file.
        image_id: its id in the annotation file.
        height: pixels.
        width: pixels.
        boxes: ``(N, 4)`` float32, XYXY in pixels, inside the frame, not empty.
        classes: ``(N,)`` int64, from 0.
        track_ids: ``(N,)`` int64, one id a lesion along the video.
    """

    path: str
    image_id: int
    height: int
    width: int
    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    classes: NDArray[np.int64] = field(default_factory=_no_ids)
    track_ids: NDArray[np.int64] = field(default_factory=_no_ids)


@dataclass(frozen=True, eq=False)
class Video:
    """Frames in temporal order.

    Attributes:
        video_id: unique in its data set.
        frames: at least one.
        patient: who was scanned; folds keep a patient's videos together.
        fps: frames a second, None where it is not known.
    """

    video_id: str
    frames: tuple[Frame, ...]
    patient: str
    fps: float | None = None

    def __len__(self) -> int:
        return len(self.frames)
