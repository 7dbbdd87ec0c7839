"""Boxes coded as differences from other boxes.

Legend: ``N`` boxes; the last axis holds 4 numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Box2BoxTransform"]


class Box2BoxTransform:
    """The coding of R-CNN (Girshick et al., CVPR 2014, appendix C): (dx, dy, dw, dh).

    dx and dy are shifts of the center in units of the source's width and height, dw and dh logarithms of the ratio of
    sizes; each is multiplied by its weight. There is no "+1" in a width.

    Args:
        weights: of dx, dy, dw and dh.
        scale_clamp: upper bound of dw and dh when deltas are applied.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = math.log(1000.0 / 16)) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """``(..., 4)`` deltas that turn the source boxes ``(..., 4)`` into the targets ``(..., 4)``.

        Args:
            src_boxes: XYXY, with an area.
            target_boxes: XYXY, with an area.
        """
        src_size = src_boxes[..., 2:] - src_boxes[..., :2]
        target_size = target_boxes[..., 2:] - target_boxes[..., :2]
        shift = (target_boxes[..., :2] + 0.5 * target_size - src_boxes[..., :2] - 0.5 * src_size) / src_size
        deltas = torch.cat((shift, torch.log(target_size / src_size)), dim=-1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """The boxes that the deltas make of ``boxes``, float32.

        Args:
            deltas: ``(..., k * 4)``: k codes for each box, such as one for each class.
            boxes: ``(..., 4)``.

        Returns:
            ``(..., k * 4)``, in the order of the deltas.
        """
        if deltas.shape[-1] != 4:
            return self.apply_deltas(deltas.unflatten(-1, (-1, 4)), boxes[..., None, :]).flatten(-2)
        deltas = deltas.float() / deltas.new_tensor(self.weights, dtype=torch.float32)
        boxes = boxes.to(deltas.dtype)
        size = boxes[..., 2:] - boxes[..., :2]
        center = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
        half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=self.scale_clamp)) * size
        return torch.cat((center - half, center + half), dim=-1)
