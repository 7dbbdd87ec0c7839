"""DICOM files, native and compressed, against pydicom's own pixels."""

from __future__ import annotations

import io
import random
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, generate_uid

from tests.fuzz.harness import Complaint, Family, Files, Reading
from tests.fuzz.images import HEIGHT, WIDTH, encoded, frames_of, picture, read_recordings
from tests.fuzz.mutations import change_bytes
from ultravid.datasets import Video

__all__ = ["FAMILIES"]

FRAMES = 3
_REGION = (2, 1, WIDTH - 3, HEIGHT - 2)
_VALUES: tuple[Any, ...] = (
    *(
        0,
        1,
        2,
        3,
        4,
        8,
        12,
        15,
        16,
        255,
        65535,
        1000,
        "",
        None,
        "nan",
        "1e999",
        "x",
        "-1",
        "2000000000",
        "1.5",
        "0",
        "3\\4",
    ),
    *("MONOCHROME1", "RGB", "YBR_FULL", "PALETTE COLOR", "é", b"\xff\xfe", [1, 2], [], ["1", "x"], [0.1] * 50),
)


def _dataset(
    pixels: np.ndarray[Any, Any], syntax: str, regions: Sequence[tuple[int, ...]] = (_REGION,), **tags: Any
) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if syntax == ImplicitVRLittleEndian else ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta, data.Modality, data.PatientID = meta, "US", "P-17"
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.NumberOfFrames, data.Rows, data.Columns = pixels.shape[:3]
    data.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.FrameTime, data.ManufacturerModelName = "40", "Model"
    for key, value in tags.items():
        setattr(data, key, value)
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.SequenceOfUltrasoundRegions = [_region(*box) for box in regions]
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    if syntax == RLELossless:
        data.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEGBaseline8Bit:
        meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([encoded(Image.fromarray(frame), "JPEG") for frame in pixels])
    return _bytes_of(data)


def _region(x1: int, y1: int, x2: int, y2: int) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = x1, y1
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = x2, y2  # the last pixel inside
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    return region


