"""YOLOX (Ge et al., arXiv 2107.08430), small, on the phantom, one frame at a time.

Command:  python tools/lazyconfig_train.py --config-file projects/one_stage/configs/phantom_yolox.py
Metrics:  AP50 64.1, FP80 40.8 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/yolox_small.py").model
train.output_dir = "./outputs/yolox_phantom"
