"""Region proposal network (Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1) on one feature map.

Legend: ``B`` frames, ``C, h, w`` channels, height, width of the feature map, ``A`` anchors per cell, ``K`` proposals of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import Box2BoxTransform, Conv2d
from ultravid.layers.box_tensors import clip_boxes, iou_matrix, nonempty, take_rows
from ultravid.layers.fixed_nms import first_rows, nms_mask, top_rows
from ultravid.modeling.assign import Matcher, sample_labels
from ultravid.modeling.dense.anchors import AnchorGenerator
from ultravid.modeling.dense.base import DenseHead
from ultravid.modeling.dense.cells import cell_corners, num_cells, within_image
from ultravid.modeling.losses import mean_over_processes
from ultravid.modeling.types import Detections, Targets
from ultravid.utils.limits import Positive, Share

__all__ = ["RPN", "RPNHead", "RPNPredictions"]


class RPNHead(nn.Module):
    """A 3x3 convolution with ReLU, then 1x1 convolutions to a logit and four deltas for each anchor.

    Args:
        in_channels: channels of the feature map, ``C``.
        num_anchors: anchors of each cell, ``A``.
    """

    def __init__(self, *, in_channels: Positive, num_anchors: Positive) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_anchors = num_anchors
        self.conv = Conv2d(in_channels, in_channels, 3, padding=1, activation=F.relu)
        self.objectness_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in (self.conv, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of all anchors.

        Args:
            features: ``(B, C, h, w)``.

        Returns:
            logits ``(B, h * w * A)`` and deltas ``(B, h * w * A, 4)``, in the order of `AnchorGenerator`.
        """
        x = self.conv(features)
        logits = self.objectness_logits(x).permute(0, 2, 3, 1).flatten(1)
        deltas = self.anchor_deltas(x).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4)
        return logits, deltas


