"""Communication between the processes of a run. Every function also works in a single process without a group."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "all_agree",
    "all_gather",
    "gather",
    "get_local_rank",
    "get_rank",
    "get_world_size",
    "is_main_process",
    "reduce_dict",
    "shared_random_seed",
    "synchronize",
    "unwrapped",
]


_AVAILABLE = dist.is_available()


def _in_group() -> bool:
    return _AVAILABLE and dist.is_initialized()


def get_world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if _in_group() else 1


def get_rank() -> int:
    """The number of this process among all, from 0."""
    return dist.get_rank() if _in_group() else 0


def get_local_rank() -> int:
    """The number of this process among those of its machine, from 0; `launch` and torchrun set it."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _in_group() else 0


def is_main_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until all processes have called this."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather(data: Any) -> list[Any]:
    """The objects of all processes, by rank, in every process; anything that pickles.

    Args:
        data: the object of this process.
    """
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered


def gather(data: Any, dst: int = 0) -> list[Any]:
    """The objects of all processes, by rank, in process ``dst``; an empty list in the others.

    Args:
        data: the object of this process.
        dst: the rank of the process that gets them.
    """
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] | None = [None] * get_world_size() if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst)
    return gathered or []


def all_agree(value: bool) -> bool:
    """Whether ``value`` is true in every process; all must call this.

    Args:
        value: what this process says.
    """
    return all(all_gather(value))


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain module of one that DDP or DataParallel wraps.

    Args:
        model: a module, which is returned itself if nothing wraps it.
    """
    return model.module if isinstance(model, DistributedDataParallel | nn.DataParallel) else model


def shared_random_seed() -> int:
    """A random number that is the same in all processes, drawn from numpy's global generator of the first one."""
    return int(all_gather(int(np.random.randint(2**31)))[0])  # noqa: NPY002  # detectron2's: who seeds numpy fixes it


@torch.no_grad()
def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """The sum (or mean) over processes of each scalar tensor; only process 0 gets the result.

    Args:
        input_dict: scalar tensors; the names are the same in all processes.
        average: whether the sums are divided by the number of processes.

    Returns:
        The reduced values by name, float32; in one process alone, ``input_dict`` itself.
    """
    world_size = get_world_size()
    if world_size < 2:
        return input_dict
    names = sorted(input_dict)
    values = torch.stack([input_dict[n].detach().float() for n in names])
    dist.reduce(values, dst=0)
    if average:
        values /= world_size
    return dict(zip(names, values, strict=True))
