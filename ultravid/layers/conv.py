"""Convolution with its norm and activation in one module, so that their parameters share a prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ultravid.layers.batch_norm import get_norm, scale_and_shift
from ultravid.layers.winograd import MIN_TILES, num_tiles, suits_winograd, trained_conv2d

__all__ = ["Conv2d", "c2_msra_fill", "fold_norms", "get_norm", "to_fast_layout"]


class Conv2d(nn.Conv2d):
    """``activation(norm(conv(x)))``; the norm's parameters are named ``norm.`` under the convolution's own prefix.

    In training, a frozen batch norm is folded into the convolution: one operation with scaled weights and a bias, which gives the same
    but for rounding. Gradients flow through the scaling. On a CPU in float32, large 3x3 convolutions are then computed by
    `ultravid.layers.winograd`, as those without a norm are. In evaluation the two are computed one after the other, as the code that
    published weights come from computes them; `fold_norm` folds for good, as `prepare_for_inference` does.

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
        """``(N, out_channels, H', W')`` of ``x`` ``(N, in_channels, H, W)``."""
        if not self.training:
            x = self._conv_forward(x, self.weight, self.bias)
            x = x if self.norm is None else self.norm(x)
        elif self.norm is None:
            x = self._trained_conv(x, self.weight, self.bias)
        elif (folded := self._folded()) is not None:
            x = self._trained_conv(x, *folded)
        else:
            x = self.norm(self._conv_forward(x, self.weight, self.bias))
        return x if self.activation is None else self.activation(x)

    def _trained_conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and suits_winograd(self)
            and num_tiles(x) >= MIN_TILES
        ):
            return trained_conv2d(x, weight, bias)
        return self._conv_forward(x, weight, bias)

    def _folded(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of the convolution that includes the norm; None if the norm depends on its input."""
        affine = scale_and_shift(self.norm)
        if affine is None:
            return None
        scale, shift = affine
        bias = shift if self.bias is None else shift + self.bias * scale
        return self.weight * scale[:, None, None, None], bias

    def fold_norm(self) -> None:
        """Fold the norm into weight and bias, in place, if it does not depend on its input; these then get no gradient any more."""
        with torch.no_grad():
            folded = self._folded()
        if folded is not None:
            self.weight, self.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in folded)
            self.norm = None


def fold_norms(module: nn.Module) -> None:
    """Fold the norms of all `Conv2d` in a module, in place; see `Conv2d.fold_norm`."""
    for conv in module.modules():
        if isinstance(conv, Conv2d):
            conv.fold_norm()


def to_fast_layout(x: Tensor, module: nn.Module) -> Tensor:
    """``(N, C, H, W)`` in the layout in memory that the convolutions of a module are the fastest for.

    That is channels-last if their weights are (`prepare_for_inference` makes them so; on a CPU a forward pass then takes 0.8 of the time),
    on CUDA, and in frozen parts of a model in training. In other training on a CPU the backward pass gains nothing from it, and oneDNN 3.12
    (torch 2.14) writes out of bounds for few channels then.
    """
    parameters = list(module.parameters())
    trained = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters))
    if x.device.type == "cpu" and (trained or not (module.training or any(map(_is_channels_last, parameters)))):
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)


def _is_channels_last(weight: Tensor) -> bool:
    return weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def c2_msra_fill(module: nn.Conv2d) -> None:
    """Initialise as He et al. 2015 (fan out, ReLU), the bias with 0."""
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        torch.nn.init.zeros_(module.bias)
