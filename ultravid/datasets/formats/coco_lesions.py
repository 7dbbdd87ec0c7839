"""Lesions in COCO's annotations: which rows are lesions, and which lesion of the video each is.

The lesion is the row's ``instance_id``, else its ``track_id``: a whole number or text, null for none. In a still each box without
one is a lesion. In a video such boxes are tracked by their order in the frame, and this is reported.

A row with ``iscrowd``, ``ignore`` or ``difficult`` set is a region to ignore, no lesion.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ultravid.datasets.bounds import is_whole
from ultravid.datasets.boxes import repair_box
from ultravid.datasets.faults import FileFaults
from ultravid.utils.text import shown

__all__ = ["CocoBox", "Id", "Ignored", "as_id", "is_id", "number_lesions", "read_box"]

Id = int | str

_IGNORED = "boxes are marked iscrowd, ignore or difficult and are no lesions"
_REPEATED = "boxes repeat another of their image, with the same class and lesion, and are left out"
_SHARED = "boxes share their frame and their instance_id or track_id with another and are one lesion with it"
_ONE_EACH = "videos have boxes without instance_id and track_id, one in a frame, which are taken for one lesion"
_BY_ORDER = (
    "videos have boxes without instance_id and track_id, several in a frame, which are tracked by their order in it"
)

_IGNORE_KEYS = ("iscrowd", "ignore", "difficult")
_LARGEST_FLOAT = 2.0**53  # above it not every whole number has a float of its own


@dataclass(frozen=True)
class CocoBox:
    """An annotated box, before its lesion has a number.

    Attributes:
        box: XYXY in pixels inside the frame.
        category: its category's id.
        lesion: as the row names it; None if it doesn't.
        where: video, frame and annotation, for messages.
    """

    box: list[float]
    category: Id
    lesion: Id | None
    where: str


@dataclass(frozen=True)
class Ignored:
    """A region in which a detection is neither right nor wrong.

    Attributes:
        box: XYXY in pixels inside the frame.
        is_crowd: whether it holds many objects: a detection inside it then overlaps it, however small.
    """

    box: list[float]
    is_crowd: bool


def as_id(value: Any) -> Id | None:
    """An id as it is compared: text, or a whole number of 64 bits, which JSON may write as 1.0; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_FLOAT:
        return int(value)
    return value if isinstance(value, str) or is_whole(value) else None


def is_id(value: Any) -> TypeGuard[Id]:
    """Whether a value can be an id: a whole number of 64 bits, or text."""
    return isinstance(value, str) or is_whole(value)


def read_box(
    row: Mapping[str, Any], height: int, width: int, default_category: Id, where: str, faults: FileFaults
) -> CocoBox | Ignored | None:
    """The box of a row; None if it is rejected.

    Args:
        row: of ``annotations``, its ids as `as_id` returns them.
        height: of the frame, pixels.
        width: of the frame, pixels.
        default_category: of a row that has none.
        where: video, frame and annotation, for messages.
        faults: takes what is rejected, repaired and ignored.
    """
    lesion = row.get("instance_id")
    lesion = row.get("track_id") if lesion is None else lesion
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
    return CocoBox(box, default_category if category is None else category, lesion, where)


def number_lesions(
    frames: Sequence[Sequence[CocoBox]], video: str, faults: FileFaults, *, stills: bool = False
) -> list[list[tuple[list[float], Id, int]]]:
    """(box, category id, number of the lesion in the video) of the boxes of each frame.

    Args:
        frames: of one video, in order.
        video: its name, for messages.
        faults: takes what is left out and what is guessed.
        stills: the video is a still; that each box without an id is a lesion is then no guess.
    """
    named = list(dict.fromkeys(box.lesion for boxes in frames for box in boxes if box.lesion is not None))
    taken = {lesion for lesion in named if isinstance(lesion, int)}
    unused = (n for n in itertools.count(1) if n not in taken)
    of_text = {lesion: next(unused) for lesion in named if isinstance(lesion, str)}
    taken |= set(of_text.values())
    unnamed_numbers = (n for n in itertools.count(0, -1) if n not in taken)
    unnamed: list[int] = []
    numbered, without, most = [], 0, 0
    for boxes in frames:
        rows: list[tuple[list[float], Id, int]] = []
        here = 0
        for box in _distinct(boxes, faults):
            if box.lesion is None:
                if here == len(unnamed):
                    unnamed.append(next(unnamed_numbers))
                number = unnamed[here]
                here += 1
            else:
                number = box.lesion if isinstance(box.lesion, int) else of_text[box.lesion]
                if rows and any(number == other for _, _, other in rows):
                    faults.repair(_SHARED, f"{box.where}: {box.lesion!r}")
            rows.append((box.box, box.category, number))
        without, most = without + here, max(most, here)
        numbered.append(rows)
    if without and not stills:
        faults.repair(_BY_ORDER if most > 1 else _ONE_EACH, f"video {video!r}: {without} boxes")
    return numbered


def _distinct(boxes: Sequence[CocoBox], faults: FileFaults) -> list[CocoBox]:
    if len(boxes) < 2:
        return list(boxes)
    seen, kept = set(), []
    for box in boxes:
        key = (tuple(box.box), box.category, box.lesion)
        if key in seen:
            faults.repair(_REPEATED, box.where)
        else:
            kept.append(box)
        seen.add(key)
    return kept
