"""Small functions around torch's, under the names that code written for detectron2 uses.

`BatchNorm2d`, `ConvTranspose2d`, `Linear` and `interpolate` are torch's own: they take empty batches by now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import BatchNorm2d, ConvTranspose2d, Linear
from torch.nn import functional as F
from torch.nn.functional import interpolate

__all__ = [
    "BatchNorm2d",
    "ConvTranspose2d",
    "Linear",
    "cat",
    "cross_entropy",
    "empty_input_loss_func_wrapper",
    "interpolate",
    "move_device_like",
    "nonzero_tuple",
]


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat`, which gives a single tensor back uncopied.

    Args:
        tensors: at least one tensor.
        dim: the dimension along which they are joined.
    """
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Indices of what is not zero, one int64 tensor for each dimension; a scalar counts as one of length 1.

    Args:
        x: any tensor.
    """
    return (x.unsqueeze(0) if x.dim() == 0 else x).nonzero(as_tuple=True)


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """``src`` on the device of ``dst``.

    Args:
        src: the tensor to move; it is returned itself if it is there already.
        dst: any tensor on the wanted device.
    """
    return src.to(dst.device)


def empty_input_loss_func_wrapper(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss whose mean over no rows is 0, with a gradient of 0, instead of nan.

    Args:
        loss_func: takes ``(input, target, *, reduction="mean", ...)``.
    """

    def wrapped(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs: Any) -> Tensor:
        if target.numel() == 0 and reduction == "mean":
            return input.sum() * 0.0
        return loss_func(input, target, reduction=reduction, **kwargs)

    return wrapped


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)
"""`torch.nn.functional.cross_entropy`, which gives 0 with a gradient of 0 for an empty input and ``reduction="mean"``, not nan."""
