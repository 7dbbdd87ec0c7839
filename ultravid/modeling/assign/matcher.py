"""Labels by IoU, and which of the labelled boxes are sampled for the loss.

Legend: ``B`` frames, ``G`` rows of ground truth, ``N`` anchors or proposals.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ultravid.layers.fixed_nms import first_rows
from ultravid.utils.limits import Positive, Share

__all__ = ["Assignment", "Matcher", "sample_labels", "subsample_labels"]


class Assignment(NamedTuple):
    """The training target of each box.

    Attributes:
        rows: ``(..., N)`` int64, the row of the ground truth of highest IoU (the first, on ties; 0 without ground truth).
        labels: ``(..., N)`` int8: 1 foreground, 0 background, -1 ignored.
    """

    rows: Tensor
    labels: Tensor


class Matcher:
    """Label anchors by their highest IoU with a ground truth.

    Args:
        thresholds: rising bounds between the labels, e.g. ``(0.3, 0.7)``.
        labels: one more than bounds: 1 foreground, 0 background, -1 ignored, e.g. ``(0, -1, 1)``.
        allow_low_quality_matches: the anchors with the highest IoU with a ground truth (all of them, on ties) are
            foreground, however low that IoU is (Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.2).
    """

    def __init__(
        self,
        thresholds: tuple[float, ...],
        labels: tuple[int, ...],
        allow_low_quality_matches: bool = False,
    ) -> None:
        if len(labels) != len(thresholds) + 1 or list(thresholds) != sorted(thresholds):
            raise ValueError(f"thresholds={thresholds} must rise, and be one fewer than labels={labels}.")
        if not set(labels) <= {-1, 0, 1}:
            raise ValueError(f"labels={labels} must be -1, 0 or 1.")
        self.thresholds = tuple(thresholds)
        self.labels = tuple(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, iou: Tensor) -> Assignment:
        """Match each column to the ground truth of the highest IoU, of equal ones the first.

        Args:
            iou: ``(..., G, N)``; -1 in the rows of a ground truth that is not valid.

        Returns:
            ``(..., N)`` each. An IoU that equals a bound counts as above it. Without ground truth every label is ``labels[0]``.
        """
        if iou.shape[-2] == 0:
            matches = iou.new_zeros((*iou.shape[:-2], iou.shape[-1]), dtype=torch.int64)
            return Assignment(matches, torch.full_like(matches, self.labels[0], dtype=torch.int8))
        best, matches = iou.max(dim=-2)
        interval = torch.bucketize(best, iou.new_tensor(self.thresholds), right=True)
        labels = torch.tensor(self.labels, dtype=torch.int8, device=iou.device)[interval]
        if self.allow_low_quality_matches:
            highest = iou.amax(dim=-1, keepdim=True)
            labels = labels.masked_fill(((iou == highest) & (highest > 0)).any(dim=-2), 1)
        return Assignment(matches, labels)


def sample_labels(labels: Tensor, num_samples: Positive, positive_fraction: Share) -> tuple[Tensor, Tensor]:
    """Draw foreground and background of each frame at random, without replacement, from torch's global generator.

    Args:
        labels: ``(B, N)`` of 1, 0 and -1.
        num_samples: number of samples ``S`` of a frame; fewer are valid if there are not enough.
        positive_fraction: at most this share of them is foreground; background fills up the rest.

    Returns:
        ``(B, min(S, N))`` int64 places of the samples, foreground first, and ``(B, min(S, N))`` bool, which of them are samples.
    """
    count = min(num_samples, labels.shape[1])
    max_positive = min(int(num_samples * positive_fraction), count)
    order = torch.rand(labels.shape, device=labels.device)
    positive, is_positive = _first_members(order, labels == 1, max_positive)
    negative, is_negative = _first_members(order, labels == 0, count)
    place = torch.arange(count, device=labels.device)
    is_negative = is_negative & (place < num_samples - is_positive.sum(dim=1, keepdim=True))
    row, valid = first_rows(torch.cat((is_positive, is_negative), dim=1), count)
    return torch.cat((positive, negative), dim=1).gather(1, row), valid


def _first_members(order: Tensor, member: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``(B, count)`` places of the members of lowest order, and which of them are members."""
    key, index = torch.where(member, order, 2.0).topk(count, dim=1, largest=False)
    return index, key < 2.0


def subsample_labels(labels: Tensor, num_samples: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw foreground and background of one frame, as `sample_labels`.

    Args:
        labels: ``(N,)`` of 1, 0 and -1.
        num_samples: number of samples in all; fewer are drawn if there are not enough.
        positive_fraction: at most this share of them is foreground; background fills up the rest.

    Returns:
        int64 indices of the foreground and of the background.
    """
    index, valid = sample_labels(labels[None], num_samples, positive_fraction)
    chosen = index[0][valid[0]]
    return chosen[labels[chosen] == 1], chosen[labels[chosen] == 0]
