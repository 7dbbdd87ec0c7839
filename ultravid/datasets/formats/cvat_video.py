"""Reader of the XML that CVAT exports as "CVAT for video 1.1": tracks of boxes over a movie, a DICOM file or an image folder.

``<track id label><box frame keyframe outside occluded xtl ytl xbr ybr/></track>``. Frame numbers are those of the film, also if the
task begins later or shows every n-th frame (`ultravid.datasets.formats.cvat_tasks`). CVAT writes a box for every frame of a
track, those between key frames already interpolated; a box with ``outside="1"`` says that the lesion is not visible. A track that holds
only key frames, with gaps, is filled as CVAT shows it: linearly between two key frames, and held after the last until the
task ends. Frames that were deleted in CVAT are left out: CVAT neither shows nor exports them.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultravid.datasets.bounds import MAX_FILLED
from ultravid.datasets.boxes import repair_box
from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.formats.common import Row, check_unique_ids, make_frame, make_video, require_folder
from ultravid.datasets.formats.cvat_tasks import CvatExport, CvatTask, parse_cvat, whole_number
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.json_files import read_json
from ultravid.datasets.masks import read_masks
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers import FrameSource, open_source, read_sidecar
from ultravid.datasets.readers.images import natural_order
from ultravid.datasets.readers.opener import is_dicom
from ultravid.datasets.readers.shown import Shown, choose_shown
from ultravid.datasets.video import DataError, Frame, Video

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["load_cvat_video"]


@dataclass(frozen=True)
class _Box:
    """A shape of a track; ``frame`` is the film's frame number."""

    frame: int
    corners: tuple[float, float, float, float]
    outside: bool
    occluded: bool
    keyframe: bool


@dataclass(frozen=True)
class _Track:
    track_id: int
    kind: int
    boxes: list[_Box]


_FILLED = "boxes between and after key frames were filled in, as CVAT shows them"
_DELETED = "frames were deleted in CVAT and are left out"
_UNLISTED = "frames are left out: a visible lesion has no box in them, as in frames that were deleted in CVAT"
_OPEN_END = "tracks end, visible, before the task does, and were not continued"
_ON_DELETED = "boxes were on frames that were deleted in CVAT and are left out"
_SHORT = "tasks have more frames than their film, and end where it ends"
_BY_NAME = "films were found by the name of the XML or the task, not by the name that the XML gives"
_ONE_FILM = "films are named by several tasks, each of which became a video"
_RESTARTS = "projects give each task's own frame numbers; CVAT's run on from task to task"
_TAGS = "tags of frames are not read"
_NATURAL = "image folders were numbered in natural order (2 before 10); CVAT's default puts 10 before 2"
_DELETED_BY_TASK = "lists of deleted frames count the task's frames, not the film's"


