"""Clips for a model: samplers, augmentation, mapper and loaders. The names of `ultravid.datasets` are here as well."""

from ultravid.data.build import (
    ClipLoader,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    build_video_test_loader,
    build_video_train_loader,
    get_detection_dataset_dicts,
)
from ultravid.data.clip_planner import StaticClips
from ultravid.data.common import DatasetFromList, MapDataset, ToIterableDataset
from ultravid.data.mining import HardMining
from ultravid.data.mixing import MixedClipLoader
from ultravid.data.photometric import RandomContrast, RandomDepthGain, RandomGamma, RandomSpeckle
from ultravid.data.samplers import (
    InfiniteClipSampler,
    MemoryFrameSampler,
    StridedFrameSampler,
    WindowFrameSampler,
    shard_videos,
)
from ultravid.data.transforms import (
    CropToRegion,
    RandomColor,
    RandomFlip,
    RandomScale,
    RandomTimeFlip,
    ResizeToArea,
)
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
    "ClipLoader",
    "CropToRegion",
    "DataError",
    "DatasetCatalog",
    "DatasetFromList",
    "Frame",
    "FrameSource",
    "HardMining",
    "InfiniteClipSampler",
    "MapDataset",
    "MemoryFrameSampler",
    "Metadata",
    "MetadataCatalog",
    "MixedClipLoader",
    "RandomColor",
    "RandomContrast",
    "RandomDepthGain",
    "RandomFlip",
    "RandomGamma",
    "RandomScale",
    "RandomSpeckle",
    "RandomTimeFlip",
    "ResizeToArea",
    "StaticClips",
    "StridedFrameSampler",
    "ToIterableDataset",
    "Video",
    "WindowFrameSampler",
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "build_video_test_loader",
    "build_video_train_loader",
    "fold_of_patient",
    "get_detection_dataset_dicts",
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
    "shard_videos",
    "split_fold",
]
