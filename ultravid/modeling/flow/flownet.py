"""FlowNet-S as deep feature flow uses it.

Sources: Dosovitskiy et al., "FlowNet: learning optical flow with convolutional networks", ICCV 2015, figure 2 (the simple network); Zhu et
al., "Deep feature flow for video recognition", CVPR 2017 (the scale map; 20 pixels for one unit of flow).

Legend: ``P`` pairs of frames, ``C`` channels of the feature maps that the flow warps. Level ``l`` has a stride of ``2 ** l`` reduced pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.modeling.flow.base import Flow, FlowEstimator
from ultravid.modeling.map_size import map_size
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["FlowNet"]

_KERNELS = (7, 5, 5)  # of the first levels; 3 in all others
_UNIT = 20.0  # pixels of the network's input for one unit of its output


class FlowNet(FlowEstimator):
    """FlowNet-S on images that are averaged over cells first, with a scale map beside the flow.

    The network reaches ``reduction * 2 ** num_levels`` pixels of the image, 256 as published: images of 128 px need fewer levels.

    Args:
        channels: width of each level's convolutions.
        num_levels: number of levels, at least 2; only so many of ``channels`` are used.
        reduction: side of the cells in pixels over which images are averaged.
        output_reduction: side of the cells of level 2 over which its features are averaged before the last layers.
        scale_channels: ``C``; 0 for no scale map.
        flow_unit: pixels of the image that one unit of the last layer stands for; None: 20 reduced pixels. The published detectors
            have 40 at a reduction of 4 (2.5 cells of a map of stride 16), where 80 would be right.
        image_divisor: by which the normalised images are divided; the published detectors have 255, as if they were raw ones.
        freeze: the network is not trained. The published detectors mean to freeze theirs but train it.

    Raises:
        ValueError: ``num_levels`` is below 2 or above the number of ``channels``.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 512, 1024),
        num_levels: Positive = 6,
        reduction: Positive = 4,
        output_reduction: Positive = 4,
        scale_channels: NotNegative = 256,
        flow_unit: float | None = None,
        image_divisor: float = 1.0,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        if not 2 <= num_levels <= len(channels):
            raise ValueError(
                f"num_levels={num_levels} must be at least 2 and at most {len(channels)}, the number of channels."
            )
        self.reduction = reduction
        self.output_reduction = output_reduction
        self.flow_unit = _UNIT * reduction if flow_unit is None else flow_unit
        self.image_divisor = image_divisor
        widths = (6, *channels[:num_levels])
        self.levels = nn.ModuleDict(
            {str(level): _level(level, *widths[level - 1 : level + 1]) for level in range(1, num_levels + 1)}
        )
        self.refinements = nn.ModuleDict()
        width = widths[num_levels]
        for level in range(num_levels - 1, 1, -1):
            self.refinements[str(level)] = _Refinement(width, widths[level - 1])
            width = widths[level] + widths[level - 1] + 2
        self.flow = nn.Conv2d(width, 2, 3, padding=1)
        self.scale_channels = scale_channels or None
        self.scale = nn.Conv2d(width, scale_channels, 1, bias=False) if scale_channels else None
        # Training starts from maps that are neither moved nor scaled.
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]  # it has one
        if self.scale is not None:
            nn.init.zeros_(self.scale.weight)
        if freeze:
            self.requires_grad_(False)

    def reduced_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """``(3, ceil(H / reduction), ceil(W / reduction))`` for an ``image_size`` of (H, W) pixels."""
        return 3, *map_size(image_size, self.reduction)

    def reduce(self, images: Tensor) -> Tensor:
        """As `FlowEstimator.reduce`: the mean of each channel of ``images`` over each cell."""
        return _cell_means(images / self.image_divisor, self.reduction)

    def forward(self, target: Tensor, source: Tensor) -> Flow:
        """As `FlowEstimator.forward`, for ``target`` and ``source`` ``(P, 3, h, w)``. The flow is coarser than the reduced images."""
        x = torch.cat((target, source), dim=1)
        skips = []
        for level in self.levels.values():
            x = level(x)
            skips.append(x)
        for refinement, skip in zip(self.refinements.values(), reversed(skips[1:-1]), strict=True):
            x = refinement(x, skip)
        x = _cell_means(x, self.output_reduction)
        scale = None if self.scale is None else self.scale(x) + 1.0
        return Flow(self.flow(x) * self.flow_unit, scale)


class _Refinement(nn.Module):
    """From the features of one level to those of the next finer one: its own, the upsampled ones, and their flow, upsampled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.flow = nn.Conv2d(in_channels, 2, 3, padding=1)
        self.upsample_flow = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)
        self.upsample = _initialized(nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``(P, in_channels, h, w)`` and the finer features ``(P, c, 2 h or 2 h - 1, ...)`` to ``(P, c + out_channels + 2, ...)``."""
        height, width = skip.shape[-2:]
        features = F.leaky_relu(self.upsample(x), 0.1)[..., :height, :width]
        return torch.cat((skip, features, self.upsample_flow(self.flow(x))[..., :height, :width]), dim=1)


def _level(level: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """A convolution of stride 2; from the third level on another one behind it."""
    kernel = _KERNELS[level - 1] if level <= len(_KERNELS) else 3
    layers: list[nn.Module] = [
        _initialized(nn.Conv2d(in_channels, out_channels, kernel, stride=2, padding=kernel // 2)),
        nn.LeakyReLU(0.1),
    ]
    if level > 2:
        layers += [_initialized(nn.Conv2d(out_channels, out_channels, 3, padding=1)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def _initialized(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _cell_means(x: Tensor, side: int) -> Tensor:
    return x if side == 1 else F.avg_pool2d(x, side, side, ceil_mode=True)
