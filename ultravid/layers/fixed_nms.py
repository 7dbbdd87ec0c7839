"""Non-maximum suppression and selection on tensors of fixed shape, with masks for rows that hold nothing.

Legend: ``N`` boxes, ``K`` rows to select.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["first_rows", "nms_mask", "offset_boxes_by_class", "top_rows"]


# The number of boxes that are kept is known on the host alone, so a CUDA graph can't hold it: Inductor captures what lies around it.
@torch.library.custom_op("ultravid::nms_mask", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _nms_mask(boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    keep = torch.zeros_like(valid)
    flat = keep.view(-1, keep.shape[-1])
    rows = zip(boxes.view(-1, *boxes.shape[-2:]), scores.view_as(flat), valid.view_as(flat), flat, strict=True)
    for frame_boxes, frame_scores, frame_valid, frame_keep in rows:
        index = frame_valid.nonzero()[:, 0]
        frame_keep[index[nms(frame_boxes[index], frame_scores[index], iou_threshold)]] = True
    return keep


@_nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    del boxes, scores, iou_threshold
    return torch.empty_like(valid)


@torch.no_grad()
def nms_mask(boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes survive greedy non-maximum suppression by falling score, of equal scores the lower index first.

    One operation of fixed shape for `torch.compile` and export.

    Args:
        boxes: ``(..., N, 4)`` XYXY; each row of the leading axes is a frame of its own.
        scores: ``(..., N)``.
        valid: ``(..., N)`` bool; other boxes neither survive nor suppress.
        iou_threshold: a box whose IoU with a better surviving box is larger is dropped.

    Returns:
        ``(..., N)`` bool.
    """
    return _nms_mask(boxes.float().contiguous(), scores.float().contiguous(), valid.contiguous(), iou_threshold)


def first_rows(keep: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the first ``count`` rows that are kept, in order.

    Args:
        keep: ``(..., N)`` bool.
        count: ``K``; may be larger than ``N``.

    Returns:
        ``(..., min(K, N))`` int64, filled up with rows that are not kept, and bool, which of them are kept.
    """
    index = torch.argsort(~keep, dim=-1, stable=True)[..., :count]
    return index, keep.gather(-1, index)


def top_rows(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest scores, falling, of equal scores the lower index first.

    Args:
        scores: ``(..., N)``.
        count: ``K``; may be larger than ``N``.

    Returns:
        ``(..., min(K, N))`` scores and int64 indices.
    """
    index = scores.topk(min(count, scores.shape[-1]), dim=-1, sorted=False).indices.sort(dim=-1).values
    top, order = scores.gather(-1, index).sort(dim=-1, descending=True, stable=True)
    return top, index.gather(-1, order)


def offset_boxes_by_class(boxes: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Boxes ``(..., N, 4)`` of frames moved so that those of two classes never meet; with one class they stay, and so does their rounding."""
    if num_classes == 1:
        return boxes
    coordinates = boxes.flatten(-2)
    extent = coordinates.amax(dim=-1, keepdim=True) - coordinates.amin(dim=-1, keepdim=True) + 1.0
    return boxes + (classes * extent)[..., None]
