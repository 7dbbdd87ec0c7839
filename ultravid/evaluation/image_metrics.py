"""Metrics per image. They also cover stills: videos of one frame, which have no duration and so no rate per minute.

An image is a still or a frame of a film. A detection is a false positive if its centre lies in no lesion box of its image, border
excluded; in a still it is what `video_metrics` calls a false-positive sequence.

Legend: ``K`` thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.lesion_metrics import LesionTrack, finding_thresholds
from ultravid.evaluation.results import MatchedVideo

__all__ = [
    "IMAGE_FROC_RATES",
    "false_positives_per_image",
    "films_of",
    "image_froc",
    "image_froc_points",
    "stills_note",
    "stills_only",
]

IMAGE_FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def films_of(videos: Sequence[MatchedVideo]) -> list[MatchedVideo]:
    """The videos of more than one frame."""
    return [video for video in videos if not video.is_still]


def stills_only(videos: Sequence[MatchedVideo]) -> bool:
    """Whether there are videos, and all are stills."""
    return len(videos) > 0 and all(video.is_still for video in videos)


def stills_note(videos: Sequence[MatchedVideo]) -> str:
    """A sentence that says which videos the metrics per minute rest on; "" if there is no still."""
    number = sum(video.is_still for video in videos)
    if number == 0:
        return ""
    if number == len(videos):
        return f"All {number} videos are stills of one frame: metrics are per image, and none is per minute."
    return (
        f"{number} of {len(videos)} videos are stills of one frame: metrics per minute and delays are those of the other "
        f"{len(videos) - number}."
    )


def false_positives_per_image(videos: Sequence[MatchedVideo], threshold: float) -> float:
    """False-positive detections that score at least the threshold, by the images of all videos.

    nan if the threshold is nan or there is no image.
    """
    if math.isnan(threshold):
        return float("nan")
    return float(_false_per_image(videos, np.array([threshold], np.float32))[0])


def image_froc(
    videos: Sequence[MatchedVideo], tracks: Sequence[LesionTrack], rates: Sequence[float] = IMAGE_FROC_RATES
) -> dict[float, float]:
    """Lesion sensitivity at given numbers of false positives per image, as `lesion_metrics.froc` has it per minute.

    Returns:
        sensitivity in 0..1 by rate; nan if there is no lesion.
    """
    if not tracks:
        return dict.fromkeys(rates, float("nan"))
    false, sensitivity, _ = image_froc_points(videos, tracks, most=None)
    return {rate: float(sensitivity[false <= rate].max(initial=0.0)) for rate in rates}


def image_froc_points(
    videos: Sequence[MatchedVideo], tracks: Sequence[LesionTrack], most: int | None = 50
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The operating points of a FROC per image, as `lesion_metrics.froc_points` has it per minute.

    Returns:
        ``(K,)`` false positives per image, ``(K,)`` lesion sensitivity in 0..1, ``(K,)`` thresholds, falling.
    """
    thresholds, sensitivity = finding_thresholds(tracks, most=most)
    return _false_per_image(videos, thresholds.astype(np.float32)), sensitivity, thresholds


def _false_per_image(videos: Sequence[MatchedVideo], thresholds: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(K,)`` false positives per image at ``(K,)`` thresholds; nan if there is no image."""
    number = sum(len(video.frame_index) for video in videos)
    if number == 0:
        return np.full(len(thresholds), np.nan)
    false = np.concatenate([np.zeros(0, np.float32), *(video.scores[~video.centre_hits] for video in videos)])
    counts = np.searchsorted(np.sort(-false), -thresholds, side="right")
    return np.asarray(counts / number, np.float64)
