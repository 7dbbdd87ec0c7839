"""FGFA (Zhu et al., "Flow-guided feature aggregation", ICCV 2017) on CVA-BUS, full size.

The flow network has no published weights here, so it is trained with the rest; the published code replaces its flow by zero.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 90.5, Pr80 92.9, FP80 4.4 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/fgfa.py").model
trainer.clip_grad = get_config("common/cva_bus_recipe.py").clip_grad
train.output_dir = "./outputs/fgfa_cva_bus"
