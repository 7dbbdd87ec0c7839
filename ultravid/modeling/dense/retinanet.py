"""RetinaNet's head (Lin et al., "Focal loss for dense object detection", ICCV 2017) on one feature map.

Legend: ``B`` frames, ``C, h, w`` channels, height, width of the feature map, ``A`` anchors per cell, ``N = h * w * A`` anchors in the
order of the `AnchorGenerator`, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import Box2BoxTransform
from ultravid.layers.box_tensors import iou_matrix, take_rows
from ultravid.layers.fixed_nms import top_rows
from ultravid.modeling.assign import Assignment, Matcher
from ultravid.modeling.dense.anchors import AnchorGenerator
from ultravid.modeling.dense.base import DenseHead
from ultravid.modeling.dense.cells import (
    cell_corners,
    class_targets,
    conv_tower,
    init_normal,
    num_cells,
    prior_bias,
    within_image,
)
from ultravid.modeling.dense.selection import Candidates, detections_of
from ultravid.modeling.losses import focal_loss, mean_over_processes
from ultravid.modeling.organs import classify, organ_classifier
from ultravid.modeling.types import Detections, Targets
from ultravid.utils.limits import Positive, Share

__all__ = ["RetinaNet", "RetinaNetPredictions"]


class RetinaNetPredictions(NamedTuple):
    """Predictions of ``B`` frames.

    Attributes:
        logits: ``(B, N, K)``.
        deltas: ``(B, N, 4)``.
        anchors: ``(N, 4)`` XYXY, pixels.
        corners: ``(h * w, 2)``, upper left corner of each cell, pixels.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    corners: Tensor


