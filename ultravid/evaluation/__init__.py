"""Metrics of frames and videos, and the loop that gathers a model's output for them."""

from ultravid.evaluation.evaluator import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from ultravid.evaluation.frame_ap import (
    DetectionPool,
    average_precision,
    match_detections,
    precision_at_recall,
)
from ultravid.evaluation.pictures import FramePictures
from ultravid.evaluation.report import flatten_results_dict, format_results, print_csv_format
from ultravid.evaluation.video_evaluator import VideoDetectionEvaluator, video_detection_metrics
from ultravid.evaluation.video_metrics import FrameResult, VideoResult, false_positive_sequences

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "DetectionPool",
    "FramePictures",
    "FrameResult",
    "VideoDetectionEvaluator",
    "VideoResult",
    "average_precision",
    "false_positive_sequences",
    "flatten_results_dict",
    "format_results",
    "inference_on_dataset",
    "match_detections",
    "precision_at_recall",
    "print_csv_format",
    "video_detection_metrics",
]
