"""Axis-aligned boxes.

Legend: ``N``, ``M`` numbers of boxes. A box is XYXY: (x1, y1, x2, y2) in absolute pixels, x to the right and y down,
with no "+1" in a width or an area.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ultravid.structures.box_mode import BoxMode

__all__ = [
    "BoxMode",
    "Boxes",
    "matched_pairwise_iou",
    "pairwise_intersection",
    "pairwise_ioa",
    "pairwise_iou",
    "pairwise_point_box_distance",
]


class Boxes:
    """``N`` boxes as a float32 tensor ``(N, 4)``, with the operations that boxes need all the time.

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
        """A copy with its own memory."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes:
        """The boxes on a device."""
        return Boxes(self.tensor.to(device))

    def area(self) -> Tensor:
        """``(N,)`` areas in square pixels."""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return size[:, 0] * size[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to an image of (height, width): x to [0, width], y to [0, height].

        Args:
            box_size: height and width of the image in pixels.

        Raises:
            FloatingPointError: a coordinate is nan or infinite.
        """
        height, width = box_size
        if not torch.isfinite(self.tensor).all():
            raise FloatingPointError("Boxes can't be clipped: a coordinate is nan or infinite.")
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=-1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """``(N,)`` bool: both sides are longer than ``threshold`` pixels."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """``(N,)`` bool: the box lies in an image of (height, width), widened by the threshold in pixels on each side.

        The right and the lower side must be smaller than the image's, not equal to them.

        Args:
            box_size: height and width of the image in pixels.
            boundary_threshold: by how many pixels a box may be outside.
        """
        height, width = box_size
        low = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        limit = self.tensor.new_tensor([width, height]) + boundary_threshold
        return low & (self.tensor[:, 2:] < limit).all(dim=1)

    def get_centers(self) -> Tensor:
        """``(N, 2)`` x and y of the centres."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x by ``scale_x`` and y by ``scale_y``, in place."""
        self.tensor = self.tensor * self.tensor.new_tensor([scale_x, scale_y, scale_x, scale_y])

    @staticmethod
    def cat(boxes_list: Sequence[Boxes]) -> Boxes:
        """The boxes of all parts in order; of no parts, no boxes.

        Args:
            boxes_list: the parts.
        """
        return Boxes(torch.cat([b.tensor for b in boxes_list])) if boxes_list else Boxes([])

    @property
    def device(self) -> torch.device:
        """The device of the tensor."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        """The boxes that ``item`` (an int, a slice, indices or a bool mask) chooses, as `Boxes`; an int gives one box, still ``(1, 4)``."""
        chosen = self.tensor[item]
        return Boxes(chosen.reshape(1, 4) if isinstance(item, int) else chosen)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """``(N, M)`` areas of the intersections in square pixels.

    Args:
        boxes1: ``N`` boxes.
        boxes2: ``M`` boxes.
    """
    a, b = boxes1.tensor, boxes2.tensor
    size = torch.min(a[:, None, 2:], b[None, :, 2:]) - torch.max(a[:, None, :2], b[None, :, :2])
    return size.clamp(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """``(N, M)`` intersection over union; 0 if two boxes do not overlap, also if both are empty.

    Args:
        boxes1: ``N`` boxes.
        boxes2: ``M`` boxes.
    """
    inter = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area()[None, :] - inter
    return torch.where(inter > 0, inter / union, inter.new_zeros(()))


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """``(N, M)`` intersection over the area of the second box: the share of it that the first covers; 0 without overlap.

    Args:
        boxes1: ``N`` boxes.
        boxes2: ``M`` boxes.
    """
    inter = pairwise_intersection(boxes1, boxes2)
    return torch.where(inter > 0, inter / boxes2.area()[None, :], inter.new_zeros(()))


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """``(N,)`` intersection over union of the first box of each with the other's first, and so on; 0 without overlap.

    Args:
        boxes1: ``N`` boxes.
        boxes2: ``N`` boxes in the same order.

    Raises:
        ValueError: there are not as many boxes of one as of the other.
    """
    if len(boxes1) != len(boxes2):
        raise ValueError(f"Boxes are matched one by one, got {len(boxes1)} and {len(boxes2)}.")
    a, b = boxes1.tensor, boxes2.tensor
    inter = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    return torch.where(inter > 0, inter / (boxes1.area() + boxes2.area() - inter), inter.new_zeros(()))


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """``(P, N, 4)`` distances in pixels from points ``(P, 2)`` to the left, upper, right and lower side of each box.

    All four are positive if the point lies inside.

    Args:
        points: ``(P, 2)`` x and y in pixels.
        boxes: ``N`` boxes.
    """
    x, y = points[:, None, :].unbind(dim=2)
    x1, y1, x2, y2 = boxes.tensor[None].unbind(dim=2)
    return torch.stack((x - x1, y - y1, x2 - x, y2 - y), dim=2)
