"""Reader of the XML that CVAT exports as "CVAT for video 1.1": tracks of boxes over a movie, a DICOM file or an image folder.

``<track id label><box frame keyframe outside occluded xtl ytl xbr ybr/></track>``. Frame numbers are those of the film, also if the
task begins later or shows every n-th frame (`ultravid.datasets.formats.cvat_tasks`). CVAT writes a box for every frame of a
track, those between key frames already interpolated; a box with ``outside="1"`` says that the lesion is not visible. A track that holds
only key frames, with gaps, is filled as CVAT shows it: linearly between two key frames, and held after the last until the
task ends. Frames that were deleted in CVAT are left out: CVAT neither shows nor exports them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ultravid.datasets.boxes import repair_box
from ultravid.datasets.faults import FaultSink, FileFaults, as_data_error
from ultravid.datasets.folders import natural_order
from ultravid.datasets.formats.common import Row, check_unique_ids, require_folder
from ultravid.datasets.formats.cvat_tasks import CvatExport, CvatTask, parse_cvat
from ultravid.datasets.formats.cvat_tracks import CvatBox, FrameNumbers, boxes_by_frame, read_tracks
from ultravid.datasets.formats.films import Film
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.json_files import read_json
from ultravid.datasets.masks import read_masks
from ultravid.datasets.missing_files import MissingFiles
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers import FrameSource, open_source
from ultravid.datasets.readers.shown import Shown, choose_shown
from ultravid.datasets.safe_files import NamedFiles
from ultravid.datasets.video import DataError, Frame, Video

__all__ = ["load_cvat_video"]

_BY_NAME = "films were found by the name of the XML or the task, not by the name that the XML gives"
_ONE_FILM = "films are named by several tasks, each of which became a video"
_RESTARTS = "projects give each task's own frame numbers; CVAT's run on from task to task"
_TAGS = "tags of frames are not read"
_HOW_TO_NAME = "Name the movie: --option source=FILE, or source in a config"


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
    allow_outside_root: bool = False,
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
        allow_outside_root: follow a link, of the name that an XML gives its film, out of the XML's folder.
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
        films = _Films(read_json(table) if table is not None else source, table, allow_outside_root)
        table_of_masks = read_masks(masks)
        show = functools.partial(
            choose_shown, crop=False, blank_outside_region=blank_outside_region, masks=table_of_masks
        )
        reader = _Reader(own, films, tuple(classes or ()), class_agnostic, keep_occluded, patient_rule(patients), show)
        reader.read_all(files, xml)
        if reader.videos:
            table_of_masks.check_used(masks, own)
        reader.patients.check([video.video_id for video in reader.videos], own)
        return Index(check_unique_ids(reader.videos, own), own.close(), tuple(reader.watched))

    named = None if not source else json.dumps(source) if isinstance(source, Mapping) else str(Path(source).absolute())
    arguments = {
        "source": named,
        "classes": list(classes) if classes else None,
        "class_agnostic": class_agnostic,
        "keep_occluded": keep_occluded,
        "blank_outside_region": blank_outside_region,
        "patients": str(patients),
        "allow_outside_root": allow_outside_root,
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
        allow_outside_root: see `load_cvat_video`.
    """

    def __init__(self, given: Any, table: str | Path | None, allow_outside_root: bool) -> None:
        self.allow_outside_root = allow_outside_root
        self.one = Path(given) if isinstance(given, str | Path) else None
        self.table: Mapping[str, str] = given if isinstance(given, Mapping) else {}
        self.name = table or "source"
        self.named: Counter[str] = Counter()  # films that XMLs name
        texts = isinstance(given, Mapping) and all(isinstance(v, str) for v in given.values())
        if given is not None and self.one is None and not texts:
            raise DataError(
                f"{self.name}: is not an object from a video, or a task's id or name, to the name of a film."
            )

    def check(self, exports: Sequence[tuple[Path, CvatExport]], xml: Path, faults: FileFaults) -> None:
        """Refuse one film for several tasks, and entries of the table that belong to none or to several."""
        num_tasks = sum(len(export.tasks) for _, export in exports)
        if self.one is not None and num_tasks > 1:
            raise DataError(
                f"{xml}: holds {len(exports)} XML files with {num_tasks} tasks, but one source was named for all of them. Name a "
                'table as source: a JSON object from task to film, such as {"12": "a.mp4", "13": "b.mp4"}.'
            )
        each = [(path, export, task) for path, export in exports for task in export.tasks]
        keys = Counter(key for found in each for key in self._keys(*found))
        for key in sorted(self.table):
            if keys[key] != 1:
                what = f"fits {keys[key]} tasks" if keys[key] else "is no task"
                known = ", ".join(sorted(k for k, number in keys.items() if number == 1)[:20])
                raise DataError(f"{self.name}: names {key!r}, which {what} of {xml}; tasks: {known}.")
        self.named = Counter(_file_name(task.source) for _, _, task in each if task.source)
        if not self.table:
            for name, number in self.named.items():
                if number > 1:
                    faults.repair(_ONE_FILM, f"{xml}: {name!r} of {number} tasks")

    def missing(self, exports: Sequence[tuple[Path, CvatExport]], xml: Path) -> MissingFiles:
        """The films that are not found, by the names that the exports give them."""
        how = "put them beside the XML files, or name a table from video to film: --option source=TABLE.json, or source in a config"
        missing = MissingFiles(xml if xml.is_dir() else xml.parent, how, what="films")
        for path, export in exports:
            for task in export.tasks:
                try:
                    film, why = self.find(path, export, task, FileFaults(path)), ""
                except DataError as error:
                    film, why = Path(task.source or path.stem), str(error).rstrip(".")
                if why or not os.path.exists(film):  # Path.exists raises for a name that is too long
                    video_id = _video_id(path, export, task)
                    missing.add(film.name, why or f"video {video_id!r}: {film} does not exist", video_id)
        return missing

    @staticmethod
    def _keys(path: Path, export: CvatExport, task: CvatTask) -> list[str]:
        return list(
            dict.fromkeys(filter(None, (_video_id(path, export, task), task.task_id, export.names[task.task_id])))
        )

    def find(self, path: Path, export: CvatExport, task: CvatTask, faults: FileFaults) -> Path:
        """The film of a task.

        Raises:
            DataError: it can't be told which.
        """
        if self.one is not None:
            return _existing(self.one, path.parent)
        chosen = next((self.table[key] for key in self._keys(path, export, task) if key in self.table), None)
        if chosen is not None:
            return path.parent / chosen
        if task.source is not None:
            name = _file_name(task.source)
            if name and os.path.lexists(path.parent / name):
                return NamedFiles(path.parent, allow_outside_root=self.allow_outside_root).path(name)
        alone = len(export.tasks) == 1
        where = f"{path}" if alone else f"{path}: task {task.task_id!r} ({task.name})"
        found = _with_name(path.parent, path.stem if alone else _file_name(task.name))
        found = [film for film in found if film.name not in self.named]  # that is another task's
        if len(found) != 1:
            named_text = (
                f"{task.source!r}, which it names, is not in its folder" if task.source else "it names no movie"
            )
            owner = "its name" if alone else "the task's name"
            raise DataError(f"{where}: {named_text}, and {len(found)} files have {owner}. {_HOW_TO_NAME}.")
        if task.source is not None:
            faults.repair(_BY_NAME, f"{where}: {found[0].name} for {task.source!r}")
        return found[0]


