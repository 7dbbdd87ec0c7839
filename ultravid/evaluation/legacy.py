"""The metrics of UltraDet's public code (MICCAI 2023) as that code computes them, to compare with published tables.

Fractions in 0..1, and sequences per minute at 30 frames per second, of frames that are taken to be without gaps: that code knows
neither rates nor numbers nor time stamps. They differ from the metrics of `metrics` as follows:

- ``mAP`` is the sum of ten values divided by nine: it is 10/9 of the mean.
- At a recall that is never reached, ``P@R`` is the precision of all detections and ``FP@R`` takes the lowest score as
  threshold; here these metrics are undefined.
- ``FP@R`` keeps scores above the threshold, without those that equal it, and ignores a video's own frame rate and the times of its
  frames: a minute is 1,800 frames, and "the 5 frames before" are the 5 places before, also across a gap.
- ``R@16`` counts all detections, not 16 per frame.
- If all videos are stills, ``FP@R`` is undefined; that code takes each for a thirtieth of a second.
- Without any lesion the fractions are 0. Without any detection that code fails; here its metrics are nan.

That code does not sort stably; here equal scores keep the order of video, frame and detection. It drops frames for which a
detector returned nothing, not even an empty list; to compare, leave such frames out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ultravid.evaluation.frame_ap import COCO_IOUS, DetectionPool, area_under_envelope, match_detections
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.video_metrics import false_sequences_at

__all__ = ["LEGACY_METRICS", "legacy_metrics"]

_LEVELS = (0.7, 0.8, 0.9)
_FPS = 30.0

LEGACY_METRICS = ("AP50", "AP75", "mAP", *(f"P@R{r}" for r in _LEVELS), *(f"FP@R{r}" for r in _LEVELS), "R@16")


def legacy_metrics(videos: Sequence[MatchedVideo], pool: DetectionPool | None = None) -> dict[str, float]:
    """The ten metrics of `LEGACY_METRICS`, as the module defines them.

    Args:
        videos: the videos; equal scores keep their order.
        pool: the pool of the same videos, if it was computed before.
    """
    pool = DetectionPool(videos) if pool is None else pool
    if len(pool.scores) == 0:
        return dict.fromkeys(LEGACY_METRICS, float("nan"))
    matches = [match_detections(pool, iou) for iou in COCO_IOUS]
    num_gt = max(pool.num_gt, 1)
    by_iou = [area_under_envelope(match, num_gt) for match in matches]
    true_positives = matches[0].cumsum()
    recall = true_positives / num_gt
    precision = true_positives / np.arange(1, len(recall) + 1)
    values = {"AP50": by_iou[0], "AP75": by_iou[5], "mAP": sum(by_iou) / (len(by_iou) - 1)}
    for level in _LEVELS:
        values[f"P@R{level}"] = float(np.interp(level, recall, precision))
    seconds = pool.num_frames / _FPS
    stills = all(video.is_still for video in videos)
    for level in _LEVELS:
        threshold = np.array([np.interp(level, recall, pool.scores)], np.float32)
        false = sum(int(false_sequences_at(v, threshold, strict=True, by_place=True)[0]) for v in videos)
        values[f"FP@R{level}"] = float("nan") if stills else false / seconds * 60
    hit = pool.best_gt[pool.best_iou >= np.float32(0.5)]
    values["R@16"] = len(np.unique(hit)) / num_gt
    return values
