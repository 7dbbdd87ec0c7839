"""Loaders whose samplers, data sets and functions may draw from Python's, numpy's and torch's global generators.

Those generators are seeded for each batch of indices, each item and each collation, so that what is drawn depends on the run's seed
and on the place in the run alone, not on the number of workers or on where the run was resumed.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler

from ultravid.data.common import AspectRatioGroupedDataset, MapDataset
from ultravid.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from ultravid.utils import comm
from ultravid.utils.seed import seed_from, seeded_generators

__all__ = ["GroupedLoader", "SeededLoader", "SeededTestLoader", "StreamLoader"]

logger = logging.getLogger(__name__)

Collate = Callable[[list[Any]], Any]

# They draw from generators of their own, so that seeding the global ones for them would be wasted.
_OWN_SAMPLERS = (TrainingSampler, RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, InferenceSampler)


class _Place(NamedTuple):
    """An item of a run.

    Attributes:
        round: how often the sampler had ended before.
        number: the number of the item in its round, among those of all processes.
        index: the index of the item in the data set.
    """

    round: int
    number: int
    index: Any


class _SeededItems(Dataset[Any]):
    """The items of a data set, each loaded with the global generators seeded for it.

    It takes the places that `_Places` gives, or plain indices; other attributes are those of the data set.

    Args:
        dataset: with indices.
        key: what the generators are seeded from, besides the place.
    """

    def __init__(self, dataset: Any, *key: int | str) -> None:
        self.dataset = dataset
        self.key = key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # not there yet while it is unpickled
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Any) -> Any:
        with self._seeded(place):
            return self.dataset[_index_of(place)]

    def __getitems__(self, places: Sequence[Any]) -> Any:
        """A batch, which `torch.utils.data.DataLoader` asks for at once; a data set may load it at once too."""
        load = getattr(self.dataset, "__getitems__", None)
        if load is None:
            return [self[place] for place in places]
        with self._seeded(places[0]):
            return load([_index_of(place) for place in places])

    def _seeded(self, place: Any) -> AbstractContextManager[None]:
        if isinstance(place, _Place):
            return seeded_generators(*self.key, place.round, place.number)
        return seeded_generators(*self.key, int(place) if isinstance(place, Integral) else repr(place))


def _index_of(place: Any) -> Any:
    return place.index if isinstance(place, _Place) else place


class _Places(BatchSampler):
    """Batches of places, or single ones.

    Args:
        sampler: gives the indices of this process; what it draws from the global generators is seeded.
        batch_size: indices of a batch; None gives single ones.
        drop_last: leave out a last batch that is not full.
        seed: the seed of what the sampler draws.

    Attributes:
        round: the round that an iterator gives, if it does not begin at a batch.
    """

    def __init__(self, sampler: Any, batch_size: int | None, drop_last: bool, seed: int) -> None:
        super().__init__(sampler, batch_size or 1, drop_last)
        self.single = batch_size is None
        self.seed = seed
        self.round = 0
        self._start: int | None = None

    def __iter__(self) -> Iterator[Any]:
        return self._of_rounds([self.round], 0) if self._start is None else self.without_end(self._start)

    @contextmanager
    def begin_at(self, batch: int) -> Iterator[None]:
        """A context in which an iterator begins at a batch and goes on round after round."""
        self._start = batch
        try:
            yield
        finally:
            self._start = None

    def without_end(self, start: int = 0) -> Iterator[Any]:
        """Round after round, from the batch ``start`` on."""
        return self._of_rounds(itertools.count(), start)

    def _of_rounds(self, rounds: Iterable[int], start: int) -> Iterator[Any]:
        for round_number in rounds:
            found = False
            for number, batch in enumerate(self._round(round_number)):
                found = True
                if start > 0:
                    start -= 1
                elif self.single:
                    yield self._place(round_number, number, batch[0])
                else:
                    begin = number * self.batch_size
                    yield [self._place(round_number, begin + i, index) for i, index in enumerate(batch)]
            if not found:
                return

    def _place(self, round_number: int, number: int, index: Any) -> _Place:
        return _Place(round_number, number * comm.get_world_size() + comm.get_rank(), index)

    def _round(self, round_number: int) -> Iterator[list[Any]]:
        """The batches of indices of a round."""
        batches: Iterator[list[Any]] | None = None
        draws = type(self.sampler) not in _OWN_SAMPLERS
        for number in itertools.count():
            key = (self.seed, "sampler", comm.get_rank(), round_number, number)
            with seeded_generators(*key) if draws else nullcontext():
                batches = super().__iter__() if batches is None else batches
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


class SeededLoader(DataLoader[Any]):
    """Batches of a data set with indices, from any batch on.

    What is drawn for an item depends on (seed, round, place of the item in its round), so each round draws other numbers. Batches after
    ``iterate_from(n)`` are those of a loader that gave ``n`` batches before, if the sampler gives the same indices again.

    Args:
        dataset: with indices.
        sampler: gives the indices of this process.
        batch_size: items of a batch in this process; None gives single items.
        drop_last: leave out a last batch that is not full.
        collate_fn: from the items of a batch to the batch, or from a single item to what is given.
        seed: the seed of what is drawn.
        arguments: more of `torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: Sampler[int],
        batch_size: int | None,
        *,
        drop_last: bool,
        collate_fn: Callable[[Any], Any],
        seed: int,
        **arguments: Any,
    ) -> None:
        self.seed = seed
        self.places = _Places(sampler, batch_size, drop_last, seed)
        self.items = _SeededItems(dataset, seed, "item")
        if batch_size is None:
            arguments |= {"sampler": self.places, "batch_size": None}
        else:
            arguments["batch_sampler"] = self.places
        arguments["generator"] = torch.Generator()
        super().__init__(self.items, collate_fn=collate_fn, **arguments)

    @property
    def round(self) -> int:
        """How often the loader was iterated over to its end."""
        return self.places.round

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own class of iterator
        """One round."""
        yield from self._batches(0)
        self.places.round += 1

    def iterate_from(self, batch: int) -> Iterator[Any]:
        """All batches from one on, round after round."""
        with self.places.begin_at(batch):
            return self._batches(batch)

    def _batches(self, first: int) -> Iterator[Any]:
        key = (self.seed, "batch", comm.get_rank(), self.round)
        # An iterator draws its workers' seed from it, instead of from the generator that the model uses.
        self.generator.manual_seed(seed_from(*key, first))
        return _apart(super().__iter__(), self.num_workers, first, *key)


class SeededTestLoader(DataLoader[Any]):
    """Batches of a data set with indices; what is drawn for an item depends on its index alone."""

    def __init__(self, dataset: Any, **arguments: Any) -> None:
        super().__init__(_SeededItems(dataset, "test item"), **arguments)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own class of iterator
        return _apart(super().__iter__(), self.num_workers, 0, "test batch", comm.get_rank())


class StreamLoader(DataLoader[Any]):
    """Batches of an `IterableDataset`, which alone decides what comes next.

    What it draws differs from process to process, from worker to worker and from round to round, and is not drawn again by a
    resumed run. It depends on the number of workers.

    Args:
        dataset: the stream.
        seed: the seed of what is drawn, to which this process's rank is added.
        arguments: more of `torch.utils.data.DataLoader`.
    """

    def __init__(self, dataset: IterableDataset[Any], *, seed: int, **arguments: Any) -> None:
        self.seed = seed
        self.round = 0
        arguments["generator"] = torch.Generator().manual_seed((seed + comm.get_rank()) % 2**63)
        super().__init__(dataset, **arguments)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own class of iterator
        return self._batches(0)

    def iterate_from(self, batch: int) -> Iterator[Any]:
        """The stream from its beginning, with other random numbers than those of the batches before ``batch``."""
        if batch > 0:
            logger.warning("The training data are a stream, which a resumed run reads from the beginning again.")
            self.generator.manual_seed(seed_from(self.seed, "workers", comm.get_rank(), batch))
        return self._batches(batch)

    def _batches(self, first: int) -> Iterator[Any]:
        key = (self.seed, "batch", comm.get_rank(), self.round)
        self.round += 1
        return _apart(super().__iter__(), self.num_workers, first, *key)


class GroupedLoader:
    """Batches of an `AspectRatioGroupedDataset`, from any batch on.

    To begin at a batch it must know the orientation of the images before it. It takes it from the ``width`` and ``height`` of the
    dicts that a mapper is given, so a resumed run gets the same batches if the mapper keeps the orientation and leaves out no
    image.

    Args:
        loader: gives the images one by one.
        batch_size: images of a batch.
        collate_fn: from a list of images to a batch.
        seed: the seed of what ``collate_fn`` draws.
    """

    def __init__(self, loader: SeededLoader | StreamLoader, batch_size: int, collate_fn: Collate, seed: int) -> None:
        self.loader = loader
        self.batches = AspectRatioGroupedDataset(loader, batch_size)
        self.collate_fn = collate_fn
        self.seed = seed

    def __iter__(self) -> Iterator[Any]:
        return self._collated(self.batches, 0)

    def iterate_from(self, batch: int) -> Iterator[Any]:
        """All batches from one on."""
        size = self.batches.batch_size
        loader = self.loader
        if isinstance(loader, StreamLoader):
            images: Iterator[Any] = loader.iterate_from(batch * size)
        else:
            number, waiting = _images_before(loader, batch, size)
            images = itertools.chain((loader.items[place] for place in waiting), loader.iterate_from(number))
        return self._collated(AspectRatioGroupedDataset(images, size), batch)

    def _collated(self, batches: Iterable[list[Any]], first: int) -> Iterator[Any]:
        key = (self.seed, "collate", comm.get_rank(), self.loader.round)
        for number, batch in enumerate(batches, first):
            with seeded_generators(*key, number):
                collated = self.collate_fn(batch)
            yield collated


def _images_before(loader: SeededLoader, batch: int, batch_size: int) -> tuple[int, list[_Place]]:
    """How many images are drawn for the batches before one, and those of them that wait for a later batch."""
    is_wide: dict[Any, bool] = {}
    buckets: dict[bool, list[_Place]] = {True: [], False: []}
    number = 0
    places = loader.places.without_end()
    while batch > 0:
        place = next(places)
        number += 1
        if place.index not in is_wide:
            is_wide[place.index] = _is_wide(loader.items, place)
        bucket = buckets[is_wide[place.index]]
        bucket.append(place)
        if len(bucket) == batch_size:
            bucket.clear()
            batch -= 1
    return number, sorted(buckets[True] + buckets[False])


def _is_wide(items: _SeededItems, place: _Place) -> bool:
    """The orientation of an image, by the dict that a mapper is given if it has the size, else by the image itself."""
    dataset = items.dataset
    image = dataset.unmapped(place.index) if isinstance(dataset, MapDataset) else None
    if not isinstance(image, Mapping) or "width" not in image or "height" not in image:
        image = items[place]
    return bool(image["width"] > image["height"])


def _apart(batches: Iterator[Any], num_workers: int, first: int, *key: int | str) -> Iterator[Any]:
    """Batches; those that this process loads are loaded apart from what it draws otherwise."""
    return batches if num_workers else _seeded_batches(batches, first, *key)


def _seeded_batches(batches: Iterator[Any], first: int, *key: int | str) -> Iterator[Any]:
    for number in itertools.count(first):
        try:
            with seeded_generators(*key, number):
                batch = next(batches)
        except StopIteration:
            return
        yield batch
