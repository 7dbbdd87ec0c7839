"""FCOS (Tian et al., TPAMI 2020), small, on the phantom, one frame at a time.

Command:  python tools/lazyconfig_train.py --config-file projects/one_stage/configs/phantom_fcos.py
Metrics:  AP50 73.4, FP80 41.7 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/fcos_small.py").model
train.output_dir = "./outputs/fcos_phantom"
