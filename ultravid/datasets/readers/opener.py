"""Chooses the reader of a file by its content."""

from __future__ import annotations

import os
from pathlib import Path

from ultravid.datasets.readers.images import ImageFolderSource, list_images
from ultravid.datasets.readers.kinds import Kind, bare_stream_fault, kind_of
from ultravid.datasets.readers.shown import choose_shown
from ultravid.datasets.readers.source import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    MOVIE_SUFFIXES,
    FrameSource,
)
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError

__all__ = ["is_recording", "kind_to_read", "open_source", "open_whole"]


def is_recording(path: str | Path) -> bool:
    """Whether `open_source` reads this path as a movie, a DICOM file, a TIFF of several pages or a folder of images.

    Args:
        path: a file or a folder; files are judged by their names and first bytes.
    """
    path = Path(path)
    return bool(list_images(path)) if path.is_dir() else kind_of(path) not in (None, "image")


def open_source(path: str | Path, *, crop: bool = True) -> FrameSource:
    """Open a movie, a DICOM file, a folder of images in natural order, or one image.

    A file is opened by its content, whatever its name.

    Args:
        path: file or folder.
        crop: crop frames to the part that shows the scan, if the file states it (DICOM's ultrasound regions). Outside of it
            there are often the patient's name and the date.

    Raises:
        DataError: the path does not exist, is empty or damaged, or is of no kind that can be read.
    """
    source = open_whole(path)
    return choose_shown(source, crop=crop).of(source)


def open_whole(path: str | Path, bits: int | None = None) -> FrameSource:
    """As `open_source`, with frames of whole images.

    Args:
        path: file or folder.
        bits: `FrameSource.bits` of an earlier opening, which spares the search for them in all frames; None: not known.

    Raises:
        DataError: see `open_source`.
    """
    # PyAV and pydicom take half a second to import; a dataset of images needs neither.
    path = Path(path)
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise DataError(f"{path} does not exist.")
    if path.is_dir():
        return ImageFolderSource(path)
    kind = kind_to_read(path)
    if kind == "image":
        return ImageFolderSource(path)
    if kind == "stack":
        from ultravid.datasets.readers.stacks import StackSource

        return StackSource(path, bits)
    if kind == "movie":
        from ultravid.datasets.readers.movie import MovieSource

        return MovieSource(path)
    from ultravid.datasets.readers.dicom import DicomSource

    return DicomSource(path, bits)


def kind_to_read(path: Path) -> Kind:
    """What a file that frames are read from is.

    Raises:
        DataError: it can't be read, is empty, or is of no kind that frames are read from.
    """
    try:
        with open_regular(path) as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    if is_empty:
        raise DataError(f"{path}: is empty (0 bytes).")
    kind = kind_of(path)
    if kind is None:
        if (fault := bare_stream_fault(path)) is not None:
            raise DataError(f"{path}: {fault}.")
        known = sorted(MOVIE_SUFFIXES | DICOM_SUFFIXES | IMAGE_SUFFIXES)
        raise DataError(
            f"{path}: is not a kind of file that frames are read from ({', '.join(known)}, or a folder of images)."
        )
    return kind
