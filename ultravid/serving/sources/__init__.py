"""Sources of frames: movies, DICOM files, pictures, cameras and network streams."""

from ultravid.serving.sources.base import RecordingStream

__all__ = ["RecordingStream"]
