"""YOLOX (Ge et al., arXiv 2107.08430) on CVA-BUS, full size.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 80.4, Pr80 69.7, FP80 23.8 over four folds.
Hardware:  as cva_bus.py.
"""

from torch.nn.utils import clip_grad_value_

from ultravid.config import LazyPartial, get_config

from .cva_bus import *

model = get_config("common/models/yolox.py").model
trainer.clip_grad = LazyPartial(clip_grad_value_)(clip_value=1.0)
train.output_dir = "./outputs/yolox_cva_bus"
