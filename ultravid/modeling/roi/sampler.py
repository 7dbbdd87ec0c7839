"""Chooses the proposals on which the second stage is trained.

Legend: ``B`` frames, ``N`` proposals, ``G`` rows of ground truth, ``S`` samples of a frame, ``K`` classes of objects.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ultravid.layers.box_tensors import clip_boxes, iou_matrix, nonempty, take_rows
from ultravid.modeling.assign import Matcher, sample_labels
from ultravid.modeling.types import Detections, Targets
from ultravid.utils.limits import NotNegative, Positive, Share

__all__ = ["RoISampler", "SampledBoxes"]


class SampledBoxes(NamedTuple):
    """Boxes and what they are trained towards.

    Attributes:
        boxes: ``(B, S, 4)``.
        valid: ``(B, S)`` bool, False for rows that hold nothing.
        is_gt: ``(B, S)`` bool, True for copies of the ground truth.
        foreground: ``(B, S)`` bool.
        gt_classes: ``(B, S)`` int64, -1 for background.
        gt_boxes: ``(B, S, 4)``, without meaning for background.
    """

    boxes: Tensor
    valid: Tensor
    is_gt: Tensor
    foreground: Tensor
    gt_classes: Tensor
    gt_boxes: Tensor


class RoISampler:
    """Label the proposals of each frame and sample some for the loss.

    Args:
        matcher: labels proposals as foreground or background.
        num_samples: number of boxes ``S`` of a frame.
        positive_fraction: at most this share of them is foreground.
        gt_copies: copies of each ground-truth box that are added to the proposals. In a token mixer they are queries but never
            keys, because in evaluation there is no ground truth to attend to.
        gt_jitter: standard deviation of the copies' shift, as a share of the box's sides, and of the logarithm of their size.
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        num_samples: Positive = 16,
        positive_fraction: Share = 0.5,
        gt_copies: NotNegative = 1,
        gt_jitter: float = 0.0,
    ) -> None:
        self.matcher = matcher
        self.num_samples = num_samples
        self.positive_fraction = positive_fraction
        self.gt_copies = gt_copies
        self.gt_jitter = gt_jitter

    @torch.no_grad()
    def __call__(self, proposals: Detections, targets: Targets) -> SampledBoxes:
        """Sample from proposals and copies of the ground truth; draws from torch's global generator.

        Args:
            proposals: ``(B, N, ...)``.
            targets: the ground truth of the ``B`` frames.

        Returns:
            At most ``S`` rows for each frame; if there are not enough candidates, the last rows are not valid.
        """
        copies = targets.boxes.repeat(1, self.gt_copies, 1)
        copies_valid = targets.valid.repeat(1, self.gt_copies)
        if self.gt_jitter:
            copies = _jitter(copies, self.gt_jitter, targets.image_sizes)
        boxes = torch.cat((copies, proposals.boxes), dim=1)
        valid = torch.cat((copies_valid, proposals.valid), dim=1)
        iou = iou_matrix(targets.boxes, boxes).masked_fill(~targets.valid[..., None], -1.0)
        matches, labels = self.matcher(iou)
        index, sampled = sample_labels(labels.masked_fill(~valid, -1), self.num_samples, self.positive_fraction)
        foreground = sampled & (labels.gather(1, index) == 1)
        row = matches.gather(1, index)
        return SampledBoxes(
            boxes=torch.where(sampled[..., None], take_rows(boxes, index), 0.0),
            valid=sampled,
            is_gt=sampled & (index < copies.shape[1]),
            foreground=foreground,
            gt_classes=torch.where(foreground, targets.classes.gather(1, row), -1),
            gt_boxes=take_rows(targets.boxes, row),
        )


def _jitter(boxes: Tensor, std: float, image_sizes: Tensor) -> Tensor:
    """Boxes shifted and resized at random, clipped to the frame; draws from torch's global generator."""
    size = boxes[..., 2:] - boxes[..., :2]
    noise = torch.randn(boxes.shape, device=boxes.device) * std
    center = (boxes[..., :2] + boxes[..., 2:]) / 2 + noise[..., :2] * size
    half = size * noise[..., 2:].exp() / 2
    moved = clip_boxes(torch.cat((center - half, center + half), dim=-1), image_sizes)
    return torch.where(nonempty(moved)[..., None], moved, boxes)
