"""`draw`: a frame with its boxes, as the pictures, the movies and the page show it.

Legend: ``H, W`` height and width of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ultravid.datasets.readers.source import ImageArray
from ultravid.serving.records import Detection, FrameDetections
from ultravid.structures import Instances
from ultravid.utils.drawing import DETECTION, TRUTH, draw_boxes

__all__ = ["draw", "label_of"]

Channels = Literal["RGB", "BGR"]


def draw(
    image: NDArray[np.uint8] | Tensor,
    found: FrameDetections | Sequence[Detection] | Instances,
    *,
    class_names: Sequence[str] = (),
    truth: Instances | None = None,
    min_score: float = 0.0,
    channels: Channels = "RGB",
) -> ImageArray:
    """A copy of a frame with its boxes: detections in orange with score, lesion track and class, annotated lesions in green.

    Lines and labels grow with the image, so that they look alike at any size.

    Args:
        image: ``(H, W, 3)`` uint8, or grey ``(H, W)``; or a tensor ``(3, H, W)`` in 0..255. It is not changed.
        found: the detections, boxes in pixels of the image. Of `Instances`: ``pred_boxes``, ``scores`` and, if they are there,
            ``pred_classes`` and ``track_ids``; ``gt_boxes`` are drawn as those of ``truth``.
        class_names: names of the classes. A label names the class if there are several.
        truth: annotated lesions of the frame, with ``gt_boxes``.
        min_score: detections of a lower score are not drawn.
        channels: order of the image's channels, and of the result's.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: the image has another shape or dtype, or there is no such order of channels.
    """
    if channels not in ("RGB", "BGR"):
        raise ValueError(f"channels is {channels!r}; it is 'RGB' or 'BGR'.")
    shown = _as_picture(image)
    if channels == "BGR":
        shown = np.ascontiguousarray(shown[..., ::-1])
    occupied: list[tuple[int, int, int, int]] = []
    for lesions in (truth, found):
        if isinstance(lesions, Instances) and lesions.has("gt_boxes"):
            draw_boxes(shown, lesions.gt_boxes.tensor.tolist(), TRUTH, (), occupied)
    detections = [d for d in _detections(found) if d.score >= min_score]
    labels = [label_of(detection, class_names) for detection in detections]
    draw_boxes(shown, [d.box for d in detections], DETECTION, labels, occupied)
    return shown if channels == "RGB" else np.ascontiguousarray(shown[..., ::-1])


def label_of(detection: Detection, class_names: Sequence[str] = ()) -> str:
    """The label of a detection: ``malignant #3 0.87``, with the class if there are several, and the track if there is one."""
    name = detection.as_json(class_names)["class"] if len(class_names) > 1 else ""
    track = "" if detection.track_id is None else f"#{detection.track_id}"
    return " ".join(filter(None, (name, track, f"{detection.score:.2f}")))


def _detections(found: FrameDetections | Sequence[Detection] | Instances) -> Sequence[Detection]:
    if isinstance(found, FrameDetections):
        return found.detections
    if not isinstance(found, Instances):
        return found
    if not found.has("pred_boxes"):
        return ()
    if not found.has("pred_classes"):
        return [
            Detection(tuple(box), score, 0)
            for box, score in zip(found.pred_boxes.tensor.tolist(), found.scores.tolist(), strict=True)
        ]
    return FrameDetections.of(0, 0.0, found).detections


def _as_picture(image: NDArray[np.uint8] | Tensor) -> ImageArray:
    """A copy as ``(H, W, 3)``."""
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"A frame's tensor has the shape (3, H, W), got {tuple(image.shape)}.")
        return image.detach().clamp(0, 255).byte().permute(1, 2, 0).cpu().contiguous().numpy().copy()
    if image.dtype != np.uint8:
        raise ValueError(f"A frame is an array of uint8, got {image.dtype}.")
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"A frame has the shape (H, W, 3) or (H, W), got {image.shape}.")
    return np.array(image, order="C")
