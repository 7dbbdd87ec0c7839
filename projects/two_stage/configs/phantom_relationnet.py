"""RelationNet (Hu et al., "Relation networks for object detection", CVPR 2018), small, on the phantom, one frame at a time.

Command:  python tools/lazyconfig_train.py --config-file projects/two_stage/configs/phantom_relationnet.py
Metrics:  AP50 68.0, FP80 55.8 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/relationnet_small.py").model
train.output_dir = "./outputs/relationnet_phantom"
