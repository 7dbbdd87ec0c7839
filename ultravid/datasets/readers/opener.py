"""Which reader opens a file, by its content."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from ultravid.datasets.masks import Masks
from ultravid.datasets.readers.images import ImageFolderSource, list_images
from ultravid.datasets.readers.kinds import is_dicom, kind_of
from ultravid.datasets.readers.shown import choose_shown
from ultravid.datasets.readers.source import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    MOVIE_SUFFIXES,
    FrameSource,
)
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError

__all__ = ["is_dicom", "is_recording", "open_source"]

logger = logging.getLogger(__name__)


def is_recording(path: str | Path) -> bool:
    """Whether `open_source` reads this path as a movie, a DICOM file, a TIFF of several pages or a folder of images."""
    path = Path(path)
    return bool(list_images(path)) if path.is_dir() else kind_of(path) not in (None, "image")


def open_source(
    path: str | Path,
    *,
    crop: bool = True,
    blank_outside_region: bool = False,
    region: int | None = None,
    masks: Masks | None = None,
    device: str | None = None,
) -> FrameSource:
    """Open a movie, a DICOM file, a folder of images in natural order, or one image.

    A file is opened by its content, whatever its name.

    Args:
        path: file or folder.
        crop: crop frames to the part that shows the scan, if the file states it (DICOM's ultrasound regions). Outside of it
            there are often the patient's name and the date.
        blank_outside_region: black out what is outside of it instead, and keep the image's size.
        region: of several such parts show this one only, from 1, the largest first; None: all, and black between them.
        masks: what to black out besides.
        device: for the masks; None: as the file states it.

    Raises:
        DataError: the path does not exist, is empty or damaged, or is of no kind that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    source = _open_whole(path)
    if device is None:
        device = str(source.metadata.get("device", ""))
    shown = choose_shown(
        source, crop=crop, blank_outside_region=blank_outside_region, region=region, masks=masks, device=device
    )
    if crop and shown.fault is not None:
        _warn_of_text(path)
    return shown.of(source)


@functools.cache  # a file is opened many times in a run
def _warn_of_text(path: Path) -> None:
    logger.warning(
        "%s: states no ultrasound region that can be used; names and dates may be burnt into what is shown.", path
    )


def _open_whole(path: Path) -> FrameSource:
    # PyAV and pydicom take half a second to import; a dataset of images needs neither.
    if path.is_dir():
        return ImageFolderSource(path)
    try:
        with open_regular(path) as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    if empty:
        raise DataError(f"{path}: is empty (0 bytes).")
    kind = kind_of(path)
    if kind == "image":
        return ImageFolderSource(path)
    if kind == "stack":
        from ultravid.datasets.readers.stacks import StackSource

        return StackSource(path)
    if kind == "movie":
        from ultravid.datasets.readers.movie import MovieSource

        return MovieSource(path)
    if kind == "dicom":
        from ultravid.datasets.readers.dicom import DicomSource

        return DicomSource(path)
    known = sorted(MOVIE_SUFFIXES | DICOM_SUFFIXES | IMAGE_SUFFIXES)
    raise DataError(
        f"{path}: is not a kind of file that frames are read from ({', '.join(known)}, or a folder of images)."
    )
