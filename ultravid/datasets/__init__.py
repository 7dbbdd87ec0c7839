"""Videos on disk: readers of recordings and annotations, folds, catalog, audit, conversion, phantom. Imports nothing of torch."""

from ultravid.datasets.catalog import DatasetCatalog, Metadata, MetadataCatalog, get_videos
from ultravid.datasets.folds import fold_of_patient, split_fold
from ultravid.datasets.formats import (
    load_coco_stills,
    load_coco_video,
    load_cva_bus,
    load_cvat_video,
    load_hospital_csv,
    load_labelme,
    load_recordings,
)
from ultravid.datasets.groups import group_by_metadata, label_groups, select_group
from ultravid.datasets.readers import FrameSource, open_source
from ultravid.datasets.video import DataError, Frame, Video

__all__ = [
    "DataError",
    "DatasetCatalog",
    "Frame",
    "FrameSource",
    "Metadata",
    "MetadataCatalog",
    "Video",
    "fold_of_patient",
    "get_videos",
    "group_by_metadata",
    "label_groups",
    "load_coco_stills",
    "load_coco_video",
    "load_cva_bus",
    "load_cvat_video",
    "load_hospital_csv",
    "load_labelme",
    "load_recordings",
    "open_source",
    "select_group",
    "split_fold",
]
