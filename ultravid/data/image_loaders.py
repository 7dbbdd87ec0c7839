"""Loaders of data sets of images, under detectron2's names and with its arguments.

An image is a dict, such as ``{"file_name", "image_id", "height", "width", "annotations"}``; a mapper turns it into what the
model is given. Loaders of videos are in `ultravid.data.build`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from ultravid.config.configurable import configurable
from ultravid.data.common import DatasetFromList, MapDataset
from ultravid.data.kept_generators import warn_of_kept_generators
from ultravid.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from ultravid.data.seeded_loaders import GroupedLoader, SeededLoader, SeededTestLoader, StreamLoader
from ultravid.data.workers import worker_init_reset_seed
from ultravid.datasets.catalog import DatasetCatalog
from ultravid.datasets.video import DataError
from ultravid.utils import comm
from ultravid.utils.limits import NotNegative, Positive

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "trivial_batch_collator",
]

logger = logging.getLogger(__name__)

ImageDict = dict[str, Any]
Collate = Callable[[list[Any]], Any]


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """The batch as a list, as it is."""
    return batch


def filter_images_with_only_crowd_annotations(dataset_dicts: Sequence[ImageDict]) -> list[ImageDict]:
    """The images that have an annotation which is not a crowd (``iscrowd`` of COCO)."""
    kept = [d for d in dataset_dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
    logger.info("Removed %d images without annotations; %d are left.", len(dataset_dicts) - len(kept), len(kept))
    return kept


def get_detection_dataset_dicts(names: str | Sequence[str], filter_empty: bool = True) -> list[ImageDict]:
    """The images of data sets of the `DatasetCatalog`, one data set after the other.

    Args:
        names: one name or several.
        filter_empty: leave out images without annotations, if the data sets have annotations.

    Raises:
        DataError: no name is given, a name is unknown, a data set is empty or holds something else than dicts, or no image
            is left.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise DataError("No data set is named.")
    images: list[ImageDict] = []
    for name in names:
        found: list[Any] = DatasetCatalog.get(name)
        if not found:
            raise DataError(f"Data set {name!r} is empty.")
        if not isinstance(found[0], dict):
            raise DataError(
                f"Data set {name!r} holds {type(found[0]).__name__} objects, not dicts of images; "
                "videos are loaded by build_video_train_loader and build_video_test_loader."
            )
        images += found
    if filter_empty and "annotations" in images[0]:
        images = filter_images_with_only_crowd_annotations(images)
    if not images:
        raise DataError(f"No image with annotations is left of {', '.join(names)}.")
    return images


def build_batch_data_loader(
    dataset: Any,
    sampler: Sampler[int] | None,
    total_batch_size: Positive,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: NotNegative = 0,
    collate_fn: Collate | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """Loader of batches, this process's share of them.

    Args:
        dataset: with indices, or an `IterableDataset`, which then needs no sampler.
        sampler: gives the indices of this process.
        total_batch_size: items of a batch in all processes together.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`; the items are dicts with ``width`` and ``height``.
        num_workers: processes that load items; 0 loads them in this one.
        collate_fn: from a list of items to a batch; None keeps the list.
        drop_last: leave out the last batch if it is not full.
        single_gpu_batch_size: items of a batch in this process, instead of the share of ``total_batch_size``.
        seed: the seed of what is drawn from the global generators, see `ultravid.data.seeded_loaders`; None takes the seed of torch's.
        kwargs: more arguments of `torch.utils.data.DataLoader`, such as ``pin_memory`` and ``prefetch_factor``.

    Returns:
        something to iterate over once or more, from any batch on: batches as ``collate_fn`` makes them.

    Raises:
        DataError: the processes can't share the batch evenly.
    """
    batch_size = single_gpu_batch_size or _share_of_batch(total_batch_size)
    collate = collate_fn or trivial_batch_collator
    arguments = {"num_workers": num_workers, "worker_init_fn": worker_init_reset_seed, **kwargs}
    seed = torch.initial_seed() if seed is None else seed
    if aspect_ratio_grouping:
        return GroupedLoader(
            _loader(dataset, sampler, None, False, _as_it_is, seed, arguments), batch_size, collate, seed
        )
    return _loader(dataset, sampler, batch_size, drop_last, collate, seed, arguments)


def _loader(
    dataset: Any,
    sampler: Sampler[int] | None,
    batch_size: int | None,
    drop_last: bool,
    collate_fn: Collate,
    seed: int,
    arguments: dict[str, Any],
) -> SeededLoader | StreamLoader:
    """The loader of a data set with indices or of a stream."""
    if isinstance(dataset, IterableDataset):
        return StreamLoader(
            dataset, batch_size=batch_size, drop_last=drop_last, collate_fn=collate_fn, seed=seed, **arguments
        )
    if sampler is None:
        raise ValueError("A data set with indices needs a sampler.")
    return SeededLoader(
        dataset, sampler, batch_size, drop_last=drop_last, collate_fn=collate_fn, seed=seed, **arguments
    )


def _as_it_is(item: Any) -> Any:
    return item


def _share_of_batch(total_batch_size: int) -> int:
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise DataError(f"total_batch_size={total_batch_size} can't be shared evenly among {world_size} processes.")
    return total_batch_size // world_size


def _train_loader_from_config(
    cfg: Any, mapper: Callable[[Any], Any] | None = None, *, dataset: Any = None, sampler: Sampler[int] | None = None
) -> dict[str, Any]:
    loader = cfg.DATALOADER
    if dataset is None:
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, loader.get("FILTER_EMPTY_ANNOTATIONS", True))
    if sampler is None and not isinstance(dataset, IterableDataset):
        sampler = _sampler_by_name(loader, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": _given(mapper),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": loader.get("ASPECT_RATIO_GROUPING", True),
        "num_workers": loader.NUM_WORKERS,
    }


