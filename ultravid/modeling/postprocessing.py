"""From the frame that a model saw to the frame that was asked for."""

from __future__ import annotations

from ultravid.structures import Boxes, Instances

__all__ = ["detector_postprocess"]


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """Detections in the pixels of an output of another size: scaled, clipped, empty boxes dropped, order kept."""
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    boxes: Boxes = results.pred_boxes.clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    scaled.pred_boxes = boxes
    return scaled[boxes.nonempty()]
