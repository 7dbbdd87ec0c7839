"""Convolution with its norm and activation in one module, so that their parameters share a prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ultravid.layers.batch_norm import get_norm

__all__ = ["Conv2d", "c2_msra_fill", "get_norm"]


class Conv2d(nn.Conv2d):
    """``activation(norm(conv(x)))``; the norm's parameters are named ``norm.`` under the convolution's own prefix.

    Args:
        in_channels: as of `torch.nn.Conv2d`, and so all that follow but the last two.
        out_channels: number of channels of the output.
        kernel_size: height and width of the kernel.
        stride: cells from one place of the kernel to the next.
        padding: cells that are added on each side, or "same" or "valid".
        dilation: cells from one element of the kernel to the next.
        groups: groups of channels that do not see each other.
        bias: whether each output channel has a bias; with a norm after it, it needs none.
        padding_mode: value of the cells that are added.
        norm: applied to the convolution's output; None for no norm.
        activation: applied last; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out_channels, H', W')``."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def c2_msra_fill(module: nn.Conv2d) -> None:
    """Initialise as He et al. 2015 (fan out, ReLU), the bias with 0."""
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        torch.nn.init.zeros_(module.bias)
