"""All metrics of detections in videos, by name, with their definitions.

Notation: a *lesion box* is the box of one lesion in one frame. Matching of detections with lesion boxes, precision, recall and
average precision (AP) are defined in `frame_ap`, false-positive sequences in `video_metrics`. All values are percentages
unless another unit is given. A metric that is undefined is nan, and `why_undefined` gives the reason: without any lesion
all metrics are undefined but ``lesion/FP@...`` at a given score and those of ``legacy/``.

Pooled over the frames of all videos (Yu et al., "UltraDet", MICCAI 2023, section 4.1):

- ``AP50``, ``AP75``: average precision at IoU 0.5 and 0.75: area under the precision envelope over recall. ``mAP``: its mean
  over the ten IoU thresholds 0.50, 0.55, ..., 0.95.
- ``Pr70``, ``Pr80``, ``Pr90``: precision at recall 0.7, 0.8 and 0.9 at IoU 0.5, interpolated linearly between detections.
  Undefined if that recall is never reached.
- ``FP70``, ``FP80``, ``FP90``: false-positive sequences per minute of video, among the detections that score at least the
  threshold at which recall 0.7, 0.8 or 0.9 is reached (interpolated alike). A video lasts from its first frame to its last, by
  their time stamps or by their numbers over the frame rate, plus one usual distance (`ultravid.datasets.frame_times`); 30 frames per
  second are assumed if neither is known (`assumed_rate_note`). Undefined if that recall is never reached. Lower is better.
- ``R@16``: recall at IoU 0.5 with the 16 highest-scoring detections of each frame; several detections may hit one lesion box.
  ``AR@16``: its mean over the ten IoU thresholds.
- ``multi_mAP``: ``mAP`` over the frames with more than one lesion box; undefined if there is no such frame.
- ``mAP_s``, ``mAP_l``: ``mAP`` of the lesion boxes of at most 151 squared, and of at least 226 squared pixels. A detection
  that hits a lesion box outside the range is ignored; one that hits none is a false positive if its own area is in the range.
  Undefined if no lesion box is in the range.

All of these are class-agnostic: a detection of any class may hit a lesion of any class. If there are lesions of several classes,
``class/...``, ``class_mean/...`` and ``confusion/...`` distinguish them (`class_metrics`).

``per_video/...``: AP50, AP75, mAP, R@16, AR@16, multi_mAP, mAP_s and mAP_l computed per frame, averaged over the frames of each
video, then over the videos (`per_video`).

``FP/image@R70``, ``FP/image@R80``, ``FP/image@R90``: false-positive detections per image at those thresholds (`image_metrics`):
detections whose centre lies in no lesion box, by the number of images. An image is a still or a frame of a film.
``FP/image@<score>``: the same at a given score.
``FROC/image@x``: free-response ROC over them, x = 0.125, 0.25, 0.5, 1, 2, 4, 8: as ``lesion/FROC@x`` below.

A video of one frame is a *still*: it has no duration. The metrics per minute (``FP70`` to ``FP90``, ``lesion/FP@...``,
``lesion/FROC@x``) and ``lesion/delay_s@...`` are those of the other videos, and undefined if all videos are stills, as are
``legacy/FP@R...``.

``lesion/...``: per lesion, that is per track along a video (`lesion_metrics`), at a score threshold: that of recall 0.8
(``@R80``), or a given score (``@<score>``):

- ``sensitivity_any``, ``sensitivity_half``: lesions hit in at least one frame, and in at least half of their frames, at IoU 0.5.
- ``delay_s``: median over lesions of the seconds from a lesion's first frame to the first frame in which it is hit; a lesion
  that is never hit counts as infinitely late. Undefined if half of the lesions or more are not hit.
- ``FP``: false-positive sequences per minute, at a given score; at recall 0.8 it is ``FP80``.
- ``FROC@x``: free-response ROC (Bunch et al., 1978), x = 0.5, 1, 2, 4, 8: of the thresholds at which one more lesion is found,
  those with at most x false-positive sequences per minute, and among them the highest ``sensitivity_any``; 0 if there is none.

``legacy/...``: the ten metrics of UltraDet's public code as that code computes them (`legacy`): fractions in 0..1, and sequences
per minute.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ultravid.datasets.frame_times import ASSUMED_FPS
from ultravid.datasets.patients import num_patients, num_unknown_patients
from ultravid.evaluation.class_metrics import CONFUSION, class_metrics
from ultravid.evaluation.frame_ap import (
    LARGE_AREA,
    SMALL_AREA,
    DetectionPool,
    average_precision,
    average_recall,
    mean_average_precision,
    precision_at_recall,
    recall_precision,
    recall_with_top,
    threshold_at_recall,
)
from ultravid.evaluation.image_metrics import false_positives_per_image, films_of, image_froc, stills_only
from ultravid.evaluation.legacy import legacy_metrics
from ultravid.evaluation.lesion_metrics import LesionTrack, froc, lesion_sensitivity, lesion_tracks, median_delay_s
from ultravid.evaluation.matching import IGNORED_IOU, match_videos
from ultravid.evaluation.per_video import per_video_metrics
from ultravid.evaluation.results import MatchedVideo, VideoResult
from ultravid.evaluation.video_metrics import false_sequences_per_minute

__all__ = [
    "IMAGE_METRICS",
    "TRAINING_METRICS",
    "all_metrics",
    "assumed_rate_note",
    "assumed_rate_text",
    "count_metrics",
    "count_text",
    "shown_metrics",
    "stratum_metrics",
    "stratum_of",
    "video_detection_metrics",
    "why_undefined",
]

TRAINING_METRICS = ("AP50", "AP75", "mAP", "Pr80", "Pr90", "FP80", "FP90", "R@16")

IMAGE_METRICS = ("FP/image@R80", "FP/image@R90")
"""What the log of a training shows in addition on stills, and on films of a rate that is not known."""

_PLURAL = re.compile(r"(box)es\b|s\b")
_LEVELS = (70, 80, 90)
_NAN = float("nan")

STILLS_REASON = "stills have no duration, see the metrics per image"


def video_detection_metrics(videos: Iterable[VideoResult | MatchedVideo]) -> dict[str, float]:
    """The pooled metrics that the log of a training shows (`shown_metrics`).

    Args:
        videos: detections and lesions by frame, or videos that were matched already.

    Returns:
        The metrics by name, in percent or in the unit of their name; nan for what is not defined.
    """
    matched = match_videos(videos)
    pooled = pooled_metrics(matched, DetectionPool(matched))
    return {name: pooled[name] for name in shown_metrics(matched)}


def shown_metrics(videos: Sequence[MatchedVideo]) -> tuple[str, ...]:
    """Names of the metrics that the log of a training shows: those per image too if the videos have no time, or an assumed rate."""
    is_assumed = any(video.times.is_assumed for video in films_of(videos))
    return (*TRAINING_METRICS, *IMAGE_METRICS) if is_assumed or stills_only(videos) else TRAINING_METRICS


def all_metrics(videos: Iterable[VideoResult | MatchedVideo], score_threshold: float | None = None) -> dict[str, float]:
    """Every metric that the module defines, by name.

    Args:
        videos: the videos; equal scores keep their order.
        score_threshold: also compute the lesion metrics at this score, named ``lesion/...@<score>``.
    """
    matched = match_videos(videos)
    pool = DetectionPool(matched)
    values = pooled_metrics(matched, pool)
    values |= subset_metrics(pool)
    values |= class_metrics(matched, pool)
    percent = {name: 100 * value for name, value in per_video_metrics(matched).items()}
    values |= {f"per_video/{name}": value for name, value in percent.items()}
    tracks = lesion_tracks(matched)
    thresholds = {"R80": threshold_at_recall(pool, 0.8)}
    if score_threshold is not None:
        thresholds[f"{score_threshold:g}"] = score_threshold
    values |= {f"lesion/{name}": value for name, value in lesion_level_metrics(matched, tracks, thresholds).items()}
    per_image = image_froc(matched, tracks)
    values |= {f"FROC/image@{rate:g}": 100 * value for rate, value in per_image.items()}
    if score_threshold is not None:
        values[f"FP/image@{score_threshold:g}"] = false_positives_per_image(matched, score_threshold)
    return values | {f"legacy/{name}": value for name, value in legacy_metrics(matched, pool).items()}


def pooled_metrics(videos: Sequence[MatchedVideo], pool: DetectionPool) -> dict[str, float]:
    """The pooled metrics AP50 to AR@16 and ``FP/image@R...``, as the module defines them."""
    values = {
        "AP50": 100 * average_precision(pool, 0.5),
        "AP75": 100 * average_precision(pool, 0.75),
        "mAP": 100 * mean_average_precision(pool),
    }
    for level in _LEVELS:
        values[f"Pr{level}"] = 100 * precision_at_recall(pool, level / 100)
    for level in _LEVELS:
        values[f"FP{level}"] = false_sequences_per_minute(videos, threshold_at_recall(pool, level / 100))
    for level in _LEVELS:
        values[f"FP/image@R{level}"] = false_positives_per_image(videos, threshold_at_recall(pool, level / 100))
    values["R@16"] = 100 * recall_with_top(pool, 16)
    values["AR@16"] = 100 * average_recall(pool, 16)
    return values


def subset_metrics(pool: DetectionPool) -> dict[str, float]:
    """The pooled metrics multi_mAP, mAP_s and mAP_l, as the module defines them."""
    several = 100 * mean_average_precision(pool, pool.gt_frame_size > 1, pool.frame_gt > 1)
    small = 100 * mean_average_precision(pool, pool.gt_area <= SMALL_AREA, pool.area <= SMALL_AREA)
    large = 100 * mean_average_precision(pool, pool.gt_area >= LARGE_AREA, pool.area >= LARGE_AREA)
    return {"multi_mAP": several, "mAP_s": small, "mAP_l": large}


def lesion_level_metrics(
    videos: Sequence[MatchedVideo], tracks: Sequence[LesionTrack], thresholds: Mapping[str, float]
) -> dict[str, float]:
    """The lesion metrics and the FROC, as the module defines them.

    Args:
        videos: the videos.
        tracks: their lesions.
        thresholds: score thresholds by name; a metric at one of them is named ``...@<name>``.
    """
    films = films_of(videos)
    film_tracks = [track for track in tracks if not videos[track.video].is_still]
    values = {}
    for name, threshold in thresholds.items():
        values[f"sensitivity_any@{name}"] = 100 * lesion_sensitivity(tracks, threshold)
        values[f"sensitivity_half@{name}"] = 100 * lesion_sensitivity(tracks, threshold, share=0.5)
        values[f"delay_s@{name}"] = median_delay_s(film_tracks, threshold)
        if name != "R80":  # at recall 0.8 it would repeat FP80
            values[f"FP@{name}"] = false_sequences_per_minute(videos, threshold)
    return values | {f"FROC@{rate:g}": 100 * value for rate, value in froc(films, film_tracks).items()}


def count_metrics(videos: Sequence[MatchedVideo]) -> dict[str, int]:
    """How much data the metrics rest on: patients, videos, frames, lesions, ..., as ``count/...``.

    ``count/videos_of_assumed_rate``: videos of which neither the frame rate nor time stamps are known. A video of an unknown
    patient counts as one more patient; ``count/videos_of_unknown_patient`` says how many those are. If patients may have been
    taken from the videos' names, there is ``count/videos_of_guessed_patient`` too; if detections lie on regions to ignore, which
    ``count/detections`` leaves out, there is ``count/detections_on_ignored_regions``.
    """
    guessed = sum(v.patient_guessed for v in videos)
    ignored = sum(v.num_ignored for v in videos)
    return {
        "count/patients": num_patients(videos),
        "count/videos": len(videos),
        "count/stills": sum(v.is_still for v in videos),
        "count/frames": sum(len(v.frame_index) for v in videos),
        "count/lesions": sum(len(np.unique(v.gt_track)) for v in videos),
        "count/lesion_boxes": sum(len(v.gt_frame) for v in videos),
        "count/detections": sum(len(v.scores) for v in videos),
        "count/videos_of_assumed_rate": sum(v.times.is_assumed for v in films_of(videos)),
        "count/videos_of_unknown_patient": num_unknown_patients(videos),
        **({"count/videos_of_guessed_patient": guessed} if guessed else {}),
        **({"count/detections_on_ignored_regions": ignored} if ignored else {}),
    }


def count_text(counts: Mapping[str, int]) -> str:
    """What `count_metrics` returns, in words."""
    words = {name: name.removeprefix("count/").replace("_", " ") for name in counts}
    words |= {name: _PLURAL.sub(r"\1", words[name], count=1) for name, number in counts.items() if number == 1}
    return ", ".join(f"{number} {words[name]}" for name, number in counts.items())


def ignored_note(videos: Sequence[MatchedVideo]) -> str:
    """A sentence about detections on regions to ignore; empty if there are none."""
    number = sum(video.num_ignored for video in videos)
    return (
        f"{number} detections lie on regions that the annotations mark as iscrowd, ignore or difficult (IoU {IGNORED_IOU}); they are "
        "neither right nor wrong, and are left out."
        if number
        else ""
    )


def assumed_rate_note(metrics: Mapping[str, float], videos: Sequence[MatchedVideo]) -> str:
    """`assumed_rate_text` of metrics of these videos."""
    films = films_of(videos)
    return assumed_rate_text(metrics, sum(video.times.is_assumed for video in films), len(films))


def assumed_rate_text(metrics: Mapping[str, float], number: int, total: int) -> str:
    """A sentence that names the metrics which rest on an assumed frame rate, and says how to state the true one.

    Args:
        metrics: values by name; those that are nan are not named, nor those of ``legacy/``, which take every rate as 30.
        number: how many videos are of an assumed rate.
        total: how many videos there are, without stills.

    Returns:
        "" if the rate of every video is known, or no metric depends on it.
    """
    names = [
        name
        for name, value in metrics.items()
        if not math.isnan(value) and not name.startswith(("legacy/", "strata/")) and _needs_minutes(name)
    ]
    if not number or not names:
        return ""
    verb = "assume" if len(names) > 1 else "assumes"
    return (
        f"{', '.join(names)} {verb} {ASSUMED_FPS:g} frames per second for {number} of {total} videos, whose rate is not "
        "known: state fps in the annotations (COCO: of each video) or, for a recording, in NAME.video.json beside it."
    )


def stratum_of(video: MatchedVideo, field: str) -> str:
    """The stratum of a video by a field of its metadata: the value of that field; "unknown" if the video does not have it.

    A video without the field ``size`` gets one from the median area of its lesion boxes: "small" up to 151 squared pixels,
    "large" from 226 squared pixels, "middle" in between, or "no lesion".
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
    """Pooled metrics of each stratum of videos, by ``field=value``.

    Args:
        videos: the videos.
        fields: fields of their metadata, each of which divides all videos into strata.
        names: which pooled metrics to compute.

    Returns:
        for each stratum: the number of ``videos`` and ``lesions``, and the metrics; each with its own score thresholds.
    """
    strata: dict[str, dict[str, float]] = {}
    for field in fields:
        for value in sorted({stratum_of(v, field) for v in videos}):
            part = [v for v in videos if stratum_of(v, field) == value]
            pooled = pooled_metrics(part, DetectionPool(part))
            counts = count_metrics(part)
            strata[f"{field}={value}"] = {
                "videos": counts["count/videos"],
                "lesions": counts["count/lesions"],
                **{name: pooled[name] for name in names},
            }
    return strata


