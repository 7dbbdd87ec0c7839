"""Augmentation of a clip: one draw per clip, the same for all of its frames, for images and boxes together.

A transform is called with a clip and a generator and returns the changed clip. It draws from that generator; one of a user's own
may draw from Python's, numpy's and torch's global generators too, which are seeded for each clip.

Legend: ``T`` frames, ``H, W`` height and width in pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from ultravid.data.pixels import color_frames, has_one_plane, on_planes, resize_frames
from ultravid.datasets.video import DataError
from ultravid.structures import Boxes, Clip, Instances
from ultravid.utils.limits import Limits, Share

__all__ = [
    "ClipTransform",
    "CropToRegion",
    "RandomColor",
    "RandomFlip",
    "RandomScale",
    "RandomTimeFlip",
    "ResizeToArea",
    "apply_transforms",
]

_GAP = 5  # px: smaller dark gaps do not divide an area


class ClipTransform(Protocol):
    """Changes a clip; any callable will do."""

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The changed clip.

        Args:
            clip: must not be changed: return a new one, by `dataclasses.replace`.
            rng: to draw from; it is seeded for each clip, and the transforms of a list share it.

        Returns:
            A clip with the same number of instances, video ids and frame indices as frames; boxes are XYXY in pixels of the changed frames.
        """


def apply_transforms(clip: Clip, transforms: Sequence[ClipTransform], rng: np.random.Generator) -> Clip:
    """Apply all transforms, one after the other.

    Raises:
        DataError: one returned something else than a clip, or a clip whose frames are not those of its annotations.
    """
    for transform in transforms:
        clip = _checked(transform(clip, rng), transform)
    return clip


def _checked(clip: Any, transform: ClipTransform) -> Clip:
    """What a transform returned, if it is a clip."""
    name = getattr(transform, "__name__", type(transform).__name__)
    if not isinstance(clip, Clip):
        raise DataError(f"The transform {name} returned {type(clip).__name__}, not a Clip.")
    if not len(clip) == len(clip.instances) == len(clip.video_ids) == len(clip.frame_indices):
        raise DataError(
            f"The transform {name} returned a clip of {len(clip)} frames with {len(clip.instances)} instances, {len(clip.video_ids)} "
            f"video_ids and {len(clip.frame_indices)} frame_indices. Each frame has one of each."
        )
    return clip


def resize_clip(clip: Clip, height: int, width: int) -> Clip:
    """The clip at another size, bilinear with antialiasing."""
    old_height, old_width = clip.frames.shape[-2:]
    if (old_height, old_width) == (height, width):
        return clip
    frames = resize_frames(clip.frames, height, width)
    instances = []
    for old in clip.instances:
        boxes: Boxes = old.gt_boxes.clone()
        boxes.scale(width / old_width, height / old_height)
        instances.append(_with_boxes(old, boxes, (height, width)))
    return dataclasses.replace(clip, frames=frames, instances=instances)


def crop_clip(clip: Clip, top: int, left: int, height: int, width: int, min_visible: float) -> Clip:
    """The part of a clip whose corner is at (``left``, ``top``); pixels outside the image are black.

    Boxes are clipped to the part. A box that keeps less than ``min_visible`` of its area, or nothing, is removed.
    """
    frames = on_planes(clip.frames, lambda f: TF.crop(f, top, left, height, width))
    instances = []
    for old in clip.instances:
        boxes: Boxes = old.gt_boxes.clone()
        area = boxes.area()
        boxes.tensor = boxes.tensor - boxes.tensor.new_tensor([left, top, left, top])
        boxes.clip((height, width))
        keep = boxes.nonempty() & (boxes.area() >= min_visible * area)
        instances.append(_with_boxes(old, boxes, (height, width))[keep])
    return dataclasses.replace(clip, frames=frames, instances=instances)


def area_size(height: int, width: int, area: Annotated[float, Limits(gt=0)], factor: float = 1.0) -> tuple[int, int]:
    """(height, width) of the same aspect ratio with ``area`` square pixels, sides then scaled by ``factor``."""
    scale = math.sqrt(area / (height * width)) * factor
    return max(1, round(height * scale)), max(1, round(width * scale))


class ResizeToArea:
    """Resize to an area, with the sides scaled by a random factor; the aspect ratio is kept.

    Args:
        area: square pixels at factor 1.
        factor: range of the factor, drawn uniformly.
    """

    def __init__(self, *, area: Annotated[float, Limits(gt=0)], factor: tuple[float, float] = (1.0, 1.0)) -> None:
        self.area = area
        self.factor = factor

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws one number from ``rng``."""
        factor = rng.uniform(*self.factor)
        height, width = area_size(clip.frames.shape[-2], clip.frames.shape[-1], self.area, factor)
        return resize_clip(clip, height, width)


class RandomFlip:
    """Mirror left and right.

    Args:
        prob: the probability that a clip is mirrored, all of its frames and boxes alike.
    """

    def __init__(self, *, prob: Share = 0.5) -> None:
        self.prob = prob

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws one number from ``rng``."""
        if rng.random() >= self.prob:
            return clip
        width = clip.frames.shape[-1]
        instances = []
        for old in clip.instances:
            x1, y1, x2, y2 = old.gt_boxes.tensor.unbind(1)
            flipped = Boxes(torch.stack((width - x2, y1, width - x1, y2), dim=1))
            instances.append(_with_boxes(old, flipped, old.image_size))
        return dataclasses.replace(clip, frames=on_planes(clip.frames, lambda f: f.flip(-1)), instances=instances)


