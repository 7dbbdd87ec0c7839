"""Backbones: networks that turn an image into a feature map."""

from ultravid.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet, make_stage
from ultravid.modeling.backbone.timm_backbone import TimmBackbone

__all__ = ["BasicBlock", "BottleneckBlock", "ResNet", "TimmBackbone", "make_stage"]
