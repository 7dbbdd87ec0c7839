#!/usr/bin/env python
"""What evaluating detections costs: wall-clock seconds, for predictions in memory.

    python benchmarks/evaluation.py [--videos 20] [--frames 150] [--detections 16] [--repeats 5]

Each video has a drifting lesion, a detection of it, and distractors that drift and jump. Rows: the ten metrics of UltraDet's
evaluator (``legacy/...``), all metrics, and the bootstrap over patients. Columns: the given videos, twice as many, and twice as
long ones, which should cost twice as much. For comparison: the average precision of pycocotools, if it is installed, and a
plain version of the ten metrics that compares every pair of detections of a video (quadratic in its length).
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ultravid.evaluation.bootstrap import bootstrap_metrics
from ultravid.evaluation.frame_ap import COCO_IOUS
from ultravid.evaluation.legacy import legacy_metrics
from ultravid.evaluation.matching import match_videos, pairwise_iou_np
from ultravid.evaluation.metrics import all_metrics
from ultravid.evaluation.results import FrameResult, VideoResult


def make_videos(num_videos: int, num_frames: int, num_detections: int, seed: int = 0) -> list[VideoResult]:
    """One lesion per video, found most of the time, and ``num_detections - 1`` other detections per frame."""
    rng = np.random.default_rng(seed)
    videos = []
    for v in range(num_videos):
        centre, side, speed = rng.uniform(150, 350, 2), rng.uniform(60, 120, 2), rng.normal(0, 0.3, 2)
        others = rng.uniform(50, 450, (num_detections - 1, 2))
        frames = []
        for f in range(num_frames):
            centre = centre + speed + rng.normal(0, 1, 2)
            lesion = np.concatenate([centre - side / 2, centre + side / 2])[None].astype(np.float32)
            jumps = rng.random((len(others), 1)) < 0.1
            others = np.where(jumps, rng.uniform(50, 450, others.shape), others + rng.normal(0, 1, others.shape))
            found = lesion + rng.normal(0, 6, (1, 4))
            boxes = np.concatenate([found, np.concatenate([others - 30, others + 30], axis=1)]).astype(np.float32)
            scores = np.concatenate([rng.beta(4, 2, 1), rng.beta(1, 6, len(others))]).astype(np.float32)
            frames.append(FrameResult(f, v * num_frames + f, lesion, boxes, scores, np.ones(1, np.int64)))
        videos.append(VideoResult(f"v{v}", frames, 30.0, f"p{v}"))
    return videos


def plain_sequences(video: VideoResult, threshold: float) -> int:
    """False-positive sequences, from the IoU of every pair of a video's kept detections."""
    kept = [frame.scores > np.float32(threshold) for frame in video.frames]
    boxes = np.concatenate([f.boxes[k] for f, k in zip(video.frames, kept, strict=True)])
    frame = np.repeat(np.arange(len(kept)), [k.sum() for k in kept])
    if len(boxes) == 0:
        return 0
    iou = pairwise_iou_np(boxes, boxes)
    gap = frame[:, None] - frame[None]
    iou[(gap < 1) | (gap > 5)] = 0
    best = iou.argmax(axis=1)
    hits = np.zeros(len(boxes), np.bool_)
    for f, result in enumerate(video.frames):
        centre = (boxes[frame == f, None, :2] + boxes[frame == f, None, 2:]) / 2
        inside = (result.gt_boxes[:, :2] <= centre) & (centre <= result.gt_boxes[:, 2:])
        hits[frame == f] = inside.all(axis=2).any(axis=1)
    root = np.arange(len(boxes))
    for i in range(len(boxes)):
        if iou[i, best[i]] > 0.5:
            root[i] = root[best[i]]
    return sum(hits[root == r].mean() <= 0.9 for r in np.unique(root))


