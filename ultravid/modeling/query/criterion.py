"""The losses of queries that are matched with the ground truth one to one.

Source: Zhu et al., "Deformable DETR", ICLR 2021, appendix A.2: Carion et al.'s set prediction loss (DETR, ECCV 2020, section 3.1) with a
focal loss for classes, on every decoder layer.

Legend: ``n`` predictions of each frame (decoder layers and what follows), ``B`` frames, ``Q`` queries, ``G`` rows of ground truth,
``K`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ultravid.layers.box_tensors import center_to_corners, take_rows
from ultravid.modeling.assign.hungarian import HungarianAssigner
from ultravid.modeling.losses import focal_loss, giou_loss, mean_over_processes
from ultravid.modeling.query.base import QueryPredictions
from ultravid.modeling.types import Targets
from ultravid.utils.events import get_event_storage, has_event_storage

__all__ = ["QueryCriterion"]


class QueryCriterion:
    """Focal loss of all queries, L1 and GIoU of the matched ones; each layer is matched by itself.

    Each is a sum over the frames of weight above 0, divided by the number of their boxes.

    Args:
        assigner: matches queries with boxes; None for `HungarianAssigner` as published.
        class_weight: weight of the focal loss.
        l1_weight: weight of the L1 distance of (cx, cy, w, h) as shares of the image.
        giou_weight: weight of 1 - GIoU.
        alpha: weight of the positive class in the focal loss.
        gamma: exponent of the focal loss.
        final_weights: of class, L1 and GIoU of the last predictions, if they are others. The published code of TransVOD trains its temporal
            predictions with (1, 1, 1), because a key lacks an underscore.
    """

    def __init__(
        self,
        *,
        assigner: HungarianAssigner | None = None,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        final_weights: Sequence[float] | None = None,
    ) -> None:
        self.assigner = assigner or HungarianAssigner(alpha=alpha, gamma=gamma)
        self.weights = (class_weight, l1_weight, giou_weight)
        self.alpha = alpha
        self.gamma = gamma
        self.final_weights = self.weights if final_weights is None else tuple(final_weights)

    def __call__(self, predictions: Sequence[QueryPredictions], targets: Targets) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_l1`` and ``loss_giou`` of the last predictions, and with ``_layer0`` and so on those of each before.

        By how many boxes a frame differs from its queries with a score above 0.5 is logged as ``cardinality_error``.

        Args:
            predictions: ``n`` of ``(B, Q, ...)``, the final ones last.
            targets: ground truth of the ``B`` frames.
        """
        logits = torch.stack([p.logits.float() for p in predictions])  # (n, B, Q, K)
        boxes = torch.stack([p.boxes.float() for p in predictions])
        counted = targets.weight > 0
        valid = targets.valid & counted[:, None]
        height, width = targets.image_sizes.unbind(dim=-1)
        gt_boxes = _center_form(targets.boxes) / torch.stack((width, height, width, height), dim=-1)[:, None]
        rows, paired = self.assigner(logits, boxes, targets.classes, gt_boxes, valid)
        num_boxes = mean_over_processes(valid.sum())
        weight = targets.weight[:, None]

        focal = self._focal(logits, targets.classes, rows, paired).sum(dim=(2, 3)) * targets.weight
        matched = take_rows(boxes, rows)  # (n, B, G, 4)
        distance = (matched - gt_boxes).abs().sum(dim=-1)
        overlap = giou_loss(center_to_corners(matched), center_to_corners(gt_boxes).expand_as(matched))
        parts = (focal, *(torch.where(paired, loss, 0.0) * weight for loss in (distance, overlap)))
        sums = [part.flatten(1).sum(dim=1) / num_boxes for part in parts]  # (n,) each
        _log_cardinality(logits[-1], valid, counted)
        return self._named(sums)

    def _focal(self, logits: Tensor, classes: Tensor, rows: Tensor, paired: Tensor) -> Tensor:
        """``(n, B, Q, K)``: the target is 1 for the class of the ground truth that a query is matched with."""
        num_queries, num_classes = logits.shape[-2:]
        spare = num_queries * num_classes  # of ground truth without a query
        index = torch.where(paired, rows * num_classes + classes, spare)
        target = logits.new_zeros((*logits.shape[:2], spare + 1)).scatter_(-1, index, 1.0)[..., :-1]
        return focal_loss(logits, target.view_as(logits), self.alpha, self.gamma)

    def _named(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        losses = {}
        for name, loss, weight, final in zip(
            ("cls", "l1", "giou"), sums, self.weights, self.final_weights, strict=True
        ):
            losses[f"loss_{name}"] = loss[-1] * final
            for layer in range(len(loss) - 1):
                losses[f"loss_{name}_layer{layer}"] = loss[layer] * weight
        return losses


def _center_form(boxes: Tensor) -> Tensor:
    """XYXY to (cx, cy, w, h)."""
    return torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), dim=-1)


@torch.no_grad()
def _log_cardinality(logits: Tensor, valid: Tensor, counted: Tensor) -> None:
    if not has_event_storage():
        return
    found = (logits.amax(dim=-1) > 0).sum(dim=-1)
    error = ((found - valid.sum(dim=-1)).abs() * counted).sum() / counted.sum().clamp(min=1)
    get_event_storage().put_scalars_later(["cardinality_error"], error[None])
