"""Tensor operations and blocks that models are made of."""

from ultravid.layers.box_regression import Box2BoxTransform
from ultravid.layers.conv import Conv2d, get_norm
from ultravid.layers.relation import RelationLayer, RelationModule, geometry_embedding

__all__ = [
    "Box2BoxTransform",
    "Conv2d",
    "RelationLayer",
    "RelationModule",
    "geometry_embedding",
    "get_norm",
]
