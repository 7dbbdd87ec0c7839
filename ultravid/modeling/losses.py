"""Losses and their normalisers that several heads share."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from ultravid.utils import comm

__all__ = ["mean_over_processes"]


@torch.no_grad()
def mean_over_processes(count: Tensor, minimum: float = 1.0) -> Tensor:
    """A normaliser such as a number of positives, averaged over the processes of a distributed run, and at least ``minimum``.

    DDP averages gradients, so sums that are divided by this have the gradient of one process that has all clips.

    Args:
        count: ``()``; the same number of calls must be made in every process.
        minimum: lower bound of the mean.
    """
    count = count.detach().float().clone()
    if comm.get_world_size() > 1:
        distributed.all_reduce(count)
        count /= comm.get_world_size()
    return count.clamp(min=minimum)
