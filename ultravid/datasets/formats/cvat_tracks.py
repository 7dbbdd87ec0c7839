"""Tracks in CVAT's XML: their boxes in each frame that a task shows of its film."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ultravid.datasets.bounds import MAX_FILLED
from ultravid.datasets.faults import FileFaults
from ultravid.datasets.formats.cvat_tasks import CvatTask, whole_number
from ultravid.datasets.readers import FrameSource
from ultravid.datasets.video import DataError
from ultravid.utils.text import counted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["CvatBox", "CvatTrack", "FrameNumbers", "boxes_by_frame", "read_tracks"]

_FILLED = "boxes between and after key frames were filled in, as CVAT shows them"
_UNLISTED = "frames are left out: a visible lesion has no box in them, as in frames that were deleted in CVAT"
_OPEN_END = "tracks end, visible, before the task does, and were not continued"
_ON_DELETED = "boxes were on frames that were deleted in CVAT and are left out"
_DELETED = "frames were deleted in CVAT and are left out"
_SHORT = "tasks have more frames than their film, and end where it ends"
_NATURAL = "image folders were numbered in natural order (2 before 10); CVAT's default puts 10 before 2"
_DELETED_BY_TASK = "lists of deleted frames count the task's frames, not the film's"


@dataclass(frozen=True)
class CvatBox:
    """A shape of a track; ``frame`` is the film's frame number."""

    frame: int
    corners: tuple[float, float, float, float]
    outside: bool
    occluded: bool
    keyframe: bool


@dataclass(frozen=True)
class CvatTrack:
    """A lesion along the film; its boxes are ordered by frame, one in a frame."""

    track_id: int
    label: str
    boxes: list[CvatBox]


def read_tracks(
    elements: Sequence[Element], classes: Sequence[str] | None, offset: int, where: str, faults: FileFaults
) -> list[CvatTrack]:
    """The tracks of a task, each id once.

    Args:
        elements: ``<track>``.
        classes: labels that are read; None: all.
        offset: what the file adds to the film's frame numbers.
        where: the video, for messages.
        faults: takes what is rejected.
    """
    tracks: dict[int, CvatTrack] = {}
    for n, element in enumerate(elements):
        label, text = element.get("label") or "", element.get("id") or str(n)
        here = f"{where} track {text!r}"
        track_id = whole_number(text)
        fault = None
        if track_id is None or track_id < 0:
            fault = "its id is not a whole number"
        elif track_id in tracks:
            fault = "another track has the same id"
        elif classes is not None and label not in classes:
            fault = f"label {label!r} is not one of {', '.join(classes) or 'the labels in meta, which has none'}"
        if track_id is None or fault is not None:
            faults.reject("bad track", f"{here}: {fault}")
            continue
        boxes: dict[int, CvatBox] = {}
        for shape in element:
            box = _box(shape, offset, here, faults)
            if box is not None and box.frame in boxes:
                faults.reject("bad box", f"{here} frame {shape.get('frame')}: has two boxes")
            elif box is not None:
                boxes[box.frame] = box
        tracks[track_id] = CvatTrack(track_id, label, sorted(boxes.values(), key=lambda b: b.frame))
    return list(tracks.values())


