"""Files of results: movies, JSON, tables, pictures."""

from ultravid.serving.writers.base import Picture, ResultWriter, close_writers, discard_writers
from ultravid.serving.writers.coco_video import write_coco_video
from ultravid.serving.writers.json_file import DetectionsJson, read_ends, read_frames
from ultravid.serving.writers.movie import MovieWriter
from ultravid.serving.writers.pictures import FramePictures, StillPicture, YoloLabels, picture_suffix
from ultravid.serving.writers.tables import DetectionsCsv, TracksCsv

__all__ = [
    "DetectionsCsv",
    "DetectionsJson",
    "FramePictures",
    "MovieWriter",
    "Picture",
    "ResultWriter",
    "StillPicture",
    "TracksCsv",
    "YoloLabels",
    "close_writers",
    "discard_writers",
    "picture_suffix",
    "read_ends",
    "read_frames",
    "write_coco_video",
]
