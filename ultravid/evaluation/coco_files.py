"""Annotations and detections in COCO's JSON, to evaluate any detector; no image is opened.

Annotations are COCO-VID as the readers of datasets read it (`ultravid.datasets.formats.coco_annotations`): the same boxes are
repaired and the same files are rejected. Detections are COCO's results: a list of ``{image_id, category_id, bbox, score}``; those
of an image keep their order. A detection's box is used as it is, and rejected if its width or height is negative. All
categories count as one, "lesion".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.boxes import box_fault, is_number
from ultravid.datasets.faults import FileFaults
from ultravid.datasets.formats.coco_annotations import CocoAnnotations, CocoImage, CocoVideo, Id, read_coco_annotations
from ultravid.datasets.patients import PatientRule
from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.utils.errors import UserError

__all__ = ["Detections", "join_detections", "read_annotations", "read_coco_detections"]

logger = logging.getLogger(__name__)

Detections = Mapping[Id, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""(boxes ``(N, 4)`` XYXY in pixels, scores ``(N,)``) by image id."""


def read_annotations(address: str | Path, patients: Mapping[str, str] | None = None) -> CocoAnnotations:
    """Read a COCO-VID file; repaired boxes are counted in a warning.

    Args:
        address: a path, or any address that ``ultravid.utils.file_io.PathManager`` handles.
        patients: patient by video name; takes precedence over what the file says.

    Raises:
        UserError: the file can't be used; the message names file, video and frame.
    """
    faults = FileFaults(address)
    annotations = read_coco_annotations(address, faults, patients=PatientRule(patients) if patients else None)
    for warning in faults.close():
        logger.warning("%s", warning)
    if not annotations.images:
        raise UserError(f"{address}: lists no image; there is nothing to evaluate.")
    return annotations


def join_detections(annotations: CocoAnnotations, detections: Detections) -> list[VideoResult]:
    """The videos in the order of the file, each frame with its detections.

    An image without an entry has no detection. A video without an image is skipped.
    """
    return [_video_result(video, detections) for video in annotations.videos.values() if video.images]


def _video_result(video: CocoVideo, detections: Detections) -> VideoResult:
    frames = [_frame_result(number, image, detections) for number, image in enumerate(video.images)]
    metadata = {key: str(value) for key, value in video.metadata.items()}
    return VideoResult(video.name, frames, video.fps, video.patient, metadata)


def _frame_result(number: int, image: CocoImage, detections: Detections) -> FrameResult:
    boxes, scores = detections.get(image.image_id, (np.zeros((0, 4), np.float32), np.zeros(0, np.float32)))
    gt_boxes = np.array([box for box, _, _ in image.lesions], np.float32).reshape(-1, 4)
    classes = np.array([category for _, category, _ in image.lesions], np.int64)
    tracks = np.array([track for _, _, track in image.lesions], np.int64)
    return FrameResult(
        number,
        image.image_id,
        gt_boxes,
        boxes,
        scores,
        tracks,
        classes,
        file_name=image.file_name,
        frame_number=image.frame_id,
        time_s=image.time_s,
    )


def read_coco_detections(path: str | Path, rows: Any, annotations: CocoAnnotations) -> Detections:
    """Detections by image id, of COCO results.

    Args:
        path: the file, for messages.
        rows: its content.
        annotations: what is evaluated.

    Raises:
        UserError: the content isn't COCO results, or an image is not in the annotations.
    """
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds no list; COCO's results are a list of {{image_id, category_id, bbox, score}}.")
    found: dict[Id, tuple[list[list[float]], list[float]]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}: entry {number} is {row!r}, not an object with image_id, category_id, bbox and score."
            )
        image_id = row.get("image_id")
        if not annotations.has_image(image_id):
            said = ", ".join(f"{k.partition('_')[0]} {row[k]!r}" for k in ("video_id", "frame_index") if k in row)
            unknown = sum(isinstance(r, dict) and not annotations.has_image(r.get("image_id")) for r in rows)
            raise UserError(
                f"{path}: entry {number}: image {image_id!r}{f' ({said})' if said else ''} is not in {annotations.path} "
                f"({unknown} of {len(rows)} entries are of such images)."
            )
        fault = _detection_fault(row, image_id, annotations)
        if fault is not None:
            raise UserError(f"{path}: {annotations.where(image_id)}: entry {number}{fault}.")
        boxes, scores = found.setdefault(image_id, ([], []))
        x, y, width, height = row["bbox"]
        boxes.append([x, y, x + width, y + height])
        scores.append(row["score"])
    return {key: (np.array(boxes, np.float32), np.array(scores, np.float32)) for key, (boxes, scores) in found.items()}


def _detection_fault(row: Mapping[str, Any], image_id: Id, annotations: CocoAnnotations) -> str | None:
    """What is wrong with a detection whose image is known; continues "entry 3"."""
    video = annotations.videos[annotations.images[image_id].video_id]
    if row.get("video_id", video.video_id) not in (video.video_id, video.name):
        return (
            f" says that its image {image_id!r} is of video {row['video_id']!r}; "
            f"the detections are of other videos than {annotations.path}"
        )
    bbox = row.get("bbox")
    fault = box_fault(bbox)
    if fault is not None:
        return f": {fault[1]}"
    if row["bbox"][2] < 0 or row["bbox"][3] < 0:
        return f": box {bbox} ([x, y, width, height]) has a negative width or height"
    if not is_number(row.get("score")):
        return f": score {row.get('score')!r} is not a finite number"
    if not isinstance(row.get("category_id", 1), int):
        return f": category_id {row['category_id']!r} is not a whole number"
    return None
