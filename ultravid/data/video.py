"""What a reader gives: videos, their frames and what is annotated in them, before any picture is opened.

Legend: ``N`` lesions in a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        path: the picture's file, or the movie or DICOM file that holds the frame.
        image_id: its id in the annotation file.
        height: pixels, of what is shown (inside ``crop`` where there is one).
        width: pixels, likewise.
        boxes: ``(N, 4)`` float32, XYXY in pixels, inside the frame, not empty.
        classes: ``(N,)`` int64, from 0.
        track_ids: ``(N,)`` int64, one id a lesion along the video.
        index_in_file: which of the file's frames, from 0; None where the file is one picture.
        crop: (x1, y1, x2, y2), the part of the file's picture that is the frame; None: all of it.
    """

    path: str
    image_id: int
    height: int
    width: int
    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    classes: NDArray[np.int64] = field(default_factory=_no_ids)
    track_ids: NDArray[np.int64] = field(default_factory=_no_ids)
    index_in_file: int | None = None
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class Video:
    """Frames in temporal order.

    Attributes:
        video_id: unique in its data set.
        frames: at least one.
        patient: who was scanned; folds keep a patient's videos together.
        fps: frames a second, None where it is not known.
        metadata: what else is known of the video, under the names ``device``, ``organ``, ``hospital``, ``spacing_mm``
            (millimetres a pixel along a row) and ``spacing_y_mm`` (along a column, where it differs), and any other.
        class_names: of the classes that ``Frame.classes`` counts; may be empty where no one knows them.
        static_frames: (first, last) of stretches in which the probe stands still, as far as they are annotated.
    """

    video_id: str
    frames: tuple[Frame, ...]
    patient: str
    fps: float | None = None
    metadata: Mapping[str, str | float] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    static_frames: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.frames)
