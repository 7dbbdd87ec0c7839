"""Folders of images in natural order: ``2.png`` comes before ``10.png``."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ultravid.datasets.folders import natural_order
from ultravid.datasets.image_io import (
    SignificantBits,
    check_image,
    find_significant_bits,
    image_size,
    read_image_of_recording,
)
from ultravid.datasets.readers.kinds import kind_of
from ultravid.datasets.readers.source import DICOM_SUFFIXES, IMAGE_SUFFIXES, MOVIE_SUFFIXES, ImageArray, Region
from ultravid.datasets.video import DataError

__all__ = ["SKIPPED_NUMBERS", "ImageFolderSource", "list_images", "skipped_numbers"]

SKIPPED_NUMBERS = (
    "folders of images skip numbers in the names; the images are read as evenly spaced "
    "(an fps must be that of these images, not the film's)"
)

_TRUSTED = IMAGE_SUFFIXES - {".gif", ".tif", ".tiff"}  # the others may hold a whole film
_NOT_OPENED = MOVIE_SUFFIXES | DICOM_SUFFIXES | {".json", ".xml", ".csv", ".txt"}


def list_images(folder: Path) -> list[Path]:
    """The folder's images in natural order, by their suffix, else by their content; hidden files are skipped.

    A TIFF of several pages and an animated GIF are films, not images of this folder's film.
    """
    with os.scandir(folder) as entries:
        found = [folder / e.name for e in entries if not e.name.startswith(".") and _is_image(e)]
    return sorted(found, key=lambda p: natural_order(p.name))


def skipped_numbers(images: Sequence[Path]) -> str | None:
    """Where the names of a folder's images skip a number, for `SKIPPED_NUMBERS`; None if they don't, or aren't all numbered alike.

    Args:
        images: in natural order.
    """
    stems = [image.stem for image in images]
    numbers = [stem[len(stem.rstrip("0123456789")) :] for stem in stems]
    if len(images) < 2 or not all(n and len(n) < 16 for n in numbers):
        return None
    if len({stem[: len(stem) - len(n)] for stem, n in zip(stems, numbers, strict=True)}) > 1:
        return None
    for k in range(1, len(images)):
        if int(numbers[k]) > int(numbers[k - 1]) + 1:
            return f"{images[k].name} follows {images[k - 1].name}"
    return None


def _is_image(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        if suffix in _TRUSTED:
            return not entry.is_dir()
        return suffix not in _NOT_OPENED and entry.is_file() and kind_of(entry.path) == "image"
    except OSError:  # a link that leads in a circle: reading it says so
        return suffix in _TRUSTED


class ImageFolderSource:
    """A folder of images, or one image, as a `FrameSource`.

    Args:
        path: folder or image.

    Raises:
        DataError: the folder holds no image, or the first can't be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = list_images(path) if path.is_dir() else [path]
        if not self.files:
            raise DataError(f"{path}: holds no image.")
        self.size = image_size(self.files[0])
        self.fps: float | None = None
        self.times_s: Sequence[float] | None = None
        self.region: Region | None = None
        self.regions: tuple[Region, ...] | None = None
        self.repairs: Sequence[tuple[str, str]] = ()
        self.metadata: Mapping[str, str | float] = {}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> ImageArray:
        """See `FrameSource.read`; an image whose size differs from the first's is rejected."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: has {len(self)} frames, there is no frame {index}.")
        image = read_image_of_recording(self.files[index], self.bits)
        if image.shape[:2] != self.size:
            raise DataError(
                f"{self.files[index]}: frame {index} is {image.shape[1]}x{image.shape[0]} px, "
                f"the first is {self.size[1]}x{self.size[0]}. All frames of a video must have the same size."
            )
        return image

    @functools.cached_property
    def bits(self) -> int | None:
        """As `FrameSource.bits`; if it is known that the first has more than 8, all images are read to find out."""
        return None if self.significant_bits is None else self.significant_bits.number

    @functools.cached_property
    def significant_bits(self) -> SignificantBits | None:
        """How many bits are used, and whether that is guessed; None: 8."""
        return find_significant_bits(self.files) if check_image(self.files[0], *self.size).bits else None

    def __iter__(self) -> Iterator[ImageArray]:
        return map(self.read, range(len(self)))

    def place(self, index: int) -> tuple[str, int | None]:
        """As `FrameSource.place`."""
        return str(self.files[index]), None

    def close(self) -> None:
        """Does nothing: no file is kept open."""
