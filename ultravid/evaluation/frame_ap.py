"""Precision and recall over the frames of all videos pooled.

Matching (Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010, section 4.2): detections are taken by
falling score; each is compared with the lesion box of its frame with which its IoU is highest. It is a true positive if that
IoU reaches the threshold and no detection before it matched the same lesion box, else a false positive. It is never matched
with its second-best lesion box.

Legend: ``N`` detections of all frames, by falling score; ``M`` lesion boxes of all frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.matching import match_videos
from ultravid.evaluation.results import MatchedVideo, VideoResult

__all__ = [
    "COCO_IOUS",
    "LARGE_AREA",
    "SMALL_AREA",
    "DetectionPool",
    "average_precision",
    "average_recall",
    "match_detections",
    "mean_average_precision",
    "precision_at_recall",
    "recall_precision",
    "recall_with_top",
    "threshold_at_recall",
]

COCO_IOUS = tuple(0.5 + 0.05 * i for i in range(10))

# Terciles of the lesion areas in the data of UltraDet's group, square pixels.
SMALL_AREA, LARGE_AREA = 151.0**2, 226.0**2

BoolArray = NDArray[np.bool_]


class DetectionPool:
    """All detections of all frames by falling score; equal scores keep the order of video, frame and detection.

    Args:
        videos: detections and lesions by frame, or videos that were matched already.

    Attributes:
        scores: ``(N,)`` float32.
        best_iou: ``(N,)`` float32, the highest IoU with a lesion box of the same frame; 0 if the frame has no lesion.
        best_gt: ``(N,)`` int64, index of that lesion box among the ``M``; -1 if the frame has no lesion.
        rank_in_frame: ``(N,)`` int64, number of detections of the same frame that come before.
        video: ``(N,)`` int64, index of the detection's video.
        area: ``(N,)`` float32, area of the detection's box, square pixels.
        gt_frame_size: ``(M,)`` int64, number of lesion boxes in the lesion box's frame.
        gt_area: ``(M,)`` float32, area of the lesion box, square pixels.
        gt_video: ``(M,)`` int64, index of the lesion box's video.
        frame_gt: ``(N,)`` int64, number of lesion boxes in the detection's frame.
        num_gt: number of lesion boxes ``M``.
        num_frames: number of frames of all videos.
    """

    def __init__(self, videos: Iterable[VideoResult | MatchedVideo]) -> None:
        matched = match_videos(videos)
        gt_before = np.cumsum([0, *(len(v.gt_frame) for v in matched)])
        self.num_gt = int(gt_before[-1])
        self.num_frames = sum(len(v.frame_index) for v in matched)
        in_frame = [np.bincount(v.gt_frame, minlength=len(v.frame_index)) for v in matched]
        scores = _joined([v.scores for v in matched], np.float32)
        order = np.argsort(-scores, kind="stable")
        numbered = [
            np.where(v.best_gt >= 0, v.best_gt + before, -1) for v, before in zip(matched, gt_before[:-1], strict=True)
        ]
        self.scores: NDArray[np.float32] = scores[order]
        self.best_iou: NDArray[np.float32] = _joined([v.best_iou for v in matched], np.float32)[order]
        self.best_gt: NDArray[np.int64] = _joined(numbered, np.int64)[order]
        self.rank_in_frame: NDArray[np.int64] = _joined([v.rank for v in matched], np.int64)[order]
        self.area: NDArray[np.float32] = _joined([v.area for v in matched], np.float32)[order]
        self.video: NDArray[np.int64] = np.repeat(np.arange(len(matched)), [len(v.scores) for v in matched])[order]
        held = [n[v.frame] for v, n in zip(matched, in_frame, strict=True)]
        self.frame_gt: NDArray[np.int64] = _joined(held, np.int64)[order]
        self.gt_area: NDArray[np.float32] = _joined([v.gt_area for v in matched], np.float32)
        self.gt_video: NDArray[np.int64] = np.repeat(np.arange(len(matched)), np.diff(gt_before))
        sizes = [n[v.gt_frame] for v, n in zip(matched, in_frame, strict=True)]
        self.gt_frame_size: NDArray[np.int64] = _joined(sizes, np.int64)


def _joined(arrays: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([*arrays, np.zeros(0, dtype)]).astype(dtype, copy=False)


def match_detections(pool: DetectionPool, iou_threshold: float) -> BoolArray:
    """``(N,)`` which detections are true positives; the IoU must be at least the threshold, compared in float32.

    Args:
        pool: all detections; a lesion box counts for the one with the highest score that reaches it.
        iou_threshold: the lowest IoU of a true positive.

    Returns:
        ``(N,)`` bool, in the pool's order.
    """
    reaches = np.flatnonzero(pool.best_iou >= np.float32(iou_threshold))
    # The first detection by falling score gets the lesion box: assigned in reverse, it is assigned last.
    first = np.full(pool.num_gt, -1)
    first[pool.best_gt[reaches[::-1]]] = reaches[::-1]
    true_positive = np.zeros(len(pool.scores), np.bool_)
    true_positive[first[first >= 0]] = True
    return true_positive


def recall_precision(pool: DetectionPool, iou_threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(N,)`` recall and precision after each detection, by falling score; recall is nan if there is no lesion box."""
    true_positives = match_detections(pool, iou_threshold).cumsum()
    recall = true_positives / pool.num_gt if pool.num_gt else np.full(len(true_positives), np.nan)
    return recall, true_positives / np.arange(1, len(true_positives) + 1)


