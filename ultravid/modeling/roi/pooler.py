"""Pools a token from the feature map for each box.

Legend: ``B`` frames, ``N`` boxes of a frame, ``D`` width of a token, ``C, h, w`` channels, height, width of the map, ``P`` cells of the
pooled map on a side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import RoIAlign

from ultravid.layers.roi_align import ROIAlign, pool_boxes

__all__ = ["FCBoxHead", "RoIPooler"]


class RoIPooler(nn.Module):
    """RoIAlign and a head that makes one token of each pooled map.

    Args:
        box_pooler: a module from the feature map and boxes ``(M, 5)`` to ``(M, C, P, P)``. RoIAlign, torchvision's or that of
            `ultravid.layers`, is not called: `pool_boxes` computes the same, in fixed shapes, from its arguments.
        head: from the pooled maps to tokens ``(M, D)``; maps ``(M, D, p, p)`` are averaged over space.
        roi_scale: factor by which boxes are enlarged about their center before pooling, to include their surroundings.
    """

    def __init__(self, *, box_pooler: nn.Module, head: nn.Module, roi_scale: float = 1.0) -> None:
        super().__init__()
        self.box_pooler = box_pooler
        self.head = head
        self.roi_scale = roi_scale

    def forward(self, feature_maps: Tensor, boxes: Tensor) -> Tensor:
        """Pool a token for each box.

        Args:
            feature_maps: ``(B, C, h, w)``.
            boxes: ``(B, N, 4)`` XYXY in pixels of the images.

        Returns:
            ``(B, N, D)``.
        """
        if self.roi_scale != 1.0:
            boxes = _enlarge(boxes, self.roi_scale)
        tokens: Tensor = self.head(self._pooled(feature_maps, boxes))
        if tokens.dim() == 4:
            tokens = tokens.mean(dim=(2, 3))
        return tokens.unflatten(0, boxes.shape[:2])

    def _pooled(self, feature_maps: Tensor, boxes: Tensor) -> Tensor:
        pooler = self.box_pooler
        if isinstance(pooler, RoIAlign | ROIAlign):
            return pool_boxes(
                feature_maps,
                boxes,
                pooler.output_size,
                pooler.spatial_scale,
                pooler.sampling_ratio,
                pooler.aligned,
            )
        frame = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
        rois = torch.cat((frame[:, None, None].expand(-1, boxes.shape[1], 1), boxes), dim=-1).flatten(0, 1)
        pooled: Tensor = pooler(feature_maps, rois)
        return pooled


class FCBoxHead(nn.Sequential):
    """A pooled map ``(N, C, P, P)`` through two linear layers to ``(N, D)``.

    Args:
        in_channels: channels of the pooled map, ``C``.
        pooled_size: its height and width, ``P``.
        dim: the width of the tokens, ``D``.
    """

    def __init__(self, *, in_channels: int, pooled_size: int, dim: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(in_channels * pooled_size**2, dim),
            nn.ReLU(),
            nn.Linear(dim, dim),
            nn.ReLU(),
        )
        self.in_channels = in_channels
        self.pooled_size = pooled_size
        self.dim = dim


def _enlarge(boxes: Tensor, factor: float) -> Tensor:
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) * (factor / 2)
    return torch.cat((center - size, center + size), dim=-1)
