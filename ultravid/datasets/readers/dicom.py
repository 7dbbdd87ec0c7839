"""Ultrasound DICOM files, read by pydicom.

Only those elements of a file are read that describe the image, its scale, its rate and the scanner: the patient's name and
the rest never reach this process's memory. A patient's id is only compared within this process, hashed with a key that the
process does not store (`patient_token`).
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ultravid.datasets.faults import as_data_error
from ultravid.datasets.patient_key import patient_key
from ultravid.datasets.readers.dicom_file import NOT_DICOM, DicomHeader, quiet_pydicom, read_header, read_tags, state_of
from ultravid.datasets.readers.dicom_frames import find_frames
from ultravid.datasets.readers.dicom_pixels import PixelDecoder, PixelForm, pixel_form
from ultravid.datasets.readers.dicom_rate import dicom_times
from ultravid.datasets.readers.dicom_regions import ScanRegions, scan_regions
from ultravid.datasets.readers.source import ImageArray, Region, enclosing
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError

__all__ = ["DicomSource", "patient_token"]

_TOKEN_KEY = secrets.token_bytes(32)


class DicomSource:
    """A DICOM file of one or many frames as a `FrameSource`.

    Frames are counted from the file's bytes. Grey images become three equal channels; `dicom_pixels` says how values become
    8 bits, `dicom_rate` which rate is taken, `dicom_regions` which parts show the scan. Overlays that are stored beside the pixels
    are not drawn.

    Args:
        path: the file.
        bits: how many bits of its pixels are used, if an earlier opening found it; None: all frames of 16 bits are read to find out.
        keep_whole: read what is whole of a damaged file, and collect in ``damage`` what is wrong behind the first frame.

    Attributes:
        damage: what of the file is damaged; a frame that is damaged is refused when it is read besides.

    Raises:
        DataError: it is not a DICOM file, is damaged or truncated, has no pixel data, or has pixels of a kind that no ultrasound
            scanner writes.
    """

    def __init__(self, path: Path, bits: int | None = None, *, keep_whole: bool = False) -> None:
        self.path = path
        self.bits = bits
        self.damage: list[DataError] = []
        self._keep_whole = keep_whole
        self._open()

    def _open(self) -> None:
        path = self.path
        header = read_header(path)
        self._state = header.state
        with as_data_error(path, NOT_DICOM), quiet_pydicom():
            self._read(header)

    def _read(self, header: DicomHeader) -> None:
        form = pixel_form(header)
        self.size = form.size
        self.damage.clear()
        damage = self.damage if self._keep_whole else None
        spans, about_frames = find_frames(header, form.size, form.frame_bits, form.is_subsampled, damage)
        self._num_frames = len(spans)
        self._decoder = PixelDecoder(header, form, spans, self.bits, skip_damaged=self._keep_whole)
        self.bits = self._decoder.bits
        announced = header.whole("NumberOfFrames") or 0
        times = dicom_times(header, max(announced, len(spans)) if self.damage else len(spans))
        self.fps = times.fps
        self.times_s: Sequence[float] | None = times.times_s and times.times_s[: len(spans)]
        found = scan_regions(header, form.size)
        self.regions: tuple[Region, ...] | None = found.boxes
        self.region = enclosing(found.boxes) if found.boxes else None
        self.metadata: Mapping[str, str | float] = _metadata(header, found)
        self.repairs: Sequence[tuple[str, str]] = [
            *about_frames,
            *self._decoder.repairs,
            *times.repairs,
            *found.repairs,
            *_unstated(header, form),
            *_not_done(header),
            *_guessed(header),
        ]

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
        try:
            with open_regular(self.path) as file:
                if state_of(os.fstat(file.fileno())) != self._state:
                    self.bits = None
                    self._open()  # the file was replaced: its frames may be elsewhere
                for index in indices:
                    yield self._decoder.rgb(file.fileno(), index)
        except OSError as error:
            raise DataError(f"{self.path}: can't be read ({error.strerror}).") from error


def patient_token(path: str | Path, is_unknown: Callable[[str], bool] = lambda _: False) -> str | None:
    """A text that DICOM files with the same patient's id share and that does not reveal the id; None if there is no id.

    Ids are compared as `patient_key` says. The text is valid within this process only: another process
    makes other texts.

    Args:
        path: the file.
        is_unknown: whether an id names nobody, as ``ANONYMOUS``.
    """
    header = read_tags(Path(path), ["PatientID"])
    try:
        patient = patient_key(str(header.get("PatientID") or ""))
    except Exception:  # a value that can't be converted says nothing
        return None
    if is_unknown(patient):
        return None
    return (
        hashlib.blake2b(patient.encode("utf-8", "surrogatepass"), key=_TOKEN_KEY, digest_size=16).hexdigest()
        if patient
        else None
    )


def _metadata(header: DicomHeader, regions: ScanRegions) -> dict[str, str | float]:
    metadata: dict[str, str | float] = {}
    device = header.text("ManufacturerModelName")
    if device:
        metadata["device"] = device
    if regions.spacing_mm is not None:
        across, down = regions.spacing_mm
        metadata["spacing_mm"] = across
        if not math.isclose(across, down, rel_tol=1e-3):
            metadata["spacing_y_mm"] = down
    return metadata


def _guessed(header: DicomHeader) -> list[tuple[str, str]]:
    kind = "DICOM files don't state how they are encoded, which is guessed from their first elements"
    return [(kind, f"is read as {header.transfer_syntax.name}")] if header.is_guessed else []


def _unstated(header: DicomHeader, form: PixelForm) -> list[tuple[str, str]]:
    """What the file should state about its pixels and does not."""
    kind = "DICOM files do not state how their pixels are stored, which was guessed"
    found = []
    if header.whole("BitsStored") is None:
        found.append((kind, f"has no BitsStored: taken as all {form.allocated} bits"))
    if header.whole("PixelRepresentation") is None:
        found.append((kind, "has no PixelRepresentation: taken as without sign"))
    planar = header.whole("PlanarConfiguration")
    if form.is_compressed and form.samples == 3 and planar not in (0, 1):
        stated = "no PlanarConfiguration" if planar is None else f"a PlanarConfiguration of {planar}"
        found.append((kind, f"has {stated}: taken as 0"))
    return found


def _not_done(header: DicomHeader) -> list[tuple[str, str]]:
    """What a viewer would do with the file and this reader does not."""
    kind = "DICOM files have a look-up table for display that is not applied"
    found = [(kind, f"has a {name}") for name in ("ModalityLUTSequence", "VOILUTSequence") if header.items(name)]
    if header.number("RescaleSlope") not in (None, 1) or header.number("RescaleIntercept") not in (None, 0):
        found.append(
            ("DICOM files rescale their values, which is not applied", "has a RescaleSlope or RescaleIntercept")
        )
    if header.text("PresentationLUTShape") == "INVERSE" and header.text("PhotometricInterpretation") == "MONOCHROME2":
        found.append(
            ("DICOM files are inverted for display, which is not applied", "states PresentationLUTShape INVERSE")
        )
    part = header.whole("InConcatenationNumber")
    if part is not None:
        found.append(
            (
                "DICOM files are parts of a longer film and are read as separate videos",
                f"is part {part} of its film",
            )
        )
    return found
