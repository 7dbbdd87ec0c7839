"""Annotations in COCO's JSON, read once for training and for evaluation; images on disk are not needed.

COCO-VID holds ``videos[]{id, name}``, ``images[]{id, video_id, frame_id, file_name, height, width}`` and
``annotations[]{id, image_id, bbox: [x, y, width, height], instance_id, category_id}``; which lesion a box is of:
`ultravid.datasets.formats.lesions`; regions to ignore: `ultravid.datasets.formats.coco_lesions`. A video may give its ``fps`` (0:
not known), ``patient``, ``device``, ``organ``, ``hospital``, ``spacing_mm``, and more under ``metadata``, and its
``static_frames`` as a list of [first, last], which count its images from 0. Plain COCO, without videos, is read as stills: each image is a video of one frame. If images of it share a
``video_id`` they may be frames of a film: this is reported, and refused unless stills were asked for.

``frame_id`` is the frame's number along the film: numbers may have gaps and begin anywhere, and a frame's time is ``frame_id`` over
``fps``. Images may give their time stamp in seconds as ``time_s`` instead, all of a video or none (`ultravid.datasets.frame_times`).

Ids are whole numbers of 64 bits or text; ``1`` and ``"1"`` are two ids, ``1`` and ``1.0`` are one.

A box of negative width or height has its corner on the other side and is turned round, and a box past the frame's edge is
clipped to it; both are reported in a warning. Everything else that is wrong is rejected: an id that is used twice or is neither
a whole number nor text, a frame that is listed twice, time stamps that do not rise with ``frame_id``, an annotation whose image
is not listed or belongs to another video than the annotation says, an empty box or one outside the frame.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import numpy as np

from ultravid.datasets.bounds import MAX_NAME, frame_size_fault, is_whole
from ultravid.datasets.boxes import box_fault
from ultravid.datasets.faults import FileFaults
from ultravid.datasets.formats.coco_lesions import Ignored, read_box
from ultravid.datasets.formats.common import static_frames_fault
from ultravid.datasets.formats.lesions import AnnotatedBox, Id, as_id, is_id, number_lesions
from ultravid.datasets.frame_times import (
    FrameTimes,
    frame_times,
    is_frame_number,
    is_time_stamp,
    known_rate,
    order_fault,
)
from ultravid.datasets.json_files import read_json
from ultravid.datasets.patients import PatientRule
from ultravid.datasets.video import DataError
from ultravid.utils.text import shown

__all__ = ["CocoAnnotations", "CocoImage", "CocoVideo", "Id", "is_id", "read_coco_annotations"]

_UNLISTED = "categories are used by annotations, but not listed under categories, and are named by their id"
_NO_CATEGORY = "files of several categories have annotations without a category_id"
_OTHER_RATE = "videos have an fps that contradicts the time stamps of their images (are these in seconds?); the time stamps are used"
_FAR_APART = (
    "videos have time stamps that are usually more than 5 s apart (are these in seconds?); they are used as seconds"
)
_SAME_ID = "annotations have the id of another; their ids are not used"
_FRAMES_AS_STILLS = (
    "images have the video_id of an earlier one and are read as stills all the same "
    "(load_coco_video, the format coco-video, reads videos)"
)
_SAME_FILE = "frames name the same file as another frame of their video"

_LIKE_FPS = ("frame_rate", "framerate", "frameRate", "FPS", "Fps", "frames_per_second")
_NOT_FPS = "videos state their rate under a key that is not read; it must be called fps"
_NORMALISED = (
    "boxes lie between 0 and 1, all of them, as if they were fractions of the image's size; they are read as pixels"
)
_CORNERS = "boxes go past the frame as [x, y, width, height], which COCO has, but fit it as corners [x1, y1, x2, y2]"
_FEWEST = 3  # boxes that can look like one of these

_FAR_S = 5.0  # milliseconds that were taken for seconds are 10 and more apart

_METADATA_KEYS = ("device", "organ", "hospital", "spacing_mm", "spacing_y_mm")
_OF_FILM = ("patient", *_METADATA_KEYS, "metadata")
"""What a still has of the video that it names, unless it states it itself."""


@dataclass(frozen=True)
class CocoImage:
    """One frame and what is annotated in it.

    Attributes:
        image_id: unique in the file.
        video_id: the id of its video.
        frame_id: its number along the film; frames are ordered by it, it may have gaps and need not run from 0.
        height: pixels.
        width: pixels.
        file_name: as the file gives it; None if it gives none.
        time_s: its time stamp, seconds from the film's start; None if the file gives none.
        lesions: (XYXY box in pixels inside the frame, category id, track id), in the order of the file.
        ignored: regions that are no lesion, and in which a detection is neither right nor wrong.
    """

    image_id: Id
    video_id: Id
    frame_id: int
    height: int
    width: int
    file_name: str | None
    time_s: float | None = None
    lesions: list[tuple[list[float], Id, int]] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)


@dataclass(frozen=True)
class CocoVideo:
    """One video.

    Attributes:
        video_id: unique in the file.
        name: unique in the file; the id if the file gives no name.
        patient: None if it is not known.
        fps: frames per second; None if it is not known.
        metadata: see `Video.metadata`.
        static_frames: see `Video.static_frames`.
        images: ordered by ``frame_id``; may be empty.
    """

    video_id: Id
    name: str
    patient: str | None
    fps: float | None
    metadata: dict[str, str | float]
    static_frames: tuple[tuple[int, int], ...]
    images: list[CocoImage]


@dataclass(frozen=True)
class CocoAnnotations:
    """Content of a COCO file.

    Attributes:
        path: the file, for messages.
        videos: by id, in the order of the file.
        images: by id, in the order of the file.
        categories: names by category id, those of ids that are used but not listed too; whole numbers rise, text follows.
        names_categories: whether the file lists categories, or an annotation has one.
    """

    path: str
    videos: dict[Id, CocoVideo]
    images: dict[Id, CocoImage]
    categories: dict[Id, str]
    names_categories: bool = True

    @functools.cached_property
    def class_of(self) -> dict[Id, int]:
        """Number of each category's class, from 0 in the order of ``categories``."""
        return {category: number for number, category in enumerate(self.categories)}

    def has_image(self, image_id: Any) -> TypeGuard[Id]:
        """Whether an image of that id is listed; the id may be any value."""
        return is_id(image_id) and image_id in self.images

    def where(self, image_id: Id) -> str:
        """Video and frame of an image, for messages."""
        image = self.images[image_id]
        return f"video {self.videos[image.video_id].name!r} frame {image.frame_id}"


