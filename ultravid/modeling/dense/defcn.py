"""DeFCN's head (Wang et al., "End-to-end object detection with fully convolutional network", CVPR 2021) on one feature map.

Legend: ``B`` frames, ``C, h, w`` channels, height, width of the feature map, ``N = h * w`` locations, the centers of the cells, row by
row, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import get_norm
from ultravid.layers.box_tensors import take_rows
from ultravid.modeling.assign import DenseAssigner, DensePredictions
from ultravid.modeling.dense.base import DenseHead
from ultravid.modeling.dense.cells import (
    boxes_of_distances,
    by_cell,
    cell_corners,
    class_targets,
    conv_tower,
    init_normal,
    matched_boxes,
    num_cells,
    prior_bias,
    product_scores,
    within_image,
)
from ultravid.modeling.dense.selection import best_candidates, detections_of
from ultravid.modeling.losses import focal_loss, giou_loss, mean_over_processes, product_focal_loss
from ultravid.modeling.organs import classify, organ_classifier
from ultravid.modeling.types import Detections, Targets
from ultravid.utils.limits import Positive, Share

__all__ = ["DeFCN", "DeFCNPredictions"]


class DeFCNPredictions(NamedTuple):
    """Predictions of ``B`` frames.

    Attributes:
        logits: ``(B, N, K)``.
        distances: ``(B, N, 4)`` of the left, upper, right and lower side from the location, in strides, at least 0.
        filter_logits: ``(B, N)``, of being the one location of an object.
        corners: ``(N, 2)``, upper left corner of each cell, pixels.
    """

    logits: Tensor
    distances: Tensor
    filter_logits: Tensor
    corners: Tensor


class DeFCN(DenseHead):
    """One box at each location, and a filter by maxima (section 3.3) that leaves one location of each object.

    Args:
        in_channels: ``C``.
        stride: pixels from cell to cell.
        assigner: gives each box its one location.
        aux_assigner: gives each box several, for an auxiliary loss of the class scores without the filter; None for no such loss.
        num_classes: ``K``.
        num_convs: number of convolutions of each tower.
        norm: after each of them, and in the filter, as for `ultravid.layers.get_norm`.
        pre_nms_topk: number of highest scores that are kept before NMS.
        nms_threshold: IoU above which the detection with the lower score of two detections of a class is dropped; None, as in the
            paper, for no NMS.
        max_detections: number of detections of a frame that are kept.
        focal_alpha: weight of foreground in the classification losses.
        focal_gamma: power in the classification losses.
        box_loss_weight: weight of the GIoU loss.
        prior_probability: probability of foreground that the untrained classifier gives.
        organ_classes: number of classes of each organ, by its name, for a separate classifier per organ, see `modeling.organs`.
    """

    def __init__(
        self,
        *,
        in_channels: Positive,
        stride: Positive,
        assigner: DenseAssigner,
        aux_assigner: DenseAssigner | None = None,
        num_classes: Positive = 1,
        num_convs: int = 4,
        norm: str | None = "GN",
        pre_nms_topk: Positive = 256,
        nms_threshold: Share | None = None,
        max_detections: Positive = 16,
        focal_alpha: Share = 0.25,
        focal_gamma: float = 2.0,
        box_loss_weight: float = 2.0,
        prior_probability: Share = 0.01,
        organ_classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.cls_tower = conv_tower(in_channels, num_convs, norm)
        self.box_tower = conv_tower(in_channels, num_convs, norm)
        self.cls_score = organ_classifier(
            lambda: nn.Conv2d(in_channels, num_classes, 3, padding=1), organ_classes, num_classes
        )
        self.bbox_pred = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.max_filter = _MaxFilter(in_channels, norm)
        self.filter_score = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1))
        init_normal(self)
        prior_bias(self.cls_score, prior_probability)
        self.stride = stride
        self.assigner = assigner
        self.aux_assigner = aux_assigner
        self.num_classes = num_classes
        self.pre_nms_topk = pre_nms_topk
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.box_loss_weight = box_loss_weight

    def forward(self, feature_map: Tensor, organ: Tensor | None = None) -> DeFCNPredictions:
        """As `DenseHead.forward`: predictions at all ``N = h * w`` locations."""
        box_features = self.box_tower(feature_map)
        return DeFCNPredictions(
            logits=by_cell(classify(self.cls_score, self.cls_tower(feature_map), organ)),
            distances=by_cell(F.relu(self.scale * self.bbox_pred(box_features))),
            filter_logits=by_cell(self.filter_score(self.max_filter(box_features)))[..., 0],
            corners=cell_corners(feature_map, self.stride),
        )

    def num_detections(self, image_size: tuple[int, int]) -> int:
        """As `DenseHead.num_detections`: ``max_detections``, or the number of candidates if that is smaller."""
        return min(self.max_detections, self.pre_nms_topk, num_cells(image_size, self.stride) * self.num_classes)

    def losses(self, predictions: DeFCNPredictions, targets: Targets) -> dict[str, Tensor]:
        """As `DenseHead.losses`: ``loss_defcn_cls``, ``loss_defcn_box`` and, with an auxiliary assigner, ``loss_defcn_aux``.

        The first is the focal loss of the final score, the second GIoU, both divided by the number of foreground locations; the
        third is the focal loss of the class score without the filter, divided by the number of the auxiliary assigner's foreground locations.
        """
        seen = self._seen(predictions, targets)
        assignment = self.assigner(seen, targets)
        foreground = assignment.labels == 1
        weight = targets.weight[:, None] * (assignment.labels >= 0)
        count = mean_over_processes((foreground & (weight > 0)).sum())
        focal = product_focal_loss(
            predictions.logits,
            predictions.filter_logits[..., None],
            class_targets(assignment, targets, self.num_classes),
            self.focal_alpha,
            self.focal_gamma,
        )
        boxes = boxes_of_distances(seen.locations, predictions.distances.float() * self.stride)
        giou = torch.where(foreground, giou_loss(boxes, matched_boxes(assignment, targets)), 0.0)
        losses = {
            "loss_defcn_cls": (focal.sum(dim=-1) * weight).sum() / count,
            "loss_defcn_box": (giou * weight).sum() / count * self.box_loss_weight,
        }
        if self.aux_assigner is not None:
            losses["loss_defcn_aux"] = self._auxiliary_loss(self.aux_assigner, predictions, seen, targets)
        return losses

    def _auxiliary_loss(
        self, assigner: DenseAssigner, predictions: DeFCNPredictions, seen: DensePredictions, targets: Targets
    ) -> Tensor:
        assignment = assigner(seen._replace(scores=predictions.logits.detach().float().sigmoid()), targets)
        weight = targets.weight[:, None] * (assignment.labels >= 0)
        count = mean_over_processes(((assignment.labels == 1) & (weight > 0)).sum())
        labels = class_targets(assignment, targets, self.num_classes)
        focal = focal_loss(predictions.logits, labels, self.focal_alpha, self.focal_gamma)
        return (focal.sum(dim=-1) * weight).sum() / count

    @torch.no_grad()
    def _seen(self, predictions: DeFCNPredictions, targets: Targets) -> DensePredictions:
        points = predictions.corners + self.stride / 2
        return DensePredictions(
            locations=points,
            stride=self.stride,
            boxes=boxes_of_distances(points, predictions.distances.float() * self.stride),
            scores=product_scores(predictions.logits, predictions.filter_logits),
            inside=within_image(predictions.corners, targets.image_sizes),
        )

    @torch.no_grad()
    def decode(self, predictions: DeFCNPredictions, image_sizes: Tensor) -> Detections:
        """As `DenseHead.decode`: ``(B, D, ...)`` with ``D`` of `num_detections`; boxes are clipped to the image after NMS."""
        inside = within_image(predictions.corners, image_sizes)
        scores = product_scores(predictions.logits, predictions.filter_logits)
        candidates = best_candidates(scores, inside[..., None] & (scores > 0), self.pre_nms_topk)
        points = predictions.corners[candidates.rows] + self.stride / 2
        distances = take_rows(predictions.distances, candidates.rows).float() * self.stride
        return detections_of(
            candidates,
            boxes_of_distances(points, distances),
            image_sizes,
            num_classes=self.num_classes,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )


class _MaxFilter(nn.Module):
    """ReLU(norm(maximum of 3x3 cells of conv(x) + x)); of one map, the maximum over scales and space is one over space."""

    def __init__(self, channels: int, norm: str | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = get_norm(norm, channels) or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        return F.relu(self.norm(F.max_pool2d(self.conv(x), 3, stride=1, padding=1) + x))
