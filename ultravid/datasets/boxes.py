"""Checks annotated boxes, and repairs or rejects them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ultravid.datasets.faults import FileFaults
from ultravid.utils.text import shown

__all__ = ["CLIPPED", "LARGEST", "TURNED", "box_fault", "is_number", "repair_box"]

CLIPPED = "boxes went past the frame's edge and were clipped to it"
TURNED = "boxes had a negative width or height and were corrected"

LARGEST = 1e15  # float32 ends at 3e38, and areas and their sums must stay below it


def is_number(value: Any) -> bool:
    """Whether a value is a number that is finite and not huge."""
    return isinstance(value, (int, float)) and -LARGEST < value < LARGEST and not isinstance(value, bool)


def box_fault(box: Any) -> tuple[str, str] | None:
    """What makes a value no box: (kind, message), or None if it is four numbers."""
    listed = isinstance(box, list | tuple) and len(box) == 4
    if listed and all(map(is_number, box)):
        return None
    if not listed or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in box):
        return "box is not four numbers", f"box {shown(box)} is not four numbers"
    return "box holds nan", f"box {shown(box)} holds a nan, an infinite or a huge number"


def repair_box(
    box: Any, height: int, width: int, where: str, faults: FileFaults, *, has_size: bool = False
) -> list[float] | None:
    """An annotated box inside the frame, XYXY; None if it is rejected.

    A corner on the wrong side is turned round and a box past the frame's edge is clipped; both are noted as repairs.

    Args:
        box: ``[x1, y1, x2, y2]`` in pixels, two opposite corners, as the file gives them.
        height: the height of the frame, pixels.
        width: the width of the frame, pixels.
        where: video, frame and annotation, for messages.
        faults: takes the rejection or the repairs.
        has_size: ``box`` is ``[x, y, width, height]``, as in COCO.
    """
    fault = box_fault(box)
    if fault is not None:
        faults.reject(fault[0], f"{where}: {fault[1]}")
        return None
    x1, y1, x2, y2 = map(float, box)
    if has_size:
        x2, y2 = x1 + x2, y1 + y2
    if x2 < x1 or y2 < y1:
        faults.repair(TURNED, f"{where} {box}")
    left, right = sorted((x1, x2))
    top, bottom = sorted((y1, y2))
    clipped = [max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))]
    # Boxes are kept as float32, in which two corners may become equal.
    kept = np.asarray(clipped, np.float32)
    if not (kept[2] > kept[0] and kept[3] > kept[1]):
        empty = right == left or bottom == top
        kind, what = ("box is empty", "is empty") if empty else ("box outside the frame", "lies outside the frame")
        faults.reject(kind, f"{where}: box {box} {what} ({width}x{height} px)")
        return None
    if clipped != [left, top, right, bottom]:
        faults.repair(CLIPPED, f"{where} {box}")
    return clipped
