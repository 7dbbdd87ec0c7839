"""PTSEFormer (Wang et al., ECCV 2022) on CVA-BUS, full size.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 91.5, Pr80 93.3, FP80 2.8 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/ptseformer.py").model
train.output_dir = "./outputs/ptseformer_cva_bus"
