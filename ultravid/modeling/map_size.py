"""The number of cells of a feature map."""

from __future__ import annotations

__all__ = ["map_size"]


def map_size(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(height, width) of the map of an image of (height, width) pixels; the last cells may lie partly outside of the image."""
    return -(-image_size[0] // stride), -(-image_size[1] // stride)
