"""FSDP2: parameters, gradients and optimizer state in shards, one per process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ultravid.utils import comm
from ultravid.utils.errors import UserError

__all__ = ["shard_model", "unsharded"]


def shard_model(model: nn.Module, *, units: Sequence[str] = (), **kwargs: Any) -> nn.Module:
    """Shard a model in place over all processes; in one process it stays as it is.

    Args:
        model: on its device. All its parameters are gathered when it is called.
        units: names of modules whose parameters are gathered only while the module runs, which saves memory. The model has to
            call them (``backbone(x)``), not only use their parts.
        kwargs: arguments of `torch.distributed.fsdp.fully_shard`.

    Raises:
        UserError: a unit is not a module of the model.
    """
    if comm.get_world_size() == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    modules = dict(model.named_modules())
    for name in units:
        if name not in modules:
            raise UserError(
                f"train.fsdp: {name!r} is not a module of the model; it has {', '.join(list(modules)[1:8])}, ..."
            )
        fully_shard(modules[name], mesh=mesh, **kwargs)
    fully_shard(model, mesh=mesh, **kwargs)
    return model


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """A context in which every process holds all parameters, so that each may run the model as often as it needs.

    Gathered parameters have another memory layout than those of a model that was never sharded, so last digits may differ.
    """
    if comm.get_world_size() == 1:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # Else a unit would free its gathered parameters after its first call.
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        torch.distributed.barrier()
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)