def read_coco_annotations(
    address: str | Path, faults: FileFaults, *, patients: PatientRule | None = None, stills: bool | None = False
) -> CocoAnnotations:
    """Read a COCO file.

    Args:
        address: a path, or any address that ``ultravid.utils.file_io.PathManager`` handles.
        faults: takes what is rejected and repaired; the caller closes it.
        patients: who was scanned in each video; None: what the file states.
        stills: plain COCO; each image becomes a video of one frame, named by its file. None: if the file lists no videos.

    Raises:
        DataError: the file can't be read or isn't COCO; the table of patients names none of its videos; or, if ``faults`` has no
            sink, ids or frames are wrong.
    """
    content, stills = _read_content(address, stills, faults)
    reader = _Reader(faults)
    rows = reader.video_rows(content["videos"])
    names = {video_id: str(_name_of(row)) for video_id, row in rows.items()}
    images = reader.images(content["images"], names)
    faults.raise_if_any()  # without sound ids each annotation would be reported as well
    rule = patients or PatientRule()
    categories, default = reader.categories(content)
    reader.add_lesions(content["annotations"], images, names, default, stills)
    frames: dict[Id, list[CocoImage]] = defaultdict(list)
    for image in images.values():
        frames[image.video_id].append(image)
    videos = {}
    for video_id, row in rows.items():
        ordered = sorted(frames[video_id], key=lambda image: image.frame_id)
        ordered = reader.with_sound_times(ordered, names[video_id], images)
        videos[video_id] = reader.video(row, names[video_id], ordered, rule)
    rule.check(names.values(), faults)
    said = bool(content.get("categories")) or any(row.get("category_id") is not None for row in content["annotations"])
    return CocoAnnotations(str(address), videos, images, categories, said)


