"""Metrics of frames, lesions and videos, prediction files, reports, and the loop that runs a model over a data set."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ultravid.evaluation.tables import flatten_results_dict, format_results, print_csv_format, scalar_metrics

if TYPE_CHECKING:
    from ultravid.evaluation.evaluated_run import EvaluatedRun, evaluating
    from ultravid.evaluation.evaluator import (
        DatasetEvaluator,
        DatasetEvaluators,
        inference_context,
        inference_on_dataset,
        inference_on_datasets,
    )
    from ultravid.evaluation.frame_ap import (
        DetectionPool,
        average_precision,
        match_detections,
        precision_at_recall,
    )
    from ultravid.evaluation.legacy import legacy_metrics
    from ultravid.evaluation.matching import match_video
    from ultravid.evaluation.metrics import all_metrics, video_detection_metrics
    from ultravid.evaluation.pictures import FramePictures
    from ultravid.evaluation.results import FrameResult, MatchedVideo, VideoResult
    from ultravid.evaluation.video_evaluator import VideoDetectionEvaluator
    from ultravid.evaluation.video_metrics import false_positive_sequences

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "DetectionPool",
    "EvaluatedRun",
    "FramePictures",
    "FrameResult",
    "MatchedVideo",
    "VideoDetectionEvaluator",
    "VideoResult",
    "all_metrics",
    "average_precision",
    "evaluating",
    "false_positive_sequences",
    "flatten_results_dict",
    "format_results",
    "inference_context",
    "inference_on_dataset",
    "inference_on_datasets",
    "legacy_metrics",
    "match_detections",
    "match_video",
    "precision_at_recall",
    "print_csv_format",
    "scalar_metrics",
    "video_detection_metrics",
]

# These need torch, OpenCV or numpy and are imported on first use: tools that only print tables start in a tenth of the time.
_ON_DEMAND = {
    "DatasetEvaluator": "evaluator",
    "DatasetEvaluators": "evaluator",
    "DetectionPool": "frame_ap",
    "EvaluatedRun": "evaluated_run",
    "FramePictures": "pictures",
    "FrameResult": "results",
    "MatchedVideo": "results",
    "VideoDetectionEvaluator": "video_evaluator",
    "VideoResult": "results",
    "all_metrics": "metrics",
    "average_precision": "frame_ap",
    "evaluating": "evaluated_run",
    "false_positive_sequences": "video_metrics",
    "inference_context": "evaluator",
    "inference_on_dataset": "evaluator",
    "inference_on_datasets": "evaluator",
    "legacy_metrics": "legacy",
    "match_detections": "frame_ap",
    "match_video": "matching",
    "precision_at_recall": "frame_ap",
    "video_detection_metrics": "metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)
