"""Non-maximum suppression; `nms` is torchvision's."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import batched_nms as _batched_nms
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each group; boxes of different groups never suppress each other.

    Args:
        boxes: ``(N, 4)`` XYXY; computed in float32.
        scores: ``(N,)``.
        idxs: ``(N,)`` group of each box, such as its class.
        iou_threshold: a box whose IoU with a better box of its group is larger is dropped.

    Returns:
        int64 indices of the boxes that are kept, by falling score.
    """
    assert boxes.shape[-1] == 4
    return _batched_nms(boxes.float(), scores, idxs, iou_threshold)
