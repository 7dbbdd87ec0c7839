"""The contract of heads that predict at each cell of a feature map.

Legend: ``B`` frames, ``C, h, w`` channels, height, width of a feature map, ``K`` rows of detections.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ultravid.modeling.types import Detections, Targets

__all__ = ["DenseHead"]


class DenseHead(nn.Module, ABC):
    """From a feature map to boxes: the head of a one-stage detector, or the proposals of a two-stage one."""

    @abstractmethod
    def forward(self, feature_map: Tensor, organ: Tensor | None = None) -> Any:
        """Predictions, a tuple of tensors of the head's own, of ``(B, C, h, w)``.

        Args:
            feature_map: ``(B, C, h, w)``.
            organ: ``(B,)`` int64, place in `VideoDetector.organs`, for layers with a classifier per organ.
        """

    @abstractmethod
    def losses(self, predictions: Any, targets: Targets) -> dict[str, Tensor]:
        """Losses of ``B`` frames, divided by normalisers that are averaged over the processes."""

    @abstractmethod
    def decode(self, predictions: Any, image_sizes: Tensor) -> Detections:
        """``(B, K, ...)`` detections, without gradient.

        Args:
            predictions: the predictions of `forward`.
            image_sizes: ``(B, 2)`` float32, (height, width) in pixels.
        """

    @abstractmethod
    def num_detections(self, image_size: tuple[int, int]) -> int:
        """``K`` for images of (height, width) pixels: the argument of the head, capped by what such an image can give."""
