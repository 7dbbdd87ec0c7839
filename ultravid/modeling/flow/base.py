"""The contract of flow estimators.

Legend: ``P`` pairs of frames, ``B`` frames, ``H, W`` height and width of an image in pixels, ``u, v`` of a flow field, ``C`` channels of the
feature maps that the flow warps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["Flow", "FlowEstimator", "ZeroFlow"]


class Flow(NamedTuple):
    """Where the content of target frames lies in source frames.

    Attributes:
        displacement: ``(P, 2, u, v)``, x and y, in pixels of the image: the point ``p`` of the target is ``p + displacement`` in the source.
        scale: ``(P, C, u, v)``, by which a warped map is multiplied; None for 1.
    """

    displacement: Tensor
    scale: Tensor | None


class FlowEstimator(nn.Module, ABC):
    """From pairs of images to a flow, by way of reduced images, so that a stream need not keep whole ones.

    Attributes:
        is_zero: the flow is zero whatever the images show.
    """

    is_zero = False

    @abstractmethod
    def reduced_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """Shape of the reduced image for a (height, width) in pixels."""

    @abstractmethod
    def reduce(self, images: Tensor) -> Tensor:
        """``(B, *reduced_shape)``: what `forward` needs of the normalised images ``(B, 3, H, W)``, each by itself."""

    @abstractmethod
    def forward(self, target: Tensor, source: Tensor) -> Flow:
        """The flow of ``P`` pairs of reduced images."""


class ZeroFlow(FlowEstimator):
    """Nothing moves. It has no weights and keeps nothing of an image."""

    is_zero = True

    def reduced_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """An empty tensor."""
        del image_size
        return (0, 1, 1)

    def reduce(self, images: Tensor) -> Tensor:
        """``(B, 0, 1, 1)``."""
        return images[:, :0, :1, :1]

    def forward(self, target: Tensor, source: Tensor) -> Flow:
        """A flow of one cell."""
        del source
        return Flow(target.new_zeros((len(target), 2, 1, 1)), None)
