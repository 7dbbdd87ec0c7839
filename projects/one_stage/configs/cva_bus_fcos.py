"""FCOS (Tian et al., TPAMI 2020) on CVA-BUS, full size.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 89.5, Pr80 87.2, FP80 11.0 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/fcos.py").model
trainer.clip_grad = get_config("common/cva_bus_recipe.py").clip_grad
train.output_dir = "./outputs/fcos_cva_bus"
