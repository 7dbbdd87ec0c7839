"""Images of several sizes as one padded tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ImageList"]


class ImageList:
    """A batch ``(N, C, H, W)`` of images that were padded at the right and at the bottom.

    Attributes:
        tensor: the padded batch.
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Image ``idx`` without its padding, ``(C, h, w)``."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, device: torch.device | str) -> ImageList:
        """The images on a device."""
        return ImageList(self.tensor.to(device), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> ImageList:
        """Pad ``(C, h, w)`` images to their largest height and width, rounded up to a multiple of the divisibility."""
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        if size_divisibility > 1:
            height = -(-height // size_divisibility) * size_divisibility
            width = -(-width // size_divisibility) * size_divisibility
        padded = [
            F.pad(t, (0, width - w, 0, height - h), value=pad_value) for t, (h, w) in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded), sizes)
