"""What a report draws of a run: curves over the score threshold, and how scores are spread.

Legend: ``N`` detections by falling score, ``K`` points of a curve, ``B`` bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.frame_ap import DetectionPool, match_detections, recall_precision, threshold_at_recall
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
    """A score threshold at which a run is looked at.

    Attributes:
        threshold: least score; nan where there is neither a lesion nor a detection to find one by.
        why: where it comes from, in words.
    """

    threshold: float
    why: str


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """How many detections score what.

    Attributes:
        edges: ``(B + 1,)`` from 0 to 1.
        true_positives: ``(B,)`` at IoU 0.5.
        false_positives: ``(B,)``.
    """

    edges: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]


def operating_point(pool: DetectionPool, given: float | None = None) -> OperatingPoint:
    """The threshold that was given, or that of recall 0.8; where that is not reached, of 0.9 of the recall that is."""
    if given is not None:
        return OperatingPoint(given, f"the given score {given:g}")
    recall, _ = recall_precision(pool, 0.5)
    reached = float(recall[-1]) if len(recall) and pool.num_gt else 0.0
    if reached >= OPERATING_RECALL:
        threshold = threshold_at_recall(pool, OPERATING_RECALL)
        return OperatingPoint(threshold, f"score {threshold:.4f}, where the recall is {OPERATING_RECALL:g}")
    if reached == 0:
        return OperatingPoint(float("nan"), "no score: no detection hits a lesion")
    level = _SHARE_OF_REACHED * reached
    threshold = threshold_at_recall(pool, level)
    why = f"score {threshold:.4f}, where the recall is {level:.3f}: it ends at {reached:.3f} and never is 0.8"
    return OperatingPoint(threshold, why)


def precision_recall_curve(pool: DetectionPool, iou_threshold: float = 0.5) -> Points:
    """(recall, precision) after each true positive, by falling score, both in 0..1; of many points 400, the last included."""
    recall, precision = recall_precision(pool, iou_threshold)
    at = np.flatnonzero(match_detections(pool, iou_threshold))
    at = at[_spread(len(at))]
    return list(zip(recall[at].tolist(), precision[at].tolist(), strict=True))


def froc_curve(videos: Sequence[MatchedVideo]) -> Points:
    """(false-positive sequences a minute, sensitivity for lesions in 0..1) of `froc_points`; empty without a lesion.

    The sensitivity never falls along it. Where the rate does (two sequences join at a lower threshold), the points of a
    higher rate than a later one's are left out: a reader would choose the later one.
    """
    tracks = lesion_tracks(videos)
    if not tracks:
        return []
    rates, sensitivity, _ = froc_points(videos, tracks)
    least_of_later = np.minimum.accumulate(rates[::-1])[::-1]
    kept = rates <= least_of_later
    return list(zip(rates[kept].tolist(), sensitivity[kept].tolist(), strict=True))


def score_histogram(pool: DetectionPool, num_bins: int = 20) -> ScoreHistogram:
    """True and false positives at IoU 0.5 by score; scores outside of 0..1 count in the bin at that end."""
    edges = np.linspace(0, 1, num_bins + 1)
    hit = match_detections(pool, 0.5)
    place = np.clip(np.searchsorted(edges, pool.scores, side="right") - 1, 0, num_bins - 1)
    counts = [np.bincount(place[chosen], minlength=num_bins) for chosen in (hit, ~hit)]
    return ScoreHistogram(edges, counts[0], counts[1])


def _spread(number: int) -> NDArray[np.int64]:
    """Places of all, or of 400 evenly spaced ones."""
    if number <= MOST_POINTS:
        return np.arange(number)
    return np.linspace(0, number - 1, MOST_POINTS).round().astype(np.int64)
