"""Tasks in CVAT's XML: their film, and the frames of the film that they contain.

CVAT gives absolute frame numbers. Of a task whose ``start_frame`` is 10 and whose ``frame_filter`` is ``step=5``, frames 10, 15, 20, ... of
the film are shown, and a box on the second of them has ``frame="15"``. An export is of one task (``meta/task``), of one job, which is
a stretch of a task (``meta/job``), or of a project (``meta/project/tasks/task``). A project's frame numbers run on: those of
a task begin where the numbers of the tasks before it in its subset end, each of which takes ``start_frame + step * size`` of them.

The file is read with defusedxml, and a file that declares a document type or an entity is rejected.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

import defusedxml
import defusedxml.ElementTree

from ultravid.datasets.bounds import MAX_ANNOTATION_BYTES
from ultravid.datasets.safe_files import read_bytes
from ultravid.datasets.video import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["CvatExport", "CvatTask", "parse_cvat", "whole_number"]

_STEP = re.compile(r"\s*step\s*=\s*([1-9]\d{0,8})\s*")
_WHOLE = re.compile(r"\s*(-?\d{1,15})\s*", re.ASCII)


@dataclass(frozen=True)
class CvatTask:
    """One task, or the job that was exported: a stretch of one film.

    Attributes:
        task_id: as the file gives it; "" if it gives none.
        name: the name of the task; "" if the file gives none.
        source: the film's name; None if the file gives none.
        start: its first frame, a number of the film.
        stop: its last possible frame; None if the file does not say.
        step: from one of its frames to the next.
        num_frames: None if the file does not say.
        size: (height, width) of the film; None if the file does not say.
        offset: what a project adds to the film's frame numbers.
        deleted: numbers under ``deleted_frames``, as the file gives them.
    """

    task_id: str = ""
    name: str = ""
    source: str | None = None
    start: int = 0
    stop: int | None = None
    step: int = 1
    num_frames: int | None = None
    size: tuple[int, int] | None = None
    offset: int = 0
    deleted: frozenset[int] = frozenset()

    def select(self, film: Sequence[int]) -> list[int]:
        """The task's frames among a film's frame numbers, which rise."""
        last = film[-1] if self.stop is None else min(self.stop, film[-1])
        wanted = range(self.start, last + 1, self.step)
        chosen = (
            list(film[self.start : last + 1 : self.step])
            if isinstance(film, range)
            else [n for n in film if n in wanted]
        )
        return chosen if self.num_frames is None else chosen[: self.num_frames]

    def deleted_in(self, numbers: Sequence[int]) -> tuple[set[int], str | None]:
        """The film's numbers of deleted frames, and the first that is none of ``numbers`` (None: all are).

        The numbers count the film's frames, as all numbers of the file; if they can't, the task's frames.
        """
        known = set(numbers)
        count_film = {number - self.offset for number in self.deleted}
        if count_film <= known:
            return count_film, None
        if self.deleted <= known:
            return set(self.deleted), None
        if all(number < len(numbers) for number in self.deleted):
            return {numbers[number] for number in self.deleted}, None
        return count_film & known, str(min(self.deleted - {n + self.offset for n in known}))


@dataclass(frozen=True)
class CvatExport:
    """An XML file.

    Attributes:
        root: its ``<annotations>``.
        tasks: at least one.
        labels: in the file's order; empty if it lists none.
        kind: "task", "job", "project", or "" without ``meta``.
        tracks: in the file's order.
        restarts: whether the frame numbers of a project are those of each task's film, and do not run on as CVAT's do.
    """

    root: Element
    tasks: tuple[CvatTask, ...]
    labels: tuple[str, ...] = ()
    kind: str = ""
    tracks: tuple[Element, ...] = field(default=(), repr=False)
    restarts: bool = False

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """A name for each task, by its id, that no other has and that can be a folder's: its own, else its id."""
        plain = {task.task_id: re.sub(r"[/\\\0]+", "_", task.name).strip(". ") for task in self.tasks}
        counts = Counter(plain.values())
        return {task_id: name if name and counts[name] == 1 else task_id for task_id, name in plain.items()}

    @functools.cached_property
    def _tracks_by_task(self) -> dict[str, list[Element]]:
        found: dict[str, list[Element]] = defaultdict(list)
        for track in self.tracks:
            found[(track.get("task_id") or "").strip()].append(track)
        return found

    def tracks_of(self, task: CvatTask) -> list[Element]:
        """The tracks of a task."""
        return list(self.tracks) if len(self.tasks) == 1 else self._tracks_by_task.get(task.task_id, [])

    def tracks_of_no_task(self) -> list[Element]:
        """Tracks whose ``task_id`` is not one of the tasks."""
        known = {task.task_id for task in self.tasks}
        given = [(track, (track.get("task_id") or "").strip()) for track in self.tracks]
        return [track for track, task_id in given if task_id not in known and (task_id or len(self.tasks) > 1)]


