"""MEGA (Chen et al., "Memory enhanced global-local aggregation", CVPR 2020), small, on the phantom.

Command:  python tools/lazyconfig_train.py --config-file projects/two_stage/configs/phantom_mega.py
Metrics:  AP50 81.6, FP80 28.6 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import LazyCall as L
from ultravid.config import get_config
from ultravid.data import MemoryFrameSampler

from .phantom import *

model = get_config("common/models/mega_small.py").model
# As many frames as the clips of the other detectors have, at about their stride of 2; the first 6 carry no loss.
dataloader.train.frame_sampler = L(MemoryFrameSampler)(num_memory=6, memory_interval=12, num_frames=10, window=20)
train.output_dir = "./outputs/mega_phantom"
