"""Code that the families share: feature maps from images.

Legend: ``B`` clips or frames, ``T`` frames of a clip, ``C, h, w`` channels, height, width of a feature map, ``H, W`` of an image in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["clip_maps", "image_sizes"]


def clip_maps(backbone: nn.Module, images: Tensor, checkpointed: bool = False) -> Tensor:
    """``(B, T, C, h, w)`` of ``(B, T, 3, H, W)``, all frames in one batch; ``checkpointed`` computes them twice."""
    frames = images.flatten(0, 1)
    maps: Tensor = checkpoint(backbone, frames, use_reentrant=False) if checkpointed else backbone(frames)
    return maps.unflatten(0, images.shape[:2])


def image_sizes(images: Tensor) -> Tensor:
    """``(B, 2)`` float32 (height, width) in pixels of ``(B, 3, H, W)``."""
    size = torch.tensor(images.shape[-2:], dtype=torch.float32, device=images.device)
    return size.expand(len(images), 2)