class RPNPredictions(NamedTuple):
    """Predictions of ``B`` frames.

    Attributes:
        logits: ``(B, h * w * A)``, of being an object.
        deltas: ``(B, h * w * A, 4)``.
        anchors: ``(h * w * A, 4)`` XYXY, pixels.
        corners: ``(h * w, 2)``, upper left corner of each cell, pixels.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    corners: Tensor


class RPN(DenseHead):
    """Proposals, and in training their losses. Anchors of cells in the padding of a frame are ignored.

    Args:
        rpn_head: computes logits and deltas from features.
        anchor_generator: the anchors of the same cells.
        box2box_transform: decodes deltas to boxes.
        anchor_matcher: labels anchors as foreground, background or ignored.
        batch_size_per_image: number of anchors of a frame that are sampled for the loss.
        positive_fraction: at most this share of them is foreground.
        pre_nms_topk: number of highest logits that are kept before NMS.
        post_nms_topk: number of proposals that are kept after NMS.
        nms_threshold: a proposal whose IoU with a better one is larger is dropped.
        loss_weight: weight of both losses.

    Raises:
        ValueError: the head is made for another number of anchors than the generator has.
    """

    def __init__(
        self,
        *,
        rpn_head: nn.Module,
        anchor_generator: AnchorGenerator,
        box2box_transform: Box2BoxTransform,
        anchor_matcher: Matcher,
        batch_size_per_image: Positive = 256,
        positive_fraction: Share = 0.5,
        pre_nms_topk: Positive = 256,
        post_nms_topk: Positive = 16,
        nms_threshold: Share = 0.7,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        of_head, of_cell = getattr(rpn_head, "num_anchors", None), anchor_generator.num_anchors
        if of_head is not None and of_head != of_cell:
            raise ValueError(
                f"rpn_head has num_anchors={of_head}, anchor_generator {of_cell} shapes: they must be as many."
            )
        self.rpn_head = rpn_head
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = pre_nms_topk
        self.post_nms_topk = post_nms_topk
        self.nms_threshold = nms_threshold
        self.loss_weight = loss_weight

    def forward(self, feature_map: Tensor, organ: Tensor | None = None) -> RPNPredictions:
        """As `DenseHead.forward`: logits and deltas of all anchors; they are the same for all organs."""
        del organ
        logits, deltas = self.rpn_head(feature_map)
        return RPNPredictions(
            logits,
            deltas,
            anchors=self.anchor_generator(feature_map.shape[-2], feature_map.shape[-1]),
            corners=cell_corners(feature_map, self.anchor_generator.stride),
        )

    def num_detections(self, image_size: tuple[int, int]) -> int:
        """As `DenseHead.num_detections`: ``post_nms_topk``, or the number of anchors that are kept before NMS if that is smaller."""
        anchors = self.anchor_generator
        num_anchors = num_cells(image_size, anchors.stride) * anchors.num_anchors
        return min(self.post_nms_topk, self.pre_nms_topk, num_anchors)

    def losses(self, predictions: RPNPredictions, targets: Targets) -> dict[str, Tensor]:
        """As `DenseHead.losses`: ``loss_rpn_cls`` (binary cross entropy) and ``loss_rpn_loc`` (L1 on the deltas of foreground anchors).

        Both are sums over the sampled anchors, divided by the number of frames times ``batch_size_per_image``.
        """
        logits, deltas, anchors, _ = predictions
        with torch.no_grad():
            inside = self._inside(predictions, targets.image_sizes)
            iou = iou_matrix(targets.boxes, anchors[None])
            # An anchor in the padding must not be the best one of a ground truth, in place of one in the image.
            iou = iou.masked_fill(~(targets.valid[..., None] & inside[:, None]), -1.0)
            matches, labels = self.anchor_matcher(iou)
            labels = labels.masked_fill(~inside, -1)
            index, sampled = sample_labels(labels, self.batch_size_per_image, self.positive_fraction)
            label = labels.gather(1, index)
            matched = take_rows(targets.boxes, matches.gather(1, index))
            target_deltas = self.box2box_transform.get_deltas(anchors[index], matched)
            target_deltas = torch.where(
                (label == 1)[..., None], target_deltas, 0.0
            )  # without ground truth they are not finite
            weight = targets.weight[:, None] * sampled
            num_frames = mean_over_processes((targets.weight > 0).sum())
        loss_cls = F.binary_cross_entropy_with_logits(
            logits.gather(1, index).float(), (label == 1).float(), weight=weight, reduction="sum"
        )
        difference = (take_rows(deltas, index).float() - target_deltas).abs().sum(dim=-1)
        loss_loc = torch.where(label == 1, difference, 0.0).mul(weight).sum()
        scale = self.loss_weight / (num_frames * self.batch_size_per_image)
        return {"loss_rpn_cls": loss_cls * scale, "loss_rpn_loc": loss_loc * scale}

    @torch.no_grad()
    def decode(self, predictions: RPNPredictions, image_sizes: Tensor) -> Detections:
        """As `DenseHead.decode`: ``(B, K, ...)`` proposals of class 0.

        The anchors of the top logits are decoded and clipped, empty boxes are dropped, then NMS is applied.
        """
        logits, deltas, anchors, _ = predictions
        logits = logits.where(self._inside(predictions, image_sizes), -torch.inf)
        top_logits, top = top_rows(logits, self.pre_nms_topk)
        boxes = clip_boxes(self.box2box_transform.apply_deltas(take_rows(deltas, top), anchors[top]), image_sizes)
        scores = top_logits.float()
        keep = nms_mask(boxes, scores, nonempty(boxes) & (scores > -torch.inf), self.nms_threshold)
        index, valid = first_rows(keep, self.post_nms_topk)
        scores = scores.gather(1, index).sigmoid()  # logits until here: far from 0, sigmoids are equal
        return Detections.of(take_rows(boxes, index), scores, torch.zeros_like(index), valid)

    def _inside(self, predictions: RPNPredictions, image_sizes: Tensor) -> Tensor:
        """``(B, h * w * A)`` bool: anchors of cells that begin within the frame."""
        inside = within_image(predictions.corners, image_sizes)
        return inside.repeat_interleave(self.anchor_generator.num_anchors, dim=1)
