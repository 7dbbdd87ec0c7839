"""Files of results: movies, JSON, tables, pictures."""

from ultravid.serving.writers.base import ResultWriter, close_writers, discard_writers
from ultravid.serving.writers.coco_video import write_coco_video
from ultravid.serving.writers.json_file import DetectionsJson, read_ends, read_frames
from ultravid.serving.writers.movie import MovieWriter
from ultravid.serving.writers.pictures import FramePictures, YoloLabels
from ultravid.serving.writers.tables import DetectionsCsv, TracksCsv

__all__ = [
    "DetectionsCsv",
    "DetectionsJson",
    "FramePictures",
    "MovieWriter",
    "ResultWriter",
    "TracksCsv",
    "YoloLabels",
    "close_writers",
    "discard_writers",
    "read_ends",
    "read_frames",
    "write_coco_video",
]
