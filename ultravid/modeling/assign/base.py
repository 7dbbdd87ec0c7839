"""The contract of assigners that need to know where a head predicts, and what.

Legend: ``B`` frames, ``G`` rows of ground truth, ``N`` locations, ``K`` classes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ultravid.layers.box_tensors import iou_matrix
from ultravid.modeling.assign.matcher import Assignment
from ultravid.modeling.types import Targets

__all__ = [
    "DenseAssigner",
    "DensePredictions",
    "center_regions",
    "inside_boxes",
    "label_locations",
    "prediction_quality",
]


class DensePredictions(NamedTuple):
    """The predictions of a head at its locations, without gradient.

    Attributes:
        locations: ``(N, 2)`` (x, y), pixels.
        stride: pixels from a location to the next.
        boxes: ``(B, N, 4)`` XYXY, pixels.
        scores: ``(B, N, K)`` probabilities.
        inside: ``(B, N)`` bool, False for locations in the padding of a frame; they are ignored.
    """

    locations: Tensor
    stride: int
    boxes: Tensor
    scores: Tensor
    inside: Tensor


class DenseAssigner(Protocol):
    """Assigns to each location the ground truth that is its training target."""

    def __call__(self, predictions: DensePredictions, targets: Targets) -> Assignment:
        """Assign ground truth to the locations of ``B`` frames.

        Args:
            predictions: what the head predicts at its ``N`` locations.
            targets: the ground truth.

        Returns:
            ``(B, N)`` each; locations in the padding are ignored, label -1.
        """
        ...


def inside_boxes(locations: Tensor, boxes: Tensor) -> Tensor:
    """``(..., G, N)`` bool: which of ``(N, 2)`` (x, y) lie inside which of ``(..., G, 4)``, not on their border."""
    above = locations > boxes[..., None, :2]
    return (above & (locations < boxes[..., None, 2:])).all(dim=-1)


def center_regions(boxes: Tensor, radius: float) -> Tensor:
    """The part of each box ``(..., 4)`` that is at most ``radius`` pixels from its center, in x and in y."""
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    return torch.cat(
        (torch.maximum(center - radius, boxes[..., :2]), torch.minimum(center + radius, boxes[..., 2:])), dim=-1
    )


def prediction_quality(predictions: DensePredictions, targets: Targets, iou_power: float) -> Tensor:
    """``(B, G, N)``: p ** (1 - a) * IoU ** a of each location for each ground truth, p the score of its class (DeFCN, equation 3)."""
    scores = predictions.scores.transpose(1, 2)  # (B, K, N)
    p = scores.gather(1, targets.classes[..., None].expand(-1, -1, scores.shape[-1]))
    iou = iou_matrix(targets.boxes, predictions.boxes)
    return p ** (1 - iou_power) * iou**iou_power


def label_locations(rows: Tensor, positive: Tensor, inside: Tensor) -> Assignment:
    """1 where positive, 0 elsewhere, -1 in the padding; the row of what is not positive is 0."""
    labels = (positive & inside).to(torch.int8).masked_fill(~inside, -1)
    return Assignment(torch.where(labels == 1, rows, 0), labels)
