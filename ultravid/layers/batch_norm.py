"""Batch norm that does not learn, batch norm over all processes, and norms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torchvision.ops import FrozenBatchNorm2d as _FrozenBatchNorm2d

from ultravid.utils import comm

__all__ = ["FrozenBatchNorm2d", "NaiveSyncBatchNorm", "get_norm", "scale_and_shift"]


class FrozenBatchNorm2d(_FrozenBatchNorm2d):
    """Batch norm whose scale, shift, mean and variance are buffers that stay as they are, also in training.

    The names of the buffers are those of `torch.nn.BatchNorm2d`. Like torchvision's class, from which it derives, it computes in
    float32: a half-precision input gives a float32 output.
    """

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace each batch norm in a module, in place, by a frozen one with its values.

        Returns:
            the module itself, or its replacement if it is a batch norm.
        """
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            frozen = cls(module.num_features, eps=module.eps)
            frozen.load_state_dict(module.state_dict(), strict=False)
            return frozen if module.running_mean is None else frozen.to(module.running_mean.device)
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, made of differentiable sums; it works on the CPU and takes empty batches.

    `torch.nn.SyncBatchNorm` is faster, but only for CUDA.

    Args:
        stats_mode: "" gives every process the same weight, which is right if all have equally many pixels; "N" weighs by
            the number of images, and admits processes without any.
        args: the arguments of `torch.nn.BatchNorm2d`.
        kwargs: the keyword arguments of `torch.nn.BatchNorm2d`.

    Raises:
        ValueError: ``stats_mode`` is neither of the two.
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if stats_mode not in ("", "N"):
            raise ValueError(f"stats_mode={stats_mode!r} is neither '' nor 'N'.")
        self.stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        """The normalised ``input`` ``(B, C, H, W)``, in its shape and dtype; in training every process must call it.

        Raises:
            ValueError: in training with several processes, the batch is empty and ``stats_mode`` is "".
        """
        if not self.training or comm.get_world_size() == 1:
            return super().forward(input)
        if self.stats_mode == "" and len(input) == 0:
            raise ValueError("NaiveSyncBatchNorm got a batch without images; stats_mode='N' allows that.")
        x = input.float()
        share = float(len(x)) if self.stats_mode == "N" else 1.0
        mean, variance, total = _global_statistics(x, share)
        self._update_running(mean.detach(), variance.detach(), total)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.affine:
            shift = shift + self.bias
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        momentum = momentum * (total > 0)  # if no process has an image there is nothing to learn from
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (variance - self.running_var)


def _global_statistics(x: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and (biased) variance of each channel over all processes, and the sum of the shares that they were weighted by."""
    if len(x) > 0:
        moments = torch.cat((x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))))
    else:
        moments = x.sum(dim=(0, 2, 3)).repeat(2)  # zeros that keep this process in the backward pass
    sums = all_reduce(torch.cat((moments * share, moments.new_full((1,), share))))
    total = sums[-1].detach()
    mean, mean_of_squares = (sums[:-1] / total.clamp(min=1.0)).chunk(2)
    return mean, mean_of_squares - mean * mean, total


def scale_and_shift(norm: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    """What a norm multiplies each channel by and then adds, if that does not depend on its input.

    Returns:
        ``(C,)`` and ``(C,)``, with gradients to what the norm learns; None for another module, and for a batch norm that uses the
        statistics of the batch.
    """
    if isinstance(norm, _FrozenBatchNorm2d):
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return scale, norm.bias - norm.running_mean * scale
    if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) or norm.training:
        return None
    if norm.running_mean is None or norm.running_var is None:
        return None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """A norm by its name.

    Args:
        norm: "BN", "SyncBN", "naiveSyncBN" and "naiveSyncBN_N" (`NaiveSyncBatchNorm` with ``stats_mode`` "" and "N"),
            "FrozenBN" (`FrozenBatchNorm2d`), "GN" (32 groups); "" or None for no norm; or a callable that takes the number
            of channels.
        out_channels: number of channels of the map to normalise.

    Raises:
        ValueError: the name is not one of these.
    """
    if norm is None or norm == "":
        return None
    if callable(norm):
        return norm(out_channels)
    known: dict[str, Callable[[int], nn.Module]] = {
        "BN": nn.BatchNorm2d,
        "SyncBN": nn.SyncBatchNorm,
        "naiveSyncBN": NaiveSyncBatchNorm,
        "naiveSyncBN_N": lambda c: NaiveSyncBatchNorm(c, stats_mode="N"),
        "FrozenBN": FrozenBatchNorm2d,
        "GN": lambda c: nn.GroupNorm(32, c),
    }
    if norm not in known:
        raise ValueError(f"Unknown norm {norm!r}; known are {sorted(known)}, '' and a callable.")
    return known[norm](out_channels)
