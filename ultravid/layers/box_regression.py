"""Boxes as differences from other boxes.

Legend: ``N`` boxes; the last axis holds 4 numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Box2BoxTransform"]


class Box2BoxTransform:
    """The (dx, dy, dw, dh) coding of R-CNN (Girshick et al., CVPR 2014, appendix C).

    dx and dy are shifts of the centre in units of the source's width and height, dw and dh logarithms of the ratio of
    sizes; each is multiplied by its weight. No "+1" in a width.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = math.log(1000.0 / 16)) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """``(N, 4)`` deltas that turn the source boxes ``(N, 4)`` into the targets ``(N, 4)``."""
        src_size = src_boxes[:, 2:] - src_boxes[:, :2]
        target_size = target_boxes[:, 2:] - target_boxes[:, :2]
        shift = (target_boxes[:, :2] + 0.5 * target_size - src_boxes[:, :2] - 0.5 * src_size) / src_size
        deltas = torch.cat((shift, torch.log(target_size / src_size)), dim=1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes ``(..., 4)`` that the deltas ``(..., 4)`` make of ``boxes``; dw and dh are clamped above."""
        deltas = deltas.float() / deltas.new_tensor(self.weights, dtype=torch.float32)
        boxes = boxes.to(deltas.dtype)
        size = boxes[..., 2:] - boxes[..., :2]
        centre = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
        half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=self.scale_clamp)) * size
        return torch.cat((centre - half, centre + half), dim=-1)
