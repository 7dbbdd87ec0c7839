"""Ultrasound DICOM files, read by pydicom.

Only those elements of a file are read that describe the image, its scale, its rate and the scanner: the patient's name and
the rest never reach this process's memory. A patient's id is only compared within this process, hashed with a key that the
process does not store (`patient_token`).

Sources: DICOM PS3.3 C.8.5.5 (regions of ultrasound), C.7.6.5 (cine), C.7.6.3 (image pixels).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels

from ultravid.datasets.readers.source import ImageArray, Region
from ultravid.datasets.video import DataError

__all__ = ["DicomSource", "patient_token"]

logger = logging.getLogger(__name__)

_READ_TAGS: list[Any] = [
    "BitsAllocated",
    "BitsStored",
    "CineRate",
    "Columns",
    "FrameTime",
    "FrameTimeVector",
    "ManufacturerModelName",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "RecommendedDisplayFrameRate",
    "Rows",
    "SamplesPerPixel",
    "SequenceOfUltrasoundRegions",
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Data", "Descriptor")),
]
_CENTIMETRES = 3  # of PhysicalUnitsXDirection
_TWO_DIMENSIONAL, _TISSUE = 1, 1  # of RegionSpatialFormat, RegionDataType
_TOKEN_KEY = secrets.token_bytes(32)


class DicomSource:
    """A DICOM file of one or many frames as a `FrameSource`.

    Grey images become three equal channels; YBR and palette become RGB; MONOCHROME1 is inverted, to a black
    background; of more than 8 bits the upper 8 are kept.

    Args:
        path: the file.

    Raises:
        DataError: it is not a DICOM file, has no pixel data, or has pixels of a kind that no ultrasound scanner writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header = header = _read_header(path)
        self._num_frames = max(1, int(header.get("NumberOfFrames") or 1))
        self.size = (int(header.Rows), int(header.Columns))
        self.fps = _rate(header)
        self.times_s: Sequence[float] | None = None
        self.repairs: Sequence[tuple[str, str]] = ()
        regions = _regions(header)
        self.region = _fitting_region(path, regions, self.size)
        # If the region does not fit, the image was resized and the scale is no longer valid.
        self.metadata: Mapping[str, str | float] = _metadata(header, regions[0] if self.region is not None else None)

    def __len__(self) -> int:
        return self._num_frames

    def read(self, index: int) -> ImageArray:
        """As `FrameSource.read`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: has {len(self)} frames, there is no frame {index}.")
        return next(self._decode([index]))

    def __iter__(self) -> Iterator[ImageArray]:
        return self._decode(range(len(self)))

    def place(self, index: int) -> tuple[str, int | None]:
        """As `FrameSource.place`."""
        return str(self.path), index

    def close(self) -> None:
        """Does nothing: no file is kept open."""

    def _decode(self, indices: Sequence[int]) -> Iterator[ImageArray]:
        pixels = _quietly(iter_pixels(self.path, indices=list(indices)))
        for index in indices:
            try:
                array = next(pixels)
            except Exception as error:  # decoders raise any exception, and its text may quote the file
                raise DataError(f"{self.path}: frame {index} can't be decoded ({type(error).__name__}).") from None
            yield self._to_rgb(array)

    def _to_rgb(self, array: np.ndarray[Any, Any]) -> ImageArray:
        header = self._header
        kind = header.get("PhotometricInterpretation")
        if kind == "PALETTE COLOR":
            array = apply_color_lut(array, header)
            bits = int(header.RedPaletteColorLookupTableDescriptor[2])
        else:
            bits = int(header.get("BitsStored") or 8)
        if bits > 8:
            array = array >> (bits - 8)
        image = array.astype(np.uint8)
        if kind == "MONOCHROME1":
            image = np.uint8((1 << min(bits, 8)) - 1) - image
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return np.ascontiguousarray(image)


def patient_token(path: str | Path, is_unknown: Callable[[str], bool] = lambda _: False) -> str | None:
    """A text that DICOM files with the same patient's id share and that does not reveal the id; None if there is no id.

    Ids are compared after trimming and without regard to case. The text is valid within this process only: another process
    makes other texts.

    Args:
        path: the file.
        is_unknown: whether an id names nobody, as ``ANONYMOUS``.
    """
    patient = str(_read_tags(Path(path), ["PatientID"]).get("PatientID") or "").strip().casefold()
    if is_unknown(patient):
        return None
    return hashlib.blake2b(patient.encode(), key=_TOKEN_KEY, digest_size=16).hexdigest() if patient else None


def _read_tags(path: Path, tags: list[Any]) -> pydicom.Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            return pydicom.dcmread(path, specific_tags=tags, stop_before_pixels=True)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    except Exception as error:  # a damaged file raises any exception, and its text may quote the file
        raise DataError(f"{path}: is not a DICOM file that can be read ({type(error).__name__}).") from None


def _read_header(path: Path) -> pydicom.Dataset:
    header = _read_tags(path, _READ_TAGS)
    missing = [k for k in ("Rows", "Columns", "PhotometricInterpretation") if not header.get(k)]
    if missing or not _pixel_length(path):
        raise DataError(f"{path}: is a DICOM file without pixel data: it holds no image.")
    try:
        int(header.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise DataError(f"{path}: its number of frames is not a number.") from None
    if header.get("PixelRepresentation") or int(header.get("BitsAllocated") or 8) not in (8, 16):
        raise DataError(
            f"{path}: has signed pixels or {header.get('BitsAllocated')} bits per pixel, not 8 or 16 unsigned."
        )
    return header


def _pixel_length(path: Path) -> int:
    """Bytes of PixelData, 0 if there is none; 2**32 - 1 if it is compressed. Reading stops at its tag."""
    found = 0

    def stop(tag: Any, _vr: Any, length: int) -> bool:
        nonlocal found
        if tag == 0x7FE00010:
            found = length
        return bool(tag == 0x7FE00010)

    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        pydicom.filereader.read_partial(file, stop_when=stop, specific_tags=[pydicom.tag.Tag("Rows")])
    return found


def _quietly(pixels: Iterator[np.ndarray[Any, Any]]) -> Iterator[np.ndarray[Any, Any]]:
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                array = next(pixels)
            except StopIteration:
                return
        yield array


def _rate(header: pydicom.Dataset) -> float | None:
    """Frames per second of the acquisition; if it is not stated, the recommended rate of display."""
    vector = [
        float(v) for v in _several(header.get("FrameTimeVector"))[1:]
    ]  # the first is the time before the first frame
    times = _positive(header.get("FrameTime")), (sum(vector) / len(vector) if vector else None)
    return (
        _positive(header.get("CineRate"))
        or next((1000.0 / t for t in times if t), None)
        or _positive(header.get("RecommendedDisplayFrameRate"))
    )


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _regions(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Regions of two-dimensional tissue, the largest first; other regions hold traces, bars and spectra."""
    regions = [
        r
        for r in header.get("SequenceOfUltrasoundRegions") or []
        if r.get("RegionSpatialFormat") == _TWO_DIMENSIONAL and r.get("RegionDataType") == _TISSUE and _corners(r)
    ]
    return sorted(regions, key=lambda r: -_area(_corners(r)))


