"""Lesion tracks of what a detector finds: the default tracker, boxes that are smoothed, and what a recording's tracks amount to.

Legend: ``M`` tracks; boxes are XYXY in pixels of the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ultravid.modeling import KalmanTracker
from ultravid.modeling.detector import Tracker
from ultravid.modeling.track.kalman import BoxFilter, FilterState
from ultravid.modeling.types import State
from ultravid.serving.records import Detection, FrameDetections

__all__ = ["LesionFilter", "TrackCollector", "TrackSummary", "default_tracker", "smoothed_boxes", "summarize_tracks"]

Array = NDArray[np.float64]


def default_tracker(score_threshold: float | None = None) -> KalmanTracker:
    """The tracker of detectors that have none: Kalman filter and Hungarian assignment, and nothing that was detected is lost.

    A detection that fits no track starts one if its score is above ``score_threshold``. One with a score above 0.05 belongs to a track if it
    continues one; all others stay detections without a track. A track ends after 20 frames without a detection, and its number is not
    used again.

    Args:
        score_threshold: detections below it are not shown, so that they start no track either; below 0.1 it counts as 0.1. None: 0.3.
    """
    return KalmanTracker(
        box_filter=LesionFilter(),
        min_score=0.05,
        nms_threshold=0.7,
        match_threshold=0.1,
        new_track_score=0.3 if score_threshold is None else max(0.1, score_threshold),
        buffer=20,
        keep_untracked=True,
    )


class LesionFilter(BoxFilter):
    """A Kalman filter whose noise follows the size of the box, so that it is the same for any resolution and any place in the image.

    Args:
        detection_share: standard deviation of a detected coordinate, as a share of the new box's width or height.
        position_share: likewise, what a frame adds to a coordinate.
        velocity_share: likewise, what a frame adds to a velocity.
    """

    def __init__(
        self, detection_share: float = 0.06, position_share: float = 0.03, velocity_share: float = 0.004
    ) -> None:
        super().__init__()
        self.detection_share = detection_share
        self.position_share = position_share
        self.velocity_share = velocity_share

    def start(self, boxes: Array) -> FilterState:
        """New boxes ``(M, 4)`` that do not move yet."""
        size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
        size = np.concatenate((size, size), axis=1)
        variance = np.concatenate((size * self.detection_share, size * 5 * self.velocity_share), axis=1) ** 2
        noise = np.concatenate((size * self.position_share, size * self.velocity_share), axis=1) ** 2
        mean = np.concatenate((boxes, np.zeros_like(boxes)), axis=1)
        return FilterState(mean=mean, covariance=variance[:, :, None] * np.eye(8), noise=noise)

    def correct(self, state: FilterState, boxes: Array) -> FilterState:
        """The boxes once ``(M, 4)`` of the frame are known."""
        variance = state.noise[:, :4] * (self.detection_share / self.position_share) ** 2
        innovation = state.covariance[:, :4, :4] + variance[:, :, None] * np.eye(4)
        gain = np.linalg.solve(innovation, state.covariance[:, :4, :]).transpose(0, 2, 1)
        mean = state.mean + (gain @ (boxes - state.mean[:, :4])[:, :, None])[:, :, 0]
        return FilterState(mean, state.covariance - gain @ state.covariance[:, :4, :], state.noise)


def smoothed_boxes(boxes: Tensor, track_ids: Tensor, state: State, size: tuple[int, int]) -> Tensor:
    """Boxes in which those of tracks are replaced by the tracker's estimate, which the track's earlier boxes count for.

    Args:
        boxes: ``(D, 4)``, detected in the frame.
        track_ids: ``(D,)``; a box with -1 stays as it is.
        state: of the `KalmanTracker`, after the frame.
        size: (height, width) of the image, in which the boxes stay.
    """
    rows = {int(track): row for row, track in enumerate(state["ids"].tolist())}
    found = boxes.clone()
    for place, track in enumerate(track_ids.tolist()):
        if track in rows:
            x1, y1, x2, y2 = state["mean"][rows[track], :4].tolist()
            if x2 > x1 and y2 > y1:
                found[place] = found.new_tensor((x1, y1, x2, y2))
    height, width = size
    found[:, 0::2].clamp_(0, width)
    found[:, 1::2].clamp_(0, height)
    is_empty = ~(found[:, 2:] > found[:, :2]).all(dim=1)
    found[is_empty] = boxes[is_empty]
    return found


@dataclass(frozen=True)
class TrackSummary:
    """What is known of a lesion track at the end of a recording.

    Attributes:
        track_id: its number.
        class_id: the class whose scores in it have the largest sum.
        first_index: number of the first frame in which it was found.
        last_index: of the last one.
        first_pts_s: time stamp of the first frame, in seconds.
        last_pts_s: of the last one.
        num_detections: number of frames in which it was found.
        best: the detection with the highest score, the first of several.
        best_index: number of its frame.
        best_pts_s: time stamp of its frame.
    """

    track_id: int
    class_id: int
    first_index: int
    last_index: int
    first_pts_s: float
    last_pts_s: float
    num_detections: int
    best: Detection
    best_index: int
    best_pts_s: float

    @property
    def num_frames(self) -> int:
        """Length in frames of the source, from the first to the last, those without a detection between them included."""
        return self.last_index - self.first_index + 1

    @property
    def length_s(self) -> float:
        """Length in seconds, from the first frame's time stamp to the last one's; 0 for a single frame."""
        return self.last_pts_s - self.first_pts_s

    @property
    def best_score(self) -> float:
        """Of `best`."""
        return self.best.score

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The track as the result files and the page have it."""
        return {
            "track_id": self.track_id,
            "class": class_names[self.class_id] if self.class_id < len(class_names) else str(self.class_id),
            "class_id": self.class_id,
            "first_index": self.first_index,
            "last_index": self.last_index,
            "first_pts_s": self.first_pts_s,
            "last_pts_s": self.last_pts_s,
            "num_frames": self.num_frames,
            "length_s": round(self.length_s, 6),
            "num_detections": self.num_detections,
            "best_score": round(self.best.score, 6),
            "best_index": self.best_index,
            "best_pts_s": self.best_pts_s,
            "best_box": [round(v, 3) for v in self.best.box],
        }


