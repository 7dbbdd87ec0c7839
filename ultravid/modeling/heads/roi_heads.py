"""The second stage: sample proposals, pool a token for each, relate the tokens, predict.

Legend: ``B`` frames, ``C, H, W`` feature channels, height, width, ``N`` boxes of all frames together, ``P`` side of the
pooled map, ``D`` width of a token, ``K`` classes of objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import RoIAlign

from ultravid.layers import RelationModule
from ultravid.modeling.heads.box_predictor import BoxPredictor
from ultravid.modeling.matcher import Matcher, subsample_labels
from ultravid.structures import Boxes, Instances, pairwise_iou
from ultravid.utils.limits import NotNegative, Positive, Share

__all__ = ["FCBoxHead", "RoIHeads"]


class RoIHeads(nn.Module):
    """The second stage of a two-stage detector.

    Args:
        box_pooler: RoIAlign from the feature map to ``(N, C, P, P)``.
        box_head: from the pooled maps to tokens ``(N, D)``; maps ``(N, D, h, w)`` are averaged over space.
        box_predictor: from tokens to classes and boxes.
        proposal_matcher: labels proposals as foreground or background.
        relation: layers that relate the tokens of the frames to each other; None for none.
        batch_size_per_image: number of boxes of a frame that are sampled for the loss.
        positive_fraction: at most this share of them is foreground.
        gt_copies: copies of each ground-truth box that are added to the proposals in training. In a relation layer they are
            queries but never keys, because in evaluation there is no ground truth to attend to.
        gt_jitter: standard deviation of the copies' shift, as a share of the box's sides, and of the logarithm of their size.
        roi_scale: factor by which boxes are enlarged about their centre before pooling, to include their surroundings.
    """

    def __init__(
        self,
        *,
        box_pooler: RoIAlign,
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        proposal_matcher: Matcher,
        relation: RelationModule | None = None,
        batch_size_per_image: Positive = 16,
        positive_fraction: Share = 0.5,
        gt_copies: NotNegative = 1,
        gt_jitter: float = 0.0,
        roi_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.box_pooler = box_pooler
        self.res5 = box_head  # the name of the head's weights in published checkpoints
        self.relation = relation
        self.box_predictor = box_predictor
        self.proposal_matcher = proposal_matcher
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.gt_copies = gt_copies
        self.gt_jitter = gt_jitter
        self.roi_scale = roi_scale

    def tokens(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """``(N, D)`` tokens of the boxes ``(n, 4)`` of each of the ``B`` frames, in order."""
        if self.roi_scale != 1.0:
            boxes = [_enlarge(b, self.roi_scale) for b in boxes]
        tokens: Tensor = self.res5(self.box_pooler(features, list(boxes)))
        return tokens.mean(dim=(2, 3)) if tokens.dim() == 4 else tokens

    @torch.no_grad()
    def sample(self, proposals: Sequence[Instances], gt_instances: Sequence[Instances]) -> list[Instances]:
        """Label the proposals and sample those for the loss.

        Returns:
            for each frame ``proposal_boxes``, ``gt_classes`` (``K`` is the background), ``gt_boxes`` (without meaning for
            background) and ``is_gt``, true for copies of the ground truth.
        """
        return [self._sample_frame(p, g) for p, g in zip(proposals, gt_instances, strict=True)]

    def _sample_frame(self, proposals: Instances, gt: Instances) -> Instances:
        copies = gt.gt_boxes.tensor.repeat(self.gt_copies, 1)
        if self.gt_jitter:
            copies = _jitter(copies, self.gt_jitter, proposals.image_size)
        boxes = Boxes(torch.cat((copies, proposals.proposal_boxes.tensor)))
        is_gt = torch.arange(len(boxes), device=boxes.device) < len(copies)
        matches, labels = self.proposal_matcher(pairwise_iou(gt.gt_boxes, boxes))
        positive, negative = subsample_labels(labels, self.batch_size_per_image, self.positive_fraction)
        chosen = torch.cat((positive, negative))
        classes = torch.full_like(matches, self.box_predictor.num_classes)
        matched = boxes.tensor
        if len(gt) > 0:
            classes[positive] = gt.gt_classes[matches[positive]]
            matched = gt.gt_boxes.tensor[matches]
        return Instances(
            proposals.image_size,
            proposal_boxes=boxes[chosen],
            gt_classes=classes[chosen],
            gt_boxes=Boxes(matched[chosen]),
            is_gt=is_gt[chosen],
        )


class FCBoxHead(nn.Sequential):
    """A pooled map ``(N, C, P, P)`` through two linear layers to ``(N, D)``."""

    def __init__(self, *, in_channels: int, pooled_size: int, dim: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(in_channels * pooled_size**2, dim),
            nn.ReLU(),
            nn.Linear(dim, dim),
            nn.ReLU(),
        )


def _enlarge(boxes: Tensor, factor: float) -> Tensor:
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return torch.cat((centre - size, centre + size), dim=1)


def _jitter(boxes: Tensor, std: float, image_size: tuple[int, int]) -> Tensor:
    """Boxes shifted and resized at random, clipped to the frame; draws from torch's global generator."""
    size = boxes[:, 2:] - boxes[:, :2]
    noise = torch.randn((len(boxes), 4), device=boxes.device) * std
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + noise[:, :2] * size
    half = size * noise[:, 2:].exp() / 2
    moved = Boxes(torch.cat((centre - half, centre + half), dim=1))
    moved.clip(image_size)
    return torch.where(moved.nonempty()[:, None], moved.tensor, boxes)
