"""Annotations and detections in COCO's JSON, for judging any detector; no picture is opened.

Annotations are COCO-VID: ``videos[]{id, name}`` (and, where known, ``fps``, ``patient``, ``metadata`` or its fields device,
organ, hospital), ``images[]{id, video_id, frame_id, height, width}``, ``annotations[]{image_id, bbox: [x, y, width, height],
instance_id}``. Detections are COCO's results: a list of ``{image_id, category_id, bbox, score}``; those of an image keep their
order. All categories count as one, "lesion".

As in the reader of CVA-BUS, an annotated box of negative width or height has its corner on the other side and is turned
round, one past the frame's edge is clipped to it, and how many is told. A detection's box is taken as it is, and refused
where its size is negative.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.utils.errors import UserError

__all__ = ["Annotations", "read_annotations", "read_coco_detections", "read_json", "read_patients"]

logger = logging.getLogger(__name__)

_METADATA = ("device", "organ", "hospital")
_LARGEST = 1e30  # float32 ends at 3e38, and areas are products

Id = int | str


class Annotations:
    """Videos, their frames and lesions, by the ids of a COCO-VID file.

    Args:
        path: the JSON file.
        content: what it holds.
        patients: patient by video name, over what the file says.

    Attributes:
        names: video name by video id, in the order of the file.
        places: (video id, frame_id) by image id, in the order of the file.

    Raises:
        UserError: something can't be used; the message names file, video and frame.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], patients: Mapping[str, str]) -> None:
        self.path = path
        self.patients = patients
        self.names: dict[Id, str] = {}
        self.places: dict[Id, tuple[Id, int]] = {}
        self._ids: dict[str, Id] = {}
        self._rows: dict[Id, Mapping[str, Any]] = {}
        self._sizes: dict[Id, tuple[int, int]] = {}
        self._files: dict[Id, str] = {}
        self._truth: dict[Id, list[tuple[list[float], int, int]]] = defaultdict(list)
        self._mended: dict[str, int] = defaultdict(int)
        for row in content["videos"]:
            self._add_video(row)
        seen: set[tuple[Id, int]] = set()
        for row in content["images"]:
            self._add_image(row, seen)
        for row in content["annotations"]:
            self._add_annotation(row)
        for what, number in self._mended.items():
            logger.warning("%s: %d boxes %s.", path, number, what)
        unknown = sorted(set(patients) - set(self._ids))
        if len(unknown) == len(patients) > 0:
            raise UserError(f"{path}: the table of patients names none of its videos; {unknown[0]!r} is none.")

    def has_image(self, image_id: Any) -> bool:
        """Whether an image of that id is listed."""
        return _is_id(image_id) and image_id in self.places

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(f"{self.path}: {what}.")

    def where(self, image_id: Id) -> str:
        """Video and frame of an image, for messages."""
        video_id, frame_id = self.places[image_id]
        return f"video {self.names[video_id]!r} frame {frame_id}"

    def _add_video(self, row: Mapping[str, Any]) -> None:
        video_id = row.get("id")
        if not _is_id(video_id):
            self._refuse(f"video {row.get('name')!r} has the id {video_id!r}; a whole number or a text is needed")
        name = row["name"] if row.get("name") is not None else video_id
        if not _is_id(name):
            self._refuse(f"video {video_id!r} has the name {name!r}; a text is needed")
        name = str(name)
        if video_id in self.names:
            self._refuse(f"two videos have the id {video_id!r}: {self.names[video_id]!r} and {name!r}")
        if name in self._ids:
            self._refuse(f"two videos have the name {name!r}")
        fps = row.get("fps")
        if fps is not None and not (_is_number(fps) and fps > 0):
            self._refuse(f"video {name!r}: {fps!r} frames a second is no rate")
        self.names[video_id], self._rows[video_id], self._ids[name] = name, row, video_id

    def _add_image(self, row: Mapping[str, Any], seen: set[tuple[Id, int]]) -> None:
        image_id, video_id, frame_id = row.get("id"), row.get("video_id"), row.get("frame_id")
        label = f"image {image_id!r}"
        if not _is_id(image_id):
            self._refuse(f"image {row.get('file_name')!r} has the id {image_id!r}; a whole number or a text is needed")
        if not _is_id(video_id) or video_id not in self.names:
            self._refuse(f"{label} belongs to video {video_id!r}, which is not listed")
        if not isinstance(frame_id, int) or isinstance(frame_id, bool):
            self._refuse(f"video {self.names[video_id]!r} {label}: frame_id {frame_id!r} is no whole number")
        where = f"video {self.names[video_id]!r} frame {frame_id}"
        if image_id in self.places:
            self._refuse(f"{where}: two images have the id {image_id!r}; the other is {self.where(image_id)}")
        if (video_id, frame_id) in seen:
            self._refuse(f"{where} is listed twice")
        size = (row.get("width"), row.get("height"))
        if not all(isinstance(v, int) and v > 0 for v in size):
            self._refuse(f"{where}: width {size[0]!r} and height {size[1]!r} are no sizes")
        seen.add((video_id, frame_id))
        self.places[image_id] = (video_id, frame_id)
        self._sizes[image_id] = (int(row["width"]), int(row["height"]))
        if row.get("file_name"):
            self._files[image_id] = str(row["file_name"])

    def _add_annotation(self, row: Mapping[str, Any]) -> None:
        image_id, label = row.get("image_id"), f"annotation {row.get('id')!r}"
        if not _is_id(image_id) or image_id not in self.places:
            self._refuse(f"{label} belongs to image {image_id!r}, which is not listed")
        where = f"{self.where(image_id)} {label}"
        track, category = row.get("instance_id", row.get("track_id")) or 0, row.get("category_id", 1)
        video_id = row.get("video_id")
        if video_id is not None and video_id != self.places[image_id][0]:
            self._refuse(f"{where}: says that it is of video {video_id!r}, its image of {self.places[image_id][0]!r}")
        if not _is_whole(track) or not _is_whole(category):
            self._refuse(f"{where}: instance_id {track!r} or category_id {category!r} is no whole number")
        if row.get("iscrowd"):
            self._refuse(f"{where}: is a crowd region, not one lesion")
        fault = _box_fault(row.get("bbox"))
        if fault:
            self._refuse(f"{where}: {fault}")
        box = self._mend(row["bbox"], self._sizes[image_id], where)
        self._truth[image_id].append((box, track, category))

    def _mend(self, bbox: list[float], size: tuple[int, int], where: str) -> list[float]:
        """XYXY inside the frame, of [x, y, width, height]."""
        x, y, width, height = (float(v) for v in bbox)
        if width < 0 or height < 0:
            self._mended["had a negative width or height and were turned round"] += 1
        (left, right), (top, bottom) = sorted((x, x + width)), sorted((y, y + height))
        clipped = [max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1]))]
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            what = "is empty" if right == left or bottom == top else "lies outside the frame"
            self._refuse(f"{where}: box {bbox} {what} ({size[0]}x{size[1]} px)")
        if clipped != [left, top, right, bottom]:
            self._mended["went past the frame's edge and were clipped to it"] += 1
        return clipped

    def videos(self, detections: Mapping[Id, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> list[VideoResult]:
        """The videos in the order of the file, each frame with its detections: boxes and scores by image id.

        An image without an entry has no detection. A video without an image is left out.
        """
        images: dict[Id, list[tuple[int, Id]]] = defaultdict(list)
        for image_id, (video_id, frame_id) in self.places.items():
            images[video_id].append((frame_id, image_id))
        nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        videos = []
        for video_id, name in self.names.items():
            frames = []
            for place, (_, image_id) in enumerate(sorted(images[video_id], key=lambda pair: pair[0])):
                boxes, scores = detections.get(image_id, nothing)
                truth = self._truth.get(image_id, [])
                gt_boxes = np.array([row[0] for row in truth], np.float32).reshape(-1, 4)
                tracks, classes = (np.array([row[i] for row in truth], np.int64) for i in (1, 2))
                file_name = self._files.get(image_id)
                frames.append(
                    FrameResult(place, image_id, gt_boxes, boxes, scores, tracks, classes, file_name=file_name)
                )
            if frames:
                videos.append(self._video(video_id, name, frames))
        return videos

    def _video(self, video_id: Id, name: str, frames: list[FrameResult]) -> VideoResult:
        row = self._rows[video_id]
        fields = {key: row[key] for key in _METADATA if row.get(key) is not None}
        given = row.get("metadata") or {}
        if not isinstance(given, dict):
            self._refuse(f"video {name!r}: its metadata are no object")
        metadata = {str(key): str(value) for key, value in {**fields, **given}.items()}
        patient = self.patients.get(name, row.get("patient"))
        fps = None if row.get("fps") is None else float(row["fps"])
        return VideoResult(name, frames, fps, None if patient is None else str(patient), metadata)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is not there, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there.") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON: {error}") from error


def read_annotations(path: Path, patients: Mapping[str, str] | None = None) -> Annotations:
    """Read a COCO-VID file; see `Annotations`.

    Raises:
        UserError: it can't be used; the message names file, video and frame.
    """
    content = read_json(path)
    for key in ("videos", "images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: holds no list {key!r}; COCO-VID annotations have videos, images and annotations.")
        if not all(isinstance(row, dict) for row in content[key]):
            raise UserError(f"{path}: {key!r} holds something that is no object.")
    annotations = Annotations(path, content, patients or {})
    if not annotations.places:
        raise UserError(f"{path}: lists no image; there is nothing to judge.")
    return annotations


def read_patients(path: Path) -> dict[str, str]:
    """A table of patients: a JSON object from video name to patient.

    Raises:
        UserError: it is none.
    """
    table = read_json(path)
    if not isinstance(table, dict) or not all(isinstance(v, str | int) for v in table.values()):
        raise UserError(f"{path}: the table of patients must be an object from video name to patient.")
    return {name: str(patient) for name, patient in table.items()}


def read_coco_detections(
    path: Path, rows: Any, annotations: Annotations
) -> dict[Id, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Boxes ``(N, 4)`` XYXY and scores ``(N,)`` by image id, of COCO results.

    Args:
        path: the file, for messages.
        rows: what it holds.
        annotations: what is judged.

    Raises:
        UserError: it holds something else; or an image that the annotations don't have.
    """
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds no list; COCO's results are a list of {{image_id, category_id, bbox, score}}.")
    found: dict[Id, tuple[list[list[float]], list[float]]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path}: entry {number} is {row!r}, no object with image_id, category_id, bbox and score.")
        image_id = row.get("image_id")
        if not _is_id(image_id) or image_id not in annotations.places:
            said = ", ".join(f"{k.partition('_')[0]} {row[k]!r}" for k in ("video_id", "frame_index") if k in row)
            unknown = sum(isinstance(r, dict) and not annotations.has_image(r.get("image_id")) for r in rows)
            raise UserError(
                f"{path}: entry {number}: image {image_id!r}{f' ({said})' if said else ''} is not in {annotations.path} "
                f"({unknown} of {len(rows)} entries are of such images)."
            )
        where = f"{path}: {annotations.where(image_id)}: entry {number}"
        video_id = annotations.places[image_id][0]
        if row.get("video_id", video_id) not in (video_id, annotations.names[video_id]):
            raise UserError(
                f"{where} says that its image {image_id!r} is of video {row['video_id']!r}; "
                f"the detections are of other videos than {annotations.path}."
            )
        fault = _box_fault(row.get("bbox"))
        if fault:
            raise UserError(f"{where}: {fault}.")
        x, y, width, height = row["bbox"]
        if width < 0 or height < 0:
            raise UserError(f"{where}: box {row['bbox']} ([x, y, width, height]) has a negative width or height.")
        if not _is_number(row.get("score")):
            raise UserError(f"{where}: score {row.get('score')!r} is no finite number.")
        if not isinstance(row.get("category_id", 1), int):
            raise UserError(f"{where}: category_id {row['category_id']!r} is no whole number.")
        boxes, scores = found.setdefault(image_id, ([], []))
        boxes.append([x, y, x + width, y + height])
        scores.append(row["score"])
    return {key: (np.array(boxes, np.float32), np.array(scores, np.float32)) for key, (boxes, scores) in found.items()}


def _is_id(value: Any) -> TypeGuard[Id]:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    """Whether a value of JSON is a whole number that int64 can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that float32 can hold; nan and infinity are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _box_fault(bbox: Any) -> str | None:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return f"box {bbox!r} is not four numbers [x, y, width, height]"
    if all(_is_number(v) for v in bbox):
        return None
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in bbox):
        return f"box {bbox!r} holds a nan, an infinite or a huge number"
    return f"box {bbox!r} is not four numbers [x, y, width, height]"
