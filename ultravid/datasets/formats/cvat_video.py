"""Reader of the XML that CVAT exports as "CVAT for video 1.1": tracks of boxes over a movie, a DICOM file or an image folder.

``<track id label><box frame keyframe outside occluded xtl ytl xbr ybr/></track>``. CVAT writes a box for every frame of a track, those
between key frames already interpolated; a box with ``outside="1"`` says that the lesion is not visible. A track that holds
only key frames, with gaps, is filled as CVAT shows it: linearly between two key frames, and held after the last until the
task ends. Frame numbers count the task's frames: number n is frame ``start_frame + n * step`` of the movie.

The file is read with defusedxml, and a file that declares a document type or an entity is rejected.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import defusedxml
import defusedxml.ElementTree

from ultravid.datasets.boxes import repair_box
from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.formats.common import Row, check_unique_ids, make_frame, make_video, require_folder
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.patients import PatientRule, check_patients, patient_rule, table_address
from ultravid.datasets.readers import FrameSource, open_source, read_sidecar
from ultravid.datasets.readers.images import natural_order
from ultravid.datasets.readers.opener import is_dicom
from ultravid.datasets.video import DataError, Video

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["load_cvat_video"]


@dataclass(frozen=True)
class _Task:
    """What an XML's ``meta`` says; None if it says nothing."""

    source: str | None
    num_frames: int | None
    start: int
    step: int
    size: tuple[int, int] | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Box:
    frame: int
    corners: tuple[float, float, float, float]
    outside: bool
    occluded: bool
    keyframe: bool


