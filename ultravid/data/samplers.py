"""Which clip is a run's n-th, which of a video's frames it holds, and which rank tests which video.

Randomness is counted, not streamed: sample ``k`` of iteration ``i`` is a function of (seed, i, k), so that a run can be
taken up anywhere and its data do not depend on workers or ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ultravid.data.video import DataError, Video

__all__ = [
    "FrameSampler",
    "InfiniteClipSampler",
    "StridedFrameSampler",
    "WindowFrameSampler",
    "shard_videos",
]

Position = tuple[int, int]
"""(iteration, k): the k-th sample of the global batch of an iteration."""


class InfiniteClipSampler:
    """Batches of positions without end, those of one rank: sample ``k`` of a global batch goes to rank ``k % world_size``.

    Args:
        total_batch_size: clips an iteration, all ranks together.
        rank: this process.
        world_size: number of processes.
        start: first iteration.
    """

    def __init__(self, total_batch_size: int, rank: int = 0, world_size: int = 1, start: int = 0) -> None:
        if total_batch_size % world_size:
            raise DataError(f"total_batch_size={total_batch_size} can't be shared evenly among {world_size} processes.")
        self.total_batch_size = total_batch_size
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[Position]]:
        iteration = self.start
        while True:
            yield [(iteration, k) for k in range(self.rank, self.total_batch_size, self.world_size)]
            iteration += 1


class FrameSampler(Protocol):
    """Chooses the frames of a clip."""

    def __call__(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rising indices into a video of ``num_frames`` frames; an index may come again where the video is short."""


class WindowFrameSampler:
    """Frames drawn at random from a window around a random centre (the way of UltraDet, Yu et al., MICCAI 2023).

    Args:
        num_frames: frames a clip.
        window: frames the window spans; it is moved so that it lies inside the video.
    """

    def __init__(self, *, num_frames: int = 16, window: int = 30) -> None:
        self.num_frames = num_frames
        self.window = window

    def __call__(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Without replacement, or with it where the window holds fewer frames than the clip; sorted."""
        span = min(self.window, num_frames)
        centre = int(rng.integers(num_frames))
        first = min(max(centre - span // 2, 0), num_frames - span)
        drawn = rng.choice(span, self.num_frames, replace=span < self.num_frames)
        return np.sort(first + drawn).astype(np.int64)


class StridedFrameSampler:
    """Every ``stride``-th frame from a random start.

    Args:
        num_frames: frames a clip.
        stride: frames from one to the next; smaller where the video is too short, down to 1.
    """

    def __init__(self, *, num_frames: int = 16, stride: int = 1) -> None:
        self.num_frames = num_frames
        self.stride = stride

    def __call__(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Evenly spaced; the last frame comes again where the video has fewer frames than the clip."""
        stride = min(self.stride, max(1, (num_frames - 1) // max(self.num_frames - 1, 1)))
        last_start = max(0, num_frames - 1 - (self.num_frames - 1) * stride)
        start = int(rng.integers(last_start + 1))
        return np.minimum(start + stride * np.arange(self.num_frames, dtype=np.int64), num_frames - 1)


def shard_videos(videos: Sequence[Video], rank: int, world_size: int) -> list[Video]:
    """This rank's videos for testing, in the order of the data set.

    Videos are dealt by falling number of frames, each to the rank that has the fewest frames so far, so that ranks end at
    about the same time.
    """
    load = [0] * world_size
    mine = []
    for index in sorted(range(len(videos)), key=lambda i: (-len(videos[i]), i)):
        lightest = min(range(world_size), key=load.__getitem__)
        load[lightest] += len(videos[index])
        if lightest == rank:
            mine.append(index)
    return [videos[i] for i in sorted(mine)]