class RetinaNet(DenseHead):
    """Anchors, classified by one tower of convolutions and moved by another.

    Args:
        in_channels: ``C``.
        anchor_generator: the anchors.
        anchor_matcher: labels anchors as foreground, background or ignored.
        box2box_transform: codes a box relative to its anchor.
        num_classes: ``K``.
        num_convs: number of convolutions of each tower.
        norm: after each of them, as for `ultravid.layers.get_norm`.
        score_threshold: only detections with a higher score are kept.
        pre_nms_topk: number of highest scores that are kept before NMS.
        nms_threshold: IoU above which the detection with the lower score of two detections of a class is dropped.
        max_detections: number of detections of a frame that are kept.
        focal_alpha: weight of foreground in the classification loss.
        focal_gamma: power in the classification loss.
        smooth_l1_beta: difference up to which the loss of the deltas is quadratic; 0 is L1.
        normalizer_momentum: None divides the losses by the number of foreground anchors in the batch, as the paper does. A value m,
            0.9 in detectron2, divides by its running mean, which begins at 100: m * old + (1 - m) * new.
        prior_probability: probability of foreground that the untrained classifier gives.
        organ_classes: number of classes of each organ, by its name, for a separate classifier per organ, see `modeling.organs`.
    """

    loss_normalizer: Tensor

    def __init__(
        self,
        *,
        in_channels: Positive,
        anchor_generator: AnchorGenerator,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        num_classes: Positive = 1,
        num_convs: int = 4,
        norm: str | None = None,
        score_threshold: Share = 0.05,
        pre_nms_topk: Positive = 1000,
        nms_threshold: Share = 0.5,
        max_detections: Positive = 100,
        focal_alpha: Share = 0.25,
        focal_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        normalizer_momentum: Share | None = None,
        prior_probability: Share = 0.01,
        organ_classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.cls_tower = conv_tower(in_channels, num_convs, norm)
        self.box_tower = conv_tower(in_channels, num_convs, norm)
        num_anchors = anchor_generator.num_anchors
        self.cls_score = organ_classifier(
            lambda: nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1), organ_classes, num_classes
        )
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        init_normal(self)
        prior_bias(self.cls_score, prior_probability)
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.pre_nms_topk = pre_nms_topk
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.normalizer_momentum = normalizer_momentum
        if normalizer_momentum is not None:  # a buffer, so that a resumed run continues with it
            self.register_buffer("loss_normalizer", torch.tensor(100.0))

    def forward(self, feature_map: Tensor, organ: Tensor | None = None) -> RetinaNetPredictions:
        """As `DenseHead.forward`: logits and deltas of all anchors."""
        logits = classify(self.cls_score, self.cls_tower(feature_map), organ).permute(0, 2, 3, 1)
        deltas = self.bbox_pred(self.box_tower(feature_map)).permute(0, 2, 3, 1)
        return RetinaNetPredictions(
            logits=logits.reshape(len(logits), -1, self.num_classes),
            deltas=deltas.reshape(len(deltas), -1, 4),
            anchors=self.anchor_generator(feature_map.shape[-2], feature_map.shape[-1]),
            corners=cell_corners(feature_map, self.anchor_generator.stride),
        )

    def num_detections(self, image_size: tuple[int, int]) -> int:
        """As `DenseHead.num_detections`: ``max_detections``, or the number of candidates if that is smaller."""
        cells = num_cells(image_size, self.anchor_generator.stride)
        candidates = cells * self.anchor_generator.num_anchors * self.num_classes
        return min(self.max_detections, self.pre_nms_topk, candidates)

    def losses(self, predictions: RetinaNetPredictions, targets: Targets) -> dict[str, Tensor]:
        """As `DenseHead.losses`: ``loss_retinanet_cls`` (focal) and ``loss_retinanet_box`` (smooth L1).

        Both are divided by the number of foreground anchors, or by its running mean, see ``normalizer_momentum``.
        """
        assignment = self._assign(predictions, targets)
        foreground = assignment.labels == 1
        weight = targets.weight[:, None] * (assignment.labels >= 0)
        normalizer = self._normalizer((foreground & (weight > 0)).sum())
        focal = focal_loss(
            predictions.logits,
            class_targets(assignment, targets, self.num_classes),
            self.focal_alpha,
            self.focal_gamma,
        )
        matched = take_rows(targets.boxes, assignment.rows)
        deltas = self.box2box_transform.get_deltas(predictions.anchors, matched)
        deltas = torch.where(foreground[..., None], deltas, 0.0)  # without ground truth they are not finite
        difference = F.smooth_l1_loss(predictions.deltas.float(), deltas, reduction="none", beta=self.smooth_l1_beta)
        box = torch.where(foreground, difference.sum(dim=-1), 0.0)
        return {
            "loss_retinanet_cls": (focal.sum(dim=-1) * weight).sum() / normalizer,
            "loss_retinanet_box": (box * weight).sum() / normalizer,
        }

    @torch.no_grad()
    def _assign(self, predictions: RetinaNetPredictions, targets: Targets) -> Assignment:
        inside = within_image(predictions.corners, targets.image_sizes)
        inside = inside.repeat_interleave(self.anchor_generator.num_anchors, dim=1)
        iou = iou_matrix(targets.boxes, predictions.anchors[None])
        # An anchor in the padding must not be the best one of a ground truth, in place of one in the image.
        assignment = self.anchor_matcher(iou.masked_fill(~(targets.valid[..., None] & inside[:, None]), -1.0))
        return Assignment(assignment.rows, assignment.labels.masked_fill(~inside, -1))

    @torch.no_grad()
    def _normalizer(self, num_foreground: Tensor) -> Tensor:
        number = mean_over_processes(num_foreground)
        if self.normalizer_momentum is None:
            return number
        m = self.normalizer_momentum
        self.loss_normalizer.mul_(m).add_((1 - m) * number)
        return self.loss_normalizer.clone()

    @torch.no_grad()
    def decode(self, predictions: RetinaNetPredictions, image_sizes: Tensor) -> Detections:
        """As `DenseHead.decode`: ``(B, D, ...)`` with ``D`` of `num_detections`; boxes are clipped to the image after NMS."""
        inside = within_image(predictions.corners, image_sizes)
        by_cell = predictions.logits.float().unflatten(1, (inside.shape[1], -1)).flatten(2)
        logits, index = top_rows(by_cell.where(inside[..., None], -torch.inf).flatten(1), self.pre_nms_topk)
        scores = logits.sigmoid()
        candidates = Candidates(
            index // self.num_classes, index % self.num_classes, scores, scores > self.score_threshold
        )
        deltas = take_rows(predictions.deltas, candidates.rows)
        return detections_of(
            candidates,
            self.box2box_transform.apply_deltas(deltas, predictions.anchors[candidates.rows]),
            image_sizes,
            num_classes=self.num_classes,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )
