"""Feature maps of one frame, moved to where their content lies in another.

Source: Zhu et al., "Deep feature flow for video recognition", CVPR 2017, equations 3 and 4.

Legend: ``P`` pairs of frames, ``C, h, w`` channels, height, width of a feature map; a cell is one place of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.modeling.flow.base import FlowEstimator
from ultravid.modeling.map_size import map_size
from ultravid.utils.limits import Positive

__all__ = ["FlowWarp", "warp_maps"]


def warp_maps(maps: Tensor, displacement: Tensor, mixed_corners: bool = False) -> Tensor:
    """Sample each map at the places that a flow points to: bilinear; what lies outside is the nearest border.

    Args:
        maps: ``(P, C, h, w)``.
        displacement: ``(P, 2, h, w)``, x and y, in cells.
        mixed_corners: as in the published code, the grid is laid out for ``align_corners=True`` but sampled with
            ``align_corners=False``, so that a map without flow is enlarged a little about its center, by ``w / (w - 1)``.

    Returns:
        ``(P, C, h, w)``, at each cell ``p`` the map at ``p + displacement``.
    """
    height, width = maps.shape[-2:]
    y = torch.arange(height, dtype=torch.float32, device=maps.device)[:, None]
    x = torch.arange(width, dtype=torch.float32, device=maps.device)
    moved = displacement.float()
    half = (max(width - 1, 1) / 2, max(height - 1, 1) / 2)
    grid = torch.stack(((moved[:, 0] + x) / half[0] - 1.0, (moved[:, 1] + y) / half[1] - 1.0), dim=-1)
    sampled = F.grid_sample(maps.float(), grid, padding_mode="border", align_corners=not mixed_corners)
    return sampled.to(maps.dtype)


class FlowWarp(nn.Module):
    """A flow estimator and the sampling of feature maps by its flow.

    Args:
        estimator: estimates the flow.
        map_stride: pixels of the image in a cell of the maps.
        mixed_corners: see `warp_maps`; the published code also resizes the flow from corner to corner.
    """

    def __init__(self, *, estimator: FlowEstimator, map_stride: Positive, mixed_corners: bool = False) -> None:
        super().__init__()
        self.estimator = estimator
        self.map_stride = map_stride
        self.mixed_corners = mixed_corners

    @property
    def by_frame(self) -> bool:
        """Whether a warped map does not depend on the frame that it is warped to."""
        return self.estimator.is_zero

    def map_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the feature maps in cells, for an ``image_size`` of (height, width) in pixels."""
        return map_size(image_size, self.map_stride)

    def reduced_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """As `FlowEstimator.reduced_shape`: (channels, height, width) of what the flow needs of an image.

        Args:
            image_size: (height, width) of the image in pixels.
        """
        return self.estimator.reduced_shape(image_size)

    def reduce(self, images: Tensor) -> Tensor:
        """As `FlowEstimator.reduce`: what the flow needs of normalised ``images`` ``(B, 3, H, W)``, ``(B, *reduced_shape)``."""
        return self.estimator.reduce(images)

    def forward(self, maps: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Warp the maps of source frames to target frames.

        Args:
            maps: ``(P, C, h, w)`` of the source frames.
            target: ``(P, ...)`` reduced images, from `reduce`.
            source: ``(P, ...)`` reduced images.

        Returns:
            ``(P, C, h, w)``.
        """
        if self.estimator.is_zero:
            if not self.mixed_corners:
                return maps
            return warp_maps(maps, maps.new_zeros((1, 2, *maps.shape[-2:])).expand(len(maps), -1, -1, -1), True)
        flow = self.estimator(target, source)
        warped = warp_maps(maps, self._resized(flow.displacement / self.map_stride, maps), self.mixed_corners)
        return warped if flow.scale is None else warped * self._resized(flow.scale, maps)

    def _resized(self, field: Tensor, maps: Tensor) -> Tensor:
        if field.shape[-2:] == maps.shape[-2:]:
            return field
        return F.interpolate(field, maps.shape[-2:], mode="bilinear", align_corners=self.mixed_corners)
