"""Sources of frames: image folders, movies and DICOM files behind one interface."""

from ultravid.datasets.readers.frames import read_frame_image, read_frame_view
from ultravid.datasets.readers.opener import is_recording, open_source
from ultravid.datasets.readers.sidecar import Sidecar, read_sidecar
from ultravid.datasets.readers.source import CroppedSource, FrameSource

__all__ = [
    "CroppedSource",
    "FrameSource",
    "Sidecar",
    "is_recording",
    "open_source",
    "read_frame_image",
    "read_frame_view",
    "read_sidecar",
]
