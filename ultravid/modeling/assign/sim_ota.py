"""A number of locations for each box that follows from the IoU of its best predictions (Ge et al., "YOLOX", arXiv 2107.08430, section 2.1, SimOTA).

Legend: ``B`` frames, ``G`` rows of ground truth, ``N`` locations, ``K`` classes, ``S`` the most locations that a box may get.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.layers.box_tensors import iou_matrix
from ultravid.modeling.assign.base import DensePredictions, inside_boxes, label_locations
from ultravid.modeling.assign.matcher import Assignment
from ultravid.modeling.types import Targets
from ultravid.utils.limits import Positive

__all__ = ["SimOTA"]

_NOT_IN_BOTH = 1e5


class SimOTA:
    """Each box gets its cheapest locations, as many as the sum of its highest IoUs says.

    A location is a candidate if it lies in a box or near a box's center. Its cost for a box is the binary cross entropy of
    sqrt(score), plus ``iou_weight`` times -log(IoU), plus 1e5 if it does not lie in that box and near its center.

    Args:
        radius: distance from the center in x and in y, in strides of the map.
        topk: number of highest IoUs that are summed.
        iou_weight: weight of -log(IoU).
    """

    def __init__(self, radius: float = 2.5, topk: Positive = 10, iou_weight: float = 3.0) -> None:
        self.radius = radius
        self.topk = topk
        self.iou_weight = iou_weight

    @torch.no_grad()
    def __call__(self, predictions: DensePredictions, targets: Targets) -> Assignment:
        """As `DenseAssigner.__call__`; a location that several boxes select is assigned to the box for which it costs least."""
        in_box = inside_boxes(predictions.locations, targets.boxes)
        near = inside_boxes(predictions.locations, self._center_squares(targets, predictions.stride))
        real = targets.valid[..., None] & predictions.inside[:, None]
        candidate = real & ((in_box | near) & real).any(dim=1, keepdim=True)
        iou = torch.where(candidate, iou_matrix(targets.boxes, predictions.boxes), 0.0)
        cost = self.iou_weight * -torch.log(iou + 1e-8) + _class_cost(predictions.scores, targets.classes)
        cost = (cost + _NOT_IN_BOTH * ~(in_box & near)).masked_fill(~candidate, torch.inf)
        count = min(self.topk, cost.shape[-1])
        number = iou.topk(count, dim=-1).values.sum(dim=-1).int().clamp(min=1)
        cheapest, index = cost.topk(count, dim=-1, largest=False)
        chosen = (torch.arange(count, device=cost.device) < number[..., None]) & (cheapest < torch.inf)
        matched = torch.zeros_like(candidate).scatter(-1, index, chosen)
        # YOLOX gives a location that several boxes chose to the cheapest of all boxes.
        wanted = matched.sum(dim=1)
        rows = torch.where(wanted > 1, cost.argmin(dim=1), matched.int().argmax(dim=1))
        return label_locations(rows, wanted > 0, predictions.inside)

    def _center_squares(self, targets: Targets, stride: int) -> Tensor:
        """``(B, G, 4)``: squares about the centers, which are clamped to the frame."""
        center = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
        center = center.clamp(min=0).minimum(targets.image_sizes.flip(-1)[:, None])
        half = self.radius * stride
        return torch.cat((center - half, center + half), dim=-1)


def _class_cost(scores: Tensor, classes: Tensor) -> Tensor:
    """``(B, G, N)``: summed over the classes, the binary cross entropy of sqrt(scores ``(B, N, K)``) towards ``(B, G)`` classes."""
    p = scores.float().sqrt()
    positive = -torch.log(p).clamp(min=-100.0)  # as torch's binary_cross_entropy bounds it
    negative = -torch.log1p(-p).clamp(min=-100.0)
    of_class = (positive - negative).transpose(1, 2).gather(1, classes[..., None].expand(-1, -1, scores.shape[1]))
    return of_class + negative.sum(dim=-1)[:, None]
