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
    """Predicts boxes at each cell of a feature map: the head of a one-stage detector, or the proposals of a two-stage one."""

    @abstractmethod
    def forward(self, feature_map: Tensor, organ: Tensor | None = None) -> Any:
        """Predictions at all cells.

        Args:
            feature_map: ``(B, C, h, w)``.
            organ: ``(B,)`` int64, place in `VideoDetector.organs`, for layers with a classifier per organ.

        Returns:
            A tuple of tensors, different for each head, which `losses` and `decode` take.
        """

    @abstractmethod
    def losses(self, predictions: Any, targets: Targets) -> dict[str, Tensor]:
        """Losses of ``B`` frames.

        Args:
            predictions: what `forward` returned for these frames.
            targets: their ground truth. A frame of weight 0 adds nothing to losses and normalisers.

        Returns:
            Scalars by name, ``loss_<head>_<part>``, each divided by a normaliser that is averaged over the processes.
        """

    @abstractmethod
    def decode(self, predictions: Any, image_sizes: Tensor) -> Detections:
        """``(B, K, ...)`` detections by falling score, without gradient.

        Args:
            predictions: what `forward` returned for these frames.
            image_sizes: ``(B, 2)`` float32, (height, width) in pixels before the batch was padded; boxes are clipped to it.
        """

    @abstractmethod
    def num_detections(self, image_size: tuple[int, int]) -> int:
        """``K``, the number of rows that `decode` gives: an argument of the head, capped by the number of its candidates in such an image.

        Args:
            image_size: (height, width) in pixels.
        """
