"""Locations near the center of a box (Tian et al., "FCOS", TPAMI 2020, section 3.2).

Legend: ``B`` frames, ``G`` rows of ground truth, ``N`` locations.
"""

from __future__ import annotations

import torch

from ultravid.modeling.assign.base import DensePredictions, center_regions, inside_boxes, label_locations
from ultravid.modeling.assign.matcher import Assignment
from ultravid.modeling.types import Targets

__all__ = ["CenterSampling"]


class CenterSampling:
    """A location is foreground if it lies inside a box and near its center; of several boxes, the smallest counts.

    Args:
        radius: distance from the center in x and in y, in strides of the map.
    """

    def __init__(self, radius: float = 1.5) -> None:
        self.radius = radius

    def __call__(self, predictions: DensePredictions, targets: Targets) -> Assignment:
        """As `DenseAssigner.__call__`; of the predictions only the locations matter."""
        regions = center_regions(targets.boxes, self.radius * predictions.stride)
        inside = inside_boxes(predictions.locations, regions) & targets.valid[..., None]
        area = (targets.boxes[..., 2:] - targets.boxes[..., :2]).prod(dim=-1)
        smallest, rows = torch.where(inside, area[..., None], torch.inf).min(dim=1)
        return label_locations(rows, smallest < torch.inf, predictions.inside)
