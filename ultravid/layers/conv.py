"""Convolution with its norm and activation in one module, so that their parameters share a prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ultravid.layers.batch_norm import get_norm

__all__ = ["Conv2d", "c2_msra_fill", "get_norm"]


class Conv2d(nn.Conv2d):
    """``activation(norm(conv(x)))``; the norm's parameters are named ``norm.`` under the convolution's own prefix.

    Args:
        args: of `torch.nn.Conv2d`.
        norm: applied to the convolution's output; None for no norm.
        activation: applied last; None for none.
        kwargs: of `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        *args: Any,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
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
