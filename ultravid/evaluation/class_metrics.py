"""Metrics per class, if there are lesions of several classes: average precision, and a confusion table.

All other metrics are *class-agnostic*: a detection of any class may hit a lesion of any class.

- ``class/<name>/AP50``, ``AP75``, ``mAP``: those of `frame_ap`, of the detections and the lesion boxes of one class, as in COCO (Lin
  et al., "Microsoft COCO", ECCV 2014): a detection of the class takes the lesion box of the class with which its IoU is highest.
  Undefined for a class without lesion box. ``class_mean/AP50``, ...: their mean over the classes with lesion boxes.
- ``confusion/<true>/<found>``: lesion boxes of the class ``<true>`` that are found by a detection of the class ``<found>``, at the score
  threshold of the class-agnostic recall 0.8: by the highest-scoring one of those that have their highest IoU with the box, at least
  0.5. ``confusion/<true>/missed``: those that none finds. ``confusion/false_positive/<found>``: detections of the class that reach no
  lesion box at IoU 0.5; further detections of a box that is found are not counted. Undefined if recall 0.8 is not reached.
  A class that is called ``missed`` or ``false_positive`` itself is named ``class missed`` or ``class false_positive``.

Legend: ``N`` detections and ``M`` lesion boxes of a video.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ultravid.evaluation.frame_ap import DetectionPool, average_precision, mean_average_precision, threshold_at_recall
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.tables import format_columns, format_value
from ultravid.utils.errors import UserError

__all__ = ["CONFUSION", "class_metrics", "classes_of", "confusion_rows", "format_class_tables"]

CONFUSION = "confusion/"
MISSED, FALSE_POSITIVE = "missed", "false_positive"

_NAN = float("nan")
_HIT_IOU = np.float32(0.5)


def classes_of(videos: Sequence[MatchedVideo]) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers; empty if there are fewer than two, or some video's are not known.

    Raises:
        UserError: two videos name other classes.
    """
    if not videos or any(video.classes is None for video in videos):
        return ()
    first = videos[0]
    for video in videos:
        if video.class_names != first.class_names:
            raise UserError(
                f"The classes are {', '.join(first.class_names)} in video {first.video_id!r}, but {', '.join(video.class_names)} "
                f"in video {video.video_id!r}: evaluate them separately."
            )
    largest = max(
        int(v.max(initial=-1)) for video in videos if video.classes for v in (video.classes.found, video.classes.true)
    )
    names = [f"class {name}" if name in (MISSED, FALSE_POSITIVE) else name for name in first.class_names]
    return (*names, *(f"class {n}" for n in range(len(names), largest + 1)))


def class_metrics(videos: Sequence[MatchedVideo], pool: DetectionPool) -> dict[str, float]:
    """The metrics that the module defines; none if there are no two classes.

    Args:
        videos: the videos.
        pool: the pool of the same videos.
    """
    names = classes_of(videos)
    values: dict[str, float] = {}
    for number, name in enumerate(names):
        own = DetectionPool([_of_class(video, number) for video in videos])
        values[f"class/{name}/AP50"] = 100 * average_precision(own, 0.5)
        values[f"class/{name}/AP75"] = 100 * average_precision(own, 0.75)
        values[f"class/{name}/mAP"] = 100 * mean_average_precision(own)
    for metric in ("AP50", "AP75", "mAP") if names else ():
        known = [v for name in names if not math.isnan(v := values[f"class/{name}/{metric}"])]
        values[f"class_mean/{metric}"] = float(np.mean(known)) if known else _NAN
    return values | (_confusion(videos, names, threshold_at_recall(pool, 0.8)) if names else {})


def _of_class(video: MatchedVideo, number: int) -> MatchedVideo:
    """The detections and lesion boxes of one class, matched within it; for metrics of frames, not of sequences."""
    assert video.classes is not None, "checked by the caller"
    kept, lesions = np.flatnonzero(video.classes.found == number), np.flatnonzero(video.classes.true == number)
    place = np.full(len(video.gt_frame) + 1, -1)  # the last for -1: no lesion of the class is in the frame
    place[lesions] = np.arange(len(lesions))
    return dataclasses.replace(
        video,
        scores=video.scores[kept],
        frame=video.frame[kept],
        area=video.area[kept],
        best_iou=video.classes.own_iou[kept],
        best_gt=place[video.classes.own_gt[kept]],
        rank=video.rank[kept],
        centre_hits=video.centre_hits[kept],
        links=video.links[:0],
        links_by_place=video.links_by_place[:0],
        gt_frame=video.gt_frame[lesions],
        gt_area=video.gt_area[lesions],
        gt_track=video.gt_track[lesions],
        classes=None,
    )


def _confusion(videos: Sequence[MatchedVideo], names: Sequence[str], threshold: float) -> dict[str, float]:
    num = len(names)
    counts = np.zeros((num + 1, num + 1))  # true class, found class; the last are false positives and missed ones
    for video in videos:
        assert video.classes is not None, "classes_of names none otherwise"
        kept = np.flatnonzero(video.scores >= np.float32(threshold)) if not math.isnan(threshold) else np.zeros(0, int)
        hits = kept[video.best_iou[kept] >= _HIT_IOU]
        best = np.full(len(video.gt_frame), -1)
        falling = hits[np.argsort(-video.scores[hits], kind="stable")]
        best[video.best_gt[falling[::-1]]] = falling[::-1]  # the highest-scoring one is written last
        found = np.append(video.classes.found, num)[best]  # of -1 the last
        np.add.at(counts, (video.classes.true, found), 1)
        np.add.at(counts, (num, video.classes.found[np.setdiff1d(kept, hits)]), 1)
    if math.isnan(threshold):
        counts[:] = np.nan
    columns, rows = (*names, MISSED), (*names, FALSE_POSITIVE)
    return {
        f"{CONFUSION}{true}/{found}": float(counts[i, j])
        for i, true in enumerate(rows)
        for j, found in enumerate(columns)
        if (i, j) != (num, num)
    }


def format_class_tables(names: Sequence[str], metrics: Mapping[str, float]) -> str:
    """Tables of the metrics per class, and of the confusion; "" without classes.

    Args:
        names: `classes_of` the videos.
        metrics: holds what `class_metrics` returns.
    """
    if not names:
        return ""
    kinds = ("AP50", "AP75", "mAP")
    rows = [[name, *(format_value(metrics[f"class/{name}/{kind}"]) for kind in kinds)] for name in names]
    rows.append(["mean", *(format_value(metrics[f"class_mean/{kind}"]) for kind in kinds)])
    apart = format_columns(["class", *kinds], rows, left=1)
    confusion = format_columns(["lesion boxes of", *names, MISSED], confusion_rows(names, metrics), left=1)
    return (
        f"Per class (a detection hits lesions of its class only; all other metrics are class-agnostic):\n{apart}\n"
        f"Lesion boxes by the class that finds them, at the score threshold of recall 0.8 and IoU 0.5:\n{confusion}"
    )


def confusion_rows(names: Sequence[str], metrics: Mapping[str, float]) -> list[list[str]]:
    """The rows of the confusion table: lesion boxes of each class, then false positives."""
    rows = [
        [true, *(format_value(metrics[f"{CONFUSION}{true}/{found}"], 0) for found in (*names, MISSED))]
        for true in names
    ]
    false = [format_value(metrics[f"{CONFUSION}{FALSE_POSITIVE}/{found}"], 0) for found in names]
    return [*rows, ["(false positives)", *false, ""]]
