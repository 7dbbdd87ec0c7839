"""Tracks by a Kalman filter and Hungarian assignment (after SORT, Bewley et al., ICIP 2016), with CIoU in place of IoU.

Legend: ``D`` detections of a frame, ``M`` tracks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from ultravid.modeling.track.association import best_pairs, complete_iou
from ultravid.modeling.track.kalman import BoxFilter, FilterState
from ultravid.modeling.types import Detections, State
from ultravid.utils.limits import NotNegative, Share

__all__ = ["KalmanTracker"]

Index = NDArray[np.int64]


class KalmanTracker:
    """Gives each detection the number of its track, counted from 0 in a stream; boxes and scores stay those of the detections.

    A track is predicted from frame to frame and matched to a detection of its class. A detection that fits no track starts
    one if its score is high enough, and is dropped if not (or kept without a track: ``keep_untracked``).

    A state has one row for each track, in order of birth, so that its length changes from frame to frame; all tensors are on the
    CPU: ``ids`` int64, ``classes`` int64, ``lost`` int64 (frames since the last detection), ``mean``, ``covariance`` and ``noise`` float64
    (of `FilterState`), and ``next_id`` ``()`` int64.

    Args:
        box_filter: predicts boxes.
        min_score: detections with a higher score are considered.
        nms_threshold: IoU above which the detection with the lower score of two detections of a class is dropped first.
        match_threshold: a detection and a track are matched only if their CIoU is higher.
        new_track_score: a detection with a higher score starts a track.
        buffer: number of frames that a track is kept without a detection.
        forget_lost: a track ends with the first frame without a detection, as in UltraDet's published code.
        new_tracks_first: detections that start a track come before the others, as in that code; otherwise all come by falling score.
        keep_untracked: return all valid detections as they came, those without a track with the number -1.
    """

    def __init__(
        self,
        *,
        box_filter: BoxFilter | None = None,
        min_score: Share = 0.05,
        nms_threshold: Share = 0.5,
        match_threshold: float = 0.5,
        new_track_score: Share = 0.2,
        buffer: NotNegative = 20,
        forget_lost: bool = False,
        new_tracks_first: bool = False,
        keep_untracked: bool = False,
    ) -> None:
        self.box_filter = box_filter or BoxFilter()
        self.min_score = min_score
        self.nms_threshold = nms_threshold
        self.match_threshold = match_threshold
        self.new_track_score = new_track_score
        self.buffer = 0 if forget_lost else buffer
        self.new_tracks_first = new_tracks_first
        self.keep_untracked = keep_untracked

    def initial_state(self) -> State:
        """As `Tracker.initial_state`: no tracks."""
        filtered = self.box_filter.start(np.zeros((0, 4)))
        no_ids = torch.zeros(0, dtype=torch.int64)
        return _state(no_ids, no_ids, no_ids, filtered, torch.tensor(0))

    def update(self, detections: Detections, state: State) -> tuple[Detections, State]:
        """As `Tracker.update`: the detections of the next frame that belong to a track, all valid, and the next state."""
        considered = self._considered(detections)
        found = Detections(*(field[considered] for field in detections))
        boxes = found.boxes.double().numpy()
        tracks = self.box_filter.predict(_filter_state(state))
        value = complete_iou(boxes, tracks.mean[:, :4])
        value[found.classes[:, None].numpy() != state["classes"][None].numpy()] = -1e3
        row, track = best_pairs(value, self.match_threshold)
        corrected = self.box_filter.correct(FilterState(*(field[track] for field in tracks)), boxes[row])
        tracks = FilterState(*(_replaced(old, track, new) for old, new in zip(tracks, corrected, strict=True)))

        fresh = found.scores > self.new_track_score
        fresh[row] = False
        started = fresh.nonzero()[:, 0]
        track_ids = torch.full_like(found.classes, -1)
        track_ids[row] = state["ids"][track]
        track_ids[started] = state["next_id"] + torch.arange(len(started))

        lost = state["lost"] + 1
        lost[track] = 0
        kept = lost <= self.buffer
        begun = self.box_filter.start(boxes[started.numpy()])
        following = _state(
            torch.cat((state["ids"][kept], track_ids[started])),
            torch.cat((state["classes"][kept], found.classes[started])),
            torch.cat((lost[kept], torch.zeros_like(started))),
            FilterState(*(np.concatenate((a[kept.numpy()], b)) for a, b in zip(tracks, begun, strict=True))),
            state["next_id"] + len(started),
        )
        if self.keep_untracked:
            all_ids = torch.full_like(detections.classes, -1)
            all_ids[considered] = track_ids
            tracked, order = detections._replace(track_ids=all_ids), detections.valid
        else:
            tracked, order = found._replace(track_ids=track_ids), self._order(track_ids, fresh)
        return Detections(*(field[order] for field in tracked)), following

    def _considered(self, detections: Detections) -> Tensor:
        """The rows of the valid detections above ``min_score``, after NMS, by falling score."""
        rows = (detections.valid & (detections.scores > self.min_score)).nonzero()[:, 0]
        if len(rows) < 2:  # of most frames, and the call takes a quarter of a millisecond
            return rows
        keep = batched_nms(
            detections.boxes[rows], detections.scores[rows], detections.classes[rows], self.nms_threshold
        )
        return rows[keep]

    def _order(self, track_ids: Tensor, fresh: Tensor) -> Tensor:
        rows = (track_ids >= 0).nonzero()[:, 0]
        if not self.new_tracks_first:
            return rows
        return torch.cat((rows[fresh[rows]], rows[~fresh[rows]]))


def _state(ids: Tensor, classes: Tensor, lost: Tensor, filtered: FilterState, next_id: Tensor) -> State:
    arrays = {name: torch.from_numpy(value) for name, value in filtered._asdict().items()}
    return {"ids": ids, "classes": classes, "lost": lost, **arrays, "next_id": next_id}


def _filter_state(state: State) -> FilterState:
    return FilterState(*(state[name].numpy() for name in FilterState._fields))


def _replaced(old: NDArray[np.float64], rows: Index, new: NDArray[np.float64]) -> NDArray[np.float64]:
    result = old.copy()
    result[rows] = new
    return result
