"""Which reader opens a file, by the file's name and first bytes."""

from __future__ import annotations

from pathlib import Path

from ultravid.datasets.readers.source import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    MOVIE_SUFFIXES,
    CroppedSource,
    FrameSource,
)
from ultravid.datasets.video import DataError

__all__ = ["is_dicom", "is_recording", "open_source"]


def is_recording(path: str | Path) -> bool:
    """Whether `open_source` reads this path as a movie, a DICOM file or a folder of images, by its name and first bytes."""
    path = Path(path)
    if path.is_dir():
        return any(p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") for p in path.iterdir())
    return path.suffix.lower() in MOVIE_SUFFIXES or is_dicom(path)


def open_source(path: str | Path, *, crop: bool = True) -> FrameSource:
    """Open a movie, a DICOM file, a folder of images in natural order, or one image.

    Args:
        path: file or folder.
        crop: crop frames to the part that shows the scan, if the file states it (DICOM's ultrasound regions). Outside of it
            there are often the patient's name and the date.

    Raises:
        DataError: the path does not exist, is empty or damaged, or is of no kind that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes).")
    source = _open_whole(path)
    return CroppedSource(source, source.region) if crop and source.region is not None else source


def _open_whole(path: Path) -> FrameSource:
    # PyAV and pydicom take half a second to import; a dataset of images needs neither.
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in IMAGE_SUFFIXES:
        from ultravid.datasets.readers.images import ImageFolderSource

        return ImageFolderSource(path)
    if suffix in MOVIE_SUFFIXES:
        from ultravid.datasets.readers.movie import MovieSource

        return MovieSource(path)
    if is_dicom(path):
        from ultravid.datasets.readers.dicom import DicomSource

        return DicomSource(path)
    known = sorted(MOVIE_SUFFIXES | DICOM_SUFFIXES | IMAGE_SUFFIXES)
    raise DataError(
        f"{path}: is not a kind of file that frames are read from ({', '.join(known)}, or a folder of images)."
    )


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's suffix, or no suffix and DICOM's magic bytes."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return path.is_file()
    # Scanners write DICOM files without a suffix, and an index of them in a file of this name.
    if path.suffix or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
