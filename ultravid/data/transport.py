"""How samples get from a loader's worker to the trainer: annotations as NumPy arrays, only frames in shared memory.

Each tensor that is sent costs a file descriptor and half a millisecond; the instances of a clip of 16 frames are 48 tensors.
Packed they are one array per field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ultravid.structures import Boxes, Clip, Instances

__all__ = ["PackingLoader"]


@dataclass(frozen=True)
class _PackedInstances:
    """Several `Instances` with the same fields.

    Attributes:
        sizes: (height, width) of each.
        counts: rows of each.
        columns: all rows of each field, and whether they are `Boxes`.
    """

    sizes: list[tuple[int, int]]
    counts: list[int]
    columns: dict[str, tuple[NDArray[Any], bool]]

    def unpacked(self) -> list[Instances]:
        tables = [Instances(size) for size in self.sizes]
        for name, (values, are_boxes) in self.columns.items():
            for table, rows in zip(tables, torch.from_numpy(values).split(self.counts), strict=True):
                table.set(name, Boxes(rows) if are_boxes else rows)
        return tables


@dataclass(frozen=True)
class _PackedClip:
    """A `Clip` without its instances, and the packed instances."""

    clip: Clip
    instances: _PackedInstances


class PackingLoader(DataLoader[Any]):
    """A `DataLoader` whose batches are lists of `Clip`, of dicts that hold `Instances`, or of tuples of these."""

    def __init__(self, dataset: Any, **arguments: Any) -> None:
        super().__init__(dataset, collate_fn=_pack_batch, **arguments)

    def __iter__(self) -> Iterator[list[Any]]:  # type: ignore[override]  # DataLoader promises its own class of iterator
        return map(_unpack, super().__iter__())


def _pack_batch(batch: list[Any]) -> list[Any]:
    return batch if get_worker_info() is None else [_pack(item) for item in batch]


def _pack(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_pack(v) for v in value)
    if isinstance(value, dict):
        return {key: _pack(v) for key, v in value.items()}
    if isinstance(value, Clip):
        packed = _packed(value.instances)
        return value if packed is None else _PackedClip(dataclasses.replace(value, instances=[]), packed)
    if isinstance(value, Instances):
        return _packed([value]) or value
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_unpack(v) for v in value)
    if isinstance(value, dict):
        return {key: _unpack(v) for key, v in value.items()}
    if isinstance(value, _PackedClip):
        return dataclasses.replace(value.clip, instances=value.instances.unpacked())
    return value.unpacked()[0] if isinstance(value, _PackedInstances) else value


def _packed(tables: Sequence[Instances]) -> _PackedInstances | None:
    """None if an array can't hold a field: the instances are then sent as they are."""
    if not tables or not all(list(t.get_fields()) == list(tables[0].get_fields()) for t in tables):
        return None
    columns = {}
    for name, first in tables[0].get_fields().items():
        values = [t.get(name) for t in tables]
        if any(type(v) is not type(first) for v in values):
            return None
        rows = [v.tensor if isinstance(v, Boxes) else v for v in values]
        if not all(isinstance(r, Tensor) and _fits(r, rows[0]) for r in rows):
            return None
        columns[name] = (np.concatenate([r.numpy() for r in rows]), isinstance(first, Boxes))
    if not columns:
        return None
    return _PackedInstances([t.image_size for t in tables], [len(t) for t in tables], columns)


def _fits(rows: Tensor, first: Tensor) -> bool:
    plain = rows.device.type == "cpu" and not rows.requires_grad and rows.dtype != torch.bfloat16
    return plain and rows.dtype == first.dtype and rows.shape[1:] == first.shape[1:] and rows.dim() > 0