def why_undefined(metrics: Mapping[str, float], videos: Sequence[MatchedVideo]) -> dict[str, str]:
    """The reason for each metric that is nan, by name."""
    undefined = [name for name, value in metrics.items() if math.isnan(value)]
    if not undefined:
        return {}
    pool = DetectionPool(videos)
    recall, _ = recall_precision(pool, 0.5)
    reached = 0.0 if len(recall) == 0 else float(recall[-1])
    stills = stills_only(videos)
    return {
        name: STILLS_REASON if stills and _needs_minutes(name) else _reason(name, pool, reached) for name in undefined
    }


def _needs_minutes(name: str) -> bool:
    """Whether a metric needs the duration of a film."""
    return name.rpartition("/")[2].startswith(("FP", "FROC", "delay_s"))


def _reason(name: str, pool: DetectionPool, reached: float) -> str:
    kind = name.rpartition("/")[2]
    if len(pool.scores) == 0 and name.startswith("legacy/"):
        return "there is no detection"
    if pool.num_gt == 0:
        return "there is no lesion"
    if name.startswith("class/"):
        return "no lesion box is of that class"
    if name.startswith(CONFUSION):
        return f"the recall ends at {reached:.3f}"
    subsets: dict[str, Callable[[], str]] = {
        "multi_mAP": lambda: "no frame has several lesions",
        "mAP_s": lambda: "no lesion box is that small",
        "mAP_l": lambda: "no lesion box is that large",
    }
    if kind in subsets:
        return subsets[kind]()
    if kind.startswith(("Pr", "FP", "image@R")) or (kind.endswith("@R80") and reached < 0.8):
        return f"the recall ends at {reached:.3f}"
    if kind.startswith("FROC"):
        return "no lesion is in a film"
    return "half of the lesions or more are not found" if kind.startswith("delay_s") else "it can't be computed"
