"""Region proposal network (Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1) on one feature map.

Legend: ``B`` frames, ``C, H, W`` feature channels, height, width, ``A`` anchors per cell, ``N`` boxes of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from ultravid.layers import Box2BoxTransform, Conv2d
from ultravid.modeling.matcher import Matcher, subsample_labels
from ultravid.modeling.proposal.anchors import AnchorGenerator
from ultravid.structures import Boxes, Instances, pairwise_iou
from ultravid.utils.limits import Positive, Share

__all__ = ["RPN", "RPNHead"]


class RPNHead(nn.Module):
    """A 3x3 convolution with ReLU, then 1x1 convolutions to a logit and four deltas for each anchor."""

    def __init__(self, *, in_channels: Positive, num_anchors: Positive) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, in_channels, 3, padding=1, activation=F.relu)
        self.objectness_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in (self.conv, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` to logits ``(B, H * W * A)`` and deltas ``(B, H * W * A, 4)`` in the anchors' order."""
        x = self.conv(features)
        logits = self.objectness_logits(x).permute(0, 2, 3, 1).flatten(1)
        deltas = self.anchor_deltas(x).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4)
        return logits, deltas


class RPN(nn.Module):
    """Proposals, and in training their losses.

    Args:
        rpn_head: from features to logits and deltas.
        anchor_generator: the anchors of the same cells.
        box2box_transform: decodes deltas to boxes.
        anchor_matcher: labels anchors as foreground, background or ignored.
        batch_size_per_image: number of anchors of a frame that are sampled for the loss.
        positive_fraction: at most this share of them is foreground.
        pre_nms_topk: number of highest logits that are kept before NMS.
        post_nms_topk: number of proposals that are kept after NMS.
        nms_threshold: a proposal whose IoU with a better one is larger is dropped.
        loss_weight: weight of both losses.
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

    def forward(
        self,
        features: Tensor,
        image_size: tuple[int, int],
        gt_instances: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            features: ``(B, C, H, W)``.
            image_size: (height, width) of the frames in pixels.
            gt_instances: for each frame, with ``gt_boxes``; None computes no losses.

        Returns:
            for each frame ``proposal_boxes`` (XYXY, pixels, inside the frame) and ``objectness_logits``, by falling logit,
            without gradient; and the losses ``loss_rpn_cls`` (binary cross entropy) and ``loss_rpn_loc`` (L1 on the
            deltas of foreground anchors), both sums over ``B * batch_size_per_image``.
        """
        logits, deltas = self.rpn_head(features)
        anchors = self.anchor_generator(features.shape[-2], features.shape[-1])
        losses = {} if gt_instances is None else self.losses(anchors, logits, deltas, gt_instances)
        return self.propose(anchors, logits.detach(), deltas.detach(), image_size), losses

    def losses(
        self, anchors: Tensor, logits: Tensor, deltas: Tensor, gt_instances: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """The losses that `forward` returns."""
        chosen, labels, sources, targets = [], [], [], []
        anchor_boxes = Boxes(anchors)
        for b, instances in enumerate(gt_instances):
            matches, label = self.anchor_matcher(pairwise_iou(instances.gt_boxes, anchor_boxes))
            positive, negative = subsample_labels(label, self.batch_size_per_image, self.positive_fraction)
            chosen.append(torch.cat((positive, negative)) + b * len(anchors))
            labels.append(torch.cat((torch.ones_like(positive), torch.zeros_like(negative))))
            sources.append(anchors[positive])
            targets.append(instances.gt_boxes.tensor[matches[positive]])
        index, label = torch.cat(chosen), torch.cat(labels)
        total = self.batch_size_per_image * len(gt_instances)
        loss_cls = F.binary_cross_entropy_with_logits(logits.flatten()[index].float(), label.float(), reduction="sum")
        target_deltas = self.box2box_transform.get_deltas(torch.cat(sources), torch.cat(targets))
        loss_loc = F.l1_loss(deltas.reshape(-1, 4)[index[label == 1]].float(), target_deltas, reduction="sum")
        return {
            "loss_rpn_cls": loss_cls * (self.loss_weight / total),
            "loss_rpn_loc": loss_loc * (self.loss_weight / total),
        }

    @torch.no_grad()
    def propose(self, anchors: Tensor, logits: Tensor, deltas: Tensor, image_size: tuple[int, int]) -> list[Instances]:
        """The proposals that `forward` returns: the top logits, decoded, clipped, without empty boxes, after NMS."""
        top_logits, top = logits.topk(min(self.pre_nms_topk, logits.shape[1]), dim=1)
        top_deltas = deltas.gather(1, top[..., None].expand(-1, -1, 4))
        decoded = self.box2box_transform.apply_deltas(top_deltas, anchors[top])
        proposals = []
        for frame_boxes, frame_logits in zip(decoded, top_logits.float(), strict=True):
            boxes = Boxes(frame_boxes)
            boxes.clip(image_size)
            valid = boxes.nonempty()
            kept, scores = boxes.tensor[valid], frame_logits[valid]
            first = nms(kept, scores, self.nms_threshold)[: self.post_nms_topk]
            proposals.append(Instances(image_size, proposal_boxes=Boxes(kept[first]), objectness_logits=scores[first]))
        return proposals
