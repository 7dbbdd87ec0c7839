"""Axis-aligned boxes.

Legend: ``N``, ``M`` numbers of boxes. A box is XYXY: (x1, y1, x2, y2) in absolute pixels, x to the right and y down,
with no "+1" in a width or an area.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

__all__ = ["BoxMode", "Boxes", "pairwise_intersection", "pairwise_iou"]


class BoxMode(IntEnum):
    """How the four numbers of a box are to be read."""

    XYXY_ABS = 0
    XYWH_ABS = 1

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode) -> Any:
        """Convert a box (list or tuple of 4) or boxes ``(..., 4)`` (tensor); what goes in comes out, never in place."""
        tensor = box.clone() if isinstance(box, Tensor) else torch.as_tensor(box, dtype=torch.float64)
        if tensor.shape[-1] != 4:
            raise ValueError(f"A box has 4 numbers, got shape {tuple(tensor.shape)}.")
        form = {BoxMode.XYXY_ABS: "xyxy", BoxMode.XYWH_ABS: "xywh"}
        out = box_convert(tensor.reshape(-1, 4), form[from_mode], form[to_mode]).reshape(tensor.shape)
        return out if isinstance(box, Tensor) else type(box)(out.tolist())


class Boxes:
    """``N`` boxes as a float32 tensor ``(N, 4)``, with what is done to boxes all the time.

    Attributes:
        tensor: ``(N, 4)`` float32, XYXY.
    """

    def __init__(self, tensor: Tensor | Sequence[Sequence[float]]) -> None:
        boxes = torch.as_tensor(tensor, dtype=torch.float32)
        if boxes.numel() == 0:
            boxes = boxes.reshape(-1, 4)
        if boxes.dim() != 2 or boxes.shape[-1] != 4:
            raise ValueError(f"Boxes need shape (N, 4), got {tuple(boxes.shape)}.")
        self.tensor = boxes

    def clone(self) -> Boxes:
        """A copy that shares nothing."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes:
        """The boxes on a device."""
        return Boxes(self.tensor.to(device))

    def area(self) -> Tensor:
        """``(N,)`` areas in square pixels."""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return size[:, 0] * size[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to an image of (height, width): x to [0, width], y to [0, height]."""
        height, width = box_size
        if not torch.isfinite(self.tensor).all():
            raise FloatingPointError("Boxes to clip hold a nan or an infinite number.")
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=-1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """``(N,)`` bool: both sides are longer than ``threshold`` pixels."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """``(N,)`` bool: the box lies in an image of (height, width), give or take the threshold in pixels."""
        height, width = box_size
        low = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        limit = self.tensor.new_tensor([width, height]) + boundary_threshold
        return low & (self.tensor[:, 2:] < limit).all(dim=1)

    def get_centers(self) -> Tensor:
        """``(N, 2)`` x and y of the centres."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x and y in place."""
        self.tensor = self.tensor * self.tensor.new_tensor([scale_x, scale_y, scale_x, scale_y])

    @staticmethod
    def cat(boxes_list: Sequence[Boxes]) -> Boxes:
        """All boxes in order."""
        return Boxes(torch.cat([b.tensor for b in boxes_list])) if boxes_list else Boxes([])

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        """The chosen boxes as `Boxes`; an int gives one box, still ``(1, 4)``."""
        chosen = self.tensor[item]
        return Boxes(chosen.reshape(1, 4) if isinstance(item, int) else chosen)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """``(N, M)`` intersections in square pixels."""
    a, b = boxes1.tensor, boxes2.tensor
    size = torch.min(a[:, None, 2:], b[None, :, 2:]) - torch.max(a[:, None, :2], b[None, :, :2])
    return size.clamp(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """``(N, M)`` intersection over union; 0 where two boxes do not meet, also when both are empty."""
    inter = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area()[None, :] - inter
    return torch.where(inter > 0, inter / union, inter.new_zeros(()))
