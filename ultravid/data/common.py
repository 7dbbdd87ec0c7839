"""Data sets made of others: from a list, through a function, as a stream, in batches of similar shape; detectron2's names."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cloudpickle
import numpy as np
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "NumpySerializedList", "ToIterableDataset"]

logger = logging.getLogger(__name__)


class NumpySerializedList:
    """A list whose items are pickled into one array.

    A forked worker that only reads a list of Python objects still copies its memory, since reading changes reference counts.
    An array is shared by all workers.

    Args:
        items: anything that pickles.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        buffer = io.BytesIO()
        ends = [0]
        for item in items:
            buffer.write(pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL))
            ends.append(buffer.tell())
        self._bytes = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
        self._ends = np.asarray(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no item {index} in a list of {len(self)}.")
        index %= len(self)
        # The bytes come from this very object, so that reading them runs nothing that was not here before.
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].data)


class DatasetFromList(Dataset[Any]):
    """A list as a data set.

    Args:
        lst: the items.
        copy: give a deep copy of an item each time, which may be changed freely; a serialised item is one anyway.
        serialize: keep the items as `NumpySerializedList` does; or a class that does it in another way.
    """

    def __init__(
        self, lst: Sequence[Any], copy: bool = True, serialize: bool | Callable[[Sequence[Any]], Sequence[Any]] = True
    ) -> None:
        self._items: Any = lst
        self._copy = copy and not serialize
        if serialize:
            self._items = serialize(lst) if callable(serialize) else NumpySerializedList(lst)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return copy.deepcopy(self._items[index]) if self._copy else self._items[index]


class _PicklableFunction:
    """A function that pickles even if it is a lambda, for workers that are not forked."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, item: Any) -> Any:
        return self.function(item)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return _unpickle_function, (cloudpickle.dumps(self.function),)


def _unpickle_function(content: bytes) -> _PicklableFunction:
    return _PicklableFunction(cloudpickle.loads(content))


class MapDataset(Dataset[Any]):
    """A data set whose items are passed through a function.

    If the function returns None for an item, a data set with indices gives another item, which Python's global generator
    chooses from those that were not tried yet; an `IterableDataset` goes on to the next one. Of an `IterableDataset` this makes
    another one.

    Args:
        dataset: with indices, or an `IterableDataset`.
        map_func: from an item to what is given instead, or None to leave it out.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        """A `MapDataset`, or of an iterable data set its iterable form."""
        if isinstance(dataset, IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[Any, Any]:
        return self._dataset, self._map_func

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = _as_picklable(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def unmapped(self, index: int) -> Any:
        """The item at ``index`` of the data set before the function."""
        return self._dataset[index]

    def __getitem__(self, index: int) -> Any:
        tried: set[int] = set()
        while True:
            item = self._map_func(self._dataset[index])
            if item is not None:
                return item
            tried.add(index % len(self))
            if len(tried) == len(self):
                raise ValueError(f"The function returned None for all {len(self)} items of the data set.")
            if len(tried) >= 3:
                logger.warning(
                    "The function returned None for %d items in a row, the last being number %d.", len(tried), index
                )
            while (index := random.randrange(len(self))) in tried:
                pass


class _MapIterableDataset(IterableDataset[Any]):
    """`MapDataset` of an iterable data set."""

    def __init__(self, dataset: Iterable[Any], map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = _as_picklable(map_func)

    def __iter__(self) -> Iterator[Any]:
        return (mapped for item in self._dataset if (mapped := self._map_func(item)) is not None)

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]  # a TypeError if it has no length, as it should be


def _as_picklable(map_func: Callable[[Any], Any]) -> _PicklableFunction:
    return map_func if isinstance(map_func, _PicklableFunction) else _PicklableFunction(map_func)


class ToIterableDataset(IterableDataset[Any]):
    """The items of a data set with indices, in a sampler's order.

    Args:
        dataset: with indices.
        sampler: gives the indices; the same in every worker.
        shard_sampler: each worker of a loader takes its share of the indices. Without it each worker gives all of them,
            which is right only if the sampler shares them out by itself.
        shard_chunk_size: a worker takes so many indices in a row before it is the next one's turn.
    """

    def __init__(
        self, dataset: Any, sampler: Sampler[int], shard_sampler: bool = True, shard_chunk_size: int = 1
    ) -> None:
        if isinstance(dataset, IterableDataset):
            raise ValueError("ToIterableDataset takes a data set with indices, got an IterableDataset.")
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        indices: Iterable[int] = self.sampler
        worker = get_worker_info()
        if self.shard_sampler and worker is not None:
            indices = (
                index
                for place, index in enumerate(self.sampler)
                if place // self.shard_chunk_size % worker.num_workers == worker.id
            )
        return (self.dataset[index] for index in indices)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # a TypeError if the sampler never ends


class AspectRatioGroupedDataset(IterableDataset[list[Any]]):
    """Batches of images that are all wider than high, or all not, so that padding them to one size wastes little.

    A batch is given as soon as it is full; what is left over in the end is dropped.

    Args:
        dataset: gives dicts with ``width`` and ``height``.
        batch_size: images in a batch.
    """

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: tuple[list[Any], list[Any]] = ([], [])

    def __iter__(self) -> Iterator[list[Any]]:
        for item in self.dataset:
            bucket = self._buckets[0 if item["width"] > item["height"] else 1]
            bucket.append(item)
            if len(bucket) == self.batch_size:
                # Emptied before the batch is given: whoever breaks off here would leave a full bucket behind.
                batch = bucket[:]
                bucket.clear()
                yield batch
