"""Operations on tensors of boxes with any leading axes; boxes are XYXY.

Legend: ``G``, ``N`` boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["center_to_corners", "clip_boxes", "giou_matrix", "iou_matrix", "nonempty", "take_rows"]


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes ``(..., N, 4)`` within images of ``(..., 2)`` (height, width): x in [0, width], y in [0, height]."""
    height, width = image_sizes.to(boxes.dtype)[..., None, :].unbind(-1)
    upper = torch.stack((width, height, width, height), dim=-1)
    return boxes.clamp(min=0).minimum(upper)


def nonempty(boxes: Tensor) -> Tensor:
    """``(..., N)`` bool: boxes with a width and a height above 0."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def iou_matrix(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``(..., G, N)``: intersection over union of each of ``(..., G, 4)`` with each of ``(..., N, 4)``; 0 where both are empty."""
    inter, union = _overlaps(boxes1, boxes2)
    return torch.where(inter > 0, inter / union, 0.0)


def _overlaps(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Areas ``(..., G, N)`` of intersection and of union of each of ``(..., G, 4)`` with each of ``(..., N, 4)``."""
    area1, area2 = ((b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1) for b in (boxes1, boxes2))
    first, second = boxes1[..., :, None, :], boxes2[..., None, :, :]
    overlap = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    inter = overlap.clamp(min=0).prod(dim=-1)
    return inter, area1[..., :, None] + area2[..., None, :] - inter


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """``(..., K, D)``: the rows of ``(..., N, D)`` that ``(..., K)`` int64 names."""
    return rows.gather(-2, index[..., None].expand(*index.shape, rows.shape[-1]))


def giou_matrix(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``(..., G, N)``: generalized IoU of each of ``(..., G, 4)`` with each of ``(..., N, 4)``; -1 where both are empty at one point.

    Source: Rezatofighi et al., "Generalized intersection over union", CVPR 2019.
    """
    inter, union = _overlaps(boxes1, boxes2)
    first, second = boxes1[..., :, None, :], boxes2[..., None, :, :]
    hull = (torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])).prod(
        dim=-1
    )
    eps = torch.finfo(boxes1.dtype).tiny
    return inter / union.clamp(min=eps) + union / hull.clamp(min=eps) - 1.0


def center_to_corners(boxes: Tensor) -> Tensor:
    """``(..., 4)``: (cx, cy, w, h) to XYXY."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((center - half, center + half), dim=-1)
