"""DeFCN (Wang et al., CVPR 2021) on CVA-BUS, full size.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 86.4, Pr80 81.5, FP80 21.1 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/defcn.py").model
trainer.clip_grad = get_config("common/cva_bus_recipe.py").clip_grad
train.output_dir = "./outputs/defcn_cva_bus"
