"""TransVOD (He et al., ACM MM 2021), small and causal, on the phantom: 16 frames, every second one, so 30 frames back.

Command:  python tools/lazyconfig_train.py --config-file projects/query/configs/phantom_transvod.py
Metrics:  AP50 89.9, FP80 7.5 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/transvod_small.py").model
train.output_dir = "./outputs/transvod_phantom"
