"""Heads that predict at each cell of a feature map."""

from ultravid.modeling.dense.anchors import AnchorGenerator, anchor_shapes
from ultravid.modeling.dense.base import DenseHead
from ultravid.modeling.dense.rpn import RPN, RPNHead

__all__ = ["RPN", "AnchorGenerator", "DenseHead", "RPNHead", "anchor_shapes"]
