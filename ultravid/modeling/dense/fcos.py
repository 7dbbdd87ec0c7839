"""FCOS's head (Tian et al., "FCOS: a simple and strong anchor-free object detector", TPAMI 2020) on one feature map.

Legend: ``B`` frames, ``C, h, w`` channels, height, width of the feature map, ``N = h * w`` locations, the centers of the cells, row by
row, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers.box_tensors import take_rows
from ultravid.modeling.assign import Assignment, DenseAssigner, DensePredictions
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
from ultravid.modeling.losses import focal_loss, giou_loss, mean_over_processes
from ultravid.modeling.organs import classify, organ_classifier
from ultravid.modeling.types import Detections, Targets
from ultravid.utils.limits import Positive, Share

__all__ = ["FCOS", "FCOSPredictions"]


class FCOSPredictions(NamedTuple):
    """Predictions of ``B`` frames.

    Attributes:
        logits: ``(B, N, K)``.
        distances: ``(B, N, 4)`` of the left, upper, right and lower side from the location, in strides, at least 0.
        centerness: ``(B, N)``, logits.
        corners: ``(N, 2)``, upper left corner of each cell, pixels.
    """

    logits: Tensor
    distances: Tensor
    centerness: Tensor
    corners: Tensor


class FCOS(DenseHead):
    """One box at each location, its score lowered far from the center of an object.

    Args:
        in_channels: ``C``.
        stride: pixels from cell to cell.
        assigner: gives each location its ground truth.
        num_classes: ``K``.
        num_convs: number of convolutions of each tower.
        norm: after each of them, as for `ultravid.layers.get_norm`.
        score_threshold: candidates have a higher score before it is multiplied by the centerness.
        pre_nms_topk: number of highest scores that are kept before NMS.
        nms_threshold: IoU above which the detection with the lower score of two detections of a class is dropped.
        max_detections: number of detections of a frame that are kept.
        sqrt_scores: the score is the square root of class score times centerness (equation 4), not the product (ICCV 2019).
        keep_ties: more than ``max_detections`` are kept if their scores equal the last one's, as in the published code.
        focal_alpha: weight of foreground in the classification loss.
        focal_gamma: power in the classification loss.
        giou_plus_one: as of `giou_loss`, in strides.
        prior_probability: probability of foreground that the untrained classifier gives.
        organ_classes: number of classes of each organ, by its name, for a separate classifier per organ, see `modeling.organs`.
    """

    def __init__(
        self,
        *,
        in_channels: Positive,
        stride: Positive,
        assigner: DenseAssigner,
        num_classes: Positive = 1,
        num_convs: int = 4,
        norm: str | None = "GN",
        score_threshold: Share = 0.05,
        pre_nms_topk: Positive = 256,
        nms_threshold: Share = 0.6,
        max_detections: Positive = 16,
        sqrt_scores: bool = True,
        keep_ties: bool = False,
        focal_alpha: Share = 0.25,
        focal_gamma: float = 2.0,
        giou_plus_one: bool = False,
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
        self.centerness = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1))
        init_normal(self)
        prior_bias(self.cls_score, prior_probability)
        self.stride = stride
        self.assigner = assigner
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.pre_nms_topk = pre_nms_topk
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.sqrt_scores = sqrt_scores
        self.keep_ties = keep_ties
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.giou_plus_one = giou_plus_one

    def forward(self, feature_map: Tensor, organ: Tensor | None = None) -> FCOSPredictions:
        """As `DenseHead.forward`: predictions at all ``N = h * w`` locations."""
        box_features = self.box_tower(feature_map)
        return FCOSPredictions(
            logits=by_cell(classify(self.cls_score, self.cls_tower(feature_map), organ)),
            distances=by_cell(F.relu(self.scale * self.bbox_pred(box_features))),
            centerness=by_cell(self.centerness(box_features))[..., 0],
            corners=cell_corners(feature_map, self.stride),
        )

    def num_detections(self, image_size: tuple[int, int]) -> int:
        """As `DenseHead.num_detections`: ``max_detections``, with ``keep_ties`` ``pre_nms_topk``; or the number of candidates, if smaller."""
        candidates = num_cells(image_size, self.stride) * self.num_classes
        return min(self.pre_nms_topk, candidates, *([] if self.keep_ties else [self.max_detections]))

    def losses(self, predictions: FCOSPredictions, targets: Targets) -> dict[str, Tensor]:
        """As `DenseHead.losses`: ``loss_fcos_cls``, ``loss_fcos_box`` and ``loss_fcos_centerness``.

        The first (focal) and the last (binary cross entropy) are divided by the number of foreground locations; the second (GIoU)
        is weighted by the centerness of the locations and divided by its sum.
        """
        points = predictions.corners + self.stride / 2
        assignment = self._assign(predictions, points, targets)
        foreground = assignment.labels == 1
        weight = targets.weight[:, None] * (assignment.labels >= 0)
        count = mean_over_processes((foreground & (weight > 0)).sum())
        focal = focal_loss(
            predictions.logits,
            class_targets(assignment, targets, self.num_classes),
            self.focal_alpha,
            self.focal_gamma,
        )
        gt_boxes = matched_boxes(assignment, targets)
        centerness = torch.where(foreground, _centerness(points, gt_boxes), 0.0)
        share = mean_over_processes((centerness * (weight > 0)).sum(), minimum=1e-6)
        points = points / self.stride
        boxes = boxes_of_distances(points, predictions.distances.float())
        giou = giou_loss(boxes, gt_boxes / self.stride, self.giou_plus_one)
        cross_entropy = F.binary_cross_entropy_with_logits(predictions.centerness.float(), centerness, reduction="none")
        return {
            "loss_fcos_cls": (focal.sum(dim=-1) * weight).sum() / count,
            "loss_fcos_box": (giou * centerness * weight).sum() / share,
            "loss_fcos_centerness": (torch.where(foreground, cross_entropy, 0.0) * weight).sum() / count,
        }

    @torch.no_grad()
    def _assign(self, predictions: FCOSPredictions, points: Tensor, targets: Targets) -> Assignment:
        seen = DensePredictions(
            locations=points,
            stride=self.stride,
            boxes=boxes_of_distances(points, predictions.distances.float() * self.stride),
            scores=product_scores(predictions.logits, predictions.centerness),
            inside=within_image(predictions.corners, targets.image_sizes),
        )
        return self.assigner(seen, targets)

    @torch.no_grad()
    def decode(self, predictions: FCOSPredictions, image_sizes: Tensor) -> Detections:
        """As `DenseHead.decode`: ``(B, D, ...)`` with ``D`` of `num_detections`; boxes are clipped to the image after NMS."""
        class_scores = predictions.logits.float().sigmoid()
        scores = class_scores * predictions.centerness.float().sigmoid()[..., None]
        inside = within_image(predictions.corners, image_sizes)
        candidates = best_candidates(
            scores.sqrt() if self.sqrt_scores else scores,
            (class_scores > self.score_threshold) & inside[..., None],
            self.pre_nms_topk,
        )
        points = predictions.corners[candidates.rows] + self.stride / 2
        distances = take_rows(predictions.distances, candidates.rows).float() * self.stride
        return detections_of(
            candidates,
            boxes_of_distances(points, distances),
            image_sizes,
            num_classes=self.num_classes,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
            keep_ties=self.keep_ties,
        )


def _centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """``(B, N)``: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of points ``(N, 2)`` in boxes ``(B, N, 4)``; 0 outside."""
    before, after = points - boxes[..., :2], boxes[..., 2:] - points
    ratio = torch.minimum(before, after).clamp(min=0) / torch.maximum(before, after).clamp(min=1e-6)
    return ratio.prod(dim=-1).sqrt()
