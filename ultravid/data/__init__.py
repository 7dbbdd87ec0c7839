"""From files to clips and frames: readers, folds, samplers, augmentation, loaders, and the phantom."""

from ultravid.data.build import ClipLoader, build_video_test_loader, build_video_train_loader
from ultravid.data.catalog import DatasetCatalog, Metadata, MetadataCatalog, get_videos
from ultravid.data.datasets import (
    load_coco_stills,
    load_coco_video,
    load_cva_bus,
    load_cvat_video,
    load_hospital_csv,
    load_labelme,
    load_recordings,
)
from ultravid.data.folds import fold_of_patient, split_fold
from ultravid.data.readers import FrameSource, open_source
from ultravid.data.samplers import (
    InfiniteClipSampler,
    StridedFrameSampler,
    WindowFrameSampler,
    shard_videos,
)
from ultravid.data.transforms import (
    RandomColor,
    RandomFlip,
    RandomScale,
    RandomTimeFlip,
    ResizeToArea,
)
from ultravid.data.video import DataError, Frame, Video

__all__ = [
    "ClipLoader",
    "DataError",
    "DatasetCatalog",
    "Frame",
    "FrameSource",
    "InfiniteClipSampler",
    "Metadata",
    "MetadataCatalog",
    "RandomColor",
    "RandomFlip",
    "RandomScale",
    "RandomTimeFlip",
    "ResizeToArea",
    "StridedFrameSampler",
    "Video",
    "WindowFrameSampler",
    "build_video_test_loader",
    "build_video_train_loader",
    "fold_of_patient",
    "get_videos",
    "load_coco_stills",
    "load_coco_video",
    "load_cva_bus",
    "load_cvat_video",
    "load_hospital_csv",
    "load_labelme",
    "load_recordings",
    "open_source",
    "shard_videos",
    "split_fold",
]