def _bytes_of(data: Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    return file.getvalue()


def _palette() -> bytes:
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for number, colour in enumerate(("Red", "Green", "Blue")):
        table = np.roll(np.arange(256, dtype=np.uint16) * 257, 20 * number)
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    return _dataset(_film(1), ExplicitVRLittleEndian, **tags)


def _film(channels: int) -> np.ndarray[Any, Any]:
    return np.stack([picture(number, channels) for number in range(FRAMES)])


def _seeds() -> Sequence[Files]:
    grey, colour = _film(1), _film(3)
    files = [
        _dataset(grey, ExplicitVRLittleEndian),
        _dataset(grey, ImplicitVRLittleEndian),
        _dataset(colour, ExplicitVRLittleEndian),
        _dataset(colour, ExplicitVRLittleEndian, PhotometricInterpretation="YBR_FULL"),
        _dataset(grey.astype(np.uint16) * 16, ExplicitVRLittleEndian, BitsStored=12),
        _dataset(grey, ExplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1"),
        _palette(),
        _dataset(grey, RLELossless),
        _dataset(colour, RLELossless),
        _dataset(grey, JPEGBaseline8Bit),
        _dataset(colour, JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422"),
        _dataset(grey.astype(np.uint16), ExplicitVRLittleEndian),  # 8 bits of content in 16
        _dataset(grey.astype(np.uint16) * 16, RLELossless),  # 12 bits
        _dataset(
            np.tile(grey, 2),
            ExplicitVRLittleEndian,
            [_REGION, tuple(v + WIDTH * (1 - n % 2) for n, v in enumerate(_REGION))],
        ),
        _dataset(grey, ImplicitVRLittleEndian, FrameTime=None, FrameTimeVector=["0", "40", "90"]),
    ]
    return [{"a.dcm": data} for data in files]


def _change(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.5:
        return change_bytes(rng, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that pydicom would not write by itself
        return _change_elements(rng, data)


def _change_elements(rng: random.Random, data: bytes) -> bytes:
    content = pydicom.dcmread(io.BytesIO(data))
    for _ in range(rng.choice((1, 1, 2))):
        holder: Dataset = content
        if rng.random() < 0.2 and content.get("SequenceOfUltrasoundRegions"):
            holder = content.SequenceOfUltrasoundRegions[0]
        elif rng.random() < 0.05:
            holder = content.file_meta
        element = rng.choice(list(holder))
        kind = rng.random()
        if kind < 0.2:
            del holder[element.tag]
        elif element.keyword == "PixelData":
            element.value = rng.choice((element.value[: rng.randrange(len(element.value))], element.value * 2, b""))
        elif kind < 0.5 and isinstance(element.value, int):
            element.value = max(0, element.value + rng.choice((-1, 1, 2, 100)))
        else:
            element.value = rng.choice(_VALUES)
    file = io.BytesIO()
    pydicom.dcmwrite(file, content)
    return file.getvalue()


def _check(folder: Path, reading: Reading) -> None:
    if not reading.value:
        assert reading.said, "no DICOM file: and nothing was said"
    for video in reading.value:
        path = Path(video.frames[0].path)
        pixels = _pixels(path)
        if pixels is None:
            continue
        expected, exact = pixels
        found = frames_of(video)
        assert len(found) == len(expected) or reading.said, f"another number of frames: {len(found)} of {len(expected)}"
        crop = video.frames[0].crop or (0, 0, expected.shape[2], expected.shape[1])
        data = pydicom.dcmread(path)
        rounding = (
            1 if data.file_meta.TransferSyntaxUID == JPEGBaseline8Bit else 0
        )  # of a damaged table, decoders differ
        for number, image in enumerate(found[: len(expected)]):
            reference = expected[number].copy()
            for x1, y1, x2, y2 in video.frames[number].blanked:
                reference[y1:y2, x1:x2] = 0
            reference = reference[crop[1] : crop[3], crop[0] : crop[2]]
            assert image.shape[:2] == reference.shape[:2], f"another size: {image.shape} for {reference.shape}"
            if exact:
                shown = reference if reference.ndim == 3 else np.repeat(reference[..., None], 3, axis=2)
                difference = np.abs(image.astype(np.int16) - shown).max()
                assert difference <= rounding, f"other pixels: frame {number} differs by {difference}"
        _check_times(data, video, reading)
        _check_regions(data, video, reading)


def _check_times(data: Dataset, video: Video, reading: Reading) -> None:
    """Uneven intervals are kept, or something is said."""
    vector = data.get("FrameTimeVector")
    if vector is None or reading.said or not isinstance(vector, MultiValue) or len(vector) != len(video):
        return
    steps = np.array([float(v) for v in vector[1:]])
    times = np.array(
        [frame.time_s if frame.time_s is not None else n / video.fps for n, frame in enumerate(video.frames)]
    )
    assert np.allclose(np.diff(times) * 1000, steps, atol=2), f"other times: {times} for {steps}"


def _check_regions(data: Dataset, video: Video, reading: Reading) -> None:
    """All that lies in a region is shown: unless something was said of one that can't be used."""
    frame = video.frames[0]
    if any("can't be used" in text or "region" in text for text in reading.said if not re.search(_SAID, text)):
        return
    for item in data.get("SequenceOfUltrasoundRegions") or ():
        if (item.get("RegionSpatialFormat"), item.get("RegionDataType")) != (1, 1):
            continue
        x1, y1, x2, y2 = (int(item[f"RegionLocation{name}"].value) for name in ("MinX0", "MinY0", "MaxX1", "MaxY1"))
        crop = frame.crop or (0, 0, data.Columns, data.Rows)
        is_inside = crop[0] <= x1 and crop[1] <= y1 and min(x2 + 1, data.Columns) <= crop[2]
        is_inside = is_inside and min(y2 + 1, data.Rows) <= crop[3]
        black = [b for b in frame.blanked if b[0] <= x2 and x1 < b[2] and b[1] <= y2 and y1 < b[3]]
        assert is_inside and not black, f"a region vanishes: {(x1, y1, x2, y2)} in {crop}, black {black}"


def _pixels(path: Path) -> tuple[np.ndarray[Any, Any], bool] | None:
    """pydicom's pixels, ``(T, H, W)`` or ``(T, H, W, 3)``, and whether they are what is to be shown; None if it can't tell."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            data = pydicom.dcmread(path)
            pixels = data.pixel_array
            shown = _shown(data, pixels)
            frames = int(data.get("NumberOfFrames") or 1)
        except MemoryError:
            return None  # it reads elements after the pixels, and takes trailing bytes for some of any length
        except Exception as error:  # pydicom raises nearly anything
            raise Complaint(f"pydicom: {type(error).__name__}: {error}") from error
    told = [str(w.message) for w in found if "pixel" in str(w.message).lower()]
    if told:
        raise Complaint(f"pydicom: {told[0]}")
    result = pixels if shown is None else shown
    return (result if frames > 1 else result[None]), shown is not None


def _shown(data: Dataset, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """The pixels in 8 bits; None if how they are to be shown is not plain."""
    kind, stored = data.PhotometricInterpretation, data.BitsStored
    if data.BitsAllocated == stored == 8:
        if kind == "PALETTE COLOR":
            return np.asarray(apply_color_lut(pixels, data) >> 8, np.uint8)
        if kind == "MONOCHROME1":
            return np.asarray(255 - pixels, np.uint8)
        return pixels if kind in ("MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422") else None
    if kind != "MONOCHROME2" or data.BitsAllocated != 16 or data.HighBit != stored - 1 or "WindowWidth" in data:
        return None
    used = int(pixels.max()).bit_length()
    if data.file_meta.TransferSyntaxUID.is_compressed and stored < 16:
        return None  # pydicom has cleared bits beyond those that are stated to be used
    if stored < 16:
        pixels = np.frombuffer(data.PixelData, "<u2", pixels.size).reshape(pixels.shape)
        used = int(pixels.max()).bit_length()
    bits = stored if used in (stored, stored - 1) else max(8, used)  # more than one unused bit: the statement is wrong
    return np.asarray(pixels.astype(np.int64) * 256 // 2**bits, np.uint8) if bits >= 8 else None


_SAID = "several ultrasound regions|has 2 regions|no pixel is above|taken as"
FAMILIES = (Family("dicom", _seeds, ["a.dcm"], read_recordings, _check, change=_change, said_of_sound=_SAID),)
