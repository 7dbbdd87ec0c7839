"""The beginning of a test loader, for a trial run (``--quick``)."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch

from ultravid.data.mapper import FrameDataset
from ultravid.data.transport import PackingLoader
from ultravid.data.workers import init_worker
from ultravid.datasets.video import Video

__all__ = ["ShortLoader", "shortened"]


class ShortLoader:
    """The first batches of a loader.

    Args:
        loader: gives the batches.
        num_batches: how many of them; None: all.
        num_all: number of batches of the whole loader; None if it is not known.

    Attributes:
        dataset: the dataset of the loader, None if it has none.
        num_all: as given.
        num_given: batches given so far.
        seconds: how long it took until the next one was asked for, including what is done with a batch.
    """

    def __init__(self, loader: Iterable[Any], num_batches: int | None, num_all: int | None) -> None:
        self._loader = loader
        self._num_batches = num_batches
        self.dataset = getattr(loader, "dataset", None)
        self.num_all = num_all
        self.num_given = 0
        self.seconds = 0.0

    def __len__(self) -> int:
        known = [n for n in (self._num_batches, len(self._loader) if isinstance(self._loader, Sized) else None) if n]
        return min(known, default=0)

    def __iter__(self) -> Iterator[Any]:
        start = time.perf_counter()
        for batch in itertools.islice(iter(self._loader), self._num_batches):
            yield batch
            self.num_given += 1
            now = time.perf_counter()
            self.seconds += now - start
            start = now


def shortened(loader: Any, num_videos: int, num_frames: int) -> Any:
    """A test loader's first frames, of each loader in a dict.

    Args:
        loader: one of `ultravid.data.build_video_test_loader`, which gives the first frames of a few videos, those with a lesion
            first; any other gives its first ``num_videos * num_frames`` batches. What is no loader comes back as it is.
        num_videos: the number of videos of each process.
        num_frames: the number of frames of each video.
    """
    if isinstance(loader, Mapping):
        return {name: shortened(each, num_videos, num_frames) for name, each in loader.items()}
    if not isinstance(loader, Iterable):
        return loader
    num_all = len(loader) if isinstance(loader, Sized) else None
    dataset = getattr(loader, "dataset", None)
    if not (isinstance(loader, PackingLoader) and type(dataset) is FrameDataset):
        return ShortLoader(loader, num_videos * num_frames, num_all)
    short = FrameDataset(
        _first_frames(dataset.videos, num_videos, num_frames),
        dataset.area,
        dataset.foreign_context,
        dataset.image_format,
        dataset.all_videos,
    )
    frames = PackingLoader(
        short,
        batch_size=1,
        num_workers=loader.num_workers,
        worker_init_fn=init_worker,
        generator=torch.Generator(),
    )
    return ShortLoader(frames, None, num_all)


def _first_frames(videos: Sequence[Video], num_videos: int, num_frames: int) -> list[Video]:
    ordered = sorted(videos, key=lambda video: not video.boxes_per_frame[:num_frames].any())
    return [dataclasses.replace(video, frames=video.frames[:num_frames]) for video in ordered[:num_videos]]
