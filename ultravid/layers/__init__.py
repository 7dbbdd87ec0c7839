"""Tensor operations and blocks that models are made of."""

from ultravid.layers.batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from ultravid.layers.blocks import CNNBlockBase, DepthwiseSeparableConv2d
from ultravid.layers.box_regression import Box2BoxTransform
from ultravid.layers.conv import Conv2d
from ultravid.layers.losses import ciou_loss, diou_loss, giou_loss
from ultravid.layers.nms import batched_nms, nms
from ultravid.layers.relation import (
    RelationLayer,
    RelationModule,
    TokenRelation,
    TokenRelationLayer,
    geometry_embedding,
)
from ultravid.layers.roi_align import ROIAlign, roi_align
from ultravid.layers.selsa import SELSALayer, SELSAModule
from ultravid.layers.shape_spec import ShapeSpec
from ultravid.layers.wrappers import (
    BatchNorm2d,
    ConvTranspose2d,
    Linear,
    cat,
    cross_entropy,
    empty_input_loss_func_wrapper,
    interpolate,
    move_device_like,
    nonzero_tuple,
)

__all__ = [
    "BatchNorm2d",
    "Box2BoxTransform",
    "CNNBlockBase",
    "Conv2d",
    "ConvTranspose2d",
    "DepthwiseSeparableConv2d",
    "FrozenBatchNorm2d",
    "Linear",
    "NaiveSyncBatchNorm",
    "ROIAlign",
    "RelationLayer",
    "RelationModule",
    "SELSALayer",
    "SELSAModule",
    "ShapeSpec",
    "TokenRelation",
    "TokenRelationLayer",
    "batched_nms",
    "cat",
    "ciou_loss",
    "cross_entropy",
    "diou_loss",
    "empty_input_loss_func_wrapper",
    "geometry_embedding",
    "get_norm",
    "giou_loss",
    "interpolate",
    "move_device_like",
    "nms",
    "nonzero_tuple",
    "roi_align",
]
