"""Faster R-CNN on CVA-BUS, full size: `cva_bus.py` without its relation layers, one frame at a time.

Command:   as cva_bus.py.
Metrics:   not measured here; the paper reports AP50 88.0, Pr80 91.3, FP80 6.9 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/faster_rcnn.py").model
trainer.clip_grad = None
train.output_dir = "./outputs/faster_rcnn_cva_bus"
