"""Readers: from annotation files to `Video`s."""

from ultravid.data.datasets.coco_video import load_coco_stills, load_coco_video, load_cva_bus
from ultravid.data.datasets.cvat_video import load_cvat_video
from ultravid.data.datasets.hospital_csv import load_hospital_csv
from ultravid.data.datasets.labelme import load_labelme
from ultravid.data.datasets.recordings import load_recordings

__all__ = [
    "load_coco_stills",
    "load_coco_video",
    "load_cva_bus",
    "load_cvat_video",
    "load_hospital_csv",
    "load_labelme",
    "load_recordings",
]
