"""Metrics averaged per video: computed for each frame, averaged over a video's frames, then over the videos.

The convention of UltraDet's group ("Ultrasound VID"). Every video has the same weight, however long it is. Frames without a
lesion (of the required size or number) are left out, because precision and recall are undefined there, and so are videos
without any other frame. Only the pooled metrics count false positives in such frames.

Legend: ``F`` frames of a video, ``N`` its detections, ``M`` its lesion boxes, ``R`` largest number of detections in a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.frame_ap import COCO_IOUS, LARGE_AREA, SMALL_AREA
from ultravid.evaluation.results import MatchedVideo

__all__ = ["per_video_metrics"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def per_video_metrics(videos: Sequence[MatchedVideo], num_top: int = 16) -> dict[str, float]:
    """AP50, AP75, mAP, R@16, AR@16, multi_mAP, mAP_s and mAP_l in 0..1, averaged as the module says.

    The value of one frame is what the pooled metric of that name would be if the frame were the only one; nan if no frame
    defines the metric.
    """
    by_video = [_frame_metrics(video, num_top) for video in videos]
    averages = {}
    for name in ("AP50", "AP75", "mAP", f"R@{num_top}", f"AR@{num_top}", "multi_mAP", "mAP_s", "mAP_l"):
        means = [float(np.mean(values)) for values in (of_video[name] for of_video in by_video) if len(values)]
        averages[name] = float(np.mean(means)) if means else float("nan")
    return averages


def _frame_metrics(video: MatchedVideo, num_top: int) -> dict[str, FloatArray]:
    """The values of each metric in the frames that define it."""
    F = len(video.frame_index)
    lesions_in = np.bincount(video.gt_frame, minlength=F)
    any_lesion, everything = np.ones(len(video.gt_frame), np.bool_), np.ones(len(video.scores), np.bool_)
    by_iou = _frame_ap(video, any_lesion, everything)
    with_lesion = lesions_in > 0
    recalls = [_frame_recall(video, lesions_in, iou, num_top) for iou in COCO_IOUS]
    values = {
        "AP50": by_iou[0, with_lesion],
        "AP75": by_iou[5, with_lesion],
        "mAP": by_iou.mean(axis=0)[with_lesion],
        f"R@{num_top}": recalls[0][with_lesion],
        f"AR@{num_top}": np.mean(recalls, axis=0)[with_lesion],
        "multi_mAP": by_iou.mean(axis=0)[lesions_in > 1],
    }
    ranges: dict[str, Callable[[NDArray[np.float32]], BoolArray]] = {
        "mAP_s": lambda area: area <= SMALL_AREA,
        "mAP_l": lambda area: area >= LARGE_AREA,
    }
    for name, inside in ranges.items():
        lesions = inside(video.gt_area)
        has_one = np.bincount(video.gt_frame[lesions], minlength=F) > 0
        values[name] = _frame_ap(video, lesions, inside(video.area)).mean(axis=0)[has_one]
    return values


def _matched(video: MatchedVideo, iou_threshold: float) -> BoolArray:
    """``(N,)`` which detections are true positives, by the matching of `frame_ap`."""
    reaches = np.flatnonzero(video.best_iou >= np.float32(iou_threshold))
    by_rank = reaches[np.argsort(-video.rank[reaches], kind="stable")]
    first = np.full(len(video.gt_frame), -1)
    first[video.best_gt[by_rank]] = by_rank  # the lowest rank is written last
    true_positive = np.zeros(len(video.scores), np.bool_)
    true_positive[first[first >= 0]] = True
    return true_positive


def _frame_ap(video: MatchedVideo, lesions: BoolArray, detections: BoolArray) -> FloatArray:
    """``(10, F)`` average precision of each frame at IoU 0.50, 0.55, ..., 0.95.

    Args:
        video: the video.
        lesions: ``(M,)`` which lesion boxes count, as in `frame_ap.average_precision`.
        detections: ``(N,)`` which detections count as false positives if they hit no lesion box.
    """
    F, R = len(video.frame_index), int(video.rank.max(initial=-1)) + 1
    num_gt = np.maximum(np.bincount(video.gt_frame[lesions], minlength=F), 1)
    of_counted = (
        lesions[video.best_gt] & (video.best_gt >= 0) if len(lesions) else np.zeros(len(video.scores), np.bool_)
    )
    result = np.zeros((len(COCO_IOUS), F))
    true, counted = np.zeros((F, R), np.bool_), np.zeros((F, R), np.bool_)
    for i, iou in enumerate(COCO_IOUS):
        counts = np.where(video.best_iou >= np.float32(iou), of_counted, detections)
        true[video.frame, video.rank] = _matched(video, iou) & counts
        counted[video.frame, video.rank] = counts
        precision = np.where(true, true.cumsum(axis=1) / np.maximum(counted.cumsum(axis=1), 1), 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        result[i] = (envelope * true).sum(axis=1) / num_gt
    return result


def _frame_recall(video: MatchedVideo, lesions_in: NDArray[np.int64], iou: float, num_top: int) -> FloatArray:
    """``(F,)`` fraction of each frame's lesion boxes that one of its ``num_top`` highest-scoring detections hits."""
    hit = np.unique(video.best_gt[(video.best_iou >= np.float32(iou)) & (video.rank < num_top)])
    return np.bincount(video.gt_frame[hit], minlength=len(lesions_in)) / np.maximum(lesions_in, 1)
