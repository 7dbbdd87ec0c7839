"""Which ground truth an anchor or a proposal is matched to, and which of them are sampled for the loss.

Legend: ``M`` ground-truth boxes, ``N`` anchors or proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Matcher", "subsample_labels"]


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

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Match.

        Args:
            iou: ``(M, N)``.

        Returns:
            ``(N,)`` int64, the ground truth of highest IoU (the first, on ties; 0 if there is no ground truth), and ``(N,)``
            int8 labels. An IoU that equals a bound counts as above it. Without ground truth every label is ``labels[0]``.
        """
        if iou.shape[0] == 0:
            matches = iou.new_zeros(iou.shape[1], dtype=torch.int64)
            return matches, iou.new_full((iou.shape[1],), self.labels[0], dtype=torch.int8)
        best, matches = iou.max(dim=0)
        interval = torch.bucketize(best, iou.new_tensor(self.thresholds), right=True)
        labels = torch.tensor(self.labels, dtype=torch.int8, device=iou.device)[interval]
        if self.allow_low_quality_matches:
            highest = iou.max(dim=1, keepdim=True).values
            labels[((iou == highest) & (highest > 0)).any(dim=0)] = 1
        return matches, labels


def subsample_labels(labels: Tensor, num_samples: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw foreground and background at random, without replacement, from torch's global generator.

    Args:
        labels: ``(N,)`` of 1, 0 and -1.
        num_samples: number of samples in all; fewer are drawn if there are not enough.
        positive_fraction: at most this share is foreground; background fills the rest.

    Returns:
        int64 indices of the foreground and of the background, each in random order.
    """
    positive = (labels == 1).nonzero()[:, 0]
    negative = (labels == 0).nonzero()[:, 0]
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    positive = positive[torch.randperm(len(positive), device=labels.device)[:num_positive]]
    negative = negative[torch.randperm(len(negative), device=labels.device)[:num_negative]]
    return positive, negative
