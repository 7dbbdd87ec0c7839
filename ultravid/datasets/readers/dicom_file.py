"""Reads the elements of a DICOM file that describe its image, and no others: no name, no date.

Every value is converted here. A value that can't be converted is as good as absent, unless the caller asks whether it is there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.filereader import _read_file_meta_info, read_file_meta_info, read_partial, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ultravid.datasets.faults import as_data_error
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError

__all__ = [
    "NOT_DICOM",
    "UNDEFINED_LENGTH",
    "DicomHeader",
    "is_big_endian",
    "number_of",
    "quiet_pydicom",
    "read_header",
    "read_tags",
    "state_of",
    "value_of",
]

NOT_DICOM = "is not a DICOM file that can be read"
UNDEFINED_LENGTH = 0xFFFFFFFF

_PIXEL_DATA = 0x7FE00010
_OTHER_PIXEL_DATA = (0x7FE00008, 0x7FE00009)  # of floating-point numbers
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
_PALETTE = [
    f"{segmented}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for segmented, part in (("", "Data"), ("", "Descriptor"), ("Segmented", "Data"))
]
_READ_TAGS: list[Any] = [
    "ActualFrameDuration",
    "AcquisitionDuration",
    "BitsAllocated",
    "BitsStored",
    "CineRate",
    "Columns",
    "EffectiveDuration",
    "ExtendedOffsetTable",
    "FrameIncrementPointer",
    "FrameTime",
    "FrameTimeVector",
    "HighBit",
    "InConcatenationNumber",
    "ManufacturerModelName",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelPresentation",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PresentationLUTShape",
    "RecommendedDisplayFrameRate",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "SequenceOfUltrasoundRegions",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    *_PALETTE,
    *((group << 16) | 0x0102 for group in _OVERLAY_GROUPS),
]
_pydicom_logger = logging.getLogger("pydicom")


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Nothing that pydicom warns of or logs is shown: its texts quote values."""
    propagates, _pydicom_logger.propagate = _pydicom_logger.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _pydicom_logger.propagate = propagates


FileState = tuple[int, int, int]


def state_of(status: os.stat_result) -> FileState:
    """What changes if a file is replaced or written to: its time, size and number."""
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """The elements of a file that describe its image, and where its pixels are.

    Attributes:
        path: the file.
        dataset: the elements; use `whole`, `number`, `numbers` and `text`, because access converts a value and may raise.
        transfer_syntax: how the file is encoded.
        offset: the offset of the value of PixelData in the file, bytes.
        length: the length of the value as it is stated; `UNDEFINED_LENGTH` if the pixels are in fragments.
        available: bytes in the file from ``offset`` on.
        vr: the value representation of PixelData, ``OB`` or ``OW``.
        state: the state of the file when it was read, see `state_of`.
        is_guessed: the file does not state its transfer syntax, because it begins with its elements.
    """

    path: Path
    dataset: pydicom.Dataset = field(repr=False)
    transfer_syntax: UID
    offset: int
    length: int
    available: int
    vr: str
    state: FileState
    is_guessed: bool = False

    def fault(self, what: str) -> DataError:
        """An error about this file; ``what`` has no full stop."""
        return DataError(f"{self.path}: {what}.")

    def has(self, name: str) -> bool:
        """Whether the file has an element, with any value."""
        return name in self.dataset

    def has_content(self, name: str) -> bool:
        """Whether the file has an element that isn't empty, whether or not its value can be converted."""
        if not self.has(name):
            return False
        value = self.dataset.get_item(name).value
        return bool(value.strip(b" \0") if isinstance(value, bytes) else value not in (None, ""))

    def whole(self, name: str) -> int | None:
        """A whole number; None if the file has no such element, or its value is not one."""
        value = self.number(name)
        return int(value) if value is not None and value == int(value) else None

    def number(self, name: str) -> float | None:
        """A finite number; None if the file has no such element, or its value is not one."""
        return number_of(_value(self.dataset, name))

    def numbers(self, name: str) -> list[float | None]:
        """The values of an element, None for each that is not a finite number; empty if there is no such element."""
        if not self.has(name):
            return []
        value = _value(self.dataset, name)
        if isinstance(value, str) or not isinstance(value, Sequence):
            return [number_of(value)]
        return [number_of(v) for v in value]

    def text(self, name: str) -> str:
        """A text, trimmed; empty if there is no such element, or its value can't be read."""
        value = _value(self.dataset, name)
        return value.strip() if isinstance(value, str) else ""

    def items(self, name: str) -> list[pydicom.Dataset]:
        """The items of a sequence; none if there is no such element or it can't be read."""
        value = _value(self.dataset, name)
        return list(value) if isinstance(value, pydicom.Sequence) else []

    def data(self, name: str) -> bytes:
        """The bytes of an element; empty if there is no such element."""
        value = _value(self.dataset, name)
        return bytes(value) if isinstance(value, bytes | bytearray) else b""

    @property
    def has_overlay_in_pixels(self) -> bool:
        """Whether a graphic lies in bits of the pixels that are not part of the image, as older scanners write it."""
        return any(number_of(_value(self.dataset, (group << 16) | 0x0102)) for group in _OVERLAY_GROUPS)


