"""Assigns each annotated box to a lesion of its video.

A box may name its lesion by an id: a whole number or text. Boxes that name none are never one lesion if they are in one frame. In a
still each is a lesion; in a video they are tracked by their order in the frame, and this is reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeGuard, TypeVar

from ultravid.datasets.bounds import is_whole
from ultravid.datasets.faults import FileFaults

__all__ = ["AnnotatedBox", "Id", "as_id", "is_id", "number_lesions"]

Id = int | str
Category = TypeVar("Category", int, Id)

_REPEATED = "boxes repeat another of their image, with the same class and lesion, and are left out"
_SHARED = "boxes share their frame and the id of their lesion with another and are one lesion with it"
_ONE_EACH = "videos have boxes without the id of a lesion, at most one per frame, which are read as one lesion"
_BY_ORDER = (
    "videos have boxes without the id of a lesion, several per frame, which are linked by their order in the frame"
)

_NEVER_TWICE = "videos have the id of a lesion at every box, but no id twice (are they ids of boxes?); each box is a separate lesion"
_CLASS_CHANGES = "lesions have boxes of several classes, and each box keeps its own"

_FEW_BOXES = 5  # that may well be of as many lesions
_LARGEST_FLOAT = 2.0**53  # above it not every whole number has a float of its own


@dataclass(frozen=True)
class AnnotatedBox(Generic[Category]):
    """An annotated box, before its lesion has a number.

    Attributes:
        box: XYXY in pixels inside the frame.
        category: number of its class, or its category's id.
        lesion: its id; None if the file names none.
        where: video, frame and annotation, for messages.
    """

    box: list[float]
    category: Category
    lesion: Id | None
    where: str


def as_id(value: Any) -> Id | None:
    """An id as it is compared: text, or a whole number of 64 bits, which JSON may write as 1.0; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_FLOAT:
        return int(value)
    return value if isinstance(value, str) or is_whole(value) else None


def is_id(value: Any) -> TypeGuard[Id]:
    """Whether a value can be an id: a whole number of 64 bits, or text."""
    return isinstance(value, str) or is_whole(value)


def number_lesions(
    frames: Sequence[Sequence[AnnotatedBox[Category]]], where: str, faults: FileFaults, *, stills: bool = False
) -> list[list[tuple[list[float], Category, int]]]:
    """(box, category, number of the lesion in the video) of the boxes of each frame.

    Args:
        frames: the frames of one video, in order.
        where: the video, for messages.
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
        rows: list[tuple[list[float], Category, int]] = []
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
    _note_changes_of_class(frames, faults)
    num_boxes = sum(map(len, numbered))
    if not without and len(named) == num_boxes >= _FEW_BOXES and sum(map(bool, numbered)) > 1:
        faults.repair(_NEVER_TWICE, f"{where}: {num_boxes} boxes")
    if without and not stills:
        faults.repair(_BY_ORDER if most > 1 else _ONE_EACH, f"{where}: {without} boxes")
    return numbered


def _note_changes_of_class(frames: Sequence[Sequence[AnnotatedBox[Category]]], faults: FileFaults) -> None:
    first: dict[Id, Category] = {}
    noted: set[Id] = set()
    for boxes in frames:
        for box in boxes:
            if box.lesion is None or first.setdefault(box.lesion, box.category) == box.category or box.lesion in noted:
                continue
            noted.add(box.lesion)
            faults.repair(_CLASS_CHANGES, f"{box.where}: {box.category!r}, {first[box.lesion]!r} before")


def _distinct(boxes: Sequence[AnnotatedBox[Category]], faults: FileFaults) -> list[AnnotatedBox[Category]]:
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