def load_cvat_video(
    *,
    xml: str | Path,
    source: str | Path | None = None,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    keep_occluded: bool = True,
    patients: str | Path | None = None,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read one export of CVAT, or a folder of them.

    Args:
        xml: the file, or a folder whose ``*.xml`` are read in natural order; local or mounted. Each file is one video, named
            after it.
        source: the movie, DICOM file or image folder; None: the one that the XML names, in the XML's folder, or one with the
            XML's name.
        classes: labels in the order of their numbers; None: in the order of the first XML.
        class_agnostic: use one class, "lesion", whatever the label.
        keep_occluded: use boxes that are marked as occluded.
        patients: a rule for patients, or a table of them by video name, see `ultravid.datasets.patients.patient_rule`; a rule
            looks at the recording's path from the XML's folder. None: what a sidecar or a DICOM file states.
        faults: collects all faults, and the videos and boxes without them are returned.

    Raises:
        DataError: a file is missing or holds what can't be used. Without ``faults``, the first fault is reported and the others
            are counted.
    """
    xml = require_folder(xml)
    files = _xml_files(xml)
    if source is not None and len(files) > 1:
        raise DataError(f"{xml}: holds {len(files)} XML files, but one source was named for all of them.")

    def build() -> Index:
        own = FileFaults(xml, faults)
        reader = _Reader(own, source, tuple(classes or ()), class_agnostic, keep_occluded, patient_rule(patients))
        for path in files:
            try:
                reader.read(path)
            except DataError as error:
                if faults is None:
                    raise
                own.reject("video can't be read", str(error).rstrip("."))
        if reader.patients.table:
            check_patients(reader.patients.table, [video.video_id for video in reader.videos], xml)
        return Index(check_unique_ids(reader.videos, own), own.close(), tuple(reader.watched))

    arguments = {
        "source": str(Path(source).absolute()) if source else None,
        "classes": list(classes) if classes else None,
        "class_agnostic": class_agnostic,
        "keep_occluded": keep_occluded,
        "patients": str(patients),
    }
    return cached_index("cvat_video", arguments, [*files, table_address(patients)], build, faults)


class _Reader:
    """Reads the videos of one call."""

    def __init__(
        self,
        faults: FileFaults,
        source: str | Path | None,
        classes: tuple[str, ...],
        class_agnostic: bool,
        keep_occluded: bool,
        patients: PatientRule,
    ) -> None:
        self.faults = faults
        self.source = source
        self.classes = classes
        self.class_agnostic = class_agnostic
        self.keep_occluded = keep_occluded
        self.patients = patients
        self.videos: list[Video] = []
        self.watched: list[Path] = []
        self.num_images = 0

    def read(self, path: Path) -> None:
        root = _parse(path)
        task = _task(root, path)
        self.classes = self.classes or task.labels
        recording = _find_source(path, task, self.source)
        self.watched += [path.parent, recording.parent]
        frames_of = open_source(recording, crop=False)
        tracks = _tracks(root, self.classes, self.class_agnostic, path, self.faults)
        boxes = _boxes_by_frame(tracks, task, self.keep_occluded)
        video = _video(path, recording, frames_of, task, boxes, self.num_images, self.patients, self.faults)
        frames_of.close()
        shown = ("lesion",) if self.class_agnostic else self.classes
        self.videos.append(dataclasses.replace(video, class_names=shown))
        self.num_images += len(video)


def _xml_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.xml"), key=lambda p: natural_order(p.name))
    if not files:
        raise DataError(f"{path}: holds no XML file.")
    return files


def _parse(path: Path) -> Element:
    try:
        root = defusedxml.ElementTree.parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    except ParseError as error:
        raise DataError(f"{path}: is not XML: {error}.") from error
    except defusedxml.DefusedXmlException as error:
        raise DataError(
            f"{path}: declares a document type or an entity ({type(error).__name__}), which CVAT never does."
        ) from None
    if root is None or root.tag != "annotations":
        raise DataError(f"{path}: starts with <{root.tag if root is not None else ''}>, not with CVAT's <annotations>.")
    if root.find("image") is not None:
        raise DataError(f"{path}: is an export 'CVAT for images'; choose 'CVAT for video 1.1', which keeps the tracks.")
    return root


def _task(root: Element, path: Path) -> _Task:
    meta = root.find("meta")
    inner = (
        next((e for e in (meta.find("task"), meta.find("job")) if e is not None), None) if meta is not None else None
    )
    if inner is None:
        return _Task(None, None, 0, 1, None, ())

    def number(tag: str, default: int | None) -> int | None:
        text = (inner.findtext(tag) or "").strip()
        if text and not text.isdecimal():
            raise DataError(f"{path}: <{tag}> is {text!r}, not a whole number.")
        return int(text) if text else default

    step = re.fullmatch(r"\s*step\s*=\s*([1-9]\d*)\s*", inner.findtext("frame_filter") or "step=1")
    sizes = [inner.findtext(f"original_size/{side}") or "" for side in ("height", "width")]
    source = (meta.findtext("source") or inner.findtext("source") or "").strip() if meta is not None else ""
    return _Task(
        source=source or None,
        num_frames=number("size", None),
        start=number("start_frame", 0) or 0,
        step=int(step[1]) if step else 1,
        size=(int(sizes[0]), int(sizes[1])) if all(s.isdecimal() for s in sizes) else None,
        labels=tuple(e.text or "" for e in inner.findall("labels/label/name")),
    )


def _find_source(path: Path, task: _Task, source: str | Path | None) -> Path:
    if source is not None:
        return Path(source)
    if task.source is not None:
        named = path.parent / Path(task.source.replace("\\", "/")).name
        if named.exists():
            return named
    same_name = [p for p in sorted(path.parent.glob(f"{path.stem}.*")) if p.suffix not in (".xml", ".json")]
    folder = path.parent / path.stem
    if folder.is_dir():
        same_name.append(folder)
    if len(same_name) != 1:
        named_text = f"{task.source!r}, which it names, is not in its folder" if task.source else "it names no movie"
        raise DataError(f"{path}: {named_text}, and {len(same_name)} files have its name. Name the movie as source.")
    return same_name[0]


def _tracks(
    root: Element, classes: Sequence[str], class_agnostic: bool, path: Path, faults: FileFaults
) -> list[tuple[int, int, list[_Box]]]:
    """(track id, class, boxes by frame) of each track."""
    tracks = []
    for n, track in enumerate(root.findall("track")):
        label = track.get("label") or ""
        text = track.get("id") or str(n)
        where = f"video {path.stem!r} track {text!r}"
        if not text.isdecimal() or (not class_agnostic and label not in classes):
            what = (
                f"label {label!r} is not one of {', '.join(classes)}"
                if text.isdecimal()
                else "its id is not a whole number"
            )
            faults.reject("bad track", f"{where}: {what}")
            continue
        boxes = []
        for element in track:
            box = _box(element, where, faults)
            if box is not None:
                boxes.append(box)
        number = 0 if class_agnostic else list(classes).index(label)
        tracks.append((int(text), number, sorted(boxes, key=lambda b: b.frame)))
    return tracks


def _box(element: Element, where: str, faults: FileFaults) -> _Box | None:
    frame = element.get("frame") or ""
    here = f"{where} frame {frame}"
    corners = _corners_of(element)
    if not frame.isdecimal() or corners is None:
        known = element.tag in ("box", "polygon")
        what = (
            "its frame or a corner is not a number" if known else f"is a <{element.tag}>; boxes and polygons are read"
        )
        faults.reject("bad box", f"{here}: {what}")
        return None
    if float(element.get("rotation") or 0) != 0:
        faults.reject(
            "bad box", f"{here}: the box is rotated by {element.get('rotation')} degrees; only upright boxes are read"
        )
        return None
    return _Box(
        frame=int(frame),
        corners=corners,
        outside=element.get("outside") == "1",
        occluded=element.get("occluded") == "1",
        keyframe=element.get("keyframe", "1") == "1",
    )


def _corners_of(element: Element) -> tuple[float, float, float, float] | None:
    try:
        if element.tag == "box":
            x1, y1, x2, y2 = (float(element.get(k) or "") for k in ("xtl", "ytl", "xbr", "ybr"))
            return x1, y1, x2, y2
        if element.tag == "polygon":
            points = [[float(v) for v in p.split(",")] for p in (element.get("points") or "").split(";")]
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            return min(xs), min(ys), max(xs), max(ys)
    except (ValueError, IndexError):
        return None
    return None


def _boxes_by_frame(
    tracks: Iterable[tuple[int, int, list[_Box]]], task: _Task, keep_occluded: bool
) -> dict[int, list[tuple[tuple[float, ...], int, int]]]:
    """(corners, class, track id) of what is visible in each frame of the task."""
    found: dict[int, list[tuple[tuple[float, ...], int, int]]] = defaultdict(list)
    for track_id, number, boxes in tracks:
        for box in _filled(boxes, task.num_frames):
            if not box.outside and (keep_occluded or not box.occluded):
                found[box.frame].append((box.corners, number, track_id))
    return found


def _filled(boxes: list[_Box], num_frames: int | None) -> list[_Box]:
    """Boxes of every frame: those in the file, or, for a track of key frames with gaps, those that CVAT would show."""
    gaps = any(b.frame - a.frame > 1 for a, b in itertools.pairwise(boxes))
    if not gaps or not all(b.keyframe for b in boxes):
        return boxes
    filled = []
    for a, b in itertools.pairwise(boxes):
        filled.append(a)
        for frame in range(a.frame + 1, b.frame):
            share = 0.0 if b.outside else (frame - a.frame) / (b.frame - a.frame)
            x1, y1, x2, y2 = (p + share * (q - p) for p, q in zip(a.corners, b.corners, strict=True))
            filled.append(_Box(frame, (x1, y1, x2, y2), a.outside, a.occluded, False))
    last = boxes[-1]
    end = last.frame + 1 if num_frames is None else num_frames
    held = [_Box(f, last.corners, last.outside, last.occluded, False) for f in range(last.frame + 1, end)]
    return [*filled, last, *held]


def _video(
    path: Path,
    recording: Path,
    source: FrameSource,
    task: _Task,
    boxes: dict[int, list[tuple[tuple[float, ...], int, int]]],
    first_image: int,
    patients: PatientRule,
    faults: FileFaults,
) -> Video:
    where = f"video {path.stem!r}"
    if task.size is not None and task.size != source.size:
        raise DataError(
            f"{path}: was drawn on an image of {task.size[1]}x{task.size[0]} px, "
            f"{recording} is {source.size[1]}x{source.size[0]} px."
        )
    numbers = range(task.start, len(source), task.step)[: task.num_frames]
    if not numbers:
        raise DataError(f"{path}: starts at frame {task.start}, but {recording} has {len(source)} frames.")
    for frame in sorted(boxes):
        if frame >= len(numbers):
            faults.reject(
                "box in no frame", f"{where} frame {frame}: has a box, but {recording} gives {len(numbers)} frames"
            )
    frames = []
    for n, number in enumerate(numbers):
        rows: list[Row] = []
        for corners, kind, track_id in boxes.get(n, []):
            label = f"{where} frame {n} track {track_id}"
            box = repair_box(list(corners), *source.size, label, faults)
            if box is not None:
                rows.append((box, kind, track_id))
        frames.append(make_frame(source.place(number), first_image + n, source.size, rows))
    sidecar = read_sidecar(recording)
    fps = sidecar.fps or source.fps
    metadata: dict[str, Any] = {**source.metadata, **sidecar.metadata}
    dicom = recording if not recording.is_dir() and is_dicom(recording) else None
    below = os.path.relpath(recording, path.parent).replace(os.sep, "/")
    patient = patients.patient(path.stem, sidecar.patient, path=below, dicom=dicom)
    return make_video(path.stem, frames, patient, fps=fps / task.step if fps else None, metadata=metadata)
