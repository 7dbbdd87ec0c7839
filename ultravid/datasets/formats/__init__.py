"""Readers that turn annotation files into `Video`s."""

from ultravid.datasets.formats.coco_video import load_coco_stills, load_coco_video, load_cva_bus
from ultravid.datasets.formats.cvat_video import load_cvat_video
from ultravid.datasets.formats.hospital_csv import load_hospital_csv
from ultravid.datasets.formats.labelme import load_labelme
from ultravid.datasets.formats.recordings import load_recordings

__all__ = [
    "load_coco_stills",
    "load_coco_video",
    "load_cva_bus",
    "load_cvat_video",
    "load_hospital_csv",
    "load_labelme",
    "load_recordings",
]
