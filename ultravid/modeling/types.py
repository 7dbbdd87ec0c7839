"""The types that the parts of a detector pass to each other: tensors of fixed shape, with masks for unused rows.

Legend: ``B`` frames, ``T`` frames of a clip, ``K`` rows of detections, ``G`` rows of ground truth, ``N`` boxes of a frame, ``D`` width of
a token, ``C, h, w`` channels, height and width of a feature map, ``H, W`` height and width of an image in pixels.
Boxes are XYXY in pixels of the image that the model was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ultravid.layers.box_tensors import clip_boxes, nonempty, take_rows
from ultravid.layers.fixed_nms import first_rows

__all__ = ["Detections", "FrameTokens", "Pool", "State", "Targets"]

State = dict[str, Any]
"""What a part carries from frame to frame of a stream: a dict whose values are tensors or such dicts; ``{}`` for a part without memory.

For a given image size the keys, shapes and dtypes never change. A state is never written to: a step returns a new one.
"""


class Detections(NamedTuple):
    """Boxes found in a frame, in ``K`` fixed rows, valid ones first; with a leading axis ``B`` for several frames.

    Attributes:
        boxes: ``(K, 4)`` float32; the valid ones that a model finds lie within the image and have an area.
        scores: ``(K,)`` float32, falling over the valid rows, ties in the order in which the part found them.
        classes: ``(K,)`` int64.
        valid: ``(K,)`` bool; what the other rows hold has no meaning, but it is finite.
        track_ids: ``(K,)`` int64, -1 without a track.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    valid: Tensor
    track_ids: Tensor

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor, classes: Tensor, valid: Tensor) -> Detections:
        """Detections without tracks; rows that are not valid are set to zero.

        Args:
            boxes: ``(..., K, 4)`` float32.
            scores: ``(..., K)`` float32.
            classes: ``(..., K)`` int64.
            valid: ``(..., K)`` bool; the valid rows must come first, in the order of `Detections`.
        """
        return cls(
            boxes=torch.where(valid[..., None], boxes, 0.0),
            scores=torch.where(valid, scores, 0.0),
            classes=torch.where(valid, classes, 0),
            valid=valid,
            track_ids=torch.full_like(classes, -1),
        )

    @classmethod
    def in_images(
        cls, boxes: Tensor, scores: Tensor, classes: Tensor, valid: Tensor, image_sizes: Tensor
    ) -> Detections:
        """Detections without tracks, clipped to their images; boxes without an area after that are dropped, and valid rows move to the front.

        Args:
            boxes: ``(B, K, 4)`` float32.
            scores: ``(B, K)`` float32, in descending order; the order is kept.
            classes: ``(B, K)`` int64.
            valid: ``(B, K)`` bool.
            image_sizes: ``(B, 2)`` float32, (height, width) in pixels.
        """
        clipped = clip_boxes(boxes, image_sizes)
        order, valid = first_rows(valid & nonempty(clipped), valid.shape[-1])
        return cls.of(take_rows(clipped, order), scores.gather(-1, order), classes.gather(-1, order), valid)

    def frame(self, index: int) -> Detections:
        """The detections of one frame, ``(K, ...)``, from those of several.

        Args:
            index: place on the leading axis.
        """
        return Detections(*(field[index] for field in self))


class Targets(NamedTuple):
    """The ground truth of ``B`` frames.

    Attributes:
        boxes: ``(B, G, 4)`` float32; rows that are not valid are zero.
        classes: ``(B, G)`` int64.
        valid: ``(B, G)`` bool.
        weight: ``(B,)`` float32, by which a frame's losses are multiplied: 0 for a frame that carries none (memory, padding of a short
            clip), otherwise 1 or the weight of its organ. A frame of weight 0 counts in no normaliser either.
        image_sizes: ``(B, 2)`` float32, (height, width) in pixels before the batch was padded.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    weight: Tensor
    image_sizes: Tensor


class FrameTokens(NamedTuple):
    """The objects of frames, for a token mixer: of one frame in a stream, with leading axes ``(B, T)`` in a clip.

    Attributes:
        tokens: ``(..., N, D)``.
        boxes: ``(..., N, 4)`` float32.
        valid: ``(..., N)`` bool.
        is_gt: ``(..., N)`` bool: rows that are copies of the ground truth, in training. They are queries, not keys.
        frame_valid: ``(...)`` bool, False for frames that pad a short clip.
        is_memory: ``(...)`` bool, True for the frames of a clip that are only remembered.
        image: ``(..., 3, H, W)`` float32, normalised.
        feature_map: ``(..., C, h, w)``, the map that the tokens were pooled from.
    """

    tokens: Tensor
    boxes: Tensor
    valid: Tensor
    is_gt: Tensor
    frame_valid: Tensor
    is_memory: Tensor
    image: Tensor
    feature_map: Tensor


Pool = Callable[[Tensor, Tensor], Tensor]
"""``pool(feature_maps (B, C, h, w), boxes (B, N, 4)) -> tokens (B, N, D)``: tokens of any boxes on any map."""
