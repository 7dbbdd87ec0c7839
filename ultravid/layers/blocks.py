"""Blocks that backbones are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

from ultravid.layers.batch_norm import FrozenBatchNorm2d, get_norm
from ultravid.layers.conv import Conv2d, c2_msra_fill

__all__ = ["CNNBlockBase", "DepthwiseSeparableConv2d"]


class CNNBlockBase(nn.Module):
    """The base of a block that maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``.

    Args:
        in_channels: the number of channels of the input.
        out_channels: the number of channels of the output.
        stride: the stride of the whole block.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> Self:
        """Stop the block's learning: no parameter gets a gradient, and each batch norm becomes a frozen one."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class DepthwiseSeparableConv2d(nn.Module):
    """A convolution of each channel by itself, then a 1x1 convolution over the channels (Chollet, "Xception", CVPR 2017).

    Args:
        in_channels: the number of channels of the input.
        out_channels: the number of channels of the output.
        kernel_size: the kernel size of the first convolution.
        padding: the padding of the first convolution.
        dilation: the dilation of the first convolution.
        norm1: after the first convolution, as for `get_norm`.
        activation1: after the first norm.
        norm2: after the second convolution.
        activation2: after the second norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1: str | Callable[[int], nn.Module] | None = None,
        activation1: Callable[[Tensor], Tensor] | None = None,
        norm2: str | Callable[[int], nn.Module] | None = None,
        activation2: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=not norm1,
            norm=get_norm(norm1, in_channels),
            activation=activation1,
        )
        self.pointwise = Conv2d(
            in_channels, out_channels, 1, bias=not norm2, norm=get_norm(norm2, out_channels), activation=activation2
        )
        c2_msra_fill(self.depthwise)
        c2_msra_fill(self.pointwise)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, out_channels, H', W')`` of ``x`` ``(N, in_channels, H, W)``."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out
