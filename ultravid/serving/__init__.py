"""Serving a trained detector: on recordings, on live streams, on a page, and as an export.

From a run's folder to boxes drawn on a clip::

    >>> from ultravid.serving import StreamingPredictor, draw, open_stream
    >>> predictor = StreamingPredictor("outputs/run", score_threshold=0.25)
    >>> pictures = []
    >>> for frame, found in predictor.detect(open_stream("clip.mp4")):
    ...     pictures.append(draw(frame.image, found, class_names=predictor.class_names))
    >>> len(pictures), pictures[0].shape
    (12, (64, 64, 3))

Names whose modules need torch are imported when they are asked for: a process that only decodes then starts in half a second of CPU
time instead of seven, and in a tenth of the memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ultravid.serving.records import Detection, FrameDetections, TimedFrame
from ultravid.serving.sources.base import RecordingStream

if TYPE_CHECKING:
    from ultravid.serving.drawing import draw
    from ultravid.serving.live import LatencyReport, LiveDetections
    from ultravid.serving.loading import LoadedDetector, load_detector
    from ultravid.serving.predictor import DetectionStream, StreamingPredictor
    from ultravid.serving.sources.opening import open_stream
    from ultravid.serving.tracking import default_tracker
    from ultravid.serving.tracks import TrackCollector, TrackSummary, summarize_tracks

__all__ = [
    "Detection",
    "DetectionStream",
    "FrameDetections",
    "LatencyReport",
    "LiveDetections",
    "LoadedDetector",
    "RecordingStream",
    "StreamingPredictor",
    "TimedFrame",
    "TrackCollector",
    "TrackSummary",
    "default_tracker",
    "draw",
    "load_detector",
    "open_stream",
    "summarize_tracks",
]

_MODULES: dict[str, str] = {
    "DetectionStream": "predictor",
    "LatencyReport": "live",
    "LiveDetections": "live",
    "LoadedDetector": "loading",
    "StreamingPredictor": "predictor",
    "TrackCollector": "tracks",
    "TrackSummary": "tracks",
    "default_tracker": "tracking",
    "draw": "drawing",
    "load_detector": "loading",
    "open_stream": "sources.opening",
    "summarize_tracks": "tracks",
}
"""The module of each name that is imported late; type checkers see the names by an import under ``if TYPE_CHECKING``."""


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
