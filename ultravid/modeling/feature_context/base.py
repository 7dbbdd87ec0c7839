"""Parts that add information from earlier frames to a frame's feature map.

Legend: ``B`` clips, ``T`` frames of a clip, ``C, h, w`` channels, height, width of a feature map, ``H, W`` of an image in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ultravid.modeling.types import State

__all__ = ["FeatureContext", "NoFeatureContext"]


class FeatureContext(nn.Module, ABC):
    """Turns the feature maps of frames into maps that include information from other frames. It gets no ground truth."""

    relates_frames = True
    """A frame's map depends on other frames; otherwise frames that carry no loss need not be computed."""

    def initial_state(self, image_size: tuple[int, int], device: torch.device | None = None) -> State:
        """The state before the first frame of a stream; image_size is (height, width) in pixels, device None the CPU."""
        del image_size, device
        return {}

    @abstractmethod
    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """All frames of clips at once.

        Args:
            maps: ``(B, T, C, h, w)``.
            images: ``(B, T, 3, H, W)``, normalised.
            frame_valid: ``(B, T)`` bool, False for frames that pad a short clip; they must reach no other frame.

        Returns:
            ``(B, T, C, h, w)``.
        """

    def training_clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """`clip` in training; a part that draws at random what it computes does so here, and here alone."""
        return self.clip(maps, images, frame_valid)

    @abstractmethod
    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        """The next frame of a stream: ``(1, C, h, w)`` and the image ``(1, 3, H, W)`` to ``(1, C, h, w)`` and the next state.

        Args:
            feature_map: ``(1, C, h, w)``.
            image: ``(1, 3, H, W)``, normalised.
            state: the state of the stream, which is not written to.
        """


class NoFeatureContext(FeatureContext):
    """No relation between frames: feature maps are returned unchanged."""

    relates_frames = False

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """The maps as they are."""
        del images, frame_valid
        return maps

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        """The map as it is."""
        del image
        return feature_map, state
