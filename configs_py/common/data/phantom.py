"""The phantom of tools/make_phantom.py, 128 px: trainval.json for training, test.json for evaluation."""

import copy

from ultravid.config import LazyCall as L
from ultravid.config import ref
from ultravid.data import RandomFlip, RandomTimeFlip, StridedFrameSampler

from .cva_bus import data, dataloader

data.root = "${oc.env:ULTRAVID_DATASETS,datasets}/phantom"
data.splits = ["trainval"]
data.test_splits = ["test"]
# The phantom's files state every patient, so `data.patients` is never asked; it is that of version 0.1, whose runs can be resumed.
data.test_videos = copy.deepcopy(data.videos)
data.test_videos.splits = ref("data.test_splits")

dataloader.train.fold = None
dataloader.train.num_folds = None
dataloader.train.frame_sampler = L(StridedFrameSampler)(num_frames=16, stride=2)
dataloader.train.transforms = [L(RandomFlip)(prob=0.5), L(RandomTimeFlip)(prob=0.5)]
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 1
dataloader.test.videos = ref("data.test_videos")
dataloader.test.area = None
dataloader.test.fold = None
dataloader.test.num_folds = None
dataloader.test.num_workers = 1