class TrackCollector:
    """Collects the tracks of a recording, frame after frame; its memory grows with the number of tracks, not of frames."""

    def __init__(self) -> None:
        self._open: dict[int, _Track] = {}

    def add(self, frame: FrameDetections) -> None:
        """Add the detections of the next frame."""
        for detection in frame.detections:
            if detection.track_id is None:
                continue
            if detection.track_id not in self._open:
                self._open[detection.track_id] = _Track(frame, detection)
            self._open[detection.track_id].add(frame, detection)

    def summaries(self) -> list[TrackSummary]:
        """The tracks so far, by their number."""
        return [track.summary() for _, track in sorted(self._open.items())]


class _Track:
    def __init__(self, frame: FrameDetections, detection: Detection) -> None:
        self.first = self.last = self.best_frame = (frame.index, frame.pts_s)
        self.best = detection
        self.num_detections = 0
        self.score_of_class: dict[int, float] = {}

    def add(self, frame: FrameDetections, detection: Detection) -> None:
        self.last = (frame.index, frame.pts_s)
        self.num_detections += 1
        self.score_of_class[detection.class_id] = self.score_of_class.get(detection.class_id, 0.0) + detection.score
        if detection.score > self.best.score:
            self.best, self.best_frame = detection, self.last

    def summary(self) -> TrackSummary:
        assert self.best.track_id is not None
        return TrackSummary(
            track_id=self.best.track_id,
            class_id=max(self.score_of_class, key=lambda c: (self.score_of_class[c], -c)),
            first_index=self.first[0],
            last_index=self.last[0],
            first_pts_s=self.first[1],
            last_pts_s=self.last[1],
            num_detections=self.num_detections,
            best=self.best,
            best_index=self.best_frame[0],
            best_pts_s=self.best_frame[1],
        )


def summarize_tracks(frames: Iterable[FrameDetections]) -> list[TrackSummary]:
    """The lesion tracks of a recording, by their number."""
    collector = TrackCollector()
    for frame in frames:
        collector.add(frame)
    return collector.summaries()


def is_kalman(tracker: Tracker | None) -> bool:
    """Whether a tracker's state has estimates of boxes, which `smoothed_boxes` needs."""
    return isinstance(tracker, KalmanTracker)
