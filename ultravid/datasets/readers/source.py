"""The interface that every reader of frames has, and the types that readers share.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.video import DataError

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MOVIE_SUFFIXES",
    "CroppedSource",
    "FrameSource",
    "ImageArray",
    "Region",
    "blank",
    "enclosing",
    "outside_of",
]

ImageArray = NDArray[np.uint8]
Region = tuple[int, int, int, int]
"""(x1, y1, x2, y2) in pixels; x2 and y2 are the first outside."""

# A file is read by its content; its name counts only if its first bytes are of no known kind.
MOVIE_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".avi", ".mpeg", ".mpg", ".mkv", ".webm", ".wmv"),
        *(".3gp", ".3g2", ".asf", ".f4v", ".flv", ".m2ts", ".m2v", ".mts", ".mxf", ".ogv", ".vob"),
    }
)
DICOM_SUFFIXES = frozenset({".dcm", ".dcm30", ".dicom", ".ima"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"})


class FrameSource(Protocol):
    """Frames of one recording, by number or in order."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None if the file does not state it. Of uneven frames, that of the usual distance."""

    @property
    def times_s(self) -> Sequence[float] | None:
        """Time stamp of each frame, seconds from the film's start; None if frames are evenly spaced, or no times are known."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame."""

    @property
    def region(self) -> Region | None:
        """The part that shows the scan, of several `regions` the smallest that holds them; None if the file does not state it."""

    @property
    def regions(self) -> tuple[Region, ...] | None:
        """The parts that show a scan, the largest first; outside of them the patient's name may be burnt into the image.

        Empty: the file states none that can be used. None: files of this kind state none.
        """

    @property
    def repairs(self) -> Sequence[tuple[str, str]]:
        """What was guessed or repaired in the file: kind and message, as `FileFaults.repair` takes them; never the patient."""

    @property
    def bits(self) -> int | None:
        """How many bits of values of more than 8 are used, for `Frame.bits`; None: 8 bits, or it is not asked for."""

    @property
    def metadata(self) -> Mapping[str, str | float]:
        """``device``, ``spacing_mm``, ..., as in `Video.metadata`, as far as the file states them; never the patient."""

    def __len__(self) -> int:
        """Number of frames that can be read."""

    def read(self, index: int) -> ImageArray:
        """Frame ``index``, from 0, as ``(H, W, 3)`` uint8 RGB.

        Raises:
            IndexError: there is no such frame.
            DataError: it can't be decoded; the message names file and frame.
        """

    def __iter__(self) -> Iterator[ImageArray]:
        """Iterates over all frames in order, the fastest way to read them."""

    def place(self, index: int) -> tuple[str, int | None]:
        """(file, number in the file) of frame ``index``, for `Frame.path` and `Frame.index_in_file`; the number is None if the file is one image."""

    def close(self) -> None:
        """Close the file."""


def blank(image: ImageArray, parts: Iterable[Region]) -> ImageArray:
    """A copy of an image ``(H, W)`` or ``(H, W, 3)`` in which parts are black."""
    image = image.copy()
    for x1, y1, x2, y2 in parts:
        image[y1:y2, x1:x2] = 0
    return image


def enclosing(parts: Sequence[Region]) -> Region:
    """The smallest part that holds all of some parts."""
    return min(p[0] for p in parts), min(p[1] for p in parts), max(p[2] for p in parts), max(p[3] for p in parts)


def outside_of(parts: Sequence[Region], box: Region) -> tuple[Region, ...]:
    """The parts of ``box`` that lie in none of ``parts``."""
    columns = sorted({box[0], box[2], *(min(max(x, box[0]), box[2]) for p in parts for x in (p[0], p[2]))})
    found: list[Region] = []
    rows = sorted({box[1], box[3], *(min(max(y, box[1]), box[3]) for p in parts for y in (p[1], p[3]))})
    for top, bottom in pairwise(rows):
        left: int | None = None
        for x1, x2 in pairwise(columns):
            inside = any(p[0] <= x1 and x2 <= p[2] and p[1] <= top and bottom <= p[3] for p in parts)
            if inside and left is not None:
                found.append((left, top, x1, bottom))
                left = None
            elif not inside and left is None:
                left = x1
        if left is not None:
            found.append((left, top, box[2], bottom))
    return tuple(found)


class CroppedSource:
    """The frames of another source, cropped to a part of the image.

    Args:
        source: the source of the frames.
        box: the part.
        blanked: parts of the source's image that are blacked out.

    Raises:
        DataError: the part is not inside the image.
    """

    def __init__(self, source: FrameSource, box: Region, blanked: Sequence[Region] = ()) -> None:
        height, width = source.size
        x1, y1, x2, y2 = box
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise DataError(f"{source.path}: the part {box} is not inside the image of {width}x{height} px.")
        self.source = source
        self.box = box
        self.blanked = tuple(blanked)
        self.path = source.path
        self.fps = source.fps
        self.times_s = source.times_s
        self.size = (y2 - y1, x2 - x1)
        self.region = None
        self.regions = source.regions
        self.repairs = source.repairs
        self.metadata = source.metadata

    @property
    def bits(self) -> int | None:
        """As `FrameSource.bits`."""
        return self.source.bits

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> ImageArray:
        """As `FrameSource.read`, cropped: ``(y2 - y1, x2 - x1, 3)`` of the box."""
        return self._crop(self.source.read(index))

    def __iter__(self) -> Iterator[ImageArray]:
        return map(self._crop, self.source)

    def place(self, index: int) -> tuple[str, int | None]:
        """`FrameSource.place` of the source."""
        return self.source.place(index)

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def _crop(self, image: ImageArray) -> ImageArray:
        x1, y1, x2, y2 = self.box
        if self.blanked:
            image = blank(image, self.blanked)
        return np.ascontiguousarray(image[y1:y2, x1:x2])