def _sampler_by_name(loader: Mapping[str, Any], dataset: Any) -> Sampler[int]:
    """The sampler of ``DATALOADER.SAMPLER_TRAIN``, if the config has that key."""
    name = loader.get("SAMPLER_TRAIN", "TrainingSampler")
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset))
    if name == "RepeatFactorTrainingSampler":
        return RepeatFactorTrainingSampler(
            RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, loader["REPEAT_THRESHOLD"])
        )
    if name == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(len(dataset), loader["RANDOM_SUBSET_RATIO"])
    raise DataError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}; there are TrainingSampler, RepeatFactorTrainingSampler and "
        "RandomSubsetTrainingSampler."
    )


def _given(mapper: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if mapper is None:
        raise DataError(
            "A loader of images from a config needs mapper=FUNCTION, from an image's dict to the model's input."
        )
    return mapper


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Any,
    *,
    mapper: Callable[[Any], Any] | None,
    sampler: Sampler[int] | None = None,
    total_batch_size: Positive,
    aspect_ratio_grouping: bool = True,
    num_workers: NotNegative = 0,
    collate_fn: Collate | None = None,
    **kwargs: Any,
) -> Any:
    """Loader of training batches without end: lists of mapped images, unless ``collate_fn`` makes something else of them.

    Also called as ``build_detection_train_loader(cfg, mapper, *, dataset=None, sampler=None)`` with a `CfgNode`: it reads
    ``DATASETS.TRAIN``, ``SOLVER.IMS_PER_BATCH``, ``DATALOADER.NUM_WORKERS`` and, if the config has them, detectron2's
    ``DATALOADER.SAMPLER_TRAIN``, ``ASPECT_RATIO_GROUPING`` and ``FILTER_EMPTY_ANNOTATIONS``.

    Args:
        dataset: a list of dicts, a data set with indices, or an `IterableDataset`.
        mapper: from an item to the model's input; None hands the items on. An item that it maps to None is replaced.
        sampler: gives indices; None takes `TrainingSampler`. An `IterableDataset` takes none.
        total_batch_size: images of a batch in all processes together.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`.
        num_workers: processes that load images.
        collate_fn: from a list of items to a batch.
        kwargs: more arguments of `build_batch_data_loader`.

    Raises:
        DataError: see `get_detection_dataset_dicts` and `build_batch_data_loader`.
    """
    warn_of_kept_generators(mapper=mapper)
    dataset = _as_dataset(dataset, mapper)
    sampler = _sampler_of(dataset, sampler, TrainingSampler)
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: Any, dataset_name: str | Sequence[str], mapper: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {"dataset": dataset, "mapper": _given(mapper), "num_workers": cfg.DATALOADER.NUM_WORKERS}


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Callable[[Any], Any] | None,
    sampler: Sampler[int] | None = None,
    batch_size: Positive = 1,
    num_workers: NotNegative = 0,
    collate_fn: Collate | None = None,
) -> DataLoader[Any]:
    """Loader of this process's share of a data set, in order, each item once; the last batch may be smaller.

    What a mapper draws from the global generators depends on the item's index alone.

    Also called as ``build_detection_test_loader(cfg, dataset_name, mapper)`` with a `CfgNode`: it reads
    ``DATALOADER.NUM_WORKERS``.

    Args:
        dataset: a list of dicts, a data set with indices, or an `IterableDataset`.
        mapper: from an item to the model's input; None hands the items on.
        sampler: gives indices; None takes `InferenceSampler`. An `IterableDataset` takes none.
        batch_size: images of a batch in this process.
        num_workers: processes that load images.
        collate_fn: from a list of items to a batch; None keeps the list.
    """
    dataset = _as_dataset(dataset, mapper)
    sampler = _sampler_of(dataset, sampler, InferenceSampler)
    arguments: dict[str, Any] = {
        "batch_size": batch_size,
        "drop_last": False,
        "num_workers": num_workers,
        "collate_fn": collate_fn or trivial_batch_collator,
        "worker_init_fn": worker_init_reset_seed,
    }
    if isinstance(dataset, IterableDataset):
        return StreamLoader(dataset, seed=0, **arguments)
    # An iterator's seed is drawn from a generator of the loader's own, not from the one that the model uses.
    return SeededTestLoader(dataset, sampler=sampler, generator=torch.Generator(), **arguments)


def _as_dataset(dataset: Any, mapper: Callable[[Any], Any] | None) -> Any:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def _sampler_of(
    dataset: Any, sampler: Sampler[int] | None, default: Callable[[int], Sampler[int]]
) -> Sampler[int] | None:
    """The given sampler, or the default one of the data set's size; None for an `IterableDataset`, which takes none."""
    if not isinstance(dataset, IterableDataset):
        return default(len(dataset)) if sampler is None else sampler
    if sampler is not None:
        raise ValueError("An IterableDataset has its own order and takes no sampler.")
    return None
