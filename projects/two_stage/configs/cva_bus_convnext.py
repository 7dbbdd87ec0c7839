"""Faster R-CNN on a ConvNeXt-T of timm (Liu et al., "A ConvNet for the 2020s", CVPR 2022) on CVA-BUS: another backbone is one line.

Command:   pip install ultravid[timm]
           python tools/lazyconfig_train.py --config-file projects/two_stage/configs/cva_bus_convnext.py \
               model.backbone.weights=convnext_tiny.safetensors model.backbone.freeze_at=1 dataloader.train.fold=0
           (timm's weights, unchanged; without them all layers are trained from scratch)
Metrics:   not measured.
Hardware:  as cva_bus.py.
"""

from ultravid.config import LazyCall as L
from ultravid.modeling import TimmBackbone

from .cva_bus import *

model.backbone = L(TimmBackbone)(name="convnext_tiny", stride=16, out_channels=256, weights="", freeze_at=0)
train.output_dir = "./outputs/faster_rcnn_convnext_cva_bus"
