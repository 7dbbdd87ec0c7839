"""The figures of lesion detection in video."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultravid.evaluation.evaluator import DatasetEvaluator
from ultravid.evaluation.frame_ap import (
    DetectionPool,
    average_precision,
    precision_at_recall,
    recall_with_top,
    threshold_at_recall,
)
from ultravid.evaluation.report import format_results
from ultravid.evaluation.video_metrics import FrameResult, VideoResult, false_positive_sequences
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file

__all__ = ["VideoDetectionEvaluator", "video_detection_metrics"]

logger = logging.getLogger(__name__)

DEFAULT_FPS = 30.0


def video_detection_metrics(videos: Sequence[VideoResult]) -> dict[str, float]:
    """The figures of Yu et al., "UltraDet", MICCAI 2023, section 4.1, over the frames of all videos pooled together.

    Returns:
        - ``AP50``, ``AP75``: area under the precision envelope at IoU 0.5 and 0.75, percent.
        - ``mAP``: mean of that over IoU 0.50, 0.55, ..., 0.95, percent.
        - ``Pr80``, ``Pr90``: precision at recall 0.8 and 0.9 and IoU 0.5, linear between points, percent.
        - ``FP80``, ``FP90``: false-positive sequences a minute (`false_positive_sequences`) among detections that score at
          least the threshold of recall 0.8 and 0.9. A video without a known rate counts as 30 frames a second.
        - ``R@16``: lesions that one of the 16 best detections of their frame hits at IoU 0.5, percent.

        nan is undefined: there is no lesion, or the recall is never reached.
    """
    pool = DetectionPool(videos)
    ious = [0.5 + 0.05 * i for i in range(10)]
    by_iou = [100 * average_precision(pool, iou) for iou in ious]
    metrics = {"AP50": by_iou[0], "AP75": by_iou[5], "mAP": float(np.mean(by_iou))}
    for level in (80, 90):
        metrics[f"Pr{level}"] = 100 * precision_at_recall(pool, level / 100)
    minutes = sum(len(v.frames) / (v.fps or DEFAULT_FPS) for v in videos) / 60
    for level in (80, 90):
        threshold = threshold_at_recall(pool, level / 100)
        rate = float("nan")
        if not math.isnan(threshold):
            rate = sum(false_positive_sequences(v, threshold) for v in videos) / minutes
        metrics[f"FP{level}"] = rate
    metrics["R@16"] = 100 * recall_with_top(pool, 16)
    return metrics


class VideoDetectionEvaluator(DatasetEvaluator):
    """`video_detection_metrics` of a model's detections against the frames' own ground truth.

    Inputs hold ``video_id``, ``frame_index``, ``image_id``, ``fps`` and ``instances`` with ``gt_boxes``; outputs hold
    ``instances`` with ``pred_boxes`` and ``scores``, in the same pixels. Any process may hold any videos.

    Args:
        output_dir: gets ``predictions.json`` (COCO results: ``image_id``, ``category_id``, ``bbox`` as [x, y, width,
            height], ``score``; beside them ``video_id`` and ``frame_index``) and ``metrics.json``; None writes nothing.
    """

    def __init__(self, output_dir: str | Path | None = None) -> None:
        self._output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """See `DatasetEvaluator`."""
        self._frames: dict[str, list[FrameResult]] = {}
        self._fps: dict[str, float | None] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See `DatasetEvaluator`."""
        for given, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to("cpu")
            frame = FrameResult(
                frame_index=given["frame_index"],
                image_id=given["image_id"],
                gt_boxes=given["instances"].gt_boxes.tensor.numpy(),
                boxes=found.pred_boxes.tensor.float().numpy(),
                scores=found.scores.float().numpy(),
            )
            self._frames.setdefault(given["video_id"], []).append(frame)
            self._fps[given["video_id"]] = given.get("fps")

    def gather(self) -> list[VideoResult]:
        """All videos of all processes, by id, frames in order; empty in all processes but the main one.

        Raises:
            UserError: a frame was seen twice.
        """
        frames: dict[str, list[FrameResult]] = {}
        fps: dict[str, float | None] = {}
        for part, rates in comm.gather((self._frames, self._fps)):
            for video_id, seen in part.items():
                frames.setdefault(video_id, []).extend(seen)
            fps.update(rates)
        videos = []
        for video_id in sorted(frames):
            ordered = sorted(frames[video_id], key=lambda f: f.frame_index)
            for a, b in itertools.pairwise(ordered):
                if a.frame_index == b.frame_index:
                    raise UserError(f"Video {video_id!r} frame {a.frame_index} was evaluated twice.")
            videos.append(VideoResult(video_id, ordered, fps[video_id]))
        return videos

    def evaluate(self) -> dict[str, float] | None:
        """See `DatasetEvaluator`; the table goes to the log."""
        videos = self.gather()
        if not comm.is_main_process():
            return None
        metrics = video_detection_metrics(videos)
        num_frames = sum(len(v.frames) for v in videos)
        num_lesions = sum(len(f.gt_boxes) for v in videos for f in v.frames)
        logger.info(
            "%d videos, %d frames, %d lesion boxes; FP in sequences a minute, the rest in percent:\n%s",
            len(videos),
            num_frames,
            num_lesions,
            format_results(metrics),
        )
        undefined = [name for name, value in metrics.items() if math.isnan(value)]
        if undefined:
            why = "there is no lesion" if num_lesions == 0 else "the detections never reach that recall"
            logger.info("Undefined (-, null in JSON): %s: %s.", ", ".join(undefined), why)
        if self._output_dir is not None:
            self._write(videos, metrics)
        return metrics

    def _write(self, videos: list[VideoResult], metrics: dict[str, float]) -> None:
        assert self._output_dir is not None
        self._output_dir.mkdir(parents=True, exist_ok=True)
        rows = []
        for video in videos:
            for frame in video.frames:
                place = {
                    "image_id": frame.image_id,
                    "video_id": video.video_id,
                    "frame_index": frame.frame_index,
                }
                for (x1, y1, x2, y2), score in zip(frame.boxes.tolist(), frame.scores.tolist(), strict=True):
                    rows.append(
                        {
                            **place,
                            "category_id": 1,
                            "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "score": score,
                        }
                    )
        for name, value in (("predictions.json", rows), ("metrics.json", metrics)):
            with replace_file(self._output_dir / name) as file:
                file.write(dump_json(value).encode())
