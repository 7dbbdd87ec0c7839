"""Precision and recall over the frames of all videos pooled together.

Matching (Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010, section 4.2): by falling score, a
detection takes the lesion of its frame with which its IoU is highest; it is a true positive if that IoU reaches the
threshold and that lesion is still free, else a false positive. There is no second choice.

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

# Terciles of the lesions' areas in the data of UltraDet's group, square pixels.
SMALL_AREA, LARGE_AREA = 151.0**2, 226.0**2

BoolArray = NDArray[np.bool_]


class DetectionPool:
    """All detections of all frames by falling score; equal scores stay in order of video, frame and detection.

    Attributes:
        scores: ``(N,)`` float32.
        best_iou: ``(N,)`` float32, the highest IoU with a lesion of the frame, 0 without one.
        best_gt: ``(N,)`` int64, which lesion that is, numbered over all frames; -1 without one.
        rank_in_frame: ``(N,)`` int64, how many detections of the same frame come before.
        video: ``(N,)`` int64, the place of the detection's video.
        area: ``(N,)`` float32, square pixels.
        gt_frame_size: ``(M,)`` int64, how many lesions the lesion's frame holds.
        gt_area: ``(M,)`` float32, square pixels.
        gt_video: ``(M,)`` int64, the place of the lesion's video.
        frame_gt: ``(N,)`` int64, how many lesions the detection's frame holds.
        num_gt: lesions of all frames.
        num_frames: frames of all videos.
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
    """``(N,)`` which detections are true positives; an IoU that equals the threshold (in float32) reaches it."""
    reaches = np.flatnonzero(pool.best_iou >= np.float32(iou_threshold))
    # By falling score, the first that wants a lesion gets it. Written backwards, the first is written last.
    first = np.full(pool.num_gt, -1)
    first[pool.best_gt[reaches[::-1]]] = reaches[::-1]
    true_positive = np.zeros(len(pool.scores), np.bool_)
    true_positive[first[first >= 0]] = True
    return true_positive


def recall_precision(pool: DetectionPool, iou_threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(N,)`` recall and precision after each detection; recall is nan where there is no lesion at all."""
    true_positives = match_detections(pool, iou_threshold).cumsum()
    recall = true_positives / pool.num_gt if pool.num_gt else np.full(len(true_positives), np.nan)
    return recall, true_positives / np.arange(1, len(true_positives) + 1)


def average_precision(
    pool: DetectionPool, iou_threshold: float, lesions: BoolArray | None = None, detections: BoolArray | None = None
) -> float:
    """Area under the precision envelope over all recall points, in 0..1; nan where there is no lesion at all.

    Args:
        pool: what was found.
        iou_threshold: least IoU of a true positive.
        lesions: ``(M,)`` which lesions count. What hits another one is neither a true nor a false positive, as in COCO's
            figures by area (Lin et al., "Microsoft COCO", ECCV 2014). None counts all.
        detections: ``(N,)`` which detections are false positives where they hit no lesion; None: all.
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
    # Recall rises at true positives alone, and so does the precision: the envelope's corners are there.
    at = np.flatnonzero(true_positive)
    precision = np.arange(1, len(at) + 1) / (at + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope.sum() / num_gt)


def mean_average_precision(
    pool: DetectionPool, lesions: BoolArray | None = None, detections: BoolArray | None = None
) -> float:
    """Mean of `average_precision` over IoU 0.50, 0.55, ..., 0.95: ten values, divided by ten."""
    return float(np.mean([average_precision(pool, iou, lesions, detections) for iou in COCO_IOUS]))


def precision_at_recall(pool: DetectionPool, recall_level: float, iou_threshold: float = 0.5) -> float:
    """Raw precision at a recall, linear between points; nan where that recall is never reached."""
    recall, precision = recall_precision(pool, iou_threshold)
    return _at_recall(recall, precision, recall_level)


def threshold_at_recall(pool: DetectionPool, recall_level: float, iou_threshold: float = 0.5) -> float:
    """Score at a recall, linear between points; nan where that recall is never reached."""
    recall, _ = recall_precision(pool, iou_threshold)
    return _at_recall(recall, pool.scores.astype(np.float64), recall_level)


def recall_with_top(pool: DetectionPool, num_top: int, iou_threshold: float = 0.5) -> float:
    """Share of lesions that some of the ``num_top`` best detections of their frame hits; nan without a lesion."""
    if pool.num_gt == 0:
        return float("nan")
    return float(lesions_hit(pool, num_top, iou_threshold).sum() / pool.num_gt)


def lesions_hit(pool: DetectionPool, num_top: int, iou_threshold: float) -> BoolArray:
    """``(M,)`` which lesions some of the ``num_top`` best detections of their frame hits."""
    hit = np.zeros(pool.num_gt, np.bool_)
    hit[pool.best_gt[(pool.best_iou >= np.float32(iou_threshold)) & (pool.rank_in_frame < num_top)]] = True
    return hit


def average_recall(pool: DetectionPool, num_top: int) -> float:
    """Mean of `recall_with_top` over IoU 0.50, 0.55, ..., 0.95, as COCO has it; nan without a lesion."""
    return float(np.mean([recall_with_top(pool, num_top, iou) for iou in COCO_IOUS]))


def _at_recall(recall: Sequence[float] | NDArray[np.float64], values: NDArray[np.float64], level: float) -> float:
    reached = len(recall) > 0 and recall[-1] >= level
    return float(np.interp(level, recall, values)) if reached else float("nan")
