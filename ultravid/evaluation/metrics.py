"""All figures of a model's detections in videos, by name.

Pooled over the frames of all videos (Yu et al., "UltraDet", MICCAI 2023, section 4.1); percent, but for the FP:

- ``AP50``, ``AP75``: area under the precision envelope at IoU 0.5 and 0.75. ``mAP``: mean over IoU 0.50, 0.55, ..., 0.95.
- ``Pr70``, ``Pr80``, ``Pr90``: precision at recall 0.7, 0.8 and 0.9 and IoU 0.5, linear between points.
- ``FP70``, ``FP80``, ``FP90``: false-positive sequences a minute (`video_metrics`) among detections that score at least the
  threshold of that recall. A video without a known rate counts as 30 frames a second.
- ``R@16``: lesion boxes that one of the 16 best detections of their frame hits at IoU 0.5. ``AR@16``: its mean over the ten
  IoUs.
- ``multi_mAP``: ``mAP`` over the frames that hold several lesions. ``mAP_s``, ``mAP_l``: ``mAP`` of the lesion boxes of at
  most 151 squared and at least 226 squared pixels; a detection that hits another lesion is left out, one that hits none
  counts as false where its own area is in the range.

``per_video/...``: the same, averaged over a video's frames, then over videos (`per_video`); percent.

``lesion/...``: of lesion tracks (`lesion_metrics`). ``sensitivity_any@R80`` and ``sensitivity_half@R80``: lesions found in a
frame, and in half of their frames, at the threshold of recall 0.8; percent. ``delay_s@R80``: median seconds to the first
detection, at that threshold. ``FROC@x``: sensitivity (any frame) at x false sequences a minute; percent.

``legacy/...``: as UltraDet's public code computes them (`legacy`); shares in 0..1, and sequences a minute.

nan is undefined; `why_undefined` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ultravid.evaluation.frame_ap import (
    LARGE_AREA,
    SMALL_AREA,
    DetectionPool,
    average_precision,
    average_recall,
    mean_average_precision,
    recall_precision,
    recall_with_top,
    threshold_at_recall,
)
from ultravid.evaluation.frame_ap import precision_at_recall as precision_at
from ultravid.evaluation.legacy import legacy_metrics
from ultravid.evaluation.lesion_metrics import froc, lesion_sensitivity, lesion_tracks, median_delay_s
from ultravid.evaluation.matching import match_videos
from ultravid.evaluation.per_video import per_video_metrics
from ultravid.evaluation.results import MatchedVideo, VideoResult
from ultravid.evaluation.video_metrics import false_sequences_per_minute

__all__ = [
    "TRAINING_METRICS",
    "all_metrics",
    "count_metrics",
    "stratum_metrics",
    "stratum_of",
    "video_detection_metrics",
    "why_undefined",
]

TRAINING_METRICS = ("AP50", "AP75", "mAP", "Pr80", "Pr90", "FP80", "FP90", "R@16")

_LEVELS = (70, 80, 90)
_NAN = float("nan")


def video_detection_metrics(videos: Iterable[VideoResult | MatchedVideo]) -> dict[str, float]:
    """The pooled figures of `TRAINING_METRICS`: what the table of a training shows; see the module."""
    matched = match_videos(videos)
    figures = pooled_metrics(matched, DetectionPool(matched))
    return {name: figures[name] for name in TRAINING_METRICS}


def all_metrics(videos: Iterable[VideoResult | MatchedVideo], score_threshold: float | None = None) -> dict[str, float]:
    """Every figure of the module by name.

    Args:
        videos: equal scores stay in their order.
        score_threshold: also give the figures of lesions and ``lesion/FP`` at this score, named ``...@<score>``.
    """
    matched = match_videos(videos)
    pool = DetectionPool(matched)
    figures = pooled_metrics(matched, pool)
    figures |= subset_metrics(pool)
    percent = {name: 100 * value for name, value in per_video_metrics(matched).items()}
    figures |= {f"per_video/{name}": value for name, value in percent.items()}
    thresholds = {"R80": threshold_at_recall(pool, 0.8)}
    if score_threshold is not None:
        thresholds[f"{score_threshold:g}"] = score_threshold
    figures |= {f"lesion/{name}": value for name, value in lesion_level_metrics(matched, thresholds).items()}
    return figures | {f"legacy/{name}": value for name, value in legacy_metrics(matched, pool).items()}


def pooled_metrics(videos: Sequence[MatchedVideo], pool: DetectionPool) -> dict[str, float]:
    """AP50 to R@16 and AR@16; see the module."""
    figures = {
        "AP50": 100 * average_precision(pool, 0.5),
        "AP75": 100 * average_precision(pool, 0.75),
        "mAP": 100 * mean_average_precision(pool),
    }
    for level in _LEVELS:
        figures[f"Pr{level}"] = 100 * precision_at(pool, level / 100)
    for level in _LEVELS:
        figures[f"FP{level}"] = false_sequences_per_minute(videos, threshold_at_recall(pool, level / 100))
    figures["R@16"] = 100 * recall_with_top(pool, 16)
    figures["AR@16"] = 100 * average_recall(pool, 16)
    return figures


def subset_metrics(pool: DetectionPool) -> dict[str, float]:
    """multi_mAP, mAP_s and mAP_l; see the module."""
    several = 100 * mean_average_precision(pool, pool.gt_frame_size > 1, pool.frame_gt > 1)
    small = 100 * mean_average_precision(pool, pool.gt_area <= SMALL_AREA, pool.area <= SMALL_AREA)
    large = 100 * mean_average_precision(pool, pool.gt_area >= LARGE_AREA, pool.area >= LARGE_AREA)
    return {"multi_mAP": several, "mAP_s": small, "mAP_l": large}


def lesion_level_metrics(videos: Sequence[MatchedVideo], thresholds: Mapping[str, float]) -> dict[str, float]:
    """The figures of lesions at thresholds by name, and the FROC; see the module."""
    tracks = lesion_tracks(videos)
    figures = {}
    for name, threshold in thresholds.items():
        figures[f"sensitivity_any@{name}"] = 100 * lesion_sensitivity(tracks, threshold)
        figures[f"sensitivity_half@{name}"] = 100 * lesion_sensitivity(tracks, threshold, share=0.5)
        figures[f"delay_s@{name}"] = median_delay_s(tracks, threshold)
        if name != "R80":  # there it is FP80
            figures[f"FP@{name}"] = false_sequences_per_minute(videos, threshold)
    return figures | {f"FROC@{rate:g}": 100 * value for rate, value in froc(videos, tracks).items()}


def count_metrics(videos: Sequence[MatchedVideo]) -> dict[str, int]:
    """How much the figures rest on, named ``count/...``."""
    return {
        "count/patients": len({v.patient for v in videos}),
        "count/videos": len(videos),
        "count/frames": sum(len(v.frame_index) for v in videos),
        "count/lesions": sum(len(np.unique(v.gt_track)) for v in videos),
        "count/lesion_boxes": sum(len(v.gt_frame) for v in videos),
        "count/detections": sum(len(v.scores) for v in videos),
    }


def stratum_of(video: MatchedVideo, field: str) -> str:
    """What a video's ``metadata`` says of a field; "unknown" where it says nothing.

    ``size`` is made where the metadata have none: small, middle or large by the median area of the video's lesion boxes
    (up to 151 squared, from 226 squared pixels), or "no lesion".
    """
    if field in video.metadata:
        return video.metadata[field]
    if field != "size":
        return "unknown"
    if len(video.gt_area) == 0:
        return "no lesion"
    area = float(np.median(video.gt_area))
    return "small" if area <= SMALL_AREA else "large" if area >= LARGE_AREA else "middle"


def stratum_metrics(
    videos: Sequence[MatchedVideo], fields: Sequence[str], names: Sequence[str] = TRAINING_METRICS
) -> dict[str, dict[str, float]]:
    """Figures of the videos that share a field's value, by ``field=value``; beside them ``videos`` and ``lesions``."""
    strata: dict[str, dict[str, float]] = {}
    for field in fields:
        for value in sorted({stratum_of(v, field) for v in videos}):
            part = [v for v in videos if stratum_of(v, field) == value]
            figures = pooled_metrics(part, DetectionPool(part))
            counts = count_metrics(part)
            strata[f"{field}={value}"] = {
                "videos": counts["count/videos"],
                "lesions": counts["count/lesions"],
                **{name: figures[name] for name in names},
            }
    return strata


