"""Faster R-CNN on CVA-BUS, full size: `cva_bus.py` without its relation layers, one frame at a time."""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/faster_rcnn.py").model
trainer.clip_grad = None
train.output_dir = "./outputs/faster_rcnn_cva_bus"