def _read_content(address: str | Path, stills: bool | None, faults: FileFaults) -> tuple[dict[str, Any], bool]:
    """The content as COCO-VID, and whether it was plain COCO."""
    content = read_json(address)
    guessed = stills is None
    if stills is None:
        stills = isinstance(content, dict) and content.get("videos", []) in ([], None)
    for key in ("images", "annotations") if stills else ("videos", "images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            needed = "images and annotations" if stills else "videos, images and annotations"
            hint = " Without videos it is read as stills, by load_coco_stills or the format coco-stills." * (
                key == "videos"
            )
            raise DataError(f"{address}: holds no list {key!r}; {'COCO' if stills else 'COCO-VID'} has {needed}.{hint}")
        if not all(isinstance(row, dict) for row in content[key]):
            raise DataError(f"{address}: {key!r} holds something that is not an object.")
        content[key] = [_with_whole_ids(row) for row in content[key]]
    if not stills:
        return dict(content), False
    for image, first in _of_one_film(content["images"]):
        if guessed:
            raise DataError(
                f"{address}: images {shown(first.get('file_name'))} and {shown(image.get('file_name'))} have one video_id, "
                f"{shown(image['video_id'])}, but no 'videos' are listed. If they are frames of a video, list it with its id, name "
                "and fps, and give each image its frame_id; if they are stills, remove video_id."
            )
        faults.repair(_FRAMES_AS_STILLS, f"image {shown(image.get('file_name'))}: video_id {shown(image['video_id'])}")
    return _stills_as_videos(content), True


def _of_one_film(images: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(image, the first of the same ``video_id``) of all but the first."""
    first: dict[Id, Mapping[str, Any]] = {}
    for image in images:
        video_id = image.get("video_id")
        if is_id(video_id) and first.setdefault(video_id, image) is not image:
            yield image, first[video_id]


def _stills_as_videos(content: Mapping[str, Any]) -> dict[str, Any]:
    given = content.get("videos")
    rows = [row for row in given if isinstance(row, dict)] if isinstance(given, list) else []
    films: dict[Any, Mapping[str, Any]] = {as_id(row.get("id")): row for row in rows}
    films.pop(None, None)
    videos = []
    for image in content["images"]:
        video_id = image.get("video_id")
        film = films.get(video_id, {}) if is_id(video_id) else {}
        about = {key: film[key] for key in _OF_FILM if film.get(key) is not None and image.get(key) is None}
        videos.append({**image, **about, "name": str(image.get("file_name")), "fps": None})
    images = [{**image, "video_id": image.get("id"), "frame_id": 0} for image in content["images"]]
    annotations = [{**annotation, "video_id": None} for annotation in content["annotations"]]
    return {**content, "videos": videos, "images": images, "annotations": annotations}


_IDS = ("id", "image_id", "video_id", "category_id", "instance_id", "track_id", "frame_id", "height", "width")


def _with_whole_ids(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose whole numbers are ints: pandas and MATLAB write 1.0 where a column has gaps."""
    if float not in set(map(type, row.values())):
        return row
    floats = {key: as_id(row[key]) for key in _IDS if isinstance(row.get(key), float)}
    return {**row, **{key: value for key, value in floats.items() if value is not None}} if floats else row


class _Reader:
    """The rows of one file; what is wrong goes to ``faults``."""

    def __init__(self, faults: FileFaults) -> None:
        self.faults = faults

    def video_rows(self, rows: Iterable[Mapping[str, Any]]) -> dict[Id, Mapping[str, Any]]:
        """Rows of videos by id, each name once. Of an id that several have, none is read: whose the images are can't be told."""
        found: dict[Id, Mapping[str, Any]] = {}
        taken: set[str] = set()
        ambiguous: set[Id] = set()
        for row in rows:
            video_id, given = row.get("id"), _name_of(row)
            if not is_id(video_id):
                what = f"video {shown(row.get('name'))} has the id {shown(video_id)}, not a whole number or text"
                self.faults.reject("bad video row", what)
            elif not is_id(given):
                self.faults.reject("bad video row", f"video {shown(video_id)} has the name {shown(given)}, not text")
            elif len(str(given)) > MAX_NAME:
                what = f"video {shown(video_id)} has a name of {len(str(given)):,} characters, more than {MAX_NAME:,}"
                self.faults.reject("bad video row", what)
            elif video_id in found:
                both = f"{str(_name_of(found[video_id]))!r} and {str(given)!r}"
                self.faults.reject("an id is used twice", f"two videos have the id {video_id!r}: {both}")
                ambiguous.add(video_id)
            elif str(given) in taken:
                self.faults.reject(
                    "an id is used twice", f"two videos have the name {str(given)!r}", videos=[str(given)]
                )
            else:
                found[video_id] = row
                taken.add(str(given))
        return {video_id: row for video_id, row in found.items() if video_id not in ambiguous}

    def images(self, rows: Iterable[Mapping[str, Any]], names: Mapping[Id, str]) -> dict[Id, CocoImage]:
        """Images by id, without their lesions. Of an id that several have, none is read: whose the boxes are can't be told."""
        ambiguous: set[Id] = set()
        images: dict[Id, CocoImage] = {}
        seen: set[tuple[Id, int]] = set()
        files: set[tuple[Id, str | None]] = set()
        for row in rows:
            fault = _image_fault(row, names, seen)
            image_id = row.get("id")
            if is_id(image_id) and image_id in images:
                ambiguous.add(image_id)
            if fault is not None:
                name = names.get(row["video_id"]) if is_id(row.get("video_id")) else None
                self.faults.reject("bad image row", fault, videos=[] if name is None else [name])
            elif image_id in images:
                where, other = _place(row, names), images[image_id]
                message = f"{where}: two images have the id {image_id!r}; the other is "
                message += f"video {names[other.video_id]!r} frame {other.frame_id}"
                both = [names[row["video_id"]], names[other.video_id]]
                self.faults.reject("an id is used twice", message, videos=both)
            else:
                file_name = None if row.get("file_name") in (None, "") else str(row["file_name"])
                size = row["height"], row["width"]
                time_s = None if row.get("time_s") is None else float(row["time_s"])
                if file_name is not None and (row["video_id"], file_name) in files:
                    self.faults.repair(_SAME_FILE, f"{_place(row, names)}: {file_name!r}")
                files.add((row["video_id"], file_name))
                images[row["id"]] = CocoImage(row["id"], row["video_id"], row["frame_id"], *size, file_name, time_s)
                seen.add((row["video_id"], row["frame_id"]))
        return {image_id: image for image_id, image in images.items() if image_id not in ambiguous}

    def categories(self, content: Mapping[str, Any]) -> tuple[dict[Id, str], Id]:
        """Names of categories by id, and the category of an annotation that has none."""
        listed: dict[Id, str] = {}
        given = content.get("categories") or []
        if not isinstance(given, list):
            self.faults.reject("bad category row", f"categories is {shown(given)}, not a list")
            given = []
        for row in given:
            category = as_id(row.get("id")) if isinstance(row, dict) else None
            if category is None:
                self.faults.reject(
                    "bad category row", f"category {shown(row)} has no id that is a whole number or text"
                )
            elif category in listed:
                self.faults.reject("an id is used twice", f"two categories have the id {category!r}")
            else:
                listed[category] = str(category if row.get("name") is None else row["name"])
        known = {category for row in content["annotations"] if is_id(category := row.get("category_id"))}
        known |= set(listed)
        default: Id = next(iter(known)) if len(known) == 1 else 1
        without = sum(row.get("category_id") is None for row in content["annotations"])
        if without:
            known.add(default)
        if without and len(known) > 1:
            self.faults.repair(_NO_CATEGORY, f"{without} annotations, taken for {default!r}")
        if listed:
            for category in sorted(known - set(listed), key=str):
                self.faults.repair(_UNLISTED, repr(category))
        order = sorted(known, key=lambda i: (0, i, "") if isinstance(i, int) else (1, 0, i))
        return {category: listed.get(category, str(category)) for category in order}, default

    def add_lesions(
        self,
        rows: Iterable[Mapping[str, Any]],
        images: Mapping[Id, CocoImage],
        names: Mapping[Id, str],
        default_category: Id,
        stills: bool,
    ) -> None:
        """Put each annotation into its image's ``lesions`` or ``ignored``."""
        rows = list(rows)
        for kind, number, first in _doubtful_boxes(rows, images):
            self.faults.repair(kind, f"{first}", number)
        boxes: dict[Id, list[AnnotatedBox[Id]]] = defaultdict(list)
        seen: set[Id] = set()
        faults_of = {video_id: self.faults.of_video(name) for video_id, name in names.items()}
        for row in rows:
            image_id, annotation_id = row.get("image_id"), row.get("id")
            label = f"annotation {annotation_id if type(annotation_id) is int else shown(annotation_id)}"
            if not is_id(image_id) or image_id not in images:
                message = f"{label} belongs to image {shown(image_id)}, which is not listed"
                self.faults.reject("bad annotation row", message)
                continue
            image, video_id = images[image_id], row.get("video_id")
            where = f"video {names[image.video_id]!r} frame {image.frame_id} {label}"
            faults = faults_of[image.video_id]
            if isinstance(annotation_id, int | str):
                if annotation_id in seen:
                    faults.repair(_SAME_ID, where)
                seen.add(annotation_id)
            if video_id is not None and video_id != image.video_id:
                message = f"{where}: belongs to video {shown(video_id)}, but its image to video {image.video_id!r}"
                faults.reject("bad annotation row", message)
                continue
            box = read_box(row, image.height, image.width, default_category, where, faults)
            if isinstance(box, Ignored):
                image.ignored.append(box)
            elif box is not None:
                boxes[image_id].append(box)
        of_video: dict[Id, list[CocoImage]] = defaultdict(list)
        for image in images.values():
            of_video[image.video_id].append(image)
        for video_id, members in of_video.items():
            ordered = sorted((m for m in members if m.image_id in boxes), key=lambda m: m.frame_id)
            found = [boxes[image.image_id] for image in ordered]
            numbered = number_lesions(found, f"video {names[video_id]!r}", faults_of[video_id], stills=stills)
            for image, lesions in zip(ordered, numbered, strict=True):
                image.lesions.extend(lesions)

    def with_sound_times(self, ordered: list[CocoImage], name: str, images: dict[Id, CocoImage]) -> list[CocoImage]:
        """A video's images; without their time stamps, in ``images`` too, if these can't be used."""
        if all(image.time_s is None for image in ordered):
            return ordered
        stamps = np.array([np.nan if image.time_s is None else image.time_s for image in ordered])
        fault = order_fault(np.arange(len(ordered)), stamps)
        if fault is None:
            return ordered
        self.faults.of_video(name).reject(
            "bad time stamp", f"video {name!r} frame {ordered[fault[0]].frame_id}: {fault[1]}"
        )
        bare = [dataclasses.replace(image, time_s=None) for image in ordered]
        images.update((image.image_id, image) for image in bare)
        return bare

    def video(self, row: Mapping[str, Any], name: str, images: list[CocoImage], patients: PatientRule) -> CocoVideo:
        """A video of its row and its images."""
        faults = self.faults.of_video(name)
        stated = row.get("patient")
        if stated is not None and (isinstance(stated, bool) or not isinstance(stated, str | int)):
            what = f"video {name!r}: patient is {stated!r}, not text or a whole number"
            faults.reject("bad patient", what)
            stated = None
        static = row.get("static_frames") or []
        fault = static_frames_fault(static, len(images)) if images else None
        if fault is not None:
            faults.reject("bad static_frames", f"video {name!r}: {fault}")
        fps = self._rate(row.get("fps"), name, faults)
        other = next((key for key in _LIKE_FPS if key in row), None)
        if "fps" not in row and other is not None:
            faults.repair(_NOT_FPS, f"video {name!r}: {other!r} is {shown(row[other])}")
        times = _times_by_stamps(images)
        if times is not None and fps is not None and not 0.8 < times.fps / fps < 1.25:
            what = f"fps {fps:g}, time stamps {times.fps:.3g} frames per second"
            faults.repair(_OTHER_RATE, f"video {name!r}: {what}")
        elif times is not None and times.spacing / times.fps > _FAR_S:
            faults.repair(_FAR_APART, f"video {name!r}: {times.spacing / times.fps:g} s")
        return CocoVideo(
            video_id=row["id"],
            name=name,
            patient=patients.patient(name, None if stated is None else str(stated)),
            fps=fps,
            metadata=self._metadata(row, name, faults),
            static_frames=() if fault is not None or not images else tuple((first, last) for first, last in static),
            images=images,
        )

    @staticmethod
    def _rate(fps: Any, name: str, faults: FileFaults) -> float | None:
        try:
            return known_rate(fps)
        except ValueError as error:
            faults.reject("bad frame rate", f"video {name!r}: fps is {error}")
            return None

    @staticmethod
    def _metadata(row: Mapping[str, Any], name: str, faults: FileFaults) -> dict[str, str | float]:
        """Device, organ, hospital and spacing of a video's row, and all that is under ``metadata``."""
        found = {key: row[key] for key in _METADATA_KEYS if row.get(key) is not None}
        given = row.get("metadata") or {}
        if isinstance(given, dict):
            found |= given
        else:
            faults.reject("bad metadata", f"video {name!r}: metadata is {given!r}, not an object")
        return {
            key: value if isinstance(value, float | int) and not isinstance(value, bool) else str(value)
            for key, value in found.items()
            if value is not None
        }


def _times_by_stamps(images: Sequence[CocoImage]) -> FrameTimes | None:
    """The times of a video's images by their time stamps, with the rate of their numbers; None if they have none."""
    stamps = np.array([image.time_s for image in images], np.float64)
    if len(images) < 2 or np.isnan(stamps).any():
        return None
    return frame_times(np.array([image.frame_id for image in images]), None, stamps)


def _doubtful_boxes(
    rows: Iterable[Mapping[str, Any]], images: Mapping[Id, CocoImage]
) -> Iterator[tuple[str, int, list[float]]]:
    """(kind, number, first box) of boxes that are probably not [x, y, width, height] in pixels."""
    found: list[list[float]] = []
    sizes: list[tuple[int, int]] = []
    for row in rows:
        image_id, box = row.get("image_id"), row.get("bbox")
        if is_id(image_id) and image_id in images and box_fault(box) is None:
            found.append(row["bbox"])
            sizes.append((images[image_id].width, images[image_id].height))
    if len(found) < _FEWEST:
        return
    boxes, limits = np.array(found, np.float64), np.array(sizes)
    if boxes.min() >= 0 and boxes.max() <= 1:
        yield _NORMALISED, len(boxes), found[0]
    past = (boxes[:, :2] + boxes[:, 2:] > limits).any(axis=1)
    as_corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits)).all(axis=1)
    if past.mean() > 0.5 and as_corners.all():
        yield _CORNERS, int(past.sum()), found[int(past.argmax())]


