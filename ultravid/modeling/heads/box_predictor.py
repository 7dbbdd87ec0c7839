"""From the token of an object to its class and its box.

Legend: ``N`` boxes, ``D`` width of a token, ``K`` classes of objects (class ``K`` is the background).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from ultravid.layers import Box2BoxTransform
from ultravid.structures import Boxes, Instances
from ultravid.utils.limits import Positive, Share

__all__ = ["BoxPredictor"]


class BoxPredictor(nn.Module):
    """Softmax over ``K`` classes and the background, and one box for all classes (Fast R-CNN, ICCV 2015).

    Args:
        in_features: ``D``.
        num_classes: ``K``.
        box2box_transform: codes a box relative to its proposal.
        score_threshold: only detections with a higher score are kept.
        nms_threshold: of two detections of a class with a larger IoU, the one with the lower score is dropped.
        max_detections: number of detections of a frame that are kept.
        cls_loss_weight: weight of the mean cross entropy.
        box_loss_weight: weight of the L1 loss of the deltas.
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
    ) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes + 1)
        self.bbox_pred = nn.Linear(in_features, 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.zeros_(layer.bias)
        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.cls_loss_weight = cls_loss_weight
        self.box_loss_weight = box_loss_weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, D)`` to logits ``(N, K + 1)`` and deltas ``(N, 4)``."""
        return self.cls_score(tokens), self.bbox_pred(tokens)

    def losses(self, logits: Tensor, deltas: Tensor, sampled: Instances) -> dict[str, Tensor]:
        """``loss_cls``, a mean over the sampled boxes, and ``loss_box_reg``, a sum over foreground divided by their number.

        Args:
            logits: ``(N, K + 1)``.
            deltas: ``(N, 4)``.
            sampled: ``N`` rows of ``proposal_boxes``, ``gt_classes`` (``K`` is the background) and ``gt_boxes``.
        """
        classes = sampled.gt_classes
        loss_cls = F.cross_entropy(logits.float(), classes)
        foreground = classes < self.num_classes
        targets = self.box2box_transform.get_deltas(
            sampled.proposal_boxes.tensor[foreground], sampled.gt_boxes.tensor[foreground]
        )
        loss_box = F.l1_loss(deltas[foreground].float(), targets, reduction="sum") / max(len(classes), 1)
        return {
            "loss_cls": loss_cls * self.cls_loss_weight,
            "loss_box_reg": loss_box * self.box_loss_weight,
        }

    @torch.no_grad()
    def inference(self, logits: Tensor, deltas: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """Detections of one frame.

        Args:
            logits: ``(N, K + 1)``.
            deltas: ``(N, 4)``.
            boxes: ``(N, 4)`` proposals, XYXY, pixels.
            image_size: (height, width) of the frame in pixels.

        Returns:
            ``pred_boxes`` (inside the frame), ``scores`` and ``pred_classes``, by falling score.
        """
        decoded = Boxes(self.box2box_transform.apply_deltas(deltas, boxes))
        decoded.clip(image_size)
        scores = logits.float().softmax(dim=-1)[:, :-1]
        row, cls = (scores > self.score_threshold).nonzero(as_tuple=True)
        found, score = decoded.tensor[row], scores[row, cls]
        kept = batched_nms(found, score, cls, self.nms_threshold)[: self.max_detections]
        return Instances(image_size, pred_boxes=Boxes(found[kept]), scores=score[kept], pred_classes=cls[kept])
