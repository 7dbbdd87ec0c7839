"""YOLOX's head (Ge et al., "YOLOX: exceeding YOLO series in 2021", arXiv 2107.08430) on one feature map.

Legend: ``B`` frames, ``C, h, w`` channels, height, width of the feature map, ``N = h * w`` cells, row by row, ``K`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import Conv2d, get_norm
from ultravid.layers.box_tensors import take_rows
from ultravid.modeling.assign import Assignment, DenseAssigner, DensePredictions
from ultravid.modeling.dense.base import DenseHead
from ultravid.modeling.dense.cells import (
    by_cell,
    cell_corners,
    class_targets,
    matched_boxes,
    num_cells,
    prior_bias,
    product_scores,
    within_image,
)
from ultravid.modeling.dense.selection import best_candidates, detections_of
from ultravid.modeling.losses import mean_over_processes, pair_iou
from ultravid.modeling.organs import classify, organ_classifier
from ultravid.modeling.types import Detections, Targets
from ultravid.utils.limits import Positive, Share

__all__ = ["YOLOX", "YOLOXPredictions"]

_MAX_LOG_SIZE = math.log(
    1e4
)  # sides in strides; no box is so large; the bound keeps the output of an untrained layer finite


class YOLOXPredictions(NamedTuple):
    """Predictions of ``B`` frames.

    Attributes:
        logits: ``(B, N, K)``.
        objectness: ``(B, N)``, logits.
        raw_boxes: ``(B, N, 4)``: the center's distance from the cell's corner, and the logarithm of width and height, in strides.
        corners: ``(N, 2)``, upper left corner of each cell, pixels.
    """

    logits: Tensor
    objectness: Tensor
    raw_boxes: Tensor
    corners: Tensor


class YOLOX(DenseHead):
    """One box at each cell, whose score is the product of objectness and class.

    Args:
        in_channels: ``C``.
        stride: pixels from cell to cell.
        assigner: gives each cell its ground truth.
        channels: width of the head.
        num_classes: ``K``.
        num_convs: number of convolutions of each branch.
        norm: after each convolution, as for `ultravid.layers.get_norm`.
        pre_nms_topk: number of highest scores that are kept before NMS.
        nms_threshold: IoU above which the detection with the lower score of two detections of a class is dropped.
        max_detections: number of detections of a frame that are kept.
        iou_loss_weight: weight of the IoU loss.
        l1_loss_weight: weight of the L1 loss, which the paper adds only in the last epochs.
        scale_by_padded_size: boxes are scaled as if they were predicted on an image whose sides are rounded up to multiples of the
            stride, as in the published code.
        prior_probability: probability that an untrained head gives objectness and class.
        organ_classes: number of classes of each organ, by its name, for a separate classifier per organ, see `modeling.organs`.
    """

    def __init__(
        self,
        *,
        in_channels: Positive,
        stride: Positive,
        assigner: DenseAssigner,
        channels: Positive = 256,
        num_classes: Positive = 1,
        num_convs: int = 2,
        norm: str = "BN",
        pre_nms_topk: Positive = 256,
        nms_threshold: Share = 0.7,
        max_detections: Positive = 16,
        iou_loss_weight: float = 5.0,
        l1_loss_weight: float = 1.0,
        scale_by_padded_size: bool = False,
        prior_probability: Share = 0.01,
        organ_classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stem = _conv(in_channels, channels, 1, norm)
        self.cls_branch = nn.Sequential(*(_conv(channels, channels, 3, norm) for _ in range(num_convs)))
        self.box_branch = nn.Sequential(*(_conv(channels, channels, 3, norm) for _ in range(num_convs)))
        self.cls_score = organ_classifier(lambda: nn.Conv2d(channels, num_classes, 1), organ_classes, num_classes)
        self.bbox_pred = nn.Conv2d(channels, 4, 1)
        self.objectness = nn.Conv2d(channels, 1, 1)
        for layer in (self.cls_score, self.objectness):
            prior_bias(layer, prior_probability)
        self.stride = stride
        self.assigner = assigner
        self.num_classes = num_classes
        self.pre_nms_topk = pre_nms_topk
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.iou_loss_weight = iou_loss_weight
        self.l1_loss_weight = l1_loss_weight
        self.scale_by_padded_size = scale_by_padded_size

    def forward(self, feature_map: Tensor, organ: Tensor | None = None) -> YOLOXPredictions:
        """As `DenseHead.forward`: predictions at all ``N = h * w`` cells."""
        x = self.stem(feature_map)
        box_features = self.box_branch(x)
        return YOLOXPredictions(
            logits=by_cell(classify(self.cls_score, self.cls_branch(x), organ)),
            objectness=by_cell(self.objectness(box_features))[..., 0],
            raw_boxes=by_cell(self.bbox_pred(box_features)),
            corners=cell_corners(feature_map, self.stride),
        )

    def num_detections(self, image_size: tuple[int, int]) -> int:
        """As `DenseHead.num_detections`: ``max_detections``, or the number of candidates if that is smaller."""
        return min(self.max_detections, self.pre_nms_topk, num_cells(image_size, self.stride) * self.num_classes)

    def losses(self, predictions: YOLOXPredictions, targets: Targets) -> dict[str, Tensor]:
        """As `DenseHead.losses`: ``loss_yolox_cls``, ``loss_yolox_obj``, ``loss_yolox_iou`` and ``loss_yolox_l1``.

        In this order: binary cross entropy of the class, whose target is the IoU; binary cross entropy of the objectness; 1 - IoU ** 2; L1 on
        the raw boxes. Each is divided by the number of foreground cells.
        """
        raw = predictions.raw_boxes.float()
        boxes = self._boxes(raw, predictions.corners)
        assignment = self._assign(predictions, boxes.detach(), targets)
        foreground = assignment.labels == 1
        gt_boxes = matched_boxes(assignment, targets)
        gt_raw = torch.where(foreground[..., None], self._raw_boxes(gt_boxes, predictions.corners), 0.0)
        iou = pair_iou(boxes, gt_boxes)
        labels = class_targets(assignment, targets, self.num_classes) * iou.detach()[..., None]
        of_class = F.binary_cross_entropy_with_logits(predictions.logits.float(), labels, reduction="none").sum(dim=-1)
        of_object = F.binary_cross_entropy_with_logits(
            predictions.objectness.float(), foreground.float(), reduction="none"
        )
        weight = targets.weight[:, None] * (assignment.labels >= 0)
        count = mean_over_processes((foreground & (weight > 0)).sum())

        def mean_of_foreground(loss: Tensor) -> Tensor:
            return (torch.where(foreground, loss, 0.0) * weight).sum() / count

        return {
            "loss_yolox_cls": mean_of_foreground(of_class),
            "loss_yolox_obj": (of_object * weight).sum() / count,
            "loss_yolox_iou": mean_of_foreground(1 - iou**2) * self.iou_loss_weight,
            "loss_yolox_l1": mean_of_foreground((raw - gt_raw).abs().sum(dim=-1)) * self.l1_loss_weight,
        }

    @torch.no_grad()
    def _assign(self, predictions: YOLOXPredictions, boxes: Tensor, targets: Targets) -> Assignment:
        seen = DensePredictions(
            locations=predictions.corners + self.stride / 2,
            stride=self.stride,
            boxes=boxes,
            scores=product_scores(predictions.logits, predictions.objectness),
            inside=within_image(predictions.corners, targets.image_sizes),
        )
        return self.assigner(seen, targets)

    def _boxes(self, raw_boxes: Tensor, corners: Tensor) -> Tensor:
        center = raw_boxes[..., :2] * self.stride + corners
        half = raw_boxes[..., 2:].clamp(max=_MAX_LOG_SIZE).exp() * (self.stride / 2)
        return torch.cat((center - half, center + half), dim=-1)

    def _raw_boxes(self, boxes: Tensor, corners: Tensor) -> Tensor:
        center = ((boxes[..., :2] + boxes[..., 2:]) / 2 - corners) / self.stride
        size = (boxes[..., 2:] - boxes[..., :2]) / self.stride
        return torch.cat((center, (size + 1e-8).log()), dim=-1)

    @torch.no_grad()
    def decode(self, predictions: YOLOXPredictions, image_sizes: Tensor) -> Detections:
        """As `DenseHead.decode`: ``(B, D, ...)`` with ``D`` of `num_detections`; boxes are clipped to the image after NMS."""
        inside = within_image(predictions.corners, image_sizes)
        scores = product_scores(predictions.logits, predictions.objectness)
        candidates = best_candidates(scores, inside[..., None] & (scores > 0), self.pre_nms_topk)
        raw = take_rows(predictions.raw_boxes, candidates.rows).float()
        boxes = self._boxes(raw, predictions.corners[candidates.rows])
        if self.scale_by_padded_size:
            factor = (image_sizes / ((image_sizes / self.stride).ceil() * self.stride)).flip(-1)[:, None]
            boxes = boxes * torch.cat((factor, factor), dim=-1)
        return detections_of(
            candidates,
            boxes,
            image_sizes,
            num_classes=self.num_classes,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )


def _conv(in_channels: int, channels: int, kernel_size: int, norm: str) -> Conv2d:
    return Conv2d(
        in_channels,
        channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=False,
        norm=get_norm(norm, channels),
        activation=F.silu,
    )
