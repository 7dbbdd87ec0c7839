"""One location for each box, and the auxiliary assignment of several (DeFCN).

Source: Wang et al., "End-to-end object detection with fully convolutional network", CVPR 2021, sections 3.2 and 3.4.

Legend: ``B`` frames, ``G`` rows of ground truth, ``N`` locations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.modeling.assign.base import (
    DensePredictions,
    center_regions,
    inside_boxes,
    label_locations,
    prediction_quality,
)
from ultravid.modeling.assign.hungarian import lowest_cost_pairs
from ultravid.modeling.assign.matcher import Assignment
from ultravid.modeling.types import Targets
from ultravid.utils.limits import Positive, Share

__all__ = ["OneToOne", "TopQuality"]


class OneToOne:
    """Each box gets one location, so that the sum of their qualities p ** (1 - a) * IoU ** a is largest (Hungarian algorithm).

    Args:
        iou_power: a.
        radius: distance from the center of a box, in strides of the map, beyond which a location is taken only if there is no
            other, then the nearest.
    """

    def __init__(self, iou_power: Share = 0.8, radius: float = 1.5) -> None:
        self.iou_power = iou_power
        self.radius = radius

    @torch.no_grad()
    def __call__(self, predictions: DensePredictions, targets: Targets) -> Assignment:
        """As `DenseAssigner.__call__`. The matching itself runs on the CPU, frame after frame."""
        quality = prediction_quality(predictions, targets, self.iou_power)
        regions = center_regions(targets.boxes, self.radius * predictions.stride)
        near = inside_boxes(predictions.locations, regions)
        # Below every location that is near; a lesion smaller than a cell may have none, and DeFCN then takes any.
        quality = torch.where(near, quality, -1.0 - self._distance(predictions, targets))
        quality = quality.masked_fill(~predictions.inside[:, None], -3.0)
        location, paired = lowest_cost_pairs(-quality.transpose(1, 2), targets.valid)
        spare = quality.shape[-1]  # of ground truth without a location
        place = torch.where(paired, location, spare)
        row = torch.arange(place.shape[1], device=place.device).expand_as(place)
        rows = torch.zeros(len(place), spare + 1, dtype=torch.int64, device=place.device).scatter(1, place, row)
        positive = torch.zeros_like(rows, dtype=torch.bool).scatter(1, place, True)
        return label_locations(rows[:, :-1], positive[:, :-1], predictions.inside)

    def _distance(self, predictions: DensePredictions, targets: Targets) -> Tensor:
        """``(B, G, N)`` distance of the centers, from 0 to 1."""
        center = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
        distance = (predictions.locations - center[..., None, :]).norm(dim=-1)
        return distance / distance.amax().clamp(min=1.0)


class TopQuality:
    """The best locations of each box: those of its top k by quality whose quality is at least mean + standard deviation of the k.

    Args:
        topk: k.
        iou_power: a in p ** (1 - a) * IoU ** a.
    """

    def __init__(self, topk: Positive = 9, iou_power: Share = 0.8) -> None:
        self.topk = topk
        self.iou_power = iou_power

    @torch.no_grad()
    def __call__(self, predictions: DensePredictions, targets: Targets) -> Assignment:
        """As `DenseAssigner.__call__`. A location must lie inside the box; of several boxes, the one with the highest quality counts."""
        quality = prediction_quality(predictions, targets, self.iou_power)
        quality = quality.masked_fill(~predictions.inside[:, None], -1.0)
        top, index = quality.topk(min(self.topk, quality.shape[-1]), dim=-1)
        spread = top.std(dim=-1, correction=min(1, top.shape[-1] - 1))
        candidate = torch.zeros_like(quality, dtype=torch.bool).scatter(-1, index, True)
        candidate &= quality >= (top.mean(dim=-1) + spread)[..., None]
        candidate &= inside_boxes(predictions.locations, targets.boxes) & targets.valid[..., None]
        best, rows = torch.where(candidate, quality, -1.0).max(dim=1)
        return label_locations(rows, best >= 0, predictions.inside)