def average_precision(
    pool: DetectionPool, iou_threshold: float, lesions: BoolArray | None = None, detections: BoolArray | None = None
) -> float:
    """Area under the precision envelope over recall, in 0..1; nan if no lesion box counts.

    The envelope at a recall is the highest precision at that recall or a higher one. All recall points are used, no fixed grid.

    Args:
        pool: the detections.
        iou_threshold: lowest IoU of a true positive.
        lesions: ``(M,)`` which lesion boxes count; None: all. A detection that hits another lesion box is neither a true nor a
            false positive, as in COCO's metrics by area (Lin et al., "Microsoft COCO", ECCV 2014).
        detections: ``(N,)`` which detections count as false positives if they hit no lesion box; None: all.
    """
    true_positive = match_detections(pool, iou_threshold)
    counts = np.ones(len(true_positive), np.bool_) if detections is None else detections
    num_gt = pool.num_gt
    if lesions is not None:
        hits = pool.best_iou >= np.float32(iou_threshold)
        counts = np.where(hits, lesions[pool.best_gt] if len(lesions) else False, counts)
        num_gt = int(lesions.sum())
    if num_gt == 0:
        return float("nan")
    return area_under_envelope(true_positive[counts], num_gt)


def area_under_envelope(true_positive: BoolArray, num_gt: int) -> float:
    """Area under the precision envelope of ``(N,)`` detections by falling score, over all recall points."""
    # Recall and precision rise only at true positives, so the corners of the envelope are there.
    at = np.flatnonzero(true_positive)
    precision = np.arange(1, len(at) + 1) / (at + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope.sum() / num_gt)


def mean_average_precision(
    pool: DetectionPool, lesions: BoolArray | None = None, detections: BoolArray | None = None
) -> float:
    """Mean of `average_precision` over the ten IoU thresholds 0.50, 0.55, ..., 0.95; nan if no lesion box counts."""
    return float(np.mean([average_precision(pool, iou, lesions, detections) for iou in COCO_IOUS]))


def precision_at_recall(pool: DetectionPool, recall_level: float, iou_threshold: float = 0.5) -> float:
    """Precision at a recall, in 0..1, interpolated linearly between detections; nan if that recall is never reached.

    The precision is that of the raw curve, not of its envelope.

    Args:
        pool: all detections.
        recall_level: the recall, in 0..1.
        iou_threshold: the lowest IoU of a true positive.
    """
    recall, precision = recall_precision(pool, iou_threshold)
    return _at_recall(recall, precision, recall_level)


def threshold_at_recall(pool: DetectionPool, recall_level: float, iou_threshold: float = 0.5) -> float:
    """Score at a recall, interpolated linearly between detections; nan if that recall is never reached."""
    recall, _ = recall_precision(pool, iou_threshold)
    return _at_recall(recall, pool.scores.astype(np.float64), recall_level)


def recall_with_top(pool: DetectionPool, num_top: int, iou_threshold: float = 0.5) -> float:
    """Fraction of lesion boxes hit by one of the ``num_top`` highest-scoring detections of their frame; nan without a lesion."""
    if pool.num_gt == 0:
        return float("nan")
    return float(lesions_hit(pool, num_top, iou_threshold).sum() / pool.num_gt)


def lesions_hit(pool: DetectionPool, num_top: int, iou_threshold: float) -> BoolArray:
    """``(M,)`` which lesion boxes are hit by one of the ``num_top`` highest-scoring detections of their frame."""
    hit = np.zeros(pool.num_gt, np.bool_)
    hit[pool.best_gt[(pool.best_iou >= np.float32(iou_threshold)) & (pool.rank_in_frame < num_top)]] = True
    return hit


def average_recall(pool: DetectionPool, num_top: int) -> float:
    """Mean of `recall_with_top` over IoU 0.50, 0.55, ..., 0.95, as in COCO; nan without a lesion."""
    return float(np.mean([recall_with_top(pool, num_top, iou) for iou in COCO_IOUS]))


def _at_recall(recall: Sequence[float] | NDArray[np.float64], values: NDArray[np.float64], level: float) -> float:
    reached = len(recall) > 0 and recall[-1] >= level
    return float(np.interp(level, recall, values)) if reached else float("nan")
