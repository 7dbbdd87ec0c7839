"""Selects the detections of a frame from the scores at all locations, in fixed shapes.

Legend: ``B`` frames, ``N`` locations or anchors, ``K`` classes, ``M`` candidates, ``D`` detections.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ultravid.layers.box_tensors import take_rows
from ultravid.layers.fixed_nms import first_rows, nms_mask, offset_boxes_by_class, top_rows
from ultravid.modeling.types import Detections

__all__ = ["Candidates", "best_candidates", "detections_of"]


class Candidates(NamedTuple):
    """The best scores of frames, falling.

    Attributes:
        rows: ``(B, M)`` int64, the location.
        classes: ``(B, M)`` int64.
        scores: ``(B, M)`` float32, at least 0.
        valid: ``(B, M)`` bool.
    """

    rows: Tensor
    classes: Tensor
    scores: Tensor
    valid: Tensor


def best_candidates(scores: Tensor, candidate: Tensor, count: int) -> Candidates:
    """The ``count`` highest of scores ``(B, N, K)``, each at least 0, that are candidates, ``(B, N, K)`` bool."""
    scores, index = top_rows(torch.where(candidate, scores.float(), -1.0).flatten(1), count)
    num_classes = candidate.shape[-1]
    return Candidates(index // num_classes, index % num_classes, scores, scores >= 0)


def detections_of(
    candidates: Candidates,
    boxes: Tensor,
    image_sizes: Tensor,
    *,
    num_classes: int,
    nms_threshold: float | None,
    max_detections: int,
    keep_ties: bool = False,
) -> Detections:
    """Non-maximum suppression within each class, the best of what is left, clipped to the frame; empty boxes are dropped last.

    Args:
        candidates: the candidates, ``M`` rows.
        boxes: ``(B, M, 4)``.
        image_sizes: ``(B, 2)`` (height, width) in pixels.
        num_classes: ``K``.
        nms_threshold: a box whose IoU with a better one is larger is dropped; None for no suppression.
        max_detections: number of detections ``D`` that are kept.
        keep_ties: keep those too whose score equals the last one's, so that ``D`` is ``M``.
    """
    keep = candidates.valid
    if nms_threshold is not None:
        apart = offset_boxes_by_class(boxes, candidates.classes, num_classes)
        keep = nms_mask(apart, candidates.scores, keep, nms_threshold)
    index, kept = first_rows(keep, boxes.shape[1] if keep_ties else max_detections)
    scores = candidates.scores.gather(1, index)
    if keep_ties and index.shape[1] > max_detections:
        last = slice(max_detections - 1, max_detections)
        kept = kept & ((scores >= scores[:, last]) | ~kept[:, last])  # if fewer are left, all stay
    classes = candidates.classes.gather(1, index)
    return Detections.in_images(take_rows(boxes, index), scores, classes, kept, image_sizes)
