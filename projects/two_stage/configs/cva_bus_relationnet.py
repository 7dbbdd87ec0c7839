"""RelationNet (Hu et al., "Relation networks for object detection", CVPR 2018) on CVA-BUS, full size.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 87.6, Pr80 91.4, FP80 6.2 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/relationnet.py").model
trainer.clip_grad = get_config("common/cva_bus_recipe.py").clip_grad
train.output_dir = "./outputs/relationnet_cva_bus"
