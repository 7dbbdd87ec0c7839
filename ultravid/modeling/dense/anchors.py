"""Anchors: the boxes that a dense head starts from.

Legend: ``A`` shapes per cell, ``H, W`` the feature map's height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["AnchorGenerator", "anchor_shapes"]


def anchor_shapes(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> list[tuple[float, float]]:
    """(width, height) of every size by every ratio, sizes in the outer loop.

    Args:
        sizes: square root of the area, pixels.
        aspect_ratios: height over width.
    """
    return [(math.sqrt(s * s / r), r * math.sqrt(s * s / r)) for s in sizes for r in aspect_ratios]


class AnchorGenerator(nn.Module):
    """The same shapes at every cell of a feature map.

    Args:
        shapes: (width, height) of each anchor in pixels; `anchor_shapes` makes them of sizes and aspect ratios.
        stride: pixels from cell to cell.
        offset: the anchor's center in its cell, as a share of the stride; 0 is the cell's upper left corner.

    Raises:
        ValueError: there are no shapes.
    """

    cell_anchors: Tensor

    def __init__(self, *, shapes: Sequence[tuple[float, float]], stride: int, offset: float = 0.0) -> None:
        super().__init__()
        if not shapes:
            raise ValueError("shapes is empty; list the (width, height) of at least one anchor in pixels.")
        half = torch.tensor([[w / 2, h / 2] for w, h in shapes], dtype=torch.float32)
        self.register_buffer("cell_anchors", torch.cat((-half, half), dim=1), persistent=False)
        self.stride = stride
        self.offset = offset

    @property
    def num_anchors(self) -> int:
        """``A``, the number of anchors of each cell."""
        return self.cell_anchors.shape[0]

    def forward(self, height: int, width: int) -> Tensor:
        """The anchors of a map of ``height`` times ``width`` cells.

        Returns:
            ``(height * width * A, 4)`` float32 XYXY in pixels, by row, column, shape; neither clipped nor dropped at the border.
        """
        device = self.cell_anchors.device
        y = (torch.arange(height, device=device, dtype=torch.float32) + self.offset) * self.stride
        x = (torch.arange(width, device=device, dtype=torch.float32) + self.offset) * self.stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centers = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1)
        return (centers[:, :, None] + self.cell_anchors).reshape(-1, 4)
