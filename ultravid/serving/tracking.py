"""The default tracker for detectors without one, and its smoothed boxes.

Legend: ``M`` tracks; boxes are XYXY in pixels of the source.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ultravid.modeling import KalmanTracker
from ultravid.modeling.detector import Tracker
from ultravid.modeling.track.kalman import BoxFilter, FilterState
from ultravid.modeling.types import State

__all__ = ["LesionFilter", "default_tracker", "is_kalman", "smoothed_boxes"]

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
        state: the state of the `KalmanTracker`, after the frame.
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


def is_kalman(tracker: Tracker | None) -> bool:
    """Whether a tracker's state has estimates of boxes, which `smoothed_boxes` needs."""
    return isinstance(tracker, KalmanTracker)
