"""Loaders: batches of clips without end for training, frames one by one for evaluation."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ultravid.data.clip_planner import ClipPlanner, StaticClips
from ultravid.data.mapper import ClipDataset, FrameDataset
from ultravid.data.mining import HardMining
from ultravid.data.samplers import FrameSampler, InfiniteClipSampler, Position, shard_videos
from ultravid.data.transforms import ClipTransform
from ultravid.data.transport import PackingLoader
from ultravid.datasets.folds import split_fold
from ultravid.datasets.video import DataError, Video
from ultravid.structures import Clip
from ultravid.utils import comm
from ultravid.utils.env import select_device

__all__ = ["ClipLoader", "build_video_test_loader", "build_video_train_loader"]

logger = logging.getLogger(__name__)


class ClipLoader:
    """Batches of training clips from any iteration on.

    Args:
        dataset: clips by position.
        num_workers: processes that open and augment clips; 0 does it in this one. No influence on the clips.
        device: where the data set's ``device_transforms`` are run, by this process, a clip's frames at once; the clips stay
            there. "auto" is `select_device`'s. None runs them in the workers, on the CPU. What is drawn is the same; on a GPU a pixel
            may differ by a grey level, for sums are rounded otherwise.
    """

    def __init__(self, dataset: ClipDataset, num_workers: int = 0, device: str | None = None) -> None:
        self.dataset = dataset
        self.num_workers = num_workers
        self.device = None if device is None else select_device(device)
        # Fails here, not in the first step, if the ranks can't share the batch.
        InfiniteClipSampler(dataset.total_batch_size, comm.get_rank(), comm.get_world_size())

    def __iter__(self) -> Iterator[list[Clip]]:
        return self.iterate_from(0)

    def iterate_from(self, iteration: int) -> Iterator[list[Clip]]:
        """This rank's share of the batches of ``iteration`` and all after it."""
        rank, world_size = comm.get_rank(), comm.get_world_size()
        sampler = InfiniteClipSampler(self.dataset.total_batch_size, rank, world_size, iteration)
        loader = PackingLoader(
            self.dataset if self.device is None else _Unfinished(self.dataset),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=_init_worker,
            pin_memory=False,
            # Making a DataLoader's iterator draws a seed; without a generator of its own, from the model's.
            generator=torch.Generator(),
        )
        return iter(loader) if self.device is None else map(self._finish, iter(loader))

    def _finish(self, batch: list[tuple[Clip, np.random.Generator]]) -> list[Clip]:
        assert self.device is not None, "only then are clips given unfinished"
        return [self.dataset.finish(clip.to(self.device), rng) for clip, rng in batch]


class _Unfinished(Dataset[tuple[Clip, np.random.Generator]]):
    """The clips of a data set before what is done on the training device."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, position: Position) -> tuple[Clip, np.random.Generator]:
        return self.dataset.load(position)


def build_video_train_loader(
    *,
    videos: Sequence[Video],
    frame_sampler: FrameSampler,
    transforms: Sequence[ClipTransform],
    total_batch_size: int,
    seed: int,
    fold: int | None = None,
    num_folds: int | None = None,
    foreign_context: bool = False,
    num_workers: int = 0,
    image_format: str = "RGB",
    device_transforms: Sequence[ClipTransform] = (),
    device: str | None = None,
    negative_share: float | None = None,
    mining: HardMining | None = None,
    static: StaticClips | None = None,
    organ: str | None = None,
) -> ClipLoader:
    """Loader of training clips.

    Args:
        videos: to draw clips from.
        frame_sampler: which frames of a video make a clip.
        transforms: augmentation of the clip.
        total_batch_size: clips an iteration, all ranks together.
        seed: of everything that is drawn.
        fold: leave out this fold's videos; None takes all.
        num_folds: number of folds.
        foreign_context: see `ClipDataset`.
        num_workers: see `ClipLoader`.
        image_format: see `ClipDataset`.
        device_transforms: see `ClipDataset`; ``transforms`` and these are one augmentation, cut in two.
        device: see `ClipLoader`: where ``device_transforms`` are run.
        negative_share: see `ClipPlanner`.
        mining: see `HardMining`.
        static: see `StaticClips`.
        organ: see `ClipDataset`.

    Raises:
        DataError: no video is left, the fold is none, or a part finds nothing of what it asks for.
    """
    chosen = _select(videos, fold, num_folds, train=True)
    num_boxes = sum(int(video.boxes_per_frame.sum()) for video in chosen)
    logger.info(
        "Training on %d videos of %d patients: %d frames, %d boxes.",
        len(chosen),
        len({v.patient for v in chosen}),
        sum(len(v) for v in chosen),
        num_boxes,
    )
    if num_boxes == 0:
        raise DataError("The training split holds no box: there is nothing to learn from.")
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
    return ClipLoader(dataset, num_workers, device)


def build_video_test_loader(
    *,
    videos: Sequence[Video],
    area: float | None = None,
    fold: int | None = None,
    num_folds: int | None = None,
    foreign_context: bool = False,
    num_workers: int = 0,
    image_format: str = "RGB",
) -> DataLoader[dict[str, Any]]:
    """Loader of this rank's test videos, frame after frame, each a list of one item of `FrameDataset`.

    Args:
        videos: of all ranks; whole videos are dealt to ranks.
        area: see `FrameDataset`.
        fold: take this fold's videos alone; None takes all.
        num_folds: number of folds.
        foreign_context: see `FrameDataset`.
        num_workers: processes that open frames.
        image_format: see `FrameDataset`.

    Raises:
        DataError: no video is left, or the fold is none.
    """
    chosen = _select(videos, fold, num_folds, train=False)
    mine = shard_videos(chosen, comm.get_rank(), comm.get_world_size())
    return PackingLoader(
        FrameDataset(mine, area, foreign_context, image_format),
        batch_size=1,
        num_workers=num_workers,
        worker_init_fn=_init_worker,
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
        of_fold = f" without fold {fold}" if train else f" of fold {fold}"
        raise DataError(
            f"The {kind} split is empty: {len(videos)} videos were read, none is left{of_fold if fold is not None else ''}."
        )
    return chosen


def _init_worker(worker_id: int) -> None:
    """One thread a worker: workers are the parallelism. Signals are the trainer's to answer, not theirs."""
    del worker_id
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A scheduler sends SIGTERM to every process of a job; a worker that died of it would take the trainer's last iteration
    # along. Python itself ends workers with the same signal, so who sent it counts.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_trainer, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _end_with_the_trainer(trainer: int) -> None:
    """Leave at a SIGTERM of the process that started this one; pass over any other's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(128 + signal.SIGTERM)
