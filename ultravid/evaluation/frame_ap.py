"""Precision and recall over the frames of all videos pooled together.

Matching (Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010, section 4.2): by falling score, a
detection takes the lesion of its frame with which its IoU is highest; it is a true positive if that IoU reaches the
threshold and that lesion is still free, else a false positive. There is no second choice.

Legend: ``N`` detections of all frames, by falling score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.video_metrics import VideoResult, pairwise_iou_np

__all__ = [
    "DetectionPool",
    "average_precision",
    "match_detections",
    "precision_at_recall",
    "threshold_at_recall",
]


class DetectionPool:
    """All detections of all frames by falling score; equal scores stay in order of video, frame and detection.

    Attributes:
        scores: ``(N,)`` float32.
        best_iou: ``(N,)`` float32, the highest IoU with a lesion of the frame, 0 without one.
        best_gt: ``(N,)`` int64, which lesion that is, numbered over all frames; -1 without one.
        rank_in_frame: ``(N,)`` int64, how many detections of the same frame come before.
        num_gt: lesions of all frames.
        num_frames: frames of all videos.
    """

    def __init__(self, videos: Iterable[VideoResult]) -> None:
        scores, ious, gts, ranks = [], [], [], []
        self.num_gt = 0
        self.num_frames = 0
        for video in videos:
            for frame in video.frames:
                self.num_frames += 1
                if len(frame.scores) > 0:
                    best_iou, best_gt = (
                        np.zeros(len(frame.scores), np.float32),
                        np.full(len(frame.scores), -1),
                    )
                    if len(frame.gt_boxes) > 0:
                        iou = pairwise_iou_np(frame.boxes, frame.gt_boxes)
                        best_gt = iou.argmax(axis=1)
                        best_iou = iou[np.arange(len(iou)), best_gt]
                        best_gt = best_gt + self.num_gt
                    order = np.argsort(-frame.scores, kind="stable")
                    rank = np.empty(len(order), np.int64)
                    rank[order] = np.arange(len(order))
                    scores.append(frame.scores)
                    ious.append(best_iou)
                    gts.append(best_gt)
                    ranks.append(rank)
                self.num_gt += len(frame.gt_boxes)
        pooled = [np.concatenate(x) if x else np.zeros(0) for x in (scores, ious, gts, ranks)]
        order = np.argsort(-pooled[0], kind="stable")
        self.scores: NDArray[np.float32] = pooled[0][order].astype(np.float32)
        self.best_iou: NDArray[np.float32] = pooled[1][order].astype(np.float32)
        self.best_gt: NDArray[np.int64] = pooled[2][order].astype(np.int64)
        self.rank_in_frame: NDArray[np.int64] = pooled[3][order].astype(np.int64)


def match_detections(pool: DetectionPool, iou_threshold: float) -> NDArray[np.bool_]:
    """``(N,)`` which detections are true positives; an IoU that equals the threshold (in float32) reaches it."""
    reaches = np.flatnonzero(pool.best_iou >= np.float32(iou_threshold))
    # By falling score, the first that wants a lesion gets it.
    _, first = np.unique(pool.best_gt[reaches], return_index=True)
    true_positive = np.zeros(len(pool.scores), np.bool_)
    true_positive[reaches[first]] = True
    return true_positive


def recall_precision(pool: DetectionPool, iou_threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(N,)`` recall and precision after each detection; recall is nan where there is no lesion at all."""
    true_positives = match_detections(pool, iou_threshold).cumsum()
    recall = true_positives / pool.num_gt if pool.num_gt else np.full(len(true_positives), np.nan)
    return recall, true_positives / np.arange(1, len(true_positives) + 1)


def average_precision(pool: DetectionPool, iou_threshold: float) -> float:
    """Area under the precision envelope over all recall points, in 0..1; nan where there is no lesion at all."""
    if pool.num_gt == 0:
        return float("nan")
    recall, precision = recall_precision(pool, iou_threshold)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


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
    hits = (pool.best_iou >= np.float32(iou_threshold)) & (pool.rank_in_frame < num_top)
    return len(np.unique(pool.best_gt[hits])) / pool.num_gt


def _at_recall(recall: Sequence[float] | NDArray[np.float64], values: NDArray[np.float64], level: float) -> float:
    reached = len(recall) > 0 and recall[-1] >= level
    return float(np.interp(level, recall, values)) if reached else float("nan")
