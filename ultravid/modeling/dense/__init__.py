"""Heads that predict at each cell of a feature map."""

from ultravid.modeling.dense.anchors import AnchorGenerator, anchor_shapes
from ultravid.modeling.dense.base import DenseHead
from ultravid.modeling.dense.defcn import DeFCN
from ultravid.modeling.dense.fcos import FCOS
from ultravid.modeling.dense.retinanet import RetinaNet
from ultravid.modeling.dense.rpn import RPN, RPNHead
from ultravid.modeling.dense.yolox import YOLOX

__all__ = [
    "FCOS",
    "RPN",
    "YOLOX",
    "AnchorGenerator",
    "DeFCN",
    "DenseHead",
    "RPNHead",
    "RetinaNet",
    "anchor_shapes",
]
