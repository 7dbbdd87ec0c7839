"""detectron2's place of `Box2BoxTransform`, which is defined in `ultravid.layers`."""

from ultravid.layers.box_regression import Box2BoxTransform

__all__ = ["Box2BoxTransform"]
