"""Networks from an image to a feature map."""

from ultravid.modeling.backbone.resnet import BasicBlock, ResNet, make_stage

__all__ = ["BasicBlock", "ResNet", "make_stage"]