def parse_cvat(path: Path) -> CvatExport:
    """Read an XML file.

    Raises:
        DataError: it can't be read, is not an export "CVAT for video", or its tasks can't be understood.
    """
    root = _parse(path)
    meta = root.find("meta")
    tracks = tuple(root.findall("track"))
    if meta is None:
        return CvatExport(root, (CvatTask(),), tracks=tracks)
    kind = next((tag for tag in ("task", "project", "job") if meta.find(tag) is not None), "")
    if not kind:
        return CvatExport(root, (replace(CvatTask(), source=_text(meta, "source")),), tracks=tracks)
    inner = meta.find(kind)
    assert inner is not None, "just found"
    found = inner.findall("tasks/task") if kind == "project" else [inner]
    if not found:
        raise DataError(f"{path}: is the export of a project without a task.")
    tasks = tuple(_task(element, meta, path, kind) for element in found)
    if kind == "project":
        ids = [task.task_id for task in tasks]
        repeated = [(task_id, number) for task_id, number in Counter(ids).items() if number > 1]
        if repeated:
            raise DataError(f"{path}: {repeated[0][1]} tasks have the id {repeated[0][0]!r}.")
    labels = tuple(e.text or "" for e in inner.findall("labels/label/name"))
    shifted = _with_offsets(tasks, [_text(element, "subset") or "" for element in found], tracks)
    restarts = shifted is None
    return CvatExport(root, tasks if shifted is None else shifted, labels, kind, tracks, restarts)


def whole_number(text: str | None) -> int | None:
    """A whole number of up to 15 digits; None if the text is none."""
    match = _WHOLE.fullmatch(text or "")
    return int(match[1]) if match else None


def _parse(path: Path) -> Element:
    try:
        root = defusedxml.ElementTree.fromstring(read_bytes(path, MAX_ANNOTATION_BYTES), forbid_dtd=True)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    except (
        ParseError,
        ValueError,
        LookupError,
    ) as error:  # the last two: an encoding that is unknown or of several bytes
        if isinstance(error, defusedxml.DefusedXmlException):
            raise DataError(
                f"{path}: declares a document type or an entity ({type(error).__name__}), which CVAT never does."
            ) from None
        raise DataError(f"{path}: is not XML: {error}.") from error
    if root is None or root.tag != "annotations":
        raise DataError(f"{path}: starts with <{root.tag if root is not None else ''}>, not with CVAT's <annotations>.")
    if root.find("image") is not None:
        raise DataError(f"{path}: is an export 'CVAT for images'; choose 'CVAT for video 1.1', which keeps the tracks.")
    return root


def _text(element: Element | None, tag: str) -> str | None:
    return (element.findtext(tag) or "").strip() or None if element is not None else None


def _task(element: Element, meta: Element, path: Path, kind: str) -> CvatTask:
    task_id = _text(element, "id") or ""
    where = f"{path}: task {task_id!r}: " if kind == "project" else f"{path}: "

    def number(tag: str) -> int | None:
        text = _text(element, tag)
        value = whole_number(text)
        if text is not None and (value is None or value < 0):
            raise DataError(f"{where}<{tag}> is {text!r}, not a whole number.")
        return value

    written = _text(element, "frame_filter")
    step = _STEP.fullmatch(written or "step=1")
    if step is None:
        raise DataError(f"{where}<frame_filter> is {written!r}, not step=N with N from 1.")
    start, stop = number("start_frame") or 0, number("stop_frame")
    if stop is not None and stop < start:
        raise DataError(f"{where}<stop_frame> is {stop}, before <start_frame> {start}.")
    alone = None if kind == "project" else meta
    sides = [_text(element, f"original_size/{s}") or _text(alone, f"original_size/{s}") for s in ("height", "width")]
    height, width = map(whole_number, sides)
    return CvatTask(
        task_id=task_id,
        name=_text(element, "name") or "",
        source=_text(element, "source") or _text(alone, "source"),
        start=start,
        stop=stop,
        step=int(step[1]),
        num_frames=number("size"),
        size=(height, width) if height and width else None,
        deleted=_deleted(element.findall("deleted_frames"), where),
    )


def _deleted(elements: Iterable[Element], where: str) -> frozenset[int]:
    """Numbers in the text of ``deleted_frames`` and of what is in it, and in ``frame``, ``number`` or ``id`` of the latter."""
    found = set()
    for element in elements:
        texts = [*element.itertext(), *(e.get(key) or "" for e in element.iter() for key in ("frame", "number", "id"))]
        for text in (t for joined in texts for t in re.split(r"[\s,;\[\]]+", joined) if t):
            value = whole_number(text)
            if value is None or value < 0:
                raise DataError(f"{where}<deleted_frames> holds {text!r}, not a frame number.")
            found.add(value)
    return frozenset(found)


def _with_offsets(
    tasks: tuple[CvatTask, ...], subsets: Sequence[str], tracks: Iterable[Element]
) -> tuple[CvatTask, ...] | None:
    """The tasks of a project with their offsets; None if a number lies before its task's, so that numbers do not run on."""
    shifted, begin, before = [], 0, None
    for task, subset in zip(tasks, subsets, strict=True):
        begin = begin if subset == before else 0
        before = subset
        shifted.append(replace(task, offset=begin))
        num_frames = task.num_frames
        if num_frames is None and task.stop is not None:
            num_frames = (task.stop - task.start) // task.step + 1
        if num_frames is None and task is not tasks[-1]:
            return None  # without the length of a task its numbers can't run on
        begin += task.start + task.step * (num_frames or 0)
    first = {task.task_id: task.offset + task.start for task in shifted if task.offset}
    for track in tracks:
        lowest = first.get((track.get("task_id") or "").strip(), 0)
        numbers = [whole_number(shape.get("frame")) for shape in track]
        if any(number is not None and 0 <= number < lowest for number in numbers):
            return None
    return tuple(shifted)
