"""The figures of UltraDet's public code (MICCAI 2023) as it computes them, for tables that must agree with published ones.

They are shares in 0..1, and sequences a minute at 30 frames a second. They depart from ours in this:

- ``mAP`` sums ten values and divides by nine: it is 10/9 too high.
- A recall that is never reached gives the last precision, and for the sequences the lowest score of all.
- ``FP`` keeps scores above the threshold, not those that equal it, and knows no rate of a video's own.
- ``R@16`` counts all detections, not 16 a frame.
- Without any lesion the shares are 0. Without any detection the code fails; here the figures are nan.

Its sort is not stable; here equal scores stay in order of video, frame and detection. It drops frames for which a detector
gave nothing at all, not even an empty list; leave them out to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ultravid.evaluation.frame_ap import COCO_IOUS, DetectionPool, area_under_envelope, match_detections
from ultravid.evaluation.results import DEFAULT_FPS, MatchedVideo
from ultravid.evaluation.video_metrics import false_positive_sequences

__all__ = ["LEGACY_METRICS", "legacy_metrics"]

_LEVELS = (0.7, 0.8, 0.9)

LEGACY_METRICS = ("AP50", "AP75", "mAP", *(f"P@R{r}" for r in _LEVELS), *(f"FP@R{r}" for r in _LEVELS), "R@16")


def legacy_metrics(videos: Sequence[MatchedVideo], pool: DetectionPool | None = None) -> dict[str, float]:
    """The ten figures of `LEGACY_METRICS`; see the module.

    Args:
        videos: in the order in which equal scores are to stand.
        pool: of the same videos, where it is there already.
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
    figures = {"AP50": by_iou[0], "AP75": by_iou[5], "mAP": sum(by_iou) / (len(by_iou) - 1)}
    for level in _LEVELS:
        figures[f"P@R{level}"] = float(np.interp(level, recall, precision))
    seconds = pool.num_frames / DEFAULT_FPS
    for level in _LEVELS:
        threshold = float(np.interp(level, recall, pool.scores))
        false = sum(false_positive_sequences(v, threshold, strict=True) for v in videos)
        figures[f"FP@R{level}"] = false / seconds * 60
    hit = pool.best_gt[pool.best_iou >= np.float32(0.5)]
    figures["R@16"] = len(np.unique(hit)) / num_gt
    return figures
