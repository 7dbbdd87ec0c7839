"""Remembers from which file a model's weights come: noted when a checkpoint is loaded or saved, used when the model is evaluated."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["WeightsOrigin", "note_origin", "weights_origin"]


@dataclass(frozen=True)
class WeightsOrigin:
    """The checkpoint whose weights a model has.

    Attributes:
        path: the local file, or folder of shards; of an address its download.
        address: where the user said that it is.
        iteration: the last iteration of the training that the checkpoint holds; None if it does not say.
        averaged: whether its averaged weights were taken.
        from_scratch: number of the model's weights that the checkpoint did not have.
    """

    path: str
    address: str
    iteration: int | None = None
    averaged: bool = False
    from_scratch: int = 0


_ORIGINS: weakref.WeakKeyDictionary[nn.Module, tuple[WeightsOrigin, bytes]] = weakref.WeakKeyDictionary()

_SAMPLED = 4


def note_origin(model: nn.Module, origin: WeightsOrigin) -> None:
    """Note that a model has, at this moment, the weights of a checkpoint."""
    _ORIGINS[model] = origin, _sample(model)


def weights_origin(model: nn.Module) -> tuple[WeightsOrigin | None, bool]:
    """The checkpoint that a model's weights came from, None if none is known; and whether they have changed since.

    A change is found by a few values of each weight: a step of training changes them.
    """
    origin, sample = _ORIGINS.get(model, (None, b""))
    return origin, origin is not None and sample != _sample(model)


def _sample(model: nn.Module) -> bytes:
    """The first values of each weight. They are copied from the device in one piece: a copy of each would wait for it."""
    values = [value.detach() for value in (*model.parameters(), *model.buffers())]
    local: list[Tensor] = [value.to_local() if hasattr(value, "to_local") else value for value in values]
    parts = [value.reshape(-1)[:_SAMPLED].double() for value in local]
    return b"".join(torch.cat(group).cpu().numpy().tobytes() for group in _by_device(parts))


def _by_device(parts: list[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.device, list[Tensor]] = {}
    for part in parts:
        groups.setdefault(part.device, []).append(part)
    return list(groups.values())