class FrameNumbers:
    """The frames of a film that a task shows.

    Args:
        where: file and video, for messages.
        task: the task of the film.
        film: its frames.
        faults: takes what is left out.

    Attributes:
        shown: the film's numbers, those of deleted frames too; they rise.
        kept: without the deleted ones.
        place: where each stands in the film, by number.
        deleted: what was deleted.

    Raises:
        DataError: the task is of another film.
    """

    def __init__(self, where: str, task: CvatTask, film: FrameSource, faults: FileFaults) -> None:
        if task.size is not None and task.size != film.size:
            raise DataError(
                f"{where}: was drawn on an image of {task.size[1]}x{task.size[0]} px, "
                f"{film.path} is {film.size[1]}x{film.size[0]} px."
            )
        self.path = film.path
        numbered = _numbers_in_names(film, task.offset)
        if numbered is None and film.path.is_dir():
            names = [Path(film.place(n)[0]).name for n in range(len(film))]
            if names != sorted(names):
                faults.repair(_NATURAL, f"{where}: {film.path}")
        all_numbers: Sequence[int] = range(len(film)) if numbered is None else numbered
        self.shown = task.select(all_numbers)
        if not self.shown:
            raise DataError(f"{where}: starts at frame {task.start}, but {film.path} has {len(film)} frames.")
        expected = task.num_frames
        if expected is None and task.stop is not None:
            expected = (task.stop - task.start) // task.step + 1
        if expected is not None and expected > len(self.shown):
            what = f"{expected} frames from frame {task.start}, step {task.step}; {film.path} gives {len(self.shown)}"
            faults.repair(_SHORT, f"{where}: {what}")
        self.place = {n: n if numbered is None else bisect.bisect_left(numbered, n) for n in self.shown}
        self.deleted, unknown = task.deleted_in(self.shown)
        if unknown is not None:
            raise DataError(f"{where}: deleted_frames holds {unknown}, which is not one of the task's {self.text}.")
        if self.deleted != {n - task.offset for n in task.deleted}:
            faults.repair(_DELETED_BY_TASK, f"{where}: {min(task.deleted)} is frame {min(self.deleted)} of the film")
        for number in sorted(self.deleted):
            faults.repair(_DELETED, f"{where} frame {number}")
        self.kept = [n for n in self.shown if n not in self.deleted]

    @property
    def text(self) -> str:
        """The numbers in words, for messages."""
        if len(self.shown) == 1:
            return f"frame {self.shown[0]} alone"
        step = self.shown[1] - self.shown[0]
        return f"frames {self.shown[0]} to {self.shown[-1]}{f', step {step}' if step > 1 else ''}"

    def leave_out(self, number: int) -> None:
        """Leave out a frame that was not listed as deleted."""
        self.kept.remove(number)


def _numbers_in_names(film: FrameSource, offset: int) -> list[int] | None:
    """The film's numbers of images that CVAT wrote, ``frame_000010.png``; None if they have other names."""
    if not film.path.is_dir():
        return None
    found = [re.fullmatch(r"frame_(\d{1,15})", Path(film.place(n)[0]).stem, re.ASCII) for n in range(len(film))]
    numbers = [int(match[1]) - offset for match in found if match]
    rising = all(a < b for a, b in itertools.pairwise(numbers))
    return numbers if rising and len(numbers) == len(found) and numbers[0] >= 0 else None


def _box(element: Element, offset: int, where: str, faults: FileFaults) -> CvatBox | None:
    here = f"{where} frame {element.get('frame') or ''}"
    fault, flags = None, {}
    frame, corners = whole_number(element.get("frame")), None
    if element.tag not in ("box", "polygon"):
        fault = f"is a <{element.tag}>; boxes and polygons are read"
    else:
        corners = _corners_of(element)
        flags = {key: _flag(element.get(key, default)) for key, default in _FLAGS.items()}
        wrong = [key for key, value in flags.items() if value is None]
        if frame is None or corners is None:
            fault = "its frame or a corner is not a number"
        elif frame - offset < 0:
            fault = "there is no frame of that number"
        elif wrong:
            fault = f"{wrong[0]} is {element.get(wrong[0])!r}, not 0 or 1"
        elif not _is_upright(element.get("rotation")):
            fault = f"the box is rotated by {element.get('rotation')!r} degrees; only upright boxes are read"
    if frame is None or corners is None or fault is not None:
        faults.reject("bad box", f"{here}: {fault}")
        return None
    return CvatBox(frame - offset, corners, bool(flags["outside"]), bool(flags["occluded"]), bool(flags["keyframe"]))


_FLAGS = {"outside": "0", "occluded": "0", "keyframe": "1"}


def _flag(text: str) -> bool | None:
    return {"0": False, "false": False, "1": True, "true": True}.get(text.strip().lower())


def _is_upright(rotation: str | None) -> bool:
    """Whether a rotation is a whole number of turns, to the hundredth of a degree that CVAT writes."""
    try:
        return abs(math.remainder(float(rotation or 0), 360)) < 0.01
    except ValueError:  # no number, or an infinite one
        return False


def _corners_of(element: Element) -> tuple[float, float, float, float] | None:
    try:
        if element.tag == "box":
            x1, y1, x2, y2 = (float(element.get(k) or "") for k in ("xtl", "ytl", "xbr", "ybr"))
            return x1, y1, x2, y2
        points = [[float(v) for v in p.split(",")] for p in (element.get("points") or "").split(";")]
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return min(xs), min(ys), max(xs), max(ys)
    except (ValueError, IndexError):
        return None