def load_cvat_video(
    *,
    xml: str | Path,
    source: str | Path | Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    keep_occluded: bool = True,
    blank_outside_region: bool = False,
    masks: str | Path | None = None,
    patients: str | Path | None = None,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read one export of CVAT, or a folder of them.

    A task or a job is one video, named after its file; each task of a project is one, named ``<file>/<task>``.

    Args:
        xml: the file, or a folder whose ``*.xml`` are read in natural order; local or mounted.
        source: the movie, DICOM file or image folder of the only task. Of several tasks: a table from the video's name, or the
            task's id or name, to the film, as a mapping or the address of a JSON object; relative names lie beside the XML. None:
            the one that the XML names, in the XML's folder, or one with the XML's (for a project: the task's) name.
        classes: labels in the order of their numbers; None: in the order of the first XML.
        class_agnostic: use one class, "lesion", whatever the label.
        keep_occluded: use boxes that are marked as occluded.
        blank_outside_region: black out what is outside of a DICOM file's ultrasound region; frames keep the size on which boxes
            were drawn.
        masks: a table of what to black out besides, by device and image size, see `ultravid.datasets.masks`. None: nothing.
        patients: a rule for patients, or a table of them by video name, see `ultravid.datasets.patients.patient_rule`; a rule
            looks at the recording's path from the XML's folder. None: what a sidecar or a DICOM file states.
        faults: collects all faults, and the videos and boxes without them are returned.

    Raises:
        DataError: a file is missing or holds what can't be used. Without ``faults``, the first fault is reported and the others
            are counted.
    """
    xml = require_folder(xml)
    files = _xml_files(xml)
    table = source if isinstance(source, str | Path) and str(source).lower().endswith(".json") else None

    def build() -> Index:
        own = FileFaults(xml, faults)
        films = _Films(read_json(table) if table is not None else source, table)
        table_of_masks = read_masks(masks)
        show = functools.partial(
            choose_shown, crop=False, blank_outside_region=blank_outside_region, masks=table_of_masks
        )
        reader = _Reader(own, films, tuple(classes or ()), class_agnostic, keep_occluded, patient_rule(patients), show)
        exports = []
        for path in files:
            with reader.rejecting():
                exports.append((path, parse_cvat(path)))
        films.check([(path, export.tasks) for path, export in exports], xml)
        for path, export in exports:
            with reader.rejecting():
                reader.read(path, export)
        if reader.videos:
            table_of_masks.check_used(masks, xml)
        reader.patients.check([video.video_id for video in reader.videos], own)
        return Index(check_unique_ids(reader.videos, own), own.close(), tuple(reader.watched))

    arguments = {
        "source": json.dumps(source)
        if isinstance(source, Mapping)
        else str(Path(source).absolute())
        if source
        else None,
        "classes": list(classes) if classes else None,
        "class_agnostic": class_agnostic,
        "keep_occluded": keep_occluded,
        "blank_outside_region": blank_outside_region,
        "patients": str(patients),
    }
    return cached_index("cvat_video", arguments, [*files, table, table_address(patients), masks], build, faults)


def _xml_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [p for p in path.iterdir() if p.suffix.lower() == ".xml" and not p.name.startswith(".")]
    if not found:
        raise DataError(f"{path}: holds no XML file.")
    return sorted(found, key=lambda p: natural_order(p.name))


class _Films:
    """Finds the film of each task.

    Args:
        given: what the user named: one film, a table, or nothing.
        table: the address of the table, for messages.
    """

    def __init__(self, given: Any, table: str | Path | None) -> None:
        self.one = Path(given) if isinstance(given, str | Path) else None
        self.table: Mapping[str, str] = given if isinstance(given, Mapping) else {}
        self.name = table or "source"
        texts = isinstance(given, Mapping) and all(isinstance(v, str) for v in given.values())
        if given is not None and self.one is None and not texts:
            raise DataError(
                f"{self.name}: is not an object from a video, or a task's id or name, to the name of a film."
            )

    def check(self, exports: Sequence[tuple[Path, Sequence[CvatTask]]], xml: Path) -> None:
        """Refuse one film for several tasks, and entries of the table that belong to none."""
        num_tasks = sum(len(tasks) for _, tasks in exports)
        if self.one is not None and num_tasks > 1:
            raise DataError(
                f"{xml}: holds {len(exports)} XML files with {num_tasks} tasks, but one source was named for all of them. Name a "
                'table as source: a JSON object from task to film, such as {"12": "a.mp4", "13": "b.mp4"}.'
            )
        keys = {key for path, tasks in exports for task in tasks for key in self._keys(path, task, tasks)}
        unknown = sorted(set(self.table) - keys)
        if unknown:
            raise DataError(
                f"{self.name}: names {unknown[0]!r}, which is no task of {xml}; tasks: {', '.join(sorted(keys))}."
            )

    @staticmethod
    def _keys(path: Path, task: CvatTask, tasks: Sequence[CvatTask]) -> tuple[str, ...]:
        names = (task.name,) if [t.name for t in tasks].count(task.name) == 1 else ()
        return tuple(key for key in (_video_id(path, task, tasks), task.task_id, *names) if key)

    def find(self, path: Path, task: CvatTask, tasks: Sequence[CvatTask], faults: FileFaults) -> Path:
        """The film of a task.

        Raises:
            DataError: it can't be told which.
        """
        if self.one is not None:
            return self.one
        chosen = next((self.table[key] for key in self._keys(path, task, tasks) if key in self.table), None)
        if chosen is not None:
            return path.parent / chosen
        if task.source is not None:
            named = path.parent / Path(task.source.replace("\\", "/")).name
            if named != path.parent and named.exists():
                return named
        where = f"{path}" if len(tasks) == 1 else f"{path}: task {task.task_id!r} ({task.name})"
        stem = path.stem if len(tasks) == 1 else Path(task.name.replace("\\", "/")).name
        found = _with_name(path.parent, stem)
        if len(found) != 1:
            named_text = (
                f"{task.source!r}, which it names, is not in its folder" if task.source else "it names no movie"
            )
            owner = "its name" if len(tasks) == 1 else "the task's name"
            raise DataError(f"{where}: {named_text}, and {len(found)} files have {owner}. Name the movie as source.")
        if task.source is not None:
            faults.repair(_BY_NAME, f"{where}: {found[0].name} for {task.source!r}")
        return found[0]


def _with_name(folder: Path, name: str) -> list[Path]:
    """Films and folders whose name, or name without suffix, is the given one."""
    if not name or not folder.is_dir():
        return []
    others = (".xml", ".json")
    return [p for p in sorted(folder.iterdir()) if name in (p.name, p.stem) and p.suffix.lower() not in others]


def _video_id(path: Path, task: CvatTask, tasks: Sequence[CvatTask]) -> str:
    if len(tasks) == 1:
        return path.stem
    plain = [re.sub(r"[/\\\0]+", "_", t.name).strip(". ") for t in tasks]
    name = plain[[t.task_id for t in tasks].index(task.task_id)]
    return f"{path.stem}/{name if name and plain.count(name) == 1 else task.task_id}"


class _Reader:
    """Reads the videos of one call."""

    def __init__(
        self,
        faults: FileFaults,
        films: _Films,
        classes: tuple[str, ...],
        class_agnostic: bool,
        keep_occluded: bool,
        patients: PatientRule,
        show: Callable[..., Shown],
    ) -> None:
        self.faults = faults
        self.films = films
        self.classes = classes
        self.class_agnostic = class_agnostic
        self.keep_occluded = keep_occluded
        self.patients = patients
        self.show = show
        self.videos: list[Video] = []
        self.watched: list[Path] = []
        self.num_images = 0

    @contextlib.contextmanager
    def rejecting(self) -> Iterator[None]:
        """Turn an error of one video into a rejection, if there is a sink that takes it."""
        try:
            yield
        except DataError as error:
            if self.faults.sink is None:
                raise
            self.faults.reject("video can't be read", str(error).rstrip("."))

    def read(self, path: Path, export: CvatExport) -> None:
        """The videos of a file."""
        self.classes = self.classes or export.labels
        for element in export.tracks_of_no_task():
            known = ", ".join(task.task_id for task in export.tasks) or "none"
            what = f"is of task {element.get('task_id')!r}; the file's tasks are {known}"
            self.faults.reject("bad track", f"video {path.stem!r} track {element.get('id')!r}: {what}")
        if export.restarts:
            self.faults.repair(_RESTARTS, str(path))
        for tag in (child for child in export.root if child.tag not in ("version", "meta", "track")):
            self.faults.repair(_TAGS, f"{path}: <{tag.tag}> {tag.get('label')!r} of frame {tag.get('frame')}")
        sources = [task.source for task in export.tasks if task.source]
        for source in sorted({s for s in sources if sources.count(s) > 1}):
            self.faults.repair(_ONE_FILM, f"{path}: {source!r} of {sources.count(source)} tasks")
        for task in export.tasks:
            with self.rejecting():
                self._read_task(path, export, task)

    def _read_task(self, path: Path, export: CvatExport, task: CvatTask) -> None:
        recording = self.films.find(path, task, export.tasks, self.faults)
        self.watched += [path.parent, recording.parent]
        film = open_source(recording, crop=False)
        try:
            video_id = _video_id(path, task, export.tasks)
            numbers = _FrameNumbers(f"{path}: video {video_id!r}", task, film, self.faults)
            tracks = self._tracks(export.tracks_of(task), video_id, task)
            rows = _rows(tracks, numbers, self.keep_occluded, f"video {video_id!r}", self.faults)
            video = self._video(path, video_id, recording, film, numbers, rows)
        finally:
            film.close()
        self.videos.append(video)
        self.num_images += len(video)

    def _tracks(self, elements: Sequence[Element], video_id: str, task: CvatTask) -> list[_Track]:
        tracks: dict[int, _Track] = {}
        for n, element in enumerate(elements):
            label, text = element.get("label") or "", element.get("id") or str(n)
            where = f"video {video_id!r} track {text!r}"
            track_id = whole_number(text)
            fault = None
            if track_id is None or track_id < 0:
                fault = "its id is not a whole number"
            elif track_id in tracks:
                fault = "another track has the same id"
            elif not self.class_agnostic and label not in self.classes:
                fault = (
                    f"label {label!r} is not one of {', '.join(self.classes) or 'the labels in meta, which has none'}"
                )
            if track_id is None or fault is not None:
                self.faults.reject("bad track", f"{where}: {fault}")
                continue
            boxes: dict[int, _Box] = {}
            for shape in element:
                box = _box(shape, task.offset, where, self.faults)
                if box is not None and box.frame in boxes:
                    self.faults.reject("bad box", f"{where} frame {shape.get('frame')}: has two boxes")
                elif box is not None:
                    boxes[box.frame] = box
            kind = 0 if self.class_agnostic else self.classes.index(label)
            tracks[track_id] = _Track(track_id, kind, sorted(boxes.values(), key=lambda b: b.frame))
        return list(tracks.values())

    def _video(
        self,
        path: Path,
        video_id: str,
        recording: Path,
        film: FrameSource,
        numbers: _FrameNumbers,
        rows: Mapping[int, Sequence[tuple[_Box, int, int]]],
    ) -> Video:
        sidecar = read_sidecar(recording)
        metadata: dict[str, Any] = {**film.metadata, **sidecar.metadata}
        shown = self.show(film, device=str(metadata.get("device", "")))
        frames: list[Frame] = []
        for number in numbers.kept:
            found: list[Row] = []
            for box, kind, track_id in rows.get(number, ()):
                label = f"video {video_id!r} frame {number} track {track_id}"
                corners = repair_box(list(box.corners), *film.size, label, self.faults)
                if corners is not None:
                    found.append((corners, kind, track_id))
            place = numbers.place[number]
            time_s = None if film.times_s is None else float(film.times_s[place])
            image_id = self.num_images + len(frames)
            own = {"number": number, "time_s": time_s, "blanked": shown.blanked}
            frames.append(make_frame(film.place(place), image_id, film.size, found, **own))
        if not frames:
            raise DataError(f"{path}: video {video_id!r}: no frame is left.")
        for what, message in film.repairs:
            self.faults.repair(what, f"{path}: video {video_id!r}: {message}")
        if shown.fault is not None:
            self.faults.repair(shown.fault, f"{path}: video {video_id!r}")
        dicom = recording if not recording.is_dir() and is_dicom(recording) else None
        below = os.path.relpath(recording, path.parent).replace(os.sep, "/")
        patient = self.patients.patient(video_id, sidecar.patient, path=below, dicom=dicom)
        more = {
            "fps": sidecar.fps or film.fps,
            "metadata": metadata,
            "class_names": ("lesion",) if self.class_agnostic else self.classes,
            "may_show_text": shown.fault is not None,
        }
        return make_video(video_id, frames, patient, **more)


class _FrameNumbers:
    """The frames of a film that a task shows.

    Args:
        where: file and video, for messages.
        task: of the film.
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


def _box(element: Element, offset: int, where: str, faults: FileFaults) -> _Box | None:
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
    return _Box(frame - offset, corners, bool(flags["outside"]), bool(flags["occluded"]), bool(flags["keyframe"]))


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


def _rows(
    tracks: Sequence[_Track], numbers: _FrameNumbers, keep_occluded: bool, where: str, faults: FileFaults
) -> dict[int, list[tuple[_Box, int, int]]]:
    """(box, class, track id) of what is visible in each frame, by the film's frame number."""
    found: dict[int, list[tuple[_Box, int, int]]] = defaultdict(list)
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
            faults.repair(_FILLED, f"{here}: {len(filled) - len(boxes)} from {len(boxes)} key frames")
        if filled and not filled[-1].outside and filled[-1].frame < numbers.kept[-1]:
            faults.repair(_OPEN_END, f"{here} frame {filled[-1].frame}")
        missing |= dict.fromkeys(gaps, here)
        for box in filled:
            if not box.outside and (keep_occluded or not box.occluded):
                found[box.frame].append((box, track.kind, track.track_id))
    for number in sorted(missing):
        if number in found:
            what = "its lesion is visible before and after, but has no box, and another lesion has one"
            faults.reject("box is missing", f"{missing[number]} frame {number}: {what}")
        else:
            faults.repair(_UNLISTED, f"{missing[number]} frame {number}")
            numbers.leave_out(number)
    return found


def _in_film(track: _Track, numbers: _FrameNumbers, where: str, faults: FileFaults) -> list[_Box]:
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


def _filled(boxes: list[_Box], numbers: Sequence[int], place: Mapping[int, int]) -> tuple[list[_Box], list[int]]:
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
            filled.append(_Box(frame, (x1, y1, x2, y2), False, a.occluded, False))
    last = boxes[-1]
    after = [] if last.outside else numbers[place[last.frame] + 1 :]
    return [*filled, last, *(_Box(f, last.corners, False, last.occluded, False) for f in after)], []
