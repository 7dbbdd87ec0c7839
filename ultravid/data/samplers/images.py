"""Orders of indices into a data set of images, under detectron2's names.

The samplers for training never end. All processes draw the same order from one seed and each takes its own share of it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from ultravid.utils import comm

__all__ = [
    "GroupedBatchSampler",
    "InferenceSampler",
    "RandomSubsetTrainingSampler",
    "RepeatFactorTrainingSampler",
    "TrainingSampler",
]


class TrainingSampler(Sampler[int]):
    """Every index once, then every index once again, without end.

    Args:
        size: length of the data set.
        shuffle: draw a new order for each round; otherwise the indices rise.
        seed: the same in all processes; None draws one from numpy's global generator.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int) or size <= 0:
            raise ValueError(f"{type(self).__name__} needs a data set that is not empty, got size={size!r}.")
        self._size = size
        self._shuffle = shuffle
        self._seed = comm.shared_random_seed() if seed is None else seed
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._all_indices(), self._rank, None, self._world_size)

    def _all_indices(self) -> Iterator[int]:
        """The order that all processes share."""
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            yield from self._round(generator).tolist()

    def _round(self, generator: torch.Generator) -> Tensor:
        """The indices of one round."""
        return torch.randperm(self._size, generator=generator) if self._shuffle else torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """`TrainingSampler` over a random part of the data set, which is drawn once.

    Args:
        size: length of the data set.
        subset_ratio: share of the data set that is kept, in (0, 1].
        shuffle: draw a new order for each round.
        seed_shuffle: seed of the orders, the same in all processes; None draws one.
        seed_subset: seed of the choice of the part, the same in all processes; None draws one.
    """

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        super().__init__(size, shuffle, seed_shuffle)
        if not 0.0 < subset_ratio <= 1.0 or int(size * subset_ratio) < 1:
            raise ValueError(f"subset_ratio={subset_ratio} of {size} images is not a part of them.")
        generator = torch.Generator()
        generator.manual_seed(comm.shared_random_seed() if seed_subset is None else seed_subset)
        self._subset = torch.randperm(size, generator=generator)[: int(size * subset_ratio)]

    def _round(self, generator: torch.Generator) -> Tensor:
        if not self._shuffle:
            return self._subset
        return self._subset[torch.randperm(len(self._subset), generator=generator)]


class RepeatFactorTrainingSampler(TrainingSampler):
    """Images that come more than once in a round, so that rare categories are seen more often.

    A factor of 2.3 repeats the image twice, and three times in 3 of 10 rounds, at random. Source: Gupta et al., "LVIS",
    CVPR 2019, appendix B.

    Args:
        repeat_factors: ``(size,)``, of each image.
        shuffle: draw a new order for each round.
        seed: the same in all processes; None draws one.
    """

    def __init__(self, repeat_factors: Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(len(repeat_factors), shuffle, seed)
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: Sequence[Mapping[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> Tensor:
        """A factor for each image by the rarest of its categories.

        With f the share of images that show a category, the factor of the category is max(1, sqrt(repeat_thresh / f));
        that of an image is the largest of its categories, and 1 without annotations.

        Args:
            dataset_dicts: images with ``annotations``, each a list of dicts with ``category_id``.
            repeat_thresh: categories in a smaller share of the images are repeated.
            sqrt: without it the factor is max(1, repeat_thresh / f).

        Returns:
            ``(len(dataset_dicts),)`` float32.
        """
        categories = [{annotation["category_id"] for annotation in image["annotations"]} for image in dataset_dicts]
        counts = Counter(itertools.chain.from_iterable(categories))
        factors = {}
        for category, count in counts.items():
            ratio = repeat_thresh * len(dataset_dicts) / count
            factors[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
        return torch.tensor([max((factors[c] for c in found), default=1.0) for found in categories])

    def _round(self, generator: torch.Generator) -> Tensor:
        extra = (torch.rand(len(self._fraction), generator=generator) < self._fraction).float()
        indices = torch.repeat_interleave(torch.arange(self._size), (self._whole + extra).long())
        return indices[torch.randperm(len(indices), generator=generator)] if self._shuffle else indices


class InferenceSampler(Sampler[int]):
    """This process's part of the indices, each exactly once: parts are contiguous and differ by at most one in length.

    Args:
        size: length of the data set.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"InferenceSampler needs the length of a data set, got {size}.")
        rank, world_size = comm.get_rank(), comm.get_world_size()
        share, rest = divmod(size, world_size)
        begin = rank * share + min(rank, rest)
        self._indices = range(begin, begin + share + (rank < rest))

    def __iter__(self) -> Iterator[int]:
        yield from self._indices

    def __len__(self) -> int:
        return len(self._indices)


class GroupedBatchSampler(BatchSampler):
    """Batches whose members are of one group, in the order in which the groups' batches are full; the rest is dropped.

    Args:
        sampler: gives the indices.
        group_ids: the group of each index.
        batch_size: of each batch.
    """

    def __init__(self, sampler: Iterable[int], group_ids: Sequence[int], batch_size: int) -> None:
        self.sampler = sampler
        self.group_ids = [int(group) for group in group_ids]
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        waiting: dict[int, list[int]] = {}
        for index in self.sampler:
            batch = waiting.setdefault(self.group_ids[index], [])
            batch.append(index)
            if len(batch) == self.batch_size:
                del waiting[self.group_ids[index]]
                yield batch

    def __len__(self) -> int:
        # A TypeError, which list() takes for "no length"; any other would end it.
        raise TypeError("The number of batches depends on the order of the indices.")
