"""Loaders of videos: batches of clips without end for training, frames one by one for evaluation.

detectron2's loaders of images, which are in `ultravid.data.image_loaders`, can be imported from here too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ultravid.data.clip_planner import ClipPlanner, StaticClips
from ultravid.data.image_loaders import (
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    trivial_batch_collator,
)
from ultravid.data.kept_generators import warn_of_kept_generators
from ultravid.data.mapper import ClipDataset, FrameDataset
from ultravid.data.mining import HardMining
from ultravid.data.samplers import FilmFrameSampler, FrameSampler, InfiniteClipSampler, Position, shard_videos
from ultravid.data.transforms import ClipTransform
from ultravid.data.transport import PackingLoader
from ultravid.data.workers import init_worker, worker_init_reset_seed
from ultravid.datasets.classes import check_same_classes
from ultravid.datasets.folds import split_fold
from ultravid.datasets.patients import num_patients, num_unknown_patients
from ultravid.datasets.video import DataError, Video
from ultravid.structures import Clip
from ultravid.utils import comm
from ultravid.utils.env import DeviceName, select_device
from ultravid.utils.limits import Limits, NotNegative, Positive
from ultravid.utils.seed import seed_from, seeded_generators
from ultravid.utils.text import counted

__all__ = [
    "ClipLoader",
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "build_video_test_loader",
    "build_video_train_loader",
    "get_detection_dataset_dicts",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)


class ClipLoader:
    """Batches of training clips from any iteration on.

    Args:
        dataset: clips by position.
        num_workers: processes that load and augment clips; 0 does it in this one. The clips do not depend on it.
        device: where this process runs the data set's ``device_transforms``, on all frames of a clip at once; the clips stay
            there. "auto" is `select_device`'s choice. None runs them in the workers, on the CPU. The random numbers are the
            same; on a GPU a pixel may differ by one grey level, because sums are rounded in another order.
    """

    def __init__(self, dataset: ClipDataset, num_workers: int = 0, device: str | None = None) -> None:
        self.dataset = dataset
        self.num_workers = num_workers
        self.device = None if device is None else select_device(device)
        # Fails here, not in the first step, if the ranks can't share the batch.
        InfiniteClipSampler(dataset.total_batch_size, comm.get_rank(), comm.get_world_size())

    @property
    def total_batch_size(self) -> int:
        """Clips of an iteration in all processes together."""
        return self.dataset.total_batch_size

    def __iter__(self) -> Iterator[list[Clip]]:
        return self.iterate_from(0)

    def iterate_from(self, iteration: int) -> Iterator[list[Clip]]:
        """This rank's share of the batches of ``iteration`` and all after it."""
        rank, world_size = comm.get_rank(), comm.get_world_size()
        sampler = InfiniteClipSampler(self.dataset.total_batch_size, rank, world_size, iteration)
        loader = PackingLoader(
            _SeededClips(self.dataset) if self.device is None else _Unfinished(self.dataset),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=init_worker,
            pin_memory=False,
            # A DataLoader's iterator draws its workers' seed: without this, from the generator that the model uses.
            generator=torch.Generator().manual_seed(seed_from(self.dataset.seed, "workers", rank, iteration)),
        )
        return iter(loader) if self.device is None else map(self._finish, iter(loader))

    def _finish(self, batch: list[tuple[Clip, np.random.Generator]]) -> list[Clip]:
        assert self.device is not None, "without a device the workers finish the clips"
        return [self.dataset.finish(clip.to(self.device), rng) for clip, rng in batch]


class _SeededClips(Dataset[Clip]):
    """The clips of a data set, with global generators seeded for what a subclass adds to `ClipDataset` too."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, position: Position) -> Clip:
        with seeded_generators(self.dataset.seed, "clip", *position):
            return self.dataset[position]


class _Unfinished(Dataset[tuple[Clip, np.random.Generator]]):
    """The clips of a data set before its ``device_transforms``."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, position: Position) -> tuple[Clip, np.random.Generator]:
        with seeded_generators(self.dataset.seed, "clip", *position):
            return self.dataset.load(position)


