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
    """Estimates the flow between two frames from reduced images, so that a stream need not keep whole ones.

    Attributes:
        is_zero: whether the flow is zero whatever the images show, so that no map needs to be warped.
    """

    is_zero = False

    @abstractmethod
    def reduced_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """(channels, height, width) of the reduced image.

        Args:
            image_size: (height, width) of the image in pixels.
        """

    @abstractmethod
    def reduce(self, images: Tensor) -> Tensor:
        """What `forward` needs of images; each image is reduced independently of the others.

        Args:
            images: ``(B, 3, H, W)`` float32, normalised.

        Returns:
            ``(B, *reduced_shape)``.
        """

    @abstractmethod
    def forward(self, target: Tensor, source: Tensor) -> Flow:
        """The flow of ``P`` pairs of frames: where the content of the target lies in the source.

        Args:
            target: ``(P, *reduced_shape)``, the frames that maps are warped to.
            source: ``(P, *reduced_shape)``, the frames that the maps are of.
        """


class ZeroFlow(FlowEstimator):
    """No motion: the flow is zero. It has no weights and keeps nothing of an image."""

    is_zero = True

    def reduced_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """``(0, 1, 1)``: a reduced image is empty, whatever ``image_size`` is."""
        del image_size
        return (0, 1, 1)

    def reduce(self, images: Tensor) -> Tensor:
        """Empty images, ``(B, 0, 1, 1)``, for ``images`` ``(B, 3, H, W)``."""
        return images[:, :0, :1, :1]

    def forward(self, target: Tensor, source: Tensor) -> Flow:
        """A zero displacement ``(P, 2, 1, 1)`` without scale, for ``P`` pairs of ``target`` and ``source``."""
        del source
        return Flow(target.new_zeros((len(target), 2, 1, 1)), None)
