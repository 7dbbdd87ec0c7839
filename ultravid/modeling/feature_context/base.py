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
        """The state before the first frame of a stream; ``{}`` for a part without memory.

        Args:
            image_size: (height, width) of the stream's images in pixels.
            device: device of the state; None: the CPU.
        """
        del image_size, device
        return {}

    @abstractmethod
    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """All frames of clips at once.

        Args:
            maps: ``(B, T, C, h, w)``.
            images: ``(B, T, 3, H, W)`` float32, normalised.
            frame_valid: ``(B, T)`` bool, False for frames that pad a short clip; they must not influence other frames.

        Returns:
            ``(B, T, C, h, w)``.
        """

    def training_clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """`clip` in training, with the same arguments and result. A part that computes a random subset of the frames draws it here."""
        return self.clip(maps, images, frame_valid)

    @abstractmethod
    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        """The next frame of a stream.

        Args:
            feature_map: ``(1, C, h, w)``.
            image: ``(1, 3, H, W)`` float32, normalised.
            state: from `initial_state` or the previous step; it must not be written to.

        Returns:
            ``(1, C, h, w)``, and the next state, with the same keys, shapes and dtypes.
        """


class NoFeatureContext(FeatureContext):
    """No relation between frames: feature maps are returned unchanged."""

    relates_frames = False

    def clip(self, maps: Tensor, images: Tensor, frame_valid: Tensor) -> Tensor:
        """Return ``maps`` unchanged."""
        del images, frame_valid
        return maps

    def step(self, feature_map: Tensor, image: Tensor, state: State) -> tuple[Tensor, State]:
        """Return ``feature_map`` and ``state`` unchanged."""
        del image
        return feature_map, state
