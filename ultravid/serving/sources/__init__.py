"""Sources of frames: movies, DICOM files, pictures, cameras and network streams."""

from ultravid.serving.sources.base import RecordingStream
from ultravid.serving.sources.opening import open_stream

__all__ = ["RecordingStream", "open_stream"]