def _existing(film: Path, folder: Path) -> Path:
    """A film that the user named, which is not looked for in ``folder``, that of the XML.

    Raises:
        DataError: it does not exist.
    """
    if not os.path.lexists(film):
        where = "" if film.is_absolute() else f" in the working folder, {Path.cwd()}"
        beside = f"; {folder / film} exists" if os.path.lexists(folder / film) else ""
        raise DataError(f"The source {film} does not exist{where}{beside}.")
    return film


def _with_name(folder: Path, name: str) -> list[Path]:
    """Films and folders whose name, or name without suffix, is the given one."""
    if not name or not folder.is_dir():
        return []
    others = (".xml", ".json")
    return [p for p in sorted(folder.iterdir()) if name in (p.name, p.stem) and p.suffix.lower() not in others]


def _file_name(name: str) -> str:
    """The last part of a path of any system."""
    return PurePosixPath(name.replace("\\", "/")).name


def _video_id(path: Path, export: CvatExport, task: CvatTask) -> str:
    return path.stem if len(export.tasks) == 1 else f"{path.stem}/{export.names[task.task_id]}"


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
    def rejecting(self, path: Path) -> Iterator[None]:
        """Turn an error of one video into a rejection, if there is a sink that takes it."""
        try:
            with as_data_error(path):
                yield
        except DataError as error:
            if self.faults.sink is None:
                raise
            self.faults.reject("video can't be read", str(error).rstrip("."), whole_video=True)

    def read_all(self, files: Sequence[Path], xml: Path) -> None:
        """The videos of all files; ``xml`` is the file or folder that was named."""
        exports = []
        for path in files:
            with self.rejecting(path):
                exports.append((path, parse_cvat(path)))
        self.films.check(exports, xml, self.faults)
        missing = self.films.missing(exports, xml)
        if missing.are_nearly_all(total := sum(len(export.tasks) for _, export in exports)) and total > 1:
            missing.report(total, self.faults)
            exports = []
        for path, export in exports:
            with self.rejecting(path):
                self.read(path, export)

    def read(self, path: Path, export: CvatExport) -> None:
        """The videos of a file."""
        self.classes = self.classes or export.labels
        for element in export.tracks_of_no_task():
            known = ", ".join(task.task_id for task in export.tasks) or "none"
            what = f"is of task {element.get('task_id')!r}; the file's tasks are {known}"
            any_of = [_video_id(path, export, task) for task in export.tasks]
            self.faults.reject("bad track", f"video {path.stem!r} track {element.get('id')!r}: {what}", videos=any_of)
        if export.restarts:
            self.faults.repair(_RESTARTS, str(path))
        for tag in (child for child in export.root if child.tag not in ("version", "meta", "track")):
            self.faults.repair(_TAGS, f"{path}: <{tag.tag}> {tag.get('label')!r} of frame {tag.get('frame')}")
        for task in export.tasks:
            with self.rejecting(path):
                self._read_task(path, export, task)

    def _read_task(self, path: Path, export: CvatExport, task: CvatTask) -> None:
        recording = self.films.find(path, export, task, self.faults)
        self.watched += [path.parent, recording.parent]
        source = open_source(recording, crop=False)
        try:
            video_id = _video_id(path, export, task)
            faults = self.faults.of_video(video_id)
            numbers = FrameNumbers(f"{path}: video {video_id!r}", task, source, faults)
            where, read = f"video {video_id!r}", None if self.class_agnostic else self.classes
            tracks = read_tracks(export.tracks_of(task), read, task.offset, where, faults)
            rows = boxes_by_frame(tracks, numbers, self.keep_occluded, where, faults)
            video = self._video(path, video_id, source, numbers, rows, faults)
        finally:
            source.close()
        self.videos.append(video)
        self.num_images += len(video)

    def _video(
        self,
        path: Path,
        video_id: str,
        source: FrameSource,
        numbers: FrameNumbers,
        rows: Mapping[int, Sequence[tuple[CvatBox, str, int]]],
        faults: FileFaults,
    ) -> Video:
        film = Film(source, video_id, self.show, f"{path}: video {video_id!r}")
        frames: list[Frame] = []
        merged: Counter[str] = Counter()
        for number in numbers.kept:
            found: list[Row] = []
            for box, name, track_id in rows.get(number, ()):
                label = f"video {video_id!r} frame {number} track {track_id}"
                corners = repair_box(list(box.corners), *source.size, label, faults)
                if corners is not None:
                    merged[name] += 1
                    found.append((corners, 0 if self.class_agnostic else self.classes.index(name), track_id))
            image_id = self.num_images + len(frames)
            frames.append(film.frame(numbers.place[number], image_id, found, number=number))
        if not frames:
            raise DataError(f"{path}: video {video_id!r}: no frame is left.")
        below = os.path.relpath(source.path, path.parent).replace(os.sep, "/")
        more = {
            "class_names": ("lesion",) if self.class_agnostic else self.classes,
            "merged_classes": dict(merged) if self.class_agnostic else {},
        }
        return film.video(frames, self.patients, faults, path=below, **more)
