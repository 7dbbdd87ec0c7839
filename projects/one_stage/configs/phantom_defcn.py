"""DeFCN (Wang et al., "End-to-end object detection with fully convolutional network", CVPR 2021), small, on the phantom.

Command:  python tools/lazyconfig_train.py --config-file projects/one_stage/configs/phantom_defcn.py
Metrics:  AP50 74.2, FP80 51.1 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/defcn_small.py").model
train.output_dir = "./outputs/defcn_phantom"
