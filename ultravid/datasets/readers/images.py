"""Folders of PNG or JPEG images, in natural order: ``2.png`` comes before ``10.png``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ultravid.datasets.image_io import read_image
from ultravid.datasets.readers.source import IMAGE_SUFFIXES, ImageArray, Region
from ultravid.datasets.video import DataError

__all__ = ["ImageFolderSource", "list_images", "natural_order"]


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key to sort by in which runs of digits count as numbers."""
    parts = re.findall(r"(\d+)|(\D+)", name)
    return [(0, int(digits), "") if digits else (1, 0, text.lower()) for digits, text in parts], name


def list_images(folder: Path) -> list[Path]:
    """The folder's PNG and JPEG files in natural order; hidden files are skipped."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=lambda p: natural_order(p.name))


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
            raise DataError(f"{path}: holds no PNG or JPEG image.")
        height, width = read_image(self.files[0]).shape[:2]
        self.size = (height, width)
        self.fps: float | None = None
        self.times_s: Sequence[float] | None = None
        self.region: Region | None = None
        self.repairs: Sequence[tuple[str, str]] = ()
        self.metadata: Mapping[str, str | float] = {}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> ImageArray:
        """See `FrameSource.read`; an image whose size differs from the first's is rejected."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: has {len(self)} frames, there is no frame {index}.")
        image = read_image(self.files[index])
        if image.shape[:2] != self.size:
            raise DataError(
                f"{self.files[index]}: frame {index} is {image.shape[1]}x{image.shape[0]} px, "
                f"the first is {self.size[1]}x{self.size[0]}. All frames of a video must have the same size."
            )
        return image

    def __iter__(self) -> Iterator[ImageArray]:
        return map(self.read, range(len(self)))

    def place(self, index: int) -> tuple[str, int | None]:
        """As `FrameSource.place`."""
        return str(self.files[index]), None

    def close(self) -> None:
        """Does nothing: no file is kept open."""