def number_of(value: Any) -> float | None:
    """A value as a finite number; None if it is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def value_of(item: pydicom.Dataset, name: str) -> float | None:
    """A finite number of an item of a sequence; None if it has none."""
    return number_of(_value(item, name))


def _value(dataset: pydicom.Dataset, name: Any) -> Any:
    try:
        with quiet_pydicom():
            return dataset[name].value if name in dataset else None
    except Exception:  # a value is converted when it is asked for, and that raises any exception
        return None


def read_tags(path: Path, tags: list[Any]) -> pydicom.Dataset:
    """Some elements of a file, its pixels not among them.

    Raises:
        DataError: it can't be read; the message quotes nothing of it.
    """
    with as_data_error(path, NOT_DICOM), quiet_pydicom(), open_regular(path) as file:
        read_preamble(file, force=True)  # a file without one may be deflated too, so read_file_meta_info does not do
        _refuse_deflated(path, _read_file_meta_info(file))
        file.seek(0)
        return pydicom.dcmread(file, specific_tags=tags, stop_before_pixels=True, force=True)


def _refuse_deflated(path: Path, meta: pydicom.Dataset) -> None:
    """Refuse a file that pydicom would inflate in memory, all of it, to a thousand times its size, whatever is asked for."""
    if _value(meta, "TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise DataError(f"{path}: is deflated as a whole; inflate it first, as by DCMTK's dcmconv.")


def read_header(path: Path) -> DicomHeader:
    """The description of a file's image. Reading stops where the pixels begin.

    Raises:
        DataError: it is no DICOM file, is damaged, holds no image, or is encoded in a way that can't be read here.
    """
    with as_data_error(path, NOT_DICOM), quiet_pydicom(), open_regular(path) as file:
        transfer_syntax, is_guessed = _transfer_syntax(path)
        found: list[tuple[int, str | None, int]] = []

        def stop(tag: Any, vr: str | None, length: int) -> bool:
            if tag in (_PIXEL_DATA, *_OTHER_PIXEL_DATA):
                found.append((int(tag), vr, length))
            return bool(found)

        dataset = read_partial(file, stop_when=stop, specific_tags=[Tag(name) for name in _READ_TAGS], force=True)
        if not found:
            raise DataError(f"{path}: is a DICOM file without pixel data: it holds no image.")
        tag, vr, length = found[0]
        if tag in _OTHER_PIXEL_DATA:
            raise DataError(f"{path}: its pixels are floating-point numbers, which no ultrasound scanner writes.")
        if is_guessed and length == UNDEFINED_LENGTH:
            raise DataError(f"{path}: is compressed and does not state how (its transfer syntax), so it can't be read.")
        offset = _start_of_value(file, vr)
        status = os.fstat(file.fileno())
    available = max(0, status.st_size - offset)
    state = state_of(status)
    return DicomHeader(path, dataset, transfer_syntax, offset, length, available, vr or "OW", state, is_guessed)


def _start_of_value(file: BinaryIO, vr: str | None) -> int:
    """Pydicom goes back to the element's tag: 8 bytes of tag and length, or 12 with the kind of value between them."""
    return file.tell() + (8 if vr is None else 12)


def _transfer_syntax(path: Path) -> tuple[UID, bool]:
    """How a file is encoded, and whether that is guessed from its first elements."""
    try:
        meta = read_file_meta_info(path)
    except pydicom.errors.InvalidDicomError:
        bare = read_tags(path, ["SOPClassUID", "Rows"])
        meta = bare.file_meta
        if "SOPClassUID" not in bare or "Rows" not in bare:
            raise DataError(
                f"{path}: is not a DICOM file that can be read: its header of 128 bytes and 'DICM' is missing, and it does not "
                "begin with the elements of an image."
            ) from None
        is_implicit, is_little = bare.original_encoding
        if "TransferSyntaxUID" not in meta:
            explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
            return (ImplicitVRLittleEndian if is_implicit else explicit), True
    stated = _value(meta, "TransferSyntaxUID")
    if not stated or not re.fullmatch(r"[0-9.]{1,64}", str(stated)):
        raise DataError(f"{path}: does not state how it is encoded (its transfer syntax), so it can't be read.")
    _refuse_deflated(path, meta)
    uid = UID(str(stated))
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        name = uid.name if uid.name != str(uid) else "private or unknown"
        is_movie = name.startswith(("MPEG", "HEVC"))  # those tools don't decompress one
        hint = (
            "Take out the movie, as by GDCM's gdcmraw, and read that"
            if is_movie
            else "Decompress it first, as by DCMTK or GDCM"
        )
        raise DataError(f"{path}: is encoded in a way that can't be read here: {name} ({uid}). {hint}.") from None
    if not decoder.is_available:
        raise DataError(f"{path}: is compressed as {uid.name}; {_what_to_install(decoder.missing_dependencies)}.")
    return uid, False


def _what_to_install(missing: Sequence[str]) -> str:
    if any("libjpeg" in text for text in missing):
        return "reading it needs pylibjpeg-libjpeg: pip install 'ultravid[lossless-jpeg]'"
    return f"reading it needs one of these: {'; '.join(missing)}"


def is_big_endian(header: DicomHeader) -> bool:
    """Whether words of pixels and tables have their first byte last."""
    return bool(header.transfer_syntax == ExplicitVRBigEndian)
