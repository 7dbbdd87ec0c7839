"""The order of training clips, the frames of a clip, and the test videos of each process.

Random numbers are counted, not streamed: sample ``k`` of iteration ``i`` is a function of (seed, i, k), so that a run can be
resumed at any iteration and its data do not depend on the number of workers or processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ultravid.data.samplers.films import Film
from ultravid.datasets.video import DataError, Video
from ultravid.utils.limits import NotNegative, Positive

__all__ = [
    "AnchoredFrameSampler",
    "FilmFrameSampler",
    "FrameSampler",
    "InfiniteClipSampler",
    "MemoryFrameSampler",
    "Position",
    "StridedFrameSampler",
    "WindowFrameSampler",
    "shard_videos",
]

Position = tuple[int, int]
"""(iteration, k): the k-th sample of the global batch of an iteration."""


class InfiniteClipSampler:
    """Batches of positions for one process, without end: sample ``k`` of a global batch goes to rank ``k % world_size``.

    Args:
        total_batch_size: clips of an iteration in all processes together.
        rank: the rank of this process.
        world_size: number of processes.
        start: first iteration.
    """

    def __init__(self, total_batch_size: int, rank: int = 0, world_size: int = 1, start: int = 0) -> None:
        if total_batch_size < 1:
            raise DataError(f"total_batch_size={total_batch_size} must be at least 1.")
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
    """Chooses the frames of a clip; any callable will do.

    An attribute ``num_memory`` declares that so many of the first ones are memory: later frames may use them, and they carry no loss.
    """

    def __call__(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The frames of a clip.

        Args:
            num_frames: length of the video.
            rng: to draw from; it is seeded for each clip.

        Returns:
            indices into the video, from 0, rising but for memory; one may be repeated if the video is short.
        """


