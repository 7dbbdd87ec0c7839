"""Box formats, and conversion between them.

Legend: ``N`` boxes; x points to the right and y down, with no "+1" in a width.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BoxMode"]


class BoxMode(IntEnum):
    """The format of a box: what its numbers mean. The values are detectron2's, so they have the same meaning in a JSON file."""

    XYXY_ABS = 0
    """x1, y1, x2, y2 in pixels."""
    XYWH_ABS = 1
    """x1, y1, width, height in pixels."""
    XYXY_REL = 2
    """x1, y1, x2, y2 as shares of the image's width and height."""
    XYWH_REL = 3
    """x1, y1, width, height as shares of the image's width and height."""
    XYWHA_ABS = 4
    """x and y of the centre, width, height in pixels, and a rotation counterclockwise in degrees."""

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode, image_size: tuple[int, int] | None = None) -> Any:
        """Convert one box or many.

        A rotated box becomes the smallest upright one that holds it; an upright box becomes a rotated one of 0 degrees.

        Args:
            box: one box as a list or tuple, or boxes ``(N, 4)`` (``(N, 5)`` if rotated) as an array or a tensor. It is
                left as it is.
            from_mode: the format of the given box.
            to_mode: the format of the result.
            image_size: (height, width) of the image in pixels; needed from absolute to relative numbers and back.

        Returns:
            new boxes of the same type and dtype. Whole numbers stay whole unless relative or rotated boxes are involved.

        Raises:
            ValueError: a box has not as many numbers as the mode, or ``image_size`` is missing.
        """
        boxes, dtype = _as_rows(box, BoxMode(from_mode))
        if from_mode == to_mode:
            converted = boxes.clone()
        else:
            converted = _to_xyxy(boxes, from_mode)
            if _is_relative(from_mode) != _is_relative(to_mode):
                converted = _rescaled(converted, image_size, to_relative=_is_relative(to_mode))
            converted = _from_xyxy(converted, to_mode)
            fractional = any(_is_relative(mode) or mode == BoxMode.XYWHA_ABS for mode in (from_mode, to_mode))
            if fractional and not dtype.is_floating_point:
                dtype = torch.float64 if isinstance(box, list | tuple) else torch.float32
        converted = converted.to(dtype)
        if isinstance(box, list | tuple):
            return type(box)(converted[0].tolist())
        converted = converted.reshape(*box.shape[:-1], converted.shape[-1])
        return converted.numpy() if isinstance(box, np.ndarray) else converted


def _is_relative(mode: BoxMode) -> bool:
    return mode in (BoxMode.XYXY_REL, BoxMode.XYWH_REL)


def _as_rows(box: Any, mode: BoxMode) -> tuple[Tensor, torch.dtype]:
    """The boxes as ``(N, 4)`` or ``(N, 5)``, and the dtype that the result shall have."""
    width = 5 if mode == BoxMode.XYWHA_ABS else 4
    if isinstance(box, list | tuple):
        if len(box) != width or not all(np.ndim(number) == 0 for number in box):
            raise ValueError(f"A box in {mode.name} as a list or tuple has {width} numbers, got {box!r}.")
        dtype = torch.int64 if all(isinstance(number, int) for number in box) else torch.float64
        return torch.tensor([[float(number) for number in box]], dtype=torch.float64), dtype
    tensor = torch.from_numpy(box) if isinstance(box, np.ndarray) else box
    if tensor.dim() == 0 or tensor.shape[-1] != width:
        raise ValueError(f"Boxes in {mode.name} have {width} numbers each, got shape {tuple(tensor.shape)}.")
    rows = tensor.reshape(-1, width)
    return (rows.double() if mode == BoxMode.XYWHA_ABS else rows), tensor.dtype


def _to_xyxy(boxes: Tensor, mode: BoxMode) -> Tensor:
    if mode == BoxMode.XYWHA_ABS:
        x, y, width, height, degrees = boxes.unbind(dim=1)
        cos, sin = (degrees * (math.pi / 180)).cos().abs(), (degrees * (math.pi / 180)).sin().abs()
        half_width, half_height = (cos * width + sin * height) / 2, (sin * width + cos * height) / 2
        return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=1)
    if mode in (BoxMode.XYWH_ABS, BoxMode.XYWH_REL):
        return torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)
    return boxes


def _from_xyxy(boxes: Tensor, mode: BoxMode) -> Tensor:
    if mode == BoxMode.XYXY_ABS or mode == BoxMode.XYXY_REL:
        return boxes
    size = boxes[:, 2:] - boxes[:, :2]
    if mode == BoxMode.XYWHA_ABS:
        return torch.cat((boxes[:, :2] + size / 2, size, torch.zeros_like(size[:, :1])), dim=1)
    return torch.cat((boxes[:, :2], size), dim=1)


def _rescaled(boxes: Tensor, image_size: tuple[int, int] | None, *, to_relative: bool) -> Tensor:
    if image_size is None:
        raise ValueError(
            "Absolute and relative boxes are converted by the image's size: give image_size=(height, width)."
        )
    height, width = image_size
    size = torch.tensor([width, height, width, height], dtype=torch.float64, device=boxes.device)
    return boxes.double() / size if to_relative else boxes.double() * size
