"""Annotations and detections in COCO's JSON, to evaluate any detector; no image is opened.

Annotations are COCO-VID as the readers of datasets read it (`ultravid.datasets.formats.coco_annotations`): the same boxes are
repaired and the same files are rejected. Detections are COCO's results: a list of ``{image_id, category_id, bbox, score}``; those
of an image keep their order. A detection's box is used as it is, and rejected if its width or height is negative. Its category must be
one of the annotations'. Where these have several, classes are numbered from 0 in the order of their ids.

Regions that the annotations mark ``iscrowd``, ``ignore`` or ``difficult`` come with the frames; what they do to detections:
`ultravid.evaluation.matching.without_ignored`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.boxes import box_fault, is_number
from ultravid.datasets.faults import FileFaults
from ultravid.datasets.formats.coco_annotations import (
    CocoAnnotations,
    CocoImage,
    CocoVideo,
    Id,
    read_coco_annotations,
)
from ultravid.datasets.formats.lesions import as_id
from ultravid.datasets.patients import PatientRule
from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.utils.errors import UserError
from ultravid.utils.text import shown

__all__ = ["Detections", "FrameDetections", "join_detections", "read_annotations", "read_coco_detections"]

logger = logging.getLogger(__name__)


class FrameDetections(NamedTuple):
    """Detections of a frame.

    Attributes:
        boxes: ``(N, 4)``, XYXY, pixels.
        scores: ``(N,)``.
        classes: ``(N,)``, `CocoAnnotations.class_of` of their categories; None if they have none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64] | None = None


Detections = Mapping[Id, FrameDetections]
"""By image id."""


def read_annotations(address: str | Path, patients: PatientRule | None = None) -> CocoAnnotations:
    """Read a COCO-VID file, or plain COCO as stills; repaired boxes are counted in a warning.

    Args:
        address: a path, or any address that ``ultravid.utils.file_io.PathManager`` handles.
        patients: who was scanned in each video; None: what the file states.

    Raises:
        UserError: the file can't be used; the message names file, video and frame.
    """
    faults = FileFaults(address)
    annotations = read_coco_annotations(address, faults, patients=patients, stills=None)
    for warning in faults.close():
        logger.warning("%s", warning)
    empty = [video.name for video in annotations.videos.values() if not video.images]
    if empty and annotations.images:
        some = f"{len(empty)} of {len(annotations.videos)} videos have no image and are not evaluated"
        logger.warning("%s: %s; the first: %r.", address, some, empty[0])
    if not annotations.images:
        raise UserError(f"{address}: lists no image; there is nothing to evaluate.")
    return annotations


def join_detections(annotations: CocoAnnotations, detections: Detections) -> list[VideoResult]:
    """The videos in the order of the file, each frame with its detections.

    An image without an entry has no detection. A video without an image is skipped.
    """
    return [_video_result(video, detections, annotations) for video in annotations.videos.values() if video.images]


def _video_result(video: CocoVideo, detections: Detections, annotations: CocoAnnotations) -> VideoResult:
    frames = [_frame_result(number, image, detections, annotations) for number, image in enumerate(video.images)]
    metadata = {key: str(value) for key, value in video.metadata.items()}
    ids = tuple(annotations.categories)
    classes: dict[str, Any] = {"class_names": _class_names(annotations), "category_ids": ids}
    return VideoResult(video.name, frames, video.fps, video.patient, metadata, **classes)


def _class_names(annotations: CocoAnnotations) -> tuple[str, ...]:
    """The categories in the order of `CocoAnnotations.class_of`; those that share a name are distinguished by their ids."""
    number = Counter(annotations.categories.values())
    return tuple(name if number[name] == 1 else f"{name} {i!r}" for i, name in annotations.categories.items())


def _frame_result(number: int, image: CocoImage, detections: Detections, annotations: CocoAnnotations) -> FrameResult:
    none = FrameDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    boxes, scores, found_classes = detections.get(image.image_id, none)
    if not len(boxes):
        found_classes = np.zeros(0, np.int64)  # known, as there is none
    gt_boxes = np.array([box for box, _, _ in image.lesions], np.float32).reshape(-1, 4)
    classes = np.array([annotations.class_of[category] for _, category, _ in image.lesions], np.int64)
    tracks = np.array([track for _, _, track in image.lesions], np.int64)
    regions: dict[str, Any] = {}
    if image.ignored:
        regions["ignored"] = np.array([region.box for region in image.ignored], np.float32)
        regions["ignored_crowds"] = np.array([region.is_crowd for region in image.ignored], np.bool_)
    return FrameResult(
        number,
        image.image_id,
        gt_boxes,
        boxes,
        scores,
        tracks,
        classes,
        found_classes,
        file_name=image.file_name,
        frame_number=image.frame_id,
        time_s=image.time_s,
        **regions,
    )


