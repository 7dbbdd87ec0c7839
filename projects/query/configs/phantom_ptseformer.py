"""PTSEFormer (Wang et al., ECCV 2022), small and causal, on the phantom: 16 frames, every second one, so 30 frames back.

Command:  python tools/lazyconfig_train.py --config-file projects/query/configs/phantom_ptseformer.py
Metrics:  AP50 92.7, FP80 1.4 (seed 0).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/ptseformer_small.py").model
train.output_dir = "./outputs/ptseformer_phantom"