@runtime_checkable
class AnchoredFrameSampler(FrameSampler, Protocol):
    """A frame sampler that can be asked for a clip with a certain frame; mining by frame needs one."""

    def around(self, num_frames: int, frame: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The frames of a clip that holds a certain frame.

        Args:
            num_frames: length of the video.
            frame: index into the video.
            rng: to draw from; it is seeded for each clip.

        Returns:
            indices as of `FrameSampler`, with ``frame`` among them, or the nearest frame to it that the stride does not skip.
        """


@runtime_checkable
class FilmFrameSampler(FrameSampler, Protocol):
    """A frame sampler whose strides and windows follow the time of frames; films with gaps need one."""

    def of_film(self, film: Film, rng: np.random.Generator, frame: int | None = None) -> NDArray[np.int64]:
        """The frames of a clip in a film with gaps; without gaps they are those of a call, or of `AnchoredFrameSampler.around`.

        Args:
            film: the times of the video's frames.
            rng: to draw from; it is seeded for each clip.
            frame: one that the clip should hold, as of `AnchoredFrameSampler.around`; None for any clip.

        Returns:
            indices as of `FrameSampler`.
        """


class WindowFrameSampler:
    """Frames drawn at random from a window around a random centre (as in UltraDet, Yu et al., MICCAI 2023).

    Args:
        num_frames: frames of a clip.
        window: length of the window in frames of the film; it is shifted to lie inside the video. In a film of which every
            tenth frame was kept it is ten times ``num_frames``, if that is more.
    """

    def __init__(self, *, num_frames: Positive = 16, window: Positive = 30) -> None:
        self.num_frames = num_frames
        self.window = window

    def __call__(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As `FrameSampler.__call__`: sorted frames, drawn without replacement, or with it if the window has fewer frames than the clip."""
        return self.draw_at(num_frames, int(rng.integers(num_frames)), rng)

    def around(self, num_frames: int, frame: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As `AnchoredFrameSampler.around`: ``frame`` is the centre; if it was not drawn, it replaces the nearest frame that was."""
        drawn = self.draw_at(num_frames, frame, rng)
        drawn[np.abs(drawn - frame).argmin()] = frame
        return drawn

    def of_film(self, film: Film, rng: np.random.Generator, frame: int | None = None) -> NDArray[np.int64]:
        """As `FilmFrameSampler.of_film`; the window may hold few frames, which are repeated then."""
        centre = int(rng.integers(len(film))) if frame is None else frame
        return self.draw_of_film(film, centre, rng, anchored=frame is not None)

    def draw_of_film(self, film: Film, centre: int, rng: np.random.Generator, anchored: bool) -> NDArray[np.int64]:
        """Frames drawn from the window around a frame of a film with gaps.

        Args:
            film: the times of the video's frames.
            centre: index of the frame in the middle of the window.
            rng: to draw from.
            anchored: the centre must be among the frames; if it was not drawn, it replaces the nearest frame that was.

        Returns:
            ``(num_frames,)`` sorted indices.
        """
        begin, end = film.between(*film.window(centre, self.window, self.num_frames))
        drawn = np.sort(begin + rng.choice(end - begin, self.num_frames, replace=end - begin < self.num_frames))
        if anchored:
            drawn[np.abs(drawn - centre).argmin()] = centre
        return drawn.astype(np.int64)

    def first_of(self, num_frames: int, centre: int) -> int:
        """The first frame of the window around frame ``centre`` of a video of ``num_frames`` frames without gaps."""
        span = min(self.window, num_frames)
        return min(max(centre - span // 2, 0), num_frames - span)

    def draw_at(self, num_frames: int, centre: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As a call, but with the window around frame ``centre``, which need not be among the frames that are drawn."""
        span = min(self.window, num_frames)
        drawn = rng.choice(span, self.num_frames, replace=span < self.num_frames)
        return np.sort(self.first_of(num_frames, centre) + drawn).astype(np.int64)


class MemoryFrameSampler:
    """Frames before a window, returned first, then frames of the window as `WindowFrameSampler` draws them.

    As in MEGA (Chen et al., CVPR 2020) and CVA-Net (Lin et al., MICCAI 2022): ``num_memory`` memory frames come from the
    ``memory_interval`` frames before the window. A clip has ``num_memory + num_frames`` frames; the first ones are declared as its
    memory (`Clip.num_memory`).

    Args:
        num_memory: number of memory frames.
        memory_interval: how many frames of the film before the window they come from; in a film with gaps more, as ``window`` is.
        num_frames: frames of the window.
        window: length of the window in frames of the film, see `WindowFrameSampler`.
    """

    def __init__(
        self,
        *,
        num_memory: NotNegative = 8,
        memory_interval: NotNegative = 15,
        num_frames: Positive = 8,
        window: Positive = 15,
    ) -> None:
        self.num_memory = num_memory
        self.memory_interval = memory_interval
        self._local = WindowFrameSampler(num_frames=num_frames, window=window)

    def __call__(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As `FrameSampler.__call__`: the memory frames, sorted, then the frames of the window, sorted.

        Memory frames are repeated if there are not enough. If the window begins with the video there are none before it; the
        first frame drawn from the window is repeated instead.
        """
        centre = int(rng.integers(num_frames))
        local = self._local.draw_at(num_frames, centre, rng)
        return self._with_memory(num_frames, centre, local, rng)

    def around(self, num_frames: int, frame: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As `AnchoredFrameSampler.around`: ``frame`` is among the frames of the window."""
        return self._with_memory(num_frames, frame, self._local.around(num_frames, frame, rng), rng)

    def of_film(self, film: Film, rng: np.random.Generator, frame: int | None = None) -> NDArray[np.int64]:
        """As `FilmFrameSampler.of_film`; no memory frame is older than the interval says."""
        centre = int(rng.integers(len(film))) if frame is None else frame
        local = self._local.draw_of_film(film, centre, rng, anchored=frame is not None)
        first, _ = film.window(centre, self._local.window, self._local.num_frames)
        begin, end = film.between(first - film.length(self.memory_interval, self.num_memory), first)
        if begin == end:
            return np.concatenate([np.full(self.num_memory, local[0]), local])
        drawn = rng.choice(end - begin, self.num_memory, replace=end - begin < self.num_memory)
        return np.concatenate([np.sort(begin + drawn), local])

    def _with_memory(
        self, num_frames: int, centre: int, local: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        begin = self._local.first_of(num_frames, centre)
        span = min(self.memory_interval, begin)
        if span == 0:
            return np.concatenate([np.full(self.num_memory, local[0]), local])
        drawn = rng.choice(span, self.num_memory, replace=span < self.num_memory)
        return np.concatenate([np.sort(begin - span + drawn), local])


class StridedFrameSampler:
    """Every ``stride``-th frame from a random start.

    Args:
        num_frames: frames of a clip.
        stride: frames of the film from one to the next; smaller if the video is too short, down to 1. In a film with gaps the next
            frame is the first that is at least so many later, see `Film.strided`.
    """

    def __init__(self, *, num_frames: Positive = 16, stride: Positive = 1) -> None:
        self.num_frames = num_frames
        self.stride = stride

    def __call__(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As `FrameSampler.__call__`: evenly spaced frames; the last one is repeated if the video has fewer frames than the clip."""
        stride, last_start = self._fitted(num_frames)
        return self._from(int(rng.integers(last_start + 1)), stride, num_frames)

    def around(self, num_frames: int, frame: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As `AnchoredFrameSampler.around`: from a random start whose clip has ``frame``; if there is none, from the start that comes nearest."""
        stride, last_start = self._fitted(num_frames)
        starts = frame - stride * np.arange(self.num_frames)
        inside = starts[(starts >= 0) & (starts <= last_start)]
        if len(inside) == 0:
            passed_by = (frame - np.arange(last_start + 1)) % stride
            inside = np.array([np.minimum(passed_by, stride - passed_by).argmin()])
        return self._from(int(rng.choice(inside)), stride, num_frames)

    def of_film(self, film: Film, rng: np.random.Generator, frame: int | None = None) -> NDArray[np.int64]:
        """As `FilmFrameSampler.of_film`; the steps are those of `Film.strided`."""
        return film.strided(rng, self.stride, self.num_frames, frame)

    def _fitted(self, num_frames: int) -> tuple[int, int]:
        """The stride and the last possible start for a video."""
        stride = min(self.stride, max(1, (num_frames - 1) // max(self.num_frames - 1, 1)))
        return stride, max(0, num_frames - 1 - (self.num_frames - 1) * stride)

    def _from(self, start: int, stride: int, num_frames: int) -> NDArray[np.int64]:
        return np.minimum(start + stride * np.arange(self.num_frames, dtype=np.int64), num_frames - 1)


def shard_videos(videos: Sequence[Video], rank: int, world_size: int) -> list[Video]:
    """The test videos of one process, in the order of the data set.

    The longest videos are assigned first, each to the process that has the fewest frames so far, so that all processes finish
    at about the same time.

    Args:
        videos: all test videos; of equally long ones the first is assigned first.
        rank: the process whose videos are wanted, from 0.
        world_size: the number of processes.
    """
    load = [0] * world_size
    mine = []
    for index in sorted(range(len(videos)), key=lambda i: (-len(videos[i]), i)):
        lightest = min(range(world_size), key=load.__getitem__)
        load[lightest] += len(videos[index])
        if lightest == rank:
            mine.append(index)
    return [videos[i] for i in sorted(mine)]
