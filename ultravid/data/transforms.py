"""Augmentation of a clip: one draw a clip, the same for all of its frames, for pictures and boxes together.

A transform is called with a clip and a generator and returns the changed clip; it draws from that generator alone.

Legend: ``T`` frames, ``H, W`` height and width in pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from ultravid.structures import Boxes, Clip, Instances

__all__ = [
    "ClipTransform",
    "RandomColor",
    "RandomFlip",
    "RandomScale",
    "RandomTimeFlip",
    "ResizeToArea",
    "apply_transforms",
]


class ClipTransform(Protocol):
    """Changes a clip."""

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The changed clip; the given one stays as it is."""


def apply_transforms(clip: Clip, transforms: Sequence[ClipTransform], rng: np.random.Generator) -> Clip:
    """All transforms, one after the other."""
    for transform in transforms:
        clip = transform(clip, rng)
    return clip


def resize_clip(clip: Clip, height: int, width: int) -> Clip:
    """The clip at another size, bilinear with antialiasing."""
    old_height, old_width = clip.frames.shape[-2:]
    if (old_height, old_width) == (height, width):
        return clip
    frames = TF.resize(clip.frames, [height, width], antialias=True)
    instances = []
    for old in clip.instances:
        boxes: Boxes = old.gt_boxes.clone()
        boxes.scale(width / old_width, height / old_height)
        instances.append(_with_boxes(old, boxes, (height, width)))
    return dataclasses.replace(clip, frames=frames, instances=instances)


def area_size(height: int, width: int, area: float, factor: float = 1.0) -> tuple[int, int]:
    """(height, width) of the same aspect with ``area`` square pixels, sides times ``factor``."""
    scale = math.sqrt(area / (height * width)) * factor
    return max(1, round(height * scale)), max(1, round(width * scale))


class ResizeToArea:
    """Resize to an area, sides times a random factor; aspect kept.

    Args:
        area: square pixels at factor 1.
        factor: range of the factor, drawn uniformly.
    """

    def __init__(self, *, area: float, factor: tuple[float, float] = (1.0, 1.0)) -> None:
        self.area = area
        self.factor = factor

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws one number."""
        factor = rng.uniform(*self.factor)
        height, width = area_size(clip.frames.shape[-2], clip.frames.shape[-1], self.area, factor)
        return resize_clip(clip, height, width)


class RandomFlip:
    """Mirror left and right."""

    def __init__(self, *, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws one number."""
        if rng.random() >= self.prob:
            return clip
        width = clip.frames.shape[-1]
        instances = []
        for old in clip.instances:
            x1, y1, x2, y2 = old.gt_boxes.tensor.unbind(1)
            flipped = Boxes(torch.stack((width - x2, y1, width - x1, y2), dim=1))
            instances.append(_with_boxes(old, flipped, old.image_size))
        return dataclasses.replace(clip, frames=clip.frames.flip(-1), instances=instances)


class RandomTimeFlip:
    """Play the clip backwards: a sweep of the probe may go either way."""

    def __init__(self, *, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws one number."""
        if rng.random() >= self.prob:
            return clip
        return dataclasses.replace(
            clip,
            frames=clip.frames.flip(0),
            instances=clip.instances[::-1],
            video_ids=clip.video_ids[::-1],
            frame_indices=clip.frame_indices[::-1],
        )


class RandomColor:
    """Contrast, sharpness and saturation, each times a factor drawn uniformly from its range; 1 changes nothing."""

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
        """Draws three numbers."""
        frames: Tensor = TF.adjust_contrast(clip.frames, rng.uniform(*self.contrast))
        frames = TF.adjust_sharpness(frames, rng.uniform(*self.sharpness))
        frames = TF.adjust_saturation(frames, rng.uniform(*self.saturation))
        return dataclasses.replace(clip, frames=frames)


class RandomScale:
    """Enlarge or shrink within the frame about a random point; what is shown less of is cut, the rest is black.

    Args:
        factor: range of the factor, drawn uniformly on a logarithmic scale.
        aspect: range of height over width, drawn likewise.
        min_visible: a lesion of which a smaller share is left loses its box.
    """

    def __init__(
        self,
        *,
        factor: tuple[float, float] = (0.8, 1.25),
        aspect: tuple[float, float] = (1.0, 1.0),
        min_visible: float = 0.3,
    ) -> None:
        self.factor = factor
        self.aspect = aspect
        self.min_visible = min_visible

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draws four numbers."""
        height, width = clip.frames.shape[-2:]
        factor = math.exp(rng.uniform(*np.log(self.factor)))
        aspect = math.exp(rng.uniform(*np.log(self.aspect)) / 2)
        scaled_height, scaled_width = (
            round(height * factor * aspect),
            round(width * factor / aspect),
        )
        scaled = resize_clip(clip, scaled_height, scaled_width)
        # A larger picture is cropped, a smaller one padded, at a random place of what there is to choose.
        top = round((scaled_height - height) * rng.random())
        left = round((scaled_width - width) * rng.random())
        frames = TF.crop(scaled.frames, top, left, height, width)
        instances = []
        for old in scaled.instances:
            boxes: Boxes = old.gt_boxes.clone()
            area = boxes.area()
            boxes.tensor = boxes.tensor - boxes.tensor.new_tensor([left, top, left, top])
            boxes.clip((height, width))
            keep = boxes.nonempty() & (boxes.area() >= self.min_visible * area)
            instances.append(_with_boxes(old, boxes, (height, width))[keep])
        return dataclasses.replace(clip, frames=frames, instances=instances)


def _with_boxes(old: Instances, boxes: Boxes, image_size: tuple[int, int]) -> Instances:
    return Instances(image_size, **{**old.get_fields(), "gt_boxes": boxes})
