"""The parts of a DICOM file's image that show the scan.

Source: DICOM PS3.3 C.8.5.5 (regions of ultrasound).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pydicom

from ultravid.datasets.readers.dicom_file import DicomHeader, value_of
from ultravid.datasets.readers.source import Region

__all__ = ["ScanRegions", "scan_regions"]

_CENTIMETRES = 3  # of PhysicalUnitsXDirection
_TWO_DIMENSIONAL, _TISSUE, _FLOW = 1, 1, 2  # of RegionSpatialFormat, RegionDataType
_OVERSHOOT = 2  # px; some scanners state the first pixel outside where DICOM wants the last one inside
_SMALLEST = 8  # px of a side
_INSIDE = 0.8  # of a region's area: more of it in another one, and it is no second view

_UNUSABLE = "DICOM files have ultrasound regions that can't be used"
_CLIPPED = "DICOM files have ultrasound regions that end beyond the image and were clipped to it"
_SEVERAL = "DICOM files have several ultrasound regions, which are shown together (region=1 shows only the largest)"
_SCALES = "DICOM files have regions of several scales and get no spacing"
_FLOW_LEFT_OUT = "DICOM files have a region of colour flow outside of the tissue's, which is not shown"


@dataclass(frozen=True)
class ScanRegions:
    """The regions of a file.

    Attributes:
        boxes: the boxes of two-dimensional tissue, the largest first; empty if the file states none that can be used.
        spacing_mm: millimetres per pixel along a row and along a column; None if they are not stated, or regions differ.
        repairs: what was repaired or can't be used, as `FrameSource.repairs`.
    """

    boxes: tuple[Region, ...]
    spacing_mm: tuple[float, float] | None = None
    repairs: list[tuple[str, str]] = field(default_factory=list)


def scan_regions(header: DicomHeader, size: tuple[int, int]) -> ScanRegions:
    """The regions of two-dimensional tissue inside an image of a size (height, width); others hold traces, bars and spectra.

    A region that ends a pixel or two beyond the image is clipped to it. A region that does not fit otherwise is not used, nor is
    its scale: the image was probably resized. Of regions that lie in each other the larger is used.
    """
    repairs: list[tuple[str, str]] = []
    found: list[tuple[Region, tuple[float, float] | None]] = []
    flows: list[Region] = []
    for number, item in enumerate(header.items("SequenceOfUltrasoundRegions"), start=1):
        if value_of(item, "RegionSpatialFormat") != _TWO_DIMENSIONAL:
            continue
        kind = value_of(item, "RegionDataType")
        if kind not in (_TISSUE, _FLOW):
            continue
        box = _usable_box(item, number, size, repairs if kind == _TISSUE else [])
        if box is not None and kind == _TISSUE:
            found.append((box, _spacing(item)))
        elif box is not None:
            flows.append(box)
    found.sort(key=lambda region: -_area(region[0]))
    kept: list[tuple[Region, tuple[float, float] | None]] = []
    for box, spacing in found:
        if not _lies_in(box, [k for k, _ in kept]):
            kept.append((box, spacing))
    boxes = tuple(box for box, _ in kept)
    lost = [box for box in flows if boxes and not _lies_in(box, boxes)]
    if lost:
        repairs.append((_FLOW_LEFT_OUT, f"leaves out {lost[0]}"))
    if len(boxes) > 1:
        repairs.append((_SEVERAL, f"has {len(boxes)} regions"))
    scales = {spacing for _, spacing in kept}
    if len(scales) > 1:
        repairs.append((_SCALES, f"has {len(scales)} scales"))
    return ScanRegions(boxes, next(iter(scales)) if len(scales) == 1 else None, repairs)


def _usable_box(
    item: pydicom.Dataset, number: int, size: tuple[int, int], repairs: list[tuple[str, str]]
) -> Region | None:
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    corners = [value_of(item, name) for name in names]
    height, width = size
    if any(c is None for c in corners):
        repairs.append((_UNUSABLE, f"region {number} has no corners"))
        return None
    x1, y1, x2, y2 = (int(c) for c in corners if c is not None)
    x2, y2 = x2 + 1, y2 + 1  # DICOM states the last pixel inside
    shown = f"region {number}, {(x1, y1, x2, y2)}"
    if not (x1 >= 0 and x2 - x1 >= _SMALLEST and y1 >= 0 and y2 - y1 >= _SMALLEST):
        repairs.append((_UNUSABLE, f"{shown}, is reversed, empty or smaller than {_SMALLEST} px"))
        return None
    over = max(x2 - width, y2 - height)
    if over > _OVERSHOOT or x1 > width - _SMALLEST or y1 > height - _SMALLEST:
        repairs.append(
            (_UNUSABLE, f"{shown}, is not inside the image of {width}x{height} px (was the image made smaller?)")
        )
        return None
    if over > 0:
        repairs.append((_CLIPPED, f"{shown}, of an image of {width}x{height} px"))
    return x1, y1, min(x2, width), min(y2, height)


def _area(box: Region) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _lies_in(box: Region, others: Sequence[Region]) -> bool:
    for other in others:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0 and height > 0 and width * height >= _INSIDE * _area(box):
            return True
    return False


def _spacing(item: pydicom.Dataset) -> tuple[float, float] | None:
    if {value_of(item, f"PhysicalUnits{axis}Direction") for axis in "XY"} != {_CENTIMETRES}:
        return None
    across, down = (10 * abs(value_of(item, f"PhysicalDelta{axis}") or 0.0) for axis in "XY")
    return (across, down) if across > 0 and down > 0 and math.isfinite(across + down) else None
