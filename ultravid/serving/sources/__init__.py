"""Sources of frames: movies, DICOM files, pictures, cameras and network streams."""

from ultravid.serving.sources.base import RecordingStream
from ultravid.serving.sources.listing import Source, SourceList, list_sources
from ultravid.serving.sources.live_options import LiveOptions
from ultravid.serving.sources.opening import check_source, open_stream

__all__ = ["LiveOptions", "RecordingStream", "Source", "SourceList", "check_source", "list_sources", "open_stream"]
