"""Annotated boxes as files write them: checked, and repaired or rejected."""

from __future__ import annotations

from typing import Any

import numpy as np

from ultravid.datasets.faults import FileFaults

__all__ = ["CLIPPED", "LARGEST", "TURNED", "box_fault", "is_number", "repair_box", "xyxy_of_xywh"]

CLIPPED = "boxes went past the frame's edge and were clipped to it"
TURNED = "boxes had a negative width or height and were turned round"

LARGEST = 1e30  # float32 ends at 3e38, and areas are products


def is_number(value: Any) -> bool:
    """Whether a value is a number that is finite and not huge."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def box_fault(box: Any, written: Any = None) -> tuple[str, str] | None:
    """What makes a value no box: (kind, message), or None if it is four numbers.

    Args:
        box: the value.
        written: how the file writes it, for the message; None: as ``box``.
    """
    shown = box if written is None else written
    numbers = isinstance(box, list | tuple) and len(box) == 4
    if not numbers or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in box):
        return "box is not four numbers", f"box {shown!r} is not four numbers"
    if not all(map(is_number, box)):
        return "box holds nan", f"box {shown!r} holds a nan, an infinite or a huge number"
    return None


def xyxy_of_xywh(bbox: Any) -> Any:
    """XYXY of COCO's ``[x, y, width, height]``; anything but four numbers is returned as it is, to be rejected."""
    if box_fault(bbox) is not None:
        return bbox
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def repair_box(
    corners: Any, height: int, width: int, where: str, faults: FileFaults, written: Any = None
) -> list[float] | None:
    """A box inside the frame, XYXY, of two opposite corners; None if the box is rejected.

    A corner on the wrong side is turned round and a box past the frame's edge is clipped; both are noted as repairs.

    Args:
        corners: ``[x1, y1, x2, y2]`` in pixels, as the file gives them.
        height: of the frame, pixels.
        width: of the frame, pixels.
        where: video, frame and annotation, for messages.
        faults: takes the rejection or the repairs.
        written: how the file writes the box, if not by its corners.
    """
    shown = corners if written is None else written
    fault = box_fault(corners, shown)
    if fault is not None:
        faults.reject(fault[0], f"{where}: {fault[1]}")
        return None
    x1, y1, x2, y2 = (float(v) for v in corners)
    if x2 < x1 or y2 < y1:
        faults.repair(TURNED, f"{where} {shown}")
    left, right = sorted((x1, x2))
    top, bottom = sorted((y1, y2))
    clipped = [max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))]
    # Boxes are kept as float32, in which two corners may become equal.
    kept = np.asarray(clipped, np.float32)
    if not (kept[2] > kept[0] and kept[3] > kept[1]):
        empty = right == left or bottom == top
        kind, what = ("box is empty", "is empty") if empty else ("box outside the frame", "lies outside the frame")
        faults.reject(kind, f"{where}: box {shown} {what} ({width}x{height} px)")
        return None
    if clipped != [left, top, right, bottom]:
        faults.repair(CLIPPED, f"{where} {shown}")
    return clipped
