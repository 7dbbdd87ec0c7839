"""The per-video-averaged convention: a figure per frame, averaged over a video's frames, then over videos.

From the notes of UltraDet's group ("Ultrasound VID"). Every video weighs the same, however long it is. A frame without a
lesion (of the kind asked for) has no precision or recall: it is left out, and so is a video without such a frame. False
positives there are seen by the pooled figures alone.

Legend: ``F`` frames of a video, ``N`` its detections, ``M`` its lesion boxes, ``R`` most detections of a frame.
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

    What each means for one frame is what `frame_ap` computes for all frames pooled; nan where no frame has it.
    """
    by_video = [_frame_figures(video, num_top) for video in videos]
    figures = {}
    for name in ("AP50", "AP75", "mAP", f"R@{num_top}", f"AR@{num_top}", "multi_mAP", "mAP_s", "mAP_l"):
        means = [float(np.mean(values)) for values in (figure[name] for figure in by_video) if len(values)]
        figures[name] = float(np.mean(means)) if means else float("nan")
    return figures


def _frame_figures(video: MatchedVideo, num_top: int) -> dict[str, FloatArray]:
    """Each figure of the frames that have it."""
    F = len(video.frame_index)
    lesions_in = np.bincount(video.gt_frame, minlength=F)
    any_lesion, everything = np.ones(len(video.gt_frame), np.bool_), np.ones(len(video.scores), np.bool_)
    by_iou = _frame_ap(video, any_lesion, everything)
    with_lesion = lesions_in > 0
    recalls = [_frame_recall(video, lesions_in, iou, num_top) for iou in COCO_IOUS]
    figures = {
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
        figures[name] = _frame_ap(video, lesions, inside(video.area)).mean(axis=0)[has_one]
    return figures


def _matched(video: MatchedVideo, iou_threshold: float) -> BoolArray:
    """``(N,)`` true positives; see `frame_ap`."""
    reaches = np.flatnonzero(video.best_iou >= np.float32(iou_threshold))
    by_rank = reaches[np.argsort(-video.rank[reaches], kind="stable")]
    first = np.full(len(video.gt_frame), -1)
    first[video.best_gt[by_rank]] = by_rank  # the lowest rank is written last
    true_positive = np.zeros(len(video.scores), np.bool_)
    true_positive[first[first >= 0]] = True
    return true_positive


def _frame_ap(video: MatchedVideo, lesions: BoolArray, detections: BoolArray) -> FloatArray:
    """``(10, F)`` average precision of each frame at IoU 0.50, ..., 0.95; see `frame_ap.average_precision`."""
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
    """``(F,)`` share of each frame's lesions that some of its ``num_top`` best detections hits."""
    hit = np.unique(video.best_gt[(video.best_iou >= np.float32(iou)) & (video.rank < num_top)])
    return np.bincount(video.gt_frame[hit], minlength=len(lesions_in)) / np.maximum(lesions_in, 1)
