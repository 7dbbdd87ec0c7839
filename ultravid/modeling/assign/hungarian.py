"""One prediction for each box, at the lowest total cost.

Legend: ``...`` decoder layers and frames, ``B`` frames, ``Q`` predictions of a frame, ``G`` rows of ground truth, ``K`` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ultravid.layers.box_tensors import center_to_corners, giou_matrix

__all__ = ["HungarianAssigner", "lowest_cost_pairs"]


@torch.no_grad()
def lowest_cost_pairs(cost: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Pair rows with columns, each at most once, so that the sum of their costs is lowest; the costs move to the host once.

    Args:
        cost: ``(..., Q, G)``; what is not finite counts as a large finite number, so that the loss, and not this, reports it.
        valid: ``(..., G)`` bool; other columns have no partner.

    Returns:
        ``(..., G)`` int64, the row of each column (0 for one without), and ``(..., G)`` bool, which columns have one: all valid ones
        if there are not more of them than rows.
    """
    from scipy.optimize import linear_sum_assignment  # here, as it takes half a second to import and few models need it

    on_host = cost.detach().float().nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    costs, present = on_host.reshape(-1, *cost.shape[-2:]), valid.cpu().expand(cost.shape[:-2] + valid.shape[-1:])
    rows = torch.zeros(present.shape, dtype=torch.int64)
    paired = torch.zeros_like(present)
    flat = zip(
        costs, present.reshape(len(costs), -1), rows.view(len(costs), -1), paired.view(len(costs), -1), strict=True
    )
    for frame_cost, frame_present, frame_rows, frame_paired in flat:
        column = frame_present.nonzero()[:, 0]
        if len(column):
            row, place = map(torch.from_numpy, linear_sum_assignment(frame_cost[:, column.numpy()]))
            frame_rows[column[place]] = row
            frame_paired[column[place]] = True
    return rows.to(cost.device), paired.to(cost.device)


class HungarianAssigner:
    """Pairs of ground truth and queries (Carion et al., "DETR", ECCV 2020, equation 1, with the focal cost of Deformable DETR).

    Args:
        class_cost: weight of the focal loss that the query would save by the class.
        l1_cost: weight of the L1 distance of the boxes as shares of the image.
        giou_cost: weight of -GIoU.
        alpha: weight of the positive class in the focal loss.
        gamma: exponent of the focal loss.
    """

    def __init__(
        self,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        self.class_cost = class_cost
        self.l1_cost = l1_cost
        self.giou_cost = giou_cost
        self.alpha = alpha
        self.gamma = gamma

    @torch.no_grad()
    def __call__(
        self, logits: Tensor, boxes: Tensor, classes: Tensor, gt_boxes: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Match all layers and frames at once; the matching itself runs on the CPU.

        Args:
            logits: ``(..., B, Q, K)``.
            boxes: ``(..., B, Q, 4)`` (cx, cy, w, h) as shares of the image.
            classes: ``(B, G)`` int64.
            gt_boxes: ``(B, G, 4)`` as ``boxes``.
            valid: ``(B, G)`` bool.

        Returns:
            as `lowest_cost_pairs`: the query of each ground truth.
        """
        cost = self.cost(logits, boxes, classes, gt_boxes)
        return lowest_cost_pairs(cost, valid)

    def cost(self, logits: Tensor, boxes: Tensor, classes: Tensor, gt_boxes: Tensor) -> Tensor:
        """The cost of each pair of a query and a ground truth, ``(..., B, Q, G)`` float32.

        Args:
            logits: ``(..., B, Q, K)``.
            boxes: ``(..., B, Q, 4)`` (cx, cy, w, h) as shares of the image.
            classes: ``(B, G)`` int64.
            gt_boxes: ``(B, G, 4)`` as ``boxes``.
        """
        logits, boxes = logits.float(), boxes.float()
        log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
        positive = -self.alpha * (self.gamma * log_not_p).exp() * log_p
        negative = -(1.0 - self.alpha) * (self.gamma * log_p).exp() * log_not_p
        index = classes[..., None, :].expand(*logits.shape[:-1], classes.shape[-1])
        focal = (positive - negative).gather(-1, index)
        distance = (boxes[..., :, None, :] - gt_boxes[..., None, :, :]).abs().sum(dim=-1)
        giou = giou_matrix(center_to_corners(boxes), center_to_corners(gt_boxes))
        return self.class_cost * focal + self.l1_cost * distance - self.giou_cost * giou