def _image_fault(row: Mapping[str, Any], names: Mapping[Id, str], seen: set[tuple[Id, int]]) -> str | None:
    """What is wrong with an image's row but for its id being used twice."""
    image_id, video_id, frame_id = row.get("id"), row.get("video_id"), row.get("frame_id")
    if not is_id(image_id):
        return f"image {row.get('file_name')!r} has the id {image_id!r}, not a whole number or text"
    missing = [key for key in ("video_id", "frame_id", "height", "width") if row.get(key) is None]
    if missing:
        return f"image {image_id!r} ({shown(row.get('file_name'))}) has no {missing[0]!r}{_hint(missing, row)}"
    if not is_id(video_id) or video_id not in names:
        return f"image {image_id!r} belongs to video {video_id!r}, which is not listed"
    if not is_whole(frame_id):
        return f"video {names[video_id]!r} image {image_id!r}: frame_id {frame_id!r} is not a whole number"
    if not is_frame_number(frame_id):
        return f"video {names[video_id]!r} image {image_id!r}: frame_id {frame_id} is too large for a frame's number"
    if row.get("time_s") is not None and not is_time_stamp(row["time_s"]):
        return f"{_place(row, names)}: time_s is {shown(row['time_s'])}, not a time in seconds"
    if not all(is_whole(row[key]) and row[key] > 0 for key in ("height", "width")):
        sizes = f"height {row['height']!r} and width {row['width']!r}"
        return f"{_place(row, names)}: {sizes} are not whole numbers above 0"
    if (fault := frame_size_fault(row["height"], row["width"])) is not None:
        return f"{_place(row, names)}: {fault}"
    if (video_id, frame_id) in seen:
        return f"{_place(row, names)} is listed twice; each frame_id may be that of one image of a video"
    return None


def _hint(missing: Sequence[str], row: Mapping[str, Any]) -> str:
    """What would be right in place of a missing key."""
    if missing[0] == "video_id":
        return "; stills are read from a file without 'videos', by load_coco_stills or the format coco-stills"
    if missing[0] != "frame_id":
        return ""
    others = [key for key in ("frame_index", "frame_number", "frame_num", "frame", "index") if row.get(key) is not None]
    if others:
        return f", the frame's number in its video; its {others[0]!r} is {shown(row[others[0]])}"
    number = re.search(r"(\d{1,15})$", PurePosixPath(str(row.get("file_name"))).stem, re.ASCII)
    named = f"; its file's name suggests {int(number[1])}" if number else ""
    return f", the frame's number in its video, which is not guessed{named}"


def _name_of(row: Mapping[str, Any]) -> Any:
    """A video's name, or its id if it has no name."""
    return row["name"] if row.get("name") is not None else row.get("id")


def _place(row: Mapping[str, Any], names: Mapping[Id, str]) -> str:
    return f"video {names[row['video_id']]!r} frame {row['frame_id']}"