class RandomTimeFlip:
    """Play the clip backwards: a sweep of the probe may go either way. Memory frames stay first, and are turned by themselves.

    Args:
        prob: the probability that a clip is turned.
    """

    def __init__(self, *, prob: Share = 0.5) -> None:
        self.prob = prob

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws one number from ``rng``."""
        if rng.random() >= self.prob:
            return clip
        m = clip.num_memory
        if m == 0:
            frames = on_planes(clip.frames, lambda f: f.flip(0))
        else:
            frames = on_planes(clip.frames, lambda f: torch.cat((f[:m].flip(0), f[m:].flip(0))))
        return dataclasses.replace(
            clip,
            frames=frames,
            instances=clip.instances[:m][::-1] + clip.instances[m:][::-1],
            video_ids=clip.video_ids[:m][::-1] + clip.video_ids[m:][::-1],
            frame_indices=clip.frame_indices[:m][::-1] + clip.frame_indices[m:][::-1],
        )


class RandomColor:
    """Contrast, sharpness and saturation, each changed by a factor drawn uniformly from its range; 1 changes nothing.

    Args:
        contrast: the lowest and the highest factor of the contrast.
        sharpness: the same for the sharpness.
        saturation: the same for the saturation.
    """

    def __init__(
        self,
        *,
        contrast: tuple[float, float] = (0.7, 1.3),
        sharpness: tuple[float, float] = (0.7, 1.3),
        saturation: tuple[float, float] = (0.7, 1.3),
    ) -> None:
        self.contrast = contrast
        self.sharpness = sharpness
        self.saturation = saturation

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws three numbers from ``rng``."""
        factors = (rng.uniform(*self.contrast), rng.uniform(*self.sharpness), rng.uniform(*self.saturation))
        return dataclasses.replace(clip, frames=color_frames(clip.frames, *factors))


class RandomScale:
    """Enlarge or shrink within the frame about a random point: a larger image is cropped, a smaller one padded with black.

    Args:
        factor: range of the factor, drawn uniformly on a logarithmic scale.
        aspect: range of height over width, drawn in the same way.
        min_visible: see `crop_clip`.
    """

    def __init__(
        self,
        *,
        factor: tuple[float, float] = (0.8, 1.25),
        aspect: tuple[float, float] = (1.0, 1.0),
        min_visible: Share = 0.3,
    ) -> None:
        self.factor = factor
        self.aspect = aspect
        self.min_visible = min_visible

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws four numbers from ``rng``."""
        height, width = clip.frames.shape[-2:]
        factor = math.exp(rng.uniform(*np.log(self.factor)))
        aspect = math.exp(rng.uniform(*np.log(self.aspect)) / 2)
        scaled_height, scaled_width = (
            round(height * factor * aspect),
            round(width * factor / aspect),
        )
        scaled = resize_clip(clip, scaled_height, scaled_width)
        # A larger image is cropped, a smaller one padded, at a random place.
        top = round((scaled_height - height) * rng.random())
        left = round((scaled_width - width) * rng.random())
        return crop_clip(scaled, top, left, height, width, self.min_visible)


class CropToRegion:
    """Crop to the part of the image that shows the scan; one part for all frames of a clip.

    This removes black borders, and text that is separate from the scan, of recordings whose file does not state where the scan
    is. A reader's crop (`Frame.crop`) is applied in training and in evaluation, this one only in training.

    Args:
        region: (x1, y1, x2, y2) in pixels; None: the bounding box of the largest connected area that is brighter than
            ``threshold`` in any frame, after small gaps are closed.
        threshold: grey level, 0 to 255.
        min_share: a part that was found is used only if it has at least this share of the image's area; otherwise nothing is
            cropped.
        min_visible: see `crop_clip`.

    Raises:
        ValueError: the region is empty.
    """

    def __init__(
        self,
        *,
        region: tuple[int, int, int, int] | None = None,
        threshold: int = 8,
        min_share: Share = 0.2,
        min_visible: Share = 0.3,
    ) -> None:
        if region is not None and not (0 <= region[0] < region[2] and 0 <= region[1] < region[3]):
            raise ValueError(f"region={region} is not a part (x1, y1, x2, y2) of an image.")
        self.region = region
        self.threshold = threshold
        self.min_share = min_share
        self.min_visible = min_visible

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """As `ClipTransform.__call__`; draws nothing.

        Raises:
            DataError: a given region goes past the image.
        """
        del rng
        height, width = clip.frames.shape[-2:]
        x1, y1, x2, y2 = self.region or self._found(clip.frames)
        if x2 > width or y2 > height:
            raise DataError(
                f"Video {clip.video_ids[0]!r}: the region {self.region} goes past the image of {width}x{height} px."
            )
        if (x1, y1, x2, y2) == (0, 0, width, height):
            return clip
        return crop_clip(clip, y1, x1, y2 - y1, x2 - x1, self.min_visible)

    def _found(self, frames: Tensor) -> tuple[int, int, int, int]:
        height, width = frames.shape[-2:]
        planes = frames[:, :1] if has_one_plane(frames) else frames
        bright = (planes.amax(dim=(0, 1)) > self.threshold).to("cpu", torch.uint8).numpy()
        # Pixels outside the image count as dark, so that closing does not extend a scan to a near edge.
        padded = cv2.copyMakeBorder(bright, _GAP, _GAP, _GAP, _GAP, cv2.BORDER_CONSTANT, value=0)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((_GAP, _GAP), np.uint8))[_GAP:-_GAP, _GAP:-_GAP]
        number, _, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
        if number > 1:  # 0 is the dark area
            left, top, across, down, _ = (int(v) for v in stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()])
            if across * down >= self.min_share * height * width:
                return left, top, left + across, top + down
        return 0, 0, width, height


def _with_boxes(old: Instances, boxes: Boxes, image_size: tuple[int, int]) -> Instances:
    return Instances(image_size, **{**old.get_fields(), "gt_boxes": boxes})