def build_video_train_loader(
    *,
    videos: Sequence[Video],
    frame_sampler: FrameSampler,
    transforms: Sequence[ClipTransform],
    total_batch_size: Positive,
    seed: int,
    fold: Annotated[int, Limits(ge=0, lt="num_folds")] | None = None,
    num_folds: Positive | None = None,
    foreign_context: bool = False,
    num_workers: NotNegative = 0,
    image_format: Literal["RGB", "BGR"] = "RGB",
    device_transforms: Sequence[ClipTransform] = (),
    device: DeviceName | None = None,
    negative_share: Annotated[float, Limits(ge=0, lt=1)] | None = None,
    mining: HardMining | None = None,
    static: StaticClips | None = None,
    organ: str | None = None,
) -> ClipLoader:
    """Loader of training clips.

    Args:
        videos: to draw clips from.
        frame_sampler: which frames of a video make a clip.
        transforms: augmentation of the clip.
        total_batch_size: clips of an iteration in all processes together.
        seed: the seed of all random numbers.
        fold: leave out the videos of this fold; None takes all.
        num_folds: number of folds.
        foreign_context: take each frame of a clip from another video: a control, see `ClipDataset`.
        num_workers: processes that load and augment clips.
        image_format: order of the channels, "RGB" or "BGR".
        device_transforms: augmentation that goes on where ``transforms`` end, on ``device``.
        device: where ``device_transforms`` run, see `ClipLoader`.
        negative_share: share of the clips that come from videos without lesions, see `ClipPlanner`.
        mining: draw hard frames more often, see `HardMining`.
        static: let some clips repeat one frame, see `StaticClips`.
        organ: the organ of all clips, instead of each video's own.

    Raises:
        DataError: no video is left, there is no such fold, the videos' classes differ, or a part finds no video of the kind that it
            needs.
    """
    chosen = _select(videos, fold, num_folds, train=True)
    check_same_classes(chosen)
    num_boxes = sum(int(video.boxes_per_frame.sum()) for video in chosen)
    logger.info(
        "Training on %s of %s%s: %s, %s.",
        counted(len(chosen), "video"),
        counted(num_patients(chosen), "patient"),
        f" ({unknown} of them not known, each counted for one video)"
        if (unknown := num_unknown_patients(chosen))
        else "",
        counted(sum(len(v) for v in chosen), "frame"),
        counted(num_boxes, "box"),
    )
    if num_boxes == 0:
        raise DataError("The training split has no boxes, so there is nothing to learn from.")
    warn_of_kept_generators(frame_sampler=frame_sampler, transforms=transforms, device_transforms=device_transforms)
    dataset = ClipDataset(
        chosen,
        frame_sampler,
        transforms,
        total_batch_size,
        seed,
        foreign_context,
        image_format,
        device_transforms=device_transforms,
        planner=ClipPlanner(chosen, seed, negative_share=negative_share, mining=mining),
        static=static,
        organ=organ,
    )
    _report_gaps(dataset)
    return ClipLoader(dataset, num_workers, device)


def _report_gaps(dataset: ClipDataset) -> None:
    """Say how many films have gaps between their frames, and whether the frame sampler counts them."""
    if not dataset.films:
        return
    place, film = next(iter(dataset.films.items()))
    which = f"{len(dataset.films)} of {len(dataset.videos)} training videos have gaps between their frames or pauses"
    example = f"the first: {dataset.videos[place].video_id!r}, whose frames are usually {film.spacing:.3g} frames of the film apart"
    if isinstance(dataset.frame_sampler, FilmFrameSampler):
        logger.info("%s (%s). The frames of their clips are chosen by time.", which, example)
    else:
        name = type(dataset.frame_sampler).__name__
        logger.warning(
            "%s (%s), but %s takes their frames as if there were none: it has no method of_film(film, rng, frame).",
            which,
            example,
            name,
        )


def build_video_test_loader(
    *,
    videos: Sequence[Video],
    area: Annotated[float, Limits(gt=0)] | None = None,
    fold: Annotated[int, Limits(ge=0, lt="num_folds")] | None = None,
    num_folds: Positive | None = None,
    foreign_context: bool = False,
    num_workers: NotNegative = 0,
    image_format: Literal["RGB", "BGR"] = "RGB",
    organ: str | None = None,
) -> DataLoader[dict[str, Any]]:
    """Loader of the test videos of this process, frame after frame, each a list of one item of `FrameDataset`.

    Args:
        videos: the videos of all processes; each process gets whole videos.
        area: square pixels that a frame is resized to; None keeps its size.
        fold: take only the videos of this fold; None takes all.
        num_folds: number of folds.
        foreign_context: give the first frame of every video, then the second, and so on: a control, see `FrameDataset`.
        num_workers: processes that load frames.
        image_format: order of the channels, "RGB" or "BGR".
        organ: the organ of all videos, instead of each video's own.

    Raises:
        DataError: no video is left, there is no such fold, or the videos' classes differ.
    """
    chosen = _select(videos, fold, num_folds, train=False)
    check_same_classes(chosen)
    mine = shard_videos(chosen, comm.get_rank(), comm.get_world_size())
    return PackingLoader(
        FrameDataset(mine, area, foreign_context, image_format, chosen, organ),
        batch_size=1,
        num_workers=num_workers,
        worker_init_fn=init_worker,
        generator=torch.Generator(),
    )


def _select(videos: Sequence[Video], fold: int | None, num_folds: int | None, train: bool) -> list[Video]:
    kind = "training" if train else "test"
    if fold is None:
        chosen = list(videos)
    elif num_folds is None:
        raise DataError(f"fold={fold} needs num_folds, the number of folds.")
    else:
        chosen = split_fold(videos, fold, num_folds)[0 if train else 1]
    if not chosen:
        found = f"{counted(len(videos), 'video')} {'was' if len(videos) == 1 else 'were'} read"
        if fold is not None and videos:
            found += f", {'all' if train else 'none'} in fold {fold} of {num_folds}; fold=None takes all"
        raise DataError(f"The {kind} split is empty: {found}.")
    return chosen
