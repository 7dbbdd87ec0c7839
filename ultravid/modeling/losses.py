"""Losses and their normalisers that several heads share.

Boxes are XYXY, elementwise in pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ultravid.utils import comm

__all__ = ["focal_loss", "giou_loss", "mean_over_processes", "pair_iou", "product_focal_loss"]

_EPS = 1e-7


@torch.no_grad()
def mean_over_processes(count: Tensor, minimum: float = 1.0) -> Tensor:
    """A normaliser such as a number of positives: the sum over the processes of a run, at least ``minimum``, by their number.

    DDP averages gradients, so sums that are divided by this have the gradient of one process that has all clips.

    Args:
        count: ``()``; the same number of calls must be made in every process.
        minimum: lower bound of the sum.
    """
    count = count.detach().float().clone()
    if comm.get_world_size() > 1:
        distributed.all_reduce(count)
    return count.clamp(min=minimum) / comm.get_world_size()


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary cross entropy that well-classified examples hardly contribute to, of logits and targets of one shape, elementwise.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5.

    Args:
        logits: a tensor of any shape.
        targets: a tensor of the same shape, with 0 or 1.
        alpha: weight of targets of 1; those of 0 have 1 - alpha.
        gamma: power of the probability of being wrong.
    """
    loss: Tensor = sigmoid_focal_loss(logits.float(), targets.float(), alpha=alpha, gamma=gamma)
    return loss


def product_focal_loss(
    logits: Tensor, other_logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """The focal loss of a probability that is the product of two sigmoids, elementwise.

    Args:
        logits: the logits of one factor, in any shape.
        other_logits: the logits of the other factor; the two are broadcast.
        targets: 0 or 1.
        alpha: as of `focal_loss`.
        gamma: as of `focal_loss`.
    """
    a, b = logits.float(), other_logits.float()
    log_p = F.logsigmoid(a) + F.logsigmoid(b)
    log_not_p = torch.logaddexp(F.logsigmoid(-a), F.logsigmoid(a) + F.logsigmoid(-b))  # 1 - pq = (1 - p) + p (1 - q)
    positive = -alpha * (gamma * log_not_p).exp() * log_p
    negative = -(1 - alpha) * (gamma * log_p).exp() * log_not_p
    return torch.where(targets > 0.5, positive, negative)


def giou_loss(boxes: Tensor, targets: Tensor, plus_one: bool = False) -> Tensor:
    """1 - IoU + the share of the smallest enclosing box that neither covers, ``(...)`` of ``(..., 4)`` and ``(..., 4)``.

    Source: Rezatofighi et al., "Generalized intersection over union", CVPR 2019.

    Args:
        boxes: predicted.
        targets: a tensor of the same shape.
        plus_one: add 1 to numerator and denominator of the IoU, as the published code of FCOS does; then units matter.
    """
    intersection, union = _overlap(boxes, targets)
    size = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(boxes[..., :2], targets[..., :2])
    enclosing = size.prod(dim=-1)
    iou = (intersection + 1.0) / (union + 1.0) if plus_one else intersection / (union + _EPS)
    return 1.0 - iou + (enclosing - union) / (enclosing + _EPS)


def pair_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union, ``(...)`` of ``(..., 4)`` and ``(..., 4)``; of two empty boxes 0."""
    intersection, union = _overlap(boxes, targets)
    return intersection / (union + _EPS)


def _overlap(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    size = torch.minimum(boxes[..., 2:], targets[..., 2:]) - torch.maximum(boxes[..., :2], targets[..., :2])
    intersection = size.clamp(min=0).prod(dim=-1)
    areas = ((b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1) for b in (boxes, targets))
    return intersection, sum(areas, torch.zeros_like(intersection)) - intersection
