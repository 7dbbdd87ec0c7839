"""Images of different sizes as one padded tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ImageList"]


class ImageList:
    """A batch ``(N, C, H, W)`` of images, padded on the right and at the bottom.

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
        """The device of the tensor."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> ImageList:
        """Pad images to one size: their largest height and width, rounded up.

        Args:
            tensors: ``(C, h, w)`` each, or ``(..., h, w)``.
            size_divisibility: height and width become multiples of it; 0 and 1 round nothing.
            pad_value: value of the pixels that are added.
            padding_constraints: ``{"size_divisibility": n}`` takes the place of the argument if that is 0;
                ``{"square_size": n}`` makes the images n pixels high and wide instead.

        Raises:
            ValueError: an image is larger than the square, or there is an unknown constraint.
        """
        constraints = dict(padding_constraints or {})
        square = constraints.pop("square_size", 0)
        divisor = size_divisibility or constraints.pop("size_divisibility", 0)
        if unknown := set(constraints) - {"size_divisibility"}:
            raise ValueError(
                f"Unknown padding constraints {sorted(unknown)}: size_divisibility and square_size are known."
            )
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        if square > 0:
            if max(height, width) > square:
                raise ValueError(f"Images of up to {height} x {width} pixels don't fit into a square of {square}.")
            height = width = square
        if divisor > 1:
            height = -(-height // divisor) * divisor
            width = -(-width // divisor) * divisor
        padded = [
            F.pad(t, (0, width - w, 0, height - h), value=pad_value) for t, (h, w) in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded), sizes)
