"""Tells which rows of COCO's annotations are boxes of lesions.

The lesion is the row's ``instance_id``, else its ``track_id``, else that of its ``attributes``, where CVAT writes it: a whole
number or text, null for none (`ultravid.datasets.formats.lesions`). A row with ``iscrowd``, ``ignore`` or ``difficult`` set is a region to ignore, no lesion:
evaluation leaves detections on it out, training treats it as background. It counts for all classes, whatever its category.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ultravid.datasets.boxes import repair_box
from ultravid.datasets.faults import FileFaults
from ultravid.datasets.formats.lesions import AnnotatedBox, Id, as_id, is_id
from ultravid.utils.text import shown

__all__ = ["Ignored", "read_box"]

_IGNORED = (
    "boxes are marked iscrowd, ignore or difficult and are no lesions: an evaluation leaves detections on them out, "
    "a training treats them as background"
)
_IGNORE_KEYS = ("iscrowd", "ignore", "difficult")


@dataclass(frozen=True)
class Ignored:
    """A region in which a detection is neither right nor wrong.

    Attributes:
        box: XYXY in pixels inside the frame.
        is_crowd: whether it holds many objects: a detection inside it then overlaps it, however small.
    """

    box: list[float]
    is_crowd: bool


def read_box(
    row: Mapping[str, Any], height: int, width: int, default_category: Id, where: str, faults: FileFaults
) -> AnnotatedBox[Id] | Ignored | None:
    """The box of a row; None if it is rejected.

    Args:
        row: a row of ``annotations``, its ids as `as_id` returns them.
        height: the height of the frame, pixels.
        width: the width of the frame, pixels.
        default_category: the category of a row that has none.
        where: video, frame and annotation, for messages.
        faults: takes what is rejected, repaired and ignored.
    """
    lesion = row.get("instance_id")
    lesion = row.get("track_id") if lesion is None else lesion
    if lesion is None and isinstance(attributes := row.get("attributes"), dict):
        lesion = as_id(attributes.get("track_id"))
    category = row.get("category_id")
    flags, odd = {}, []
    if row.get("iscrowd") or row.get("ignore") or row.get("difficult"):
        flags = {key: row[key] for key in _IGNORE_KEYS if row.get(key)}
        odd = [key for key, value in flags.items() if value not in (True, 1)]
    if (lesion is not None and not is_id(lesion)) or (category is not None and not is_id(category)):
        what = f"instance_id {shown(lesion)} or category_id {shown(category)} is not a whole number or text"
        faults.reject("bad annotation row", f"{where}: {what}")
        return None
    if odd:
        faults.reject("bad annotation row", f"{where}: {odd[0]} is {shown(flags[odd[0]])}, not 0 or 1")
        return None
    box = repair_box(row.get("bbox"), height, width, where, faults, has_size=True)
    if box is None:
        return None
    if flags:
        faults.repair(_IGNORED, f"{where}: {', '.join(flags)}")
        return Ignored(box, "iscrowd" in flags)
    return AnnotatedBox(box, default_category if category is None else category, lesion, where)