def plain_legacy(videos: Sequence[VideoResult]) -> dict[str, float]:
    """The ten metrics in loops over frames and detections."""
    rows = [
        (score, (v, f), overlap)
        for v, video in enumerate(videos)
        for f, frame in enumerate(video.frames)
        for score, overlap in zip(frame.scores, pairwise_iou_np(frame.boxes, frame.gt_boxes), strict=True)
    ]
    rows.sort(key=lambda row: -row[0])
    num_gt = sum(len(frame.gt_boxes) for video in videos for frame in video.frames)
    areas = []
    for threshold in COCO_IOUS:
        taken, hits = set(), np.zeros(len(rows), np.bool_)
        for k, (_, place, overlap) in enumerate(rows):
            best = int(overlap.argmax()) if len(overlap) else -1
            if best >= 0 and overlap[best] >= np.float32(threshold) and (place, best) not in taken:
                taken.add((place, best))
                hits[k] = True
        found = hits.cumsum()
        recall, precision = found / num_gt, found / np.arange(1, len(rows) + 1)
        if threshold == COCO_IOUS[0]:
            at_50 = recall, precision
        areas.append((np.diff(recall, prepend=0) * np.maximum.accumulate(precision[::-1])[::-1]).sum())
    values = {"AP50": areas[0], "AP75": areas[5], "mAP": sum(areas) / 9, "R@16": at_50[0][-1]}
    scores = np.array([row[0] for row in rows])
    frames = sum(len(video.frames) for video in videos)
    for level in (0.7, 0.8, 0.9):
        values[f"P@R{level}"] = float(np.interp(level, *at_50))
        threshold = float(np.interp(level, at_50[0], scores))
        values[f"FP@R{level}"] = 1800 * sum(plain_sequences(video, threshold) for video in videos) / frames
    return values


def coco_average_precision(videos: Sequence[VideoResult]) -> Callable[[], Any]:
    """pycocotools on the same detections, with its index made beforehand."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), []
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": 1}]}
    for frame in (frame for video in videos for frame in video.frames):
        truth.dataset["images"].append({"id": frame.image_id})
        for kind, boxes in ((truth.dataset["annotations"], frame.gt_boxes), (found, frame.boxes)):
            for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                row = {"image_id": frame.image_id, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                extra = {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0} if kind is not found else {}
                kind.append({"id": len(kind) + 1, **row, **extra, "score": float(frame.scores[i])})

    def evaluate() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCOeval(truth, results, "bbox")
            coco.params.areaRng, coco.params.areaRngLbl = [[0, 1e10]], ["all"]
            coco.evaluate()
            coco.accumulate()

    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(found)
    return evaluate


def seconds(action: Callable[[], Any], repeats: int) -> list[float]:
    """The seconds of each call, after one that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return taken


def rows_of(videos: Sequence[VideoResult], draws: int) -> dict[str, Callable[[], Any]]:
    """Each starts from boxes in memory, except the bootstrap, which starts from matched videos."""
    ready = match_videos(videos)
    return {
        "the ten legacy metrics": lambda: legacy_metrics(match_videos(videos)),
        "all metrics": lambda: all_metrics(match_videos(videos)),
        f"{draws} draws of patients": lambda: bootstrap_metrics(ready, draws),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--detections", type=int, default=16)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    sizes = [(args.videos, args.frames), (2 * args.videos, args.frames), (args.videos, 2 * args.frames)]
    sets = [make_videos(*size, args.detections) for size in sizes]
    ours, plain = legacy_metrics(match_videos(sets[0])), plain_legacy(sets[0])
    assert all(abs(ours[name] - plain[name]) < 1e-9 for name in plain), (ours, plain)
    table = Table(title=f"seconds: median of {args.repeats} (least to most), {args.detections} detections per frame")
    table.add_column("")
    for num_videos, num_frames in sizes:
        table.add_column(f"{num_videos} videos x {num_frames}", justify="right")
    names = list(rows_of(sets[0], args.draws))
    actions = {name: [rows_of(videos, args.draws)[name] for videos in sets] for name in names}
    actions["the ten in plain loops"] = [lambda videos=videos: plain_legacy(videos) for videos in sets]
    if importlib.util.find_spec("pycocotools") is not None:
        actions["pycocotools, AP alone"] = [coco_average_precision(videos) for videos in sets]
    for name, of_sizes in actions.items():
        cells = []
        for action in of_sizes:
            taken = seconds(action, args.repeats)
            cells.append(f"{statistics.median(taken):.3f} ({min(taken):.3f} to {max(taken):.3f})")
        table.add_row(name, *cells)
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
