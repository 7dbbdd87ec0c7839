"""YOLOX (Ge et al., arXiv 2107.08430) on CVA-BUS, full size.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 80.4, Pr80 69.7, FP80 23.8 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/yolox.py").model
trainer.clip_grad = get_config("common/cva_bus_recipe.py").clip_grad
train.output_dir = "./outputs/yolox_cva_bus"