def boxes_by_frame(
    tracks: Sequence[CvatTrack], numbers: FrameNumbers, keep_occluded: bool, where: str, faults: FileFaults
) -> dict[int, list[tuple[CvatBox, str, int]]]:
    """(box, label, track id) of what is visible in each frame, by the film's frame number."""
    found: dict[int, list[tuple[CvatBox, str, int]]] = defaultdict(list)
    missing: dict[int, str] = {}
    place = {number: n for n, number in enumerate(numbers.kept)}
    num_filled = 0
    for track in tracks:
        here = f"{where} track {track.track_id}"
        boxes = _in_film(track, numbers, where, faults)
        filled, gaps = _filled(boxes, numbers.kept, place)
        num_filled += len(filled) - len(boxes)
        if num_filled > MAX_FILLED:
            raise DataError(f"{where}: more than {MAX_FILLED:,} boxes lie between the key frames of its tracks.")
        if len(filled) > len(boxes):
            number = len(filled) - len(boxes)
            faults.repair(_FILLED, f"{here}: {number} from {counted(len(boxes), 'key frame')}", number)
        if filled and not filled[-1].outside and filled[-1].frame < numbers.kept[-1]:
            faults.repair(_OPEN_END, f"{here} frame {filled[-1].frame}")
        missing |= dict.fromkeys(gaps, here)
        for box in filled:
            if not box.outside and (keep_occluded or not box.occluded):
                found[box.frame].append((box, track.label, track.track_id))
    for number in sorted(missing):
        if number in found:
            what = "its lesion is visible before and after, but has no box, and another lesion has one"
            faults.reject("box is missing", f"{missing[number]} frame {number}: {what}")
        else:
            faults.repair(_UNLISTED, f"{missing[number]} frame {number}")
            numbers.leave_out(number)
    return found


def _in_film(track: CvatTrack, numbers: FrameNumbers, where: str, faults: FileFaults) -> list[CvatBox]:
    """The boxes on frames that are kept. CVAT does not use key frames on deleted frames either."""
    kept = []
    for box in track.boxes:
        if box.frame in numbers.deleted:
            faults.repair(_ON_DELETED, f"{where} frame {box.frame} track {track.track_id}")
        elif box.frame in numbers.place:
            kept.append(box)
        elif not box.outside:
            given = f"{numbers.path} gives {len(numbers.shown)} frames to the task: {numbers.text}"
            faults.reject(
                "box in no frame", f"{where} frame {box.frame}: has a box, but {given} (track {track.track_id})"
            )
    return kept


def _filled(boxes: list[CvatBox], numbers: Sequence[int], place: Mapping[int, int]) -> tuple[list[CvatBox], list[int]]:
    """(boxes of every frame, frames in which a visible lesion has no box).

    Of a track that holds key frames alone, with gaps, the boxes are those that CVAT would show. Of any other the boxes are those of
    the file, which CVAT has filled in, but for deleted frames. ``place`` is where each of ``numbers`` stands.
    """
    gaps = [(a, b) for a, b in itertools.pairwise(boxes) if place[b.frame] - place[a.frame] > 1]
    if not gaps:
        return boxes, []
    if not all(b.keyframe for b in boxes):
        return boxes, [n for a, b in gaps if not a.outside for n in numbers[place[a.frame] + 1 : place[b.frame]]]
    filled = []
    for a, b in itertools.pairwise(boxes):
        filled.append(a)
        if a.outside:
            continue
        for frame in numbers[place[a.frame] + 1 : place[b.frame]]:
            share = 0.0 if b.outside else (frame - a.frame) / (b.frame - a.frame)
            x1, y1, x2, y2 = (p + share * (q - p) for p, q in zip(a.corners, b.corners, strict=True))
            filled.append(CvatBox(frame, (x1, y1, x2, y2), False, a.occluded, False))
    last = boxes[-1]
    after = [] if last.outside else numbers[place[last.frame] + 1 :]
    return [*filled, last, *(CvatBox(f, last.corners, False, last.occluded, False) for f in after)], []
