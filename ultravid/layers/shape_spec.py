"""The shape of a feature map, as far as it is known while a model is built."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ShapeSpec"]


@dataclass
class ShapeSpec:
    """What a module needs to know about the feature map that it is given; None for what is not known.

    Attributes:
        channels: the number of channels of the map.
        height: the height of the map, in cells.
        width: the width of the map, in cells.
        stride: pixels of the image from cell to cell.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