def _corners(region: pydicom.Dataset) -> Region | None:
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    values = [region.get(name) for name in names]
    if any(v is None for v in values):
        return None
    x1, y1, x2, y2 = (int(v) for v in values if v is not None)
    return x1, y1, x2 + 1, y2 + 1  # DICOM states the last pixel inside


def _area(box: Region | None) -> int:
    return (box[2] - box[0]) * (box[3] - box[1]) if box else 0


def _fitting_region(path: Path, regions: list[pydicom.Dataset], size: tuple[int, int]) -> Region | None:
    box = _corners(regions[0]) if regions else None
    if box is None:
        return None
    x1, y1, x2, y2 = box
    if 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0]:
        return box
    _warn_of_misfit(path, box, size)
    return None


@functools.cache  # a file is opened many times in a run
def _warn_of_misfit(path: Path, box: Region, size: tuple[int, int]) -> None:
    logger.warning(
        "%s: its ultrasound region %s is not inside the image of %dx%d px (was the image made smaller?); "
        "the whole image is used.",
        path,
        box,
        size[1],
        size[0],
    )


def _metadata(header: pydicom.Dataset, region: pydicom.Dataset | None) -> dict[str, str | float]:
    metadata: dict[str, str | float] = {}
    if header.get("ManufacturerModelName"):
        metadata["device"] = str(header.ManufacturerModelName)
    if region is None or {region.get(f"PhysicalUnits{axis}Direction") for axis in "XY"} != {_CENTIMETRES}:
        return metadata
    across, down = (_positive(abs(float(region.get(f"PhysicalDelta{axis}") or 0))) for axis in "XY")
    if across and down:
        metadata["spacing_mm"] = across * 10
        if not math.isclose(across, down, rel_tol=1e-3):
            metadata["spacing_y_mm"] = down * 10
    return metadata
