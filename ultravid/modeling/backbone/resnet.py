"""ResNets of basic blocks (He et al., "Deep residual learning for image recognition", CVPR 2016, table 1).

torchvision's ResNets have the same blocks under other names, and always four stages of fixed widths. Detectors of
lesions end at the third stage, freeze the first ones, and are tested at a quarter of the width. `ultravid.checkpoint` reads
torchvision's weights into these names.

Legend: ``N`` images, ``C, H, W`` channels, height, width; ``s`` the stride of the last stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import Conv2d, FrozenBatchNorm2d, get_norm
from ultravid.layers.conv import c2_msra_fill

__all__ = ["BasicBlock", "ResNet", "make_stage"]

Norm = str | Callable[[int], nn.Module] | None

_BLOCKS_BY_DEPTH = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution with ``project``, a stride, or another width."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: Norm = "BN",
        project: bool = False,
    ) -> None:
        super().__init__()
        self.shortcut = (
            Conv2d(
                in_channels,
                out_channels,
                1,
                stride=stride,
                bias=False,
                norm=get_norm(norm, out_channels),
            )
            if project or stride != 1 or in_channels != out_channels
            else None
        )
        self.conv1 = Conv2d(
            in_channels,
            out_channels,
            3,
            stride=stride,
            padding=1,
            bias=False,
            norm=get_norm(norm, out_channels),
        )
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, bias=False, norm=get_norm(norm, out_channels))
        for conv in (self.conv1, self.conv2, self.shortcut):
            if conv is not None:
                c2_msra_fill(conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out_channels, H / stride, W / stride)``, rounded up."""
        out = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


def make_stage(
    num_blocks: int,
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    norm: Norm,
    project: bool = False,
) -> nn.Sequential:
    """Basic blocks in a row; the first has the stride, and with ``project`` always a 1x1 shortcut."""
    first = BasicBlock(in_channels, out_channels, stride=stride, norm=norm, project=project)
    rest = [BasicBlock(out_channels, out_channels, norm=norm) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)


class ResNet(nn.Module):
    """A stem and stages of basic blocks; the last stage's map is the feature.

    Args:
        depth: 18 or 34, which sets the number of blocks of each stage. Give either this or ``num_blocks``.
        num_blocks: number of blocks of each stage, the first of which is ``res2``.
        channels: width of each stage; their number is the number of stages.
        strides: stride of each stage, after the stem's stride of 4.
        stem_channels: width of the 7x7 stem.
        norm: name of a norm, as for `ultravid.layers.get_norm`.
        freeze_at: 0 freezes nothing, 1 the stem, 2 the stem and res2, and so on: parameters get no gradient, and batch norm
            becomes frozen batch norm.

    Raises:
        ValueError: neither or both of ``depth`` and ``num_blocks`` are given, or the depth is unknown.
    """

    def __init__(
        self,
        *,
        depth: int | None = None,
        num_blocks: Sequence[int] | None = None,
        channels: Sequence[int] = (64, 128, 256),
        strides: Sequence[int] = (1, 2, 2),
        stem_channels: int = 64,
        norm: Norm = "FrozenBN",
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        if (depth is None) == (num_blocks is None):
            raise ValueError("ResNet needs either depth or num_blocks.")
        if depth is not None and depth not in _BLOCKS_BY_DEPTH:
            raise ValueError(f"ResNet of basic blocks has depth 18 or 34, got {depth}.")
        blocks = tuple(num_blocks) if num_blocks is not None else _BLOCKS_BY_DEPTH[depth or 0]
        if len(channels) > len(blocks) or len(strides) != len(channels):
            raise ValueError(
                f"{len(channels)} channels, {len(strides)} strides and {len(blocks)} num_blocks don't fit together."
            )
        self.stem = nn.Module()
        self.stem.conv1 = Conv2d(
            3,
            stem_channels,
            7,
            stride=2,
            padding=3,
            bias=False,
            norm=get_norm(norm, stem_channels),
            activation=F.relu,
        )
        c2_msra_fill(self.stem.conv1)
        width = stem_channels
        self.stage_names = [f"res{i + 2}" for i in range(len(channels))]
        for name, num, out, stride in zip(self.stage_names, blocks, channels, strides, strict=False):
            self.add_module(name, make_stage(num, width, out, stride=stride, norm=norm))
            width = out
        self.out_channels = width
        self.stride = 4
        for stride in strides:
            self.stride *= stride
        self.freeze(freeze_at)

    def freeze(self, freeze_at: int) -> Self:
        """Freeze the stem (1), the stem and res2 (2), and so on."""
        for module in [self.stem, *(self.get_submodule(n) for n in self.stage_names)][:freeze_at]:
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(module)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, C, ceil(H / s), ceil(W / s))``: each stride of 2 rounds up."""
        x = F.max_pool2d(self.stem.get_submodule("conv1")(x), 3, stride=2, padding=1)
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return x
