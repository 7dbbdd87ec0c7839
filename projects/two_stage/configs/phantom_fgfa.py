"""FGFA (Zhu et al., "Flow-guided feature aggregation", ICCV 2017), small, on the phantom.

Command:  python tools/lazyconfig_train.py --config-file projects/two_stage/configs/phantom_fgfa.py
Metrics:  AP50 86.5, FP80 18.8 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/fgfa_small.py").model
train.output_dir = "./outputs/fgfa_phantom"
