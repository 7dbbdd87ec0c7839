"""Losses of boxes by their overlap; torchvision's, under detectron2's and fvcore's names.

Legend: ``N`` boxes. Boxes are XYXY with x1 <= x2 and y1 <= y2, in any unit; both tensors have the same shape.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

__all__ = ["ciou_loss", "diou_loss", "giou_loss"]


def giou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - IoU + the share of the smallest enclosing box that neither box covers.

    Source: Rezatofighi et al., "Generalized intersection over union", CVPR 2019.

    Args:
        boxes1: ``(N, 4)`` or ``(4,)``.
        boxes2: ``(N, 4)`` or ``(4,)``.
        reduction: "none" gives ``(N,)``, "mean" and "sum" a scalar; the mean over no boxes is 0.
        eps: added to denominators.
    """
    loss: Tensor = generalized_box_iou_loss(boxes1, boxes2, reduction, eps)
    return loss


def diou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - IoU + (distance of the centers / diagonal of the smallest enclosing box) ** 2.

    Source: Zheng et al., "Distance-IoU loss", AAAI 2020. Arguments as in `giou_loss`.

    Args:
        boxes1: ``(N, 4)`` predicted boxes, XYXY.
        boxes2: ``(N, 4)`` their ground truth, XYXY.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        eps: is added to divisors.

    Returns:
        ``(N,)``, or a scalar if it is reduced.
    """
    loss: Tensor = distance_box_iou_loss(boxes1, boxes2, reduction, eps)
    return loss


def ciou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """`diou_loss` + a * v, a penalty for another aspect ratio.

    v is 4 / pi**2 times the squared difference of the angles of the diagonals; the weight a = v / (1 - IoU + v) has no
    gradient. Source: Zheng et al., "Distance-IoU loss", AAAI 2020. Arguments as in `giou_loss`.

    Args:
        boxes1: ``(N, 4)`` predicted boxes, XYXY.
        boxes2: ``(N, 4)`` their ground truth, XYXY.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        eps: is added to divisors.

    Returns:
        ``(N,)``, or a scalar if it is reduced.
    """
    loss: Tensor = complete_box_iou_loss(boxes1, boxes2, reduction, eps)
    return loss
