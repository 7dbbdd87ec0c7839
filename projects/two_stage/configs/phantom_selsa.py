"""SELSA (Wu et al., "Sequence level semantics aggregation", ICCV 2019), small, on the phantom.

Command:  python tools/lazyconfig_train.py --config-file projects/two_stage/configs/phantom_selsa.py
Metrics:  AP50 68.3, FP80 49.2 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/selsa_small.py").model
train.output_dir = "./outputs/selsa_phantom"