def why_undefined(figures: Mapping[str, float], videos: Sequence[MatchedVideo]) -> dict[str, str]:
    """The reason for each figure that is nan, by name."""
    undefined = [name for name, value in figures.items() if math.isnan(value)]
    if not undefined:
        return {}
    pool = DetectionPool(videos)
    recall, _ = recall_precision(pool, 0.5)
    reached = 0.0 if len(recall) == 0 else float(recall[-1])
    return {name: _reason(name, pool, reached) for name in undefined}


def _reason(name: str, pool: DetectionPool, reached: float) -> str:
    kind = name.rpartition("/")[2]
    if len(pool.scores) == 0 and name.startswith("legacy/"):
        return "there is no detection"
    if pool.num_gt == 0:
        return "there is no lesion"
    subsets: dict[str, Callable[[], str]] = {
        "multi_mAP": lambda: "no frame holds several lesions",
        "mAP_s": lambda: "no lesion box is that small",
        "mAP_l": lambda: "no lesion box is that large",
    }
    if kind in subsets:
        return subsets[kind]()
    if kind.startswith(("Pr", "FP")) or (kind.endswith("@R80") and reached < 0.8):
        return f"the recall ends at {reached:.3f}"
    return "half of the lesions or more are not found" if kind.startswith("delay_s") else "it can't be computed"
