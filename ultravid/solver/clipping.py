"""Gradient clipping that `torch.nn.utils` does not have."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["clip_each_grad_norm_"]


@torch.no_grad()
def clip_each_grad_norm_(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> None:
    """Scale the gradient of each parameter to a norm of at most ``max_norm``; detectron2's ``CLIP_TYPE: norm``.

    `torch.nn.utils.clip_grad_norm_` scales the gradients of all parameters together, `torch.nn.utils.clip_grad_value_` limits
    each number.

    Args:
        parameters: those without a gradient are skipped.
        max_norm: limit of the norm.
        norm_type: p of the p-norm.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norms = torch._foreach_norm(gradients, norm_type)
    factors = [(max_norm / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
    torch._foreach_mul_(gradients, factors)
