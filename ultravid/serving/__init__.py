"""A trained detector at work: on one's own recordings, on live streams, on a page, and exported."""

from ultravid.serving.drawing import draw
from ultravid.serving.records import Detection, FrameDetections, TimedFrame
from ultravid.serving.sources.base import RecordingStream

__all__ = ["Detection", "FrameDetections", "RecordingStream", "TimedFrame", "draw"]
