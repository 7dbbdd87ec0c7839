"""Modules that propose boxes from a feature map."""

from ultravid.modeling.proposal.anchors import AnchorGenerator, anchor_shapes
from ultravid.modeling.proposal.rpn import RPN, RPNHead

__all__ = ["RPN", "AnchorGenerator", "RPNHead", "anchor_shapes"]
