"""Detections from the predictions of queries.

Legend: ``B`` frames, ``Q`` queries, ``K`` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultravid.layers.box_tensors import center_to_corners, take_rows
from ultravid.layers.fixed_nms import first_rows, nms_mask, offset_boxes_by_class
from ultravid.modeling.query.base import QueryPredictions
from ultravid.modeling.types import Detections

__all__ = ["detections_of_queries"]


@torch.no_grad()
def detections_of_queries(predictions: QueryPredictions, image_sizes: Tensor, nms_threshold: float) -> Detections:
    """``(B, Q, ...)`` by falling score: the ``Q`` best pairs of a query and a class, after NMS within each class, then clipped.

    A query may be a detection of two classes, as in Deformable DETR.

    Args:
        predictions: ``(B, Q, ...)``.
        image_sizes: ``(B, 2)`` (height, width) in pixels.
        nms_threshold: a detection whose IoU with a better one is larger is dropped; 1 keeps all.
    """
    height, width = image_sizes.unbind(dim=-1)
    boxes = center_to_corners(predictions.boxes.float()) * torch.stack((width, height, width, height), dim=-1)[:, None]
    num_queries, num_classes = predictions.logits.shape[1:]
    scores, order = predictions.logits.float().sigmoid().flatten(1).sort(dim=-1, descending=True, stable=True)
    scores, order = scores[:, :num_queries], order[:, :num_queries]
    boxes, classes = take_rows(boxes, order // num_classes), order % num_classes
    everything = torch.ones_like(classes, dtype=torch.bool)
    keep = nms_mask(offset_boxes_by_class(boxes, classes, num_classes), scores, everything, nms_threshold)
    index, kept = first_rows(keep, boxes.shape[1])
    return Detections.in_images(
        take_rows(boxes, index), scores.gather(1, index), classes.gather(1, index), kept, image_sizes
    )
