"""Scales detections from the size of the model's input to the size of the output."""

from __future__ import annotations

from ultravid.structures import Boxes, Instances

__all__ = ["detector_postprocess"]


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """Detections in the pixels of the output: boxes are scaled and clipped, empty ones are dropped, the order is kept.

    Args:
        results: detections with ``pred_boxes`` in the pixels of ``results.image_size``; they are not changed.
        output_height: the height of the output in pixels.
        output_width: the width of the output in pixels.
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    boxes: Boxes = results.pred_boxes.clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    scaled.pred_boxes = boxes
    return scaled[boxes.nonempty()]
