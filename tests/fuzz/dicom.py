"""DICOM files, native and compressed, against pydicom's own pixels."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, generate_uid

from tests.fuzz.harness import Complaint, Family, Files, Reading
from tests.fuzz.images import HEIGHT, WIDTH, encoded, frames_of, picture, read_recordings
from tests.fuzz.mutations import change_bytes

__all__ = ["FAMILIES"]

FRAMES = 3
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


def _dataset(pixels: np.ndarray[Any, Any], syntax: str, **tags: Any) -> bytes:
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
    data.SequenceOfUltrasoundRegions = [_region()]
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    if syntax == RLELossless:
        data.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEGBaseline8Bit:
        meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([encoded(Image.fromarray(frame), "JPEG") for frame in pixels])
    return _bytes_of(data)


def _region() -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 2, 1
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = WIDTH - 3, HEIGHT - 2
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
        for number, image in enumerate(found[: len(expected)]):
            reference = expected[number][crop[1] : crop[3], crop[0] : crop[2]]
            assert image.shape[:2] == reference.shape[:2], f"another size: {image.shape} for {reference.shape}"
            if exact:
                shown = reference if reference.ndim == 3 else np.repeat(reference[..., None], 3, axis=2)
                assert np.array_equal(image, shown), f"other pixels: frame {number}"


def _pixels(path: Path) -> tuple[np.ndarray[Any, Any], bool] | None:
    """pydicom's pixels, ``(T, H, W)`` or ``(T, H, W, 3)``, and whether they are what is to be shown; None if it can't tell."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            data = pydicom.dcmread(path)
            pixels = data.pixel_array
            kind = data.PhotometricInterpretation
            frames = int(data.get("NumberOfFrames") or 1)
            exact = data.BitsAllocated == data.BitsStored == 8 and kind in (
                "MONOCHROME2",
                "RGB",
                "YBR_FULL",
                "YBR_FULL_422",
            )
        except MemoryError:
            return None  # it reads elements after the pixels, and takes trailing bytes for some of any length
        except Exception as error:  # pydicom raises nearly anything
            raise Complaint(f"pydicom: {type(error).__name__}: {error}") from error
    told = [str(w.message) for w in found if "pixel" in str(w.message).lower()]
    if told:
        raise Complaint(f"pydicom: {told[0]}")
    return (pixels if frames > 1 else pixels[None]), exact


FAMILIES = (Family("dicom", _seeds, ["a.dcm"], read_recordings, _check, change=_change),)
