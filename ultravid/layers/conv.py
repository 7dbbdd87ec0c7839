"""Convolution with its norm and activation in one module, so that their parameters share a prefix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

__all__ = ["Conv2d", "get_norm"]


def get_norm(norm: str | Callable[[int], nn.Module] | None, channels: int) -> nn.Module | None:
    """A norm by its name.

    Args:
        norm: "BN", "SyncBN", "FrozenBN" (batch norm as four buffers, eps 1e-5), "GN" (32 groups), "" or None for none,
            or a callable that takes the number of channels.
        channels: of the map to normalise.

    Raises:
        ValueError: the name is not one of these.
    """
    if norm is None or norm == "":
        return None
    if callable(norm):
        return norm(channels)
    known: dict[str, Callable[[int], nn.Module]] = {
        "BN": nn.BatchNorm2d,
        "SyncBN": nn.SyncBatchNorm,
        "FrozenBN": FrozenBatchNorm2d,
        "GN": lambda c: nn.GroupNorm(32, c),
    }
    if norm not in known:
        raise ValueError(f"Unknown norm {norm!r}; known are {sorted(known)}, '' and a callable.")
    return known[norm](channels)


class Conv2d(nn.Conv2d):
    """``activation(norm(conv(x)))``; the norm's parameters stand under ``norm.`` of the convolution's own prefix."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
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
