"""Predicts the class and the box of an object from its token.

Legend: ``B`` frames, ``N`` boxes of a frame, ``D`` width of a token, ``K`` classes of objects (class ``K`` is the background).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import Box2BoxTransform
from ultravid.layers.box_tensors import clip_boxes, take_rows
from ultravid.layers.fixed_nms import first_rows, nms_mask, offset_boxes_by_class
from ultravid.modeling.losses import mean_over_processes
from ultravid.modeling.organs import classify, organ_classifier
from ultravid.modeling.roi.sampler import SampledBoxes
from ultravid.modeling.types import Detections
from ultravid.utils.limits import Positive, Share

__all__ = ["BoxPredictions", "BoxPredictor"]


class BoxPredictions(NamedTuple):
    """Logits ``(B, N, K + 1)`` and deltas ``(B, N, 4)``."""

    logits: Tensor
    deltas: Tensor


class BoxPredictor(nn.Module):
    """Softmax over ``K`` classes and the background, and one box for all classes (Fast R-CNN, ICCV 2015).

    Args:
        in_features: ``D``.
        num_classes: ``K``.
        box2box_transform: codes a box relative to its proposal.
        score_threshold: only detections with a higher score are kept.
        nms_threshold: IoU above which the detection with the lower score of two detections of a class is dropped.
        max_detections: number of detections of a frame that are kept.
        cls_loss_weight: weight of the mean cross entropy.
        box_loss_weight: weight of the L1 loss of the deltas.
        organ_classes: number of classes of each organ, by its name, for a separate classifier per organ, see `modeling.organs`.
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: Positive = 1,
        box2box_transform: Box2BoxTransform,
        score_threshold: Share = 0.0,
        nms_threshold: Share = 0.5,
        max_detections: Positive = 100,
        cls_loss_weight: float = 1.0,
        box_loss_weight: float = 1.0,
        organ_classes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.cls_score = organ_classifier(
            lambda: nn.Linear(in_features, num_classes + 1), organ_classes, num_classes, background=True
        )
        self.bbox_pred = nn.Linear(in_features, 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for bias in (self.cls_score.bias, self.bbox_pred.bias):
            assert bias is not None
            nn.init.zeros_(bias)
        self.in_features = in_features
        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.cls_loss_weight = cls_loss_weight
        self.box_loss_weight = box_loss_weight

    def forward(self, tokens: Tensor, organ: Tensor | None = None) -> BoxPredictions:
        """Classes and boxes of tokens.

        Args:
            tokens: ``(B, N, D)``.
            organ: ``(B,)`` int64, place in `VideoDetector.organs`, for layers with a classifier per organ.
        """
        return BoxPredictions(classify(self.cls_score, tokens, organ), self.bbox_pred(tokens))

    def losses(self, predictions: BoxPredictions, sampled: SampledBoxes, weight: Tensor) -> dict[str, Tensor]:
        """``loss_cls``, cross entropy, and ``loss_box_reg``, L1 on the deltas of foreground, both divided by the number of samples.

        Args:
            predictions: what `forward` returned for the tokens of the sampled boxes.
            sampled: the boxes and their ground truth, ``(B, N, ...)``.
            weight: ``(B,)`` of each frame, as in `Targets`.
        """
        logits, deltas = predictions
        classes = torch.where(sampled.foreground, sampled.gt_classes, self.num_classes)
        row_weight = weight[:, None] * sampled.valid
        with torch.no_grad():
            total = mean_over_processes((row_weight > 0).sum())
            # An empty proposal is never foreground, and the deltas of what is not foreground need not be finite.
            targets = self.box2box_transform.get_deltas(sampled.boxes, sampled.gt_boxes)
            targets = torch.where(sampled.foreground[..., None], targets, 0.0)
        cross_entropy = F.cross_entropy(logits.float().flatten(0, 1), classes.flatten(), reduction="none").view_as(
            row_weight
        )
        difference = (deltas.float() - targets).abs().sum(dim=-1)
        loss_box = torch.where(sampled.foreground, difference, 0.0)
        return {
            "loss_cls": (cross_entropy * row_weight).sum() / total * self.cls_loss_weight,
            "loss_box_reg": (loss_box * row_weight).sum() / total * self.box_loss_weight,
        }

    def num_detections(self, num_boxes: int) -> int:
        """Number of rows that `decode` gives for ``num_boxes`` boxes of a frame: at most ``max_detections``."""
        return min(self.max_detections, num_boxes * self.num_classes)

    @torch.no_grad()
    def decode(self, predictions: BoxPredictions, boxes: Tensor, valid: Tensor, image_sizes: Tensor) -> Detections:
        """``(B, K, ...)`` detections by falling score, with ``K`` of `num_detections`; boxes are clipped to the image.

        Args:
            predictions: predictions of the boxes.
            boxes: ``(B, N, 4)`` proposals, XYXY, pixels.
            valid: ``(B, N)`` bool.
            image_sizes: ``(B, 2)`` (height, width) of the frames in pixels.
        """
        logits, deltas = predictions
        decoded = clip_boxes(self.box2box_transform.apply_deltas(deltas, boxes), image_sizes)
        scores = logits.float().softmax(dim=-1)[..., :-1]
        candidate = ((scores > self.score_threshold) & valid[..., None]).flatten(1)
        # By falling score first: then the first rows that survive are the best ones.
        scores, order = torch.where(candidate, scores.flatten(1), -1.0).sort(dim=1, descending=True, stable=True)
        candidate, classes = candidate.gather(1, order), order % self.num_classes
        found = take_rows(decoded, order // self.num_classes)
        keep = nms_mask(offset_boxes_by_class(found, classes, self.num_classes), scores, candidate, self.nms_threshold)
        index, kept = first_rows(keep, self.max_detections)
        return Detections.in_images(
            take_rows(found, index), scores.gather(1, index), classes.gather(1, index), kept, image_sizes
        )