def read_coco_detections(path: str | Path, rows: Any, annotations: CocoAnnotations) -> Detections:
    """Detections by image id, of COCO results.

    Args:
        path: the file, for messages.
        rows: its content.
        annotations: what is evaluated.

    Raises:
        UserError: the content isn't COCO results, or an image or a category is not in the annotations.
    """
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds no list; COCO's results are a list of {{image_id, category_id, bbox, score}}.")
    found: dict[Id, tuple[list[list[float]], list[float], list[int]]] = {}
    used: Counter[Id] = Counter()
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}: entry {number} is {shown(row)}, not an object with image_id, category_id, bbox and score."
            )
        image_id = as_id(row.get("image_id"))
        if image_id is None or not annotations.has_image(image_id):
            said = ", ".join(f"{k.partition('_')[0]} {shown(row[k])}" for k in ("video_id", "frame_index") if k in row)
            unknown = sum(isinstance(r, dict) and not annotations.has_image(as_id(r.get("image_id"))) for r in rows)
            raise UserError(
                f"{path}: entry {number}: image {shown(row.get('image_id'))}{f' ({said})' if said else ''} is not in "
                f"{annotations.path} ({unknown} of {len(rows)} entries are of such images)."
            )
        category = as_id(row.get("category_id"))
        fault = _detection_fault(row, image_id, annotations) or _category_fault(row, category, rows, annotations)
        if fault is not None:
            raise UserError(f"{path}: {annotations.where(image_id)}: entry {number}{fault}.")
        boxes, scores, classes = found.setdefault(image_id, ([], [], []))
        x, y, width, height = row["bbox"]
        boxes.append([x, y, x + width, y + height])
        scores.append(row["score"])
        classes.append(-1 if category is None else annotations.class_of.get(category, -1))
        if category is not None:
            used[category] += 1
    _say_categories(path, used, len(rows), annotations)
    has_classes = sum(used.values()) == len(rows) and all(category in annotations.class_of for category in used)
    return {
        key: FrameDetections(
            np.array(boxes, np.float32),
            np.array(scores, np.float32),
            np.array(classes, np.int64) if has_classes else None,
        )
        for key, (boxes, scores, classes) in found.items()
    }


def _category_fault(
    row: Mapping[str, Any], category: Id | None, rows: Sequence[Any], annotations: CocoAnnotations
) -> str | None:
    """What is wrong with a detection's category; continues "entry 3"."""
    if row.get("category_id") is not None and category is None:
        return f": category_id {shown(row['category_id'])} is not a whole number or text"
    if category is None or category in annotations.class_of or not annotations.names_categories:
        return None
    if "frame_index" in row and category == 1:
        return None  # this package's own results of a model of one class
    number = sum(isinstance(r, dict) and as_id(r.get("category_id")) not in annotations.class_of for r in rows)
    known = ", ".join(f"{i!r} ({name})" for i, name in annotations.categories.items()) or "none"
    return (
        f": category_id {category!r} is not a category of {annotations.path}, which has {known} "
        f"({number} of {len(rows)} entries are of such categories)"
    )


def _say_categories(path: str | Path, used: Mapping[Id, int], number: int, annotations: CocoAnnotations) -> None:
    """Say how classes count where the annotations have several."""
    counts = Counter(category for image in annotations.images.values() for _, category, _ in image.lesions)
    if len(set(counts) | (set(used) & set(annotations.class_of))) < 2:
        return

    def listed(of: Mapping[Id, int]) -> str:
        return ", ".join(f"{annotations.categories.get(i, i)} ({of[i]})" for i in sorted(of, key=str)) or "none"

    without = number - sum(used.values())
    more = f", without category_id {without}" if without else ""
    logger.warning(
        "%s: metrics take all classes as one, 'lesion', except those named class/..., class_mean/... and confusion/...: lesion boxes are %s; detections %s%s.",
        path,
        listed(counts),
        listed(used),
        more,
    )


def _detection_fault(row: Mapping[str, Any], image_id: Id, annotations: CocoAnnotations) -> str | None:
    """What is wrong with a detection whose image is known; continues "entry 3"."""
    video = annotations.videos[annotations.images[image_id].video_id]
    named = row.get("video_id", video.video_id)
    if named not in (video.video_id, video.name):
        return (
            f" says that its image {image_id!r} is of video {shown(named)}; "
            f"the detections are of other videos than {annotations.path}"
        )
    bbox = row.get("bbox")
    fault = box_fault(bbox)
    if fault is not None:
        return f": {fault[1]}"
    if row["bbox"][2] < 0 or row["bbox"][3] < 0:
        return f": box {shown(bbox)} ([x, y, width, height]) has a negative width or height"
    if not is_number(row.get("score")):
        return f": score {shown(row.get('score'))} is not a finite number"
    return None
