"""Detections and ground truth of videos, before (`VideoResult`) and after (`MatchedVideo`) their boxes are compared.

Legend: ``F`` frames, ``N`` detections and ``M`` lesion boxes, of a frame or of a whole video as stated; ``L`` links.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_FPS", "FrameResult", "MatchedVideo", "VideoResult"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

DEFAULT_FPS = 30.0


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Ground truth and detections of a frame.

    Attributes:
        frame_index: its place in its video.
        image_id: its id in the annotation file.
        gt_boxes: ``(M, 4)`` float32, XYXY, pixels.
        boxes: ``(N, 4)`` float32, XYXY, pixels.
        scores: ``(N,)`` float32.
        gt_track_ids: ``(M,)`` int64, one id a lesion along its video; None where they are not known, then all boxes of the
            video are taken for one lesion.
        gt_classes: ``(M,)`` int64; None where they are not known. No figure looks at them.
        classes: ``(N,)`` int64; None where they are not known. No figure looks at them.
        file_name: the frame's picture; None where it is not known. No figure looks at it.
    """

    frame_index: int
    image_id: int | str
    gt_boxes: FloatArray
    boxes: FloatArray
    scores: FloatArray
    gt_track_ids: IntArray | None = None
    gt_classes: IntArray | None = None
    classes: IntArray | None = None
    file_name: str | None = None


@dataclass(frozen=True, eq=False)
class VideoResult:
    """The frames of a video in order.

    Attributes:
        video_id: unique in its data set.
        frames: in temporal order.
        fps: frames a second; None where it is not known.
        patient: who was scanned; None where it is not known, then the video counts as a patient of its own.
        metadata: device, organ, hospital and the like.
    """

    video_id: str
    frames: list[FrameResult]
    fps: float | None = None
    patient: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class MatchedVideo:
    """A video once its boxes have been compared: all that the figures need, some 50 bytes a detection.

    Detections stand in the order of frames, within a frame in the order given.

    Attributes:
        video_id: see `VideoResult`.
        fps: see `VideoResult`.
        patient: see `VideoResult`; the video's id where it is not known.
        metadata: see `VideoResult`.
        frame_index: ``(F,)`` int64, see `FrameResult`.
        scores: ``(N,)`` float32.
        frame: ``(N,)`` int64, place of the detection's frame among the ``F``.
        area: ``(N,)`` float32, square pixels.
        best_iou: ``(N,)`` float32, highest IoU with a lesion of the frame, 0 without one.
        best_gt: ``(N,)`` int64, the first lesion box of that IoU, as an index into the ``M``; -1 without a lesion.
        rank: ``(N,)`` int64, how many detections of the same frame come before by falling score.
        centre_hits: ``(N,)`` bool, the centre lies in a lesion's box of the frame, border included.
        links: ``(L, 2)`` int64, (detection, earlier detection) that a sequence may join, see `sequence_links`.
        gt_frame: ``(M,)`` int64, place of the box's frame.
        gt_area: ``(M,)`` float32, square pixels.
        gt_track: ``(M,)`` int64, see `FrameResult`.
    """

    video_id: str
    fps: float | None
    patient: str
    metadata: Mapping[str, str]
    frame_index: IntArray
    scores: FloatArray
    frame: IntArray
    area: FloatArray
    best_iou: FloatArray
    best_gt: IntArray
    rank: IntArray
    centre_hits: NDArray[np.bool_]
    links: IntArray
    gt_frame: IntArray
    gt_area: FloatArray
    gt_track: IntArray

    @property
    def minutes(self) -> float:
        """Length; 30 frames a second where the video's own rate is not known."""
        return len(self.frame_index) / (self.fps or DEFAULT_FPS) / 60
