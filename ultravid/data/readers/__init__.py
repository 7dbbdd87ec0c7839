"""Sources of frames: picture folders, movies and DICOM files behind one interface."""

from ultravid.data.readers.frames import read_frame_image
from ultravid.data.readers.sidecar import Sidecar, read_sidecar
from ultravid.data.readers.source import CroppedSource, FrameSource, is_recording, open_source

__all__ = [
    "CroppedSource",
    "FrameSource",
    "Sidecar",
    "is_recording",
    "open_source",
    "read_frame_image",
    "read_sidecar",
]
