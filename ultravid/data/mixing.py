"""Several datasets in one run: one loader per dataset, and in each iteration one of them gives the batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ultravid.config.errors import did_you_mean
from ultravid.data.mapper import ClipDataset
from ultravid.datasets.video import DataError, Video
from ultravid.structures import Clip

__all__ = ["MixedClipLoader", "MixedVideos"]

_OF_THE_LOADER = 4  # a stream of the seed, see `ultravid.data.mapper`
_BLOCK = 1024  # iterations whose loaders are drawn at once: counting those before iteration 100,000 takes 3 ms


class SingleLoader(Protocol):
    """A loader that can be mixed, such as a `ClipLoader`."""

    dataset: ClipDataset

    def iterate_from(self, iteration: int) -> Iterator[list[Clip]]:
        """Batches from an iteration on."""


@dataclass(frozen=True)
class MixedVideos:
    """The videos of all loaders, for the record of a run."""

    videos: list[Video]


class MixedClipLoader:
    """Batches of several loaders, such as one per organ; the loader of an iteration is a function of (seed, iteration).

    All processes use the same loader in an iteration. The n-th time that a loader is drawn it gives its n-th batch, so each
    dataset is traversed as in a run without the others.

    Args:
        loaders: by name; the name becomes ``Clip.organ`` of a clip without an organ.
        seed: the seed of the draws.
        weights: how often each loader is drawn, by name; None: all equally often.

    Raises:
        DataError: there is no loader, or the weights name others or are not above 0.
    """

    def __init__(
        self, *, loaders: Mapping[str, SingleLoader], seed: int, weights: Mapping[str, float] | None = None
    ) -> None:
        if not loaders:
            raise DataError("There is no loader to mix.")
        self.loaders = dict(loaders)
        self.seed = seed
        self._names = list(self.loaders)
        self._bounds = np.cumsum(_shares(self._names, weights))
        self.dataset = MixedVideos([v for loader in self.loaders.values() for v in loader.dataset.videos])

    @property
    def total_batch_size(self) -> int | None:
        """Clips of an iteration in all processes together; None if the loaders differ in it."""
        sizes = {loader.dataset.total_batch_size for loader in self.loaders.values()}
        return sizes.pop() if len(sizes) == 1 else None

    def __iter__(self) -> Iterator[list[Clip]]:
        return self.iterate_from(0)

    def iterate_from(self, iteration: int) -> Iterator[list[Clip]]:
        """This rank's share of the batches from ``iteration`` on; a loader starts when it is first drawn."""
        counts = self._counts_before(iteration)
        running: dict[str, Iterator[list[Clip]]] = {}
        for i in itertools.count(iteration):
            name = self.loader_of(i)
            if name not in running:
                running[name] = self.loaders[name].iterate_from(int(counts[self._names.index(name)]))
            batch = next(running[name])
            for clip in batch:
                clip.organ = clip.organ or name
            yield batch

    def loader_of(self, iteration: int) -> str:
        """The name of the loader that gives an iteration's batch."""
        block, place = divmod(iteration, _BLOCK)
        return self._names[int(self._drawn(block)[place])]

    def _drawn(self, block: int) -> NDArray[np.int64]:
        drawn = np.random.default_rng((self.seed, _OF_THE_LOADER, block)).random(_BLOCK)
        # The last bound may be below 1 by rounding, and a draw above it.
        return np.minimum(np.searchsorted(self._bounds, drawn, side="right"), len(self._names) - 1)

    def _counts_before(self, iteration: int) -> NDArray[np.int64]:
        """How often each loader was drawn before an iteration."""
        block, place = divmod(iteration, _BLOCK)
        counts = np.bincount(self._drawn(block)[:place], minlength=len(self._names))
        for earlier in range(block):
            counts += np.bincount(self._drawn(earlier), minlength=len(self._names))
        return counts


def _shares(names: list[str], weights: Mapping[str, float] | None) -> NDArray[np.float64]:
    given = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
    for name in given:
        if name not in names:
            raise DataError(f"weights names {name!r}, which is not a loader.{did_you_mean(name, names)}")
    for name in names:
        if not 0 < given.get(name, 0) < math.inf:
            raise DataError(f"Loader {name!r} has the weight {given.get(name)!r}, not a number above 0.")
    values = np.array([given[name] for name in names], np.float64)
    return np.asarray(values / values.sum(), np.float64)
