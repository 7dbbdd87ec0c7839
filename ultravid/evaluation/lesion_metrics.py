"""Metrics per lesion: which lesions are found at all, how soon, and with how many false positives.

A lesion is a track: the boxes with one id of ``gt_track_ids`` in one video; without ids the boxes of a
frame are told apart by their order. At a score threshold, a frame of a track is hit if a detection that scores at least the threshold has its highest IoU
with the track's box and that IoU is at least 0.5. A lesion is found if at least one of its frames is hit or, by the stricter
definition, at least a given share of its frames.

Legend: ``F`` frames, ``M`` lesion boxes of a video, ``T`` lesions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.video_metrics import false_sequences_at

__all__ = [
    "FROC_RATES",
    "LesionTrack",
    "finding_thresholds",
    "froc",
    "froc_points",
    "lesion_sensitivity",
    "lesion_tracks",
    "median_delay_s",
]

HIT_IOU = 0.5
FROC_RATES = (0.5, 1.0, 2.0, 4.0, 8.0)
FROC_POINTS = 50


@dataclass(frozen=True, eq=False)
class LesionTrack:
    """A lesion of a video.

    Attributes:
        video: index of its video.
        track_id: id of the lesion in its video.
        times_s: ``(F,)`` float64, ascending: time along the film in seconds of each frame that shows the lesion.
        hit_scores: ``(F,)`` float64, the highest score that hits the lesion in that frame; -inf if nothing does.
        frames: ``(F,)`` int64, indices of those frames in the video.
    """

    video: int
    track_id: int
    times_s: NDArray[np.float64]
    hit_scores: NDArray[np.float64]
    frames: NDArray[np.int64]

    def found_score(self, share: float = 0.0) -> float:
        """Highest threshold at which the lesion is found: in at least one frame, and in at least ``share`` of its frames."""
        needed = max(1, math.ceil(share * len(self.hit_scores) - 1e-9))
        return float(np.sort(self.hit_scores)[-needed])

    def delay_s(self, threshold: float) -> float:
        """Seconds from the lesion's first frame to the first that is hit at the threshold; inf if no frame is."""
        hit = np.flatnonzero(self.hit_scores >= threshold)
        return float(self.times_s[hit[0]] - self.times_s[0]) if len(hit) else math.inf


def lesion_tracks(videos: Sequence[MatchedVideo]) -> list[LesionTrack]:
    """The lesions of all videos, by video and id. A video of neither rate nor time stamps counts as 30 frames per second."""
    tracks = []
    for v, video in enumerate(videos):
        hit = np.full(len(video.gt_frame), -np.inf)
        reaches = video.best_iou >= np.float32(HIT_IOU)
        np.maximum.at(hit, video.best_gt[reaches], video.scores[reaches])
        for track in np.unique(video.gt_track):
            boxes = np.flatnonzero(video.gt_track == track)
            frames, first = np.unique(video.gt_frame[boxes], return_index=True)
            tracks.append(
                LesionTrack(v, int(track), video.times.times_s[frames], np.maximum.reduceat(hit[boxes], first), frames)
            )
    return tracks


def lesion_sensitivity(tracks: Sequence[LesionTrack], threshold: float, share: float = 0.0) -> float:
    """Fraction of lesions found at a threshold, in 0..1; nan if there is no lesion or the threshold is nan.

    Args:
        tracks: the lesions.
        threshold: lowest score of a detection that counts.
        share: share of its frames in which a lesion must be hit; 0: in at least one frame.
    """
    if not tracks or math.isnan(threshold):
        return float("nan")
    limit = np.float32(threshold)  # scores are float32: one that equals the threshold is kept
    return float(np.mean([track.found_score(share) >= limit for track in tracks]))


def median_delay_s(tracks: Sequence[LesionTrack], threshold: float) -> float:
    """Median over lesions of the seconds from a lesion's first frame to the first frame in which it is hit.

    A lesion that is never found counts as infinitely late. If it were left out, a detector that finds only easy lesions would
    look fast. nan if half of the lesions or more are not found (the median is infinite), if there is no lesion, or if the
    threshold is nan.
    """
    if not tracks or math.isnan(threshold):
        return float("nan")
    delays = sorted(track.delay_s(float(np.float32(threshold))) for track in tracks)
    median = (delays[(len(delays) - 1) // 2] + delays[len(delays) // 2]) / 2
    return median if math.isfinite(median) else float("nan")


def froc(
    videos: Sequence[MatchedVideo],
    tracks: Sequence[LesionTrack],
    rates: Sequence[float] = FROC_RATES,
    share: float = 0.0,
) -> dict[float, float]:
    """Lesion sensitivity at given rates of false-positive sequences per minute (free-response ROC; Bunch et al., 1978).

    The sensitivity at a rate is the highest among all `froc_points` with at most that rate; 0 if every point has a higher one.

    Args:
        videos: the videos.
        tracks: their lesions.
        rates: false-positive sequences per minute.
        share: share of its frames in which a lesion must be hit; 0: in at least one frame.

    Returns:
        sensitivity in 0..1 by rate; nan if there is no lesion.
    """
    if not tracks:
        return dict.fromkeys(rates, float("nan"))
    false, sensitivity, _ = froc_points(videos, tracks, share, most=None)
    return {rate: float(sensitivity[false <= rate].max(initial=0.0)) for rate in rates}


def froc_points(
    videos: Sequence[MatchedVideo], tracks: Sequence[LesionTrack], share: float = 0.0, most: int | None = FROC_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The operating points of a FROC, by falling threshold: the thresholds at which one more lesion is found.

    Args:
        videos: the videos.
        tracks: their lesions.
        share: share of its frames in which a lesion must be hit; 0: in at least one frame.
        most: if there are more points, this many evenly spaced ones are taken, enough to draw a curve; None takes all.

    Returns:
        ``(K,)`` false-positive sequences per minute (`video_metrics`), ``(K,)`` lesion sensitivity in 0..1, ``(K,)``
        thresholds; empty if no lesion is found.
    """
    thresholds, sensitivity = finding_thresholds(tracks, share, most)
    minutes = sum(video.minutes for video in videos)
    false = sum((false_sequences_at(v, thresholds.astype(np.float32)) for v in videos), np.zeros(len(thresholds)))
    return false / minutes, sensitivity, thresholds


def finding_thresholds(
    tracks: Sequence[LesionTrack], share: float = 0.0, most: int | None = FROC_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The thresholds at which one more lesion is found, falling, and the lesion sensitivity in 0..1 at each; see `froc_points`."""
    found = np.sort([track.found_score(share) for track in tracks])[::-1]
    thresholds = np.unique(found[np.isfinite(found)])[::-1]
    if most is not None and len(thresholds) > most:
        thresholds = thresholds[np.linspace(0, len(thresholds) - 1, most).round().astype(int)]
    return thresholds, np.searchsorted(-found, -thresholds, side="right") / max(len(found), 1)
