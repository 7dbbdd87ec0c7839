"""TIFF files of several pages, each of which is a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.bounds import MAX_IMAGE_BYTES, frame_size_fault
from ultravid.datasets.image_decoding import UndecodableImageError, decode_image
from ultravid.datasets.image_headers import read_image_header
from ultravid.datasets.image_io import SignificantBits, significant_bits, to_8_bits
from ultravid.datasets.readers.source import ImageArray, Region
from ultravid.datasets.safe_files import read_bytes
from ultravid.datasets.video import DataError

__all__ = ["StackSource"]


class StackSource:
    """A TIFF of several pages as a `FrameSource`. It states no frame rate.

    Pages of 16 bits are brought to 8 by one scale for all of them, as `ultravid.datasets.image_io` does for a folder.

    Args:
        path: the file.
        bits: how many bits of its pages are used, if that is known; None: all pages of more than 8 are read to find out.

    Raises:
        DataError: it is no TIFF, or one whose colours are not known.
    """

    def __init__(self, path: Path, bits: int | None = None) -> None:
        self.path = path
        try:
            self._data = read_bytes(path, MAX_IMAGE_BYTES)
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror}).") from error
        header = read_image_header(self._data)
        if header is None or header.size is None:
            raise DataError(f"{path}: {header.fault if header is not None else 'is no TIFF'}.")
        if (fault := frame_size_fault(*header.size)) is not None:
            raise DataError(f"{path}: can't be read: {fault}.")
        self._header = header
        self._dtype: np.dtype[Any] | None = None  # that of the first page
        first = self._page(0)
        self._dtype = first.dtype
        self.size = (first.shape[0], first.shape[1])
        self.fps: float | None = None
        self.times_s: Sequence[float] | None = None
        self.region: Region | None = None
        self.regions: tuple[Region, ...] | None = None
        self.metadata: Mapping[str, str | float] = {}
        self.repairs: Sequence[tuple[str, str]] = ()
        self.bits = bits
        if bits is None and self._dtype == np.uint16:
            found = self._significant_bits()
            self.bits = found.number
            self.repairs = [] if found.guess is None else [found.guess]

    def __len__(self) -> int:
        return self._header.num_frames

    def read(self, index: int) -> ImageArray:
        """As `FrameSource.read`; a page whose size differs from the first's is rejected."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: has {len(self)} frames, there is no frame {index}.")
        image = self._page(index)
        if image.shape[:2] != self.size:
            raise DataError(
                f"{self.path}: page {index} is {image.shape[1]}x{image.shape[0]} px, the first is "
                f"{self.size[1]}x{self.size[0]}. All frames of a video must have the same size."
            )
        if image.dtype == np.uint16:
            assert self.bits is not None, "all pages have the depth of the first"
            image = to_8_bits(self.path, image, self.bits)
        return image

    def _significant_bits(self) -> SignificantBits:
        largest = max(int(self._page(index).max(initial=0)) for index in range(len(self)))
        return significant_bits(largest, self._header.significant_bits)

    def __iter__(self) -> Iterator[ImageArray]:
        return map(self.read, range(len(self)))

    def place(self, index: int) -> tuple[str, int | None]:
        """As `FrameSource.place`."""
        return str(self.path), index

    def close(self) -> None:
        """Does nothing: no file is kept open."""

    def _page(self, index: int) -> NDArray[Any]:
        try:
            image = decode_image(self._data, self._header, page=index)
        except UndecodableImageError as error:
            raise DataError(f"{self.path}: page {index} {error}.") from None
        if image.dtype not in (np.uint8, np.uint16) or self._dtype not in (None, image.dtype):
            raise DataError(f"{self.path}: page {index} holds values of the kind {image.dtype}, which can't be scaled.")
        return image
