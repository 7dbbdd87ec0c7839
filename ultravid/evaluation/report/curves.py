"""The points of the curves that a report draws: precision and recall, FROC, score histogram.

Legend: ``N`` detections by falling score, ``K`` points of a curve, ``B`` bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.frame_ap import DetectionPool, match_detections, recall_precision, threshold_at_recall
from ultravid.evaluation.image_metrics import films_of, image_froc_points, stills_only
from ultravid.evaluation.lesion_metrics import froc_points, lesion_tracks
from ultravid.evaluation.results import MatchedVideo

__all__ = [
    "OperatingPoint",
    "ScoreHistogram",
    "froc_curve",
    "operating_point",
    "precision_recall_curve",
    "score_histogram",
]

Points = list[tuple[float, float]]

MOST_POINTS = 400
OPERATING_RECALL = 0.8
_SHARE_OF_REACHED = 0.9


@dataclass(frozen=True)
class OperatingPoint:
    """The score threshold at which a run's failures are shown.

    Attributes:
        threshold: lowest score that is kept; nan if no detection hits a lesion.
        why: how the threshold was chosen, in words.
    """

    threshold: float
    why: str


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """Number of detections by score.

    Attributes:
        edges: ``(B + 1,)`` edges of the bins, from 0 to 1.
        true_positives: ``(B,)`` true positives at IoU 0.5.
        false_positives: ``(B,)`` all other detections.
    """

    edges: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]


def operating_point(pool: DetectionPool, given: float | None = None) -> OperatingPoint:
    """The given threshold, else the one at recall 0.8; if that recall is not reached, at 0.9 of the highest recall."""
    if given is not None:
        return OperatingPoint(given, f"the given score threshold {given:g}")
    recall, _ = recall_precision(pool, 0.5)
    reached = float(recall[-1]) if len(recall) and pool.num_gt else 0.0
    if reached >= OPERATING_RECALL:
        threshold = threshold_at_recall(pool, OPERATING_RECALL)
        return OperatingPoint(threshold, f"score threshold {threshold:.4f}, at recall {OPERATING_RECALL:g}")
    if reached == 0:
        return OperatingPoint(float("nan"), "no score threshold: no detection hits a lesion")
    level = _SHARE_OF_REACHED * reached
    threshold = threshold_at_recall(pool, level)
    why = f"score threshold {threshold:.4f}, at recall {level:.3f}: the recall never exceeds {reached:.3f}"
    return OperatingPoint(threshold, why)


def precision_recall_curve(pool: DetectionPool, iou_threshold: float = 0.5) -> Points:
    """(recall, precision) after each true positive, by falling score, both in 0..1; at most 400 points, the last included."""
    recall, precision = recall_precision(pool, iou_threshold)
    at = np.flatnonzero(match_detections(pool, iou_threshold))
    at = at[_spread(len(at))]
    return list(zip(recall[at].tolist(), precision[at].tolist(), strict=True))


def froc_curve(videos: Sequence[MatchedVideo]) -> Points:
    """(false-positive sequences per minute, lesion sensitivity in 0..1) of `froc_points`; empty without a lesion in a film.

    If all videos are stills, the rate is that of false positives per image (`image_froc_points`).

    The sensitivity never falls along the curve, but the rate can: at a lower threshold two sequences may join into one. A
    point is left out if a later point has a lower rate, because the later one is better in both.
    """
    chosen = videos if stills_only(videos) else films_of(videos)
    tracks = lesion_tracks(chosen)
    if not tracks:
        return []
    points = image_froc_points if stills_only(videos) else froc_points
    rates, sensitivity, _ = points(chosen, tracks)
    least_of_later = np.minimum.accumulate(rates[::-1])[::-1]
    kept = rates <= least_of_later
    return list(zip(rates[kept].tolist(), sensitivity[kept].tolist(), strict=True))


def score_histogram(pool: DetectionPool, num_bins: int = 20) -> ScoreHistogram:
    """True and false positives at IoU 0.5 by score; scores outside 0..1 count in the first or last bin."""
    edges = np.linspace(0, 1, num_bins + 1)
    hit = match_detections(pool, 0.5)
    place = np.clip(np.searchsorted(edges, pool.scores, side="right") - 1, 0, num_bins - 1)
    counts = [np.bincount(place[chosen], minlength=num_bins) for chosen in (hit, ~hit)]
    return ScoreHistogram(edges, counts[0], counts[1])


def _spread(number: int) -> NDArray[np.int64]:
    """Indices of all of ``number`` points, or of 400 evenly spaced ones."""
    if number <= MOST_POINTS:
        return np.arange(number)
    return np.linspace(0, number - 1, MOST_POINTS).round().astype(np.int64)
