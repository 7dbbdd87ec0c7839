"""CVA-Net as UltraDet's published code has it, small, on the phantom: feature maps are averaged with those of 8 frames before.

Command:  python tools/lazyconfig_train.py --config-file projects/query/configs/phantom_cvanet.py
Metrics:  AP50 49.3, FP80 56.3 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/cvanet_small.py").model
dataloader.train.frame_sampler.stride = 1  # as in a stream, the frame 8 places before is 8 frames before
train.output_dir = "./outputs/cvanet_phantom"
