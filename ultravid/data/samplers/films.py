"""Films with gaps: the distances between their frames in time, for samplers of clips.

A stride and a window count frames of the film, which are *ticks* (`ultravid.datasets.frame_times`). Where frames are missing,
neighbours in the list are further apart than one tick, and a clip must not take them for neighbours in time.

Legend: ``F`` frames of a film, ``S`` starts of clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.frame_times import FrameTimes

__all__ = ["Film"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Strides:
    """The clips of a film at one stride.

    Attributes:
        following: ``(F + 1,)`` the next frame of a clip after each; ``F`` if there is none, and after that.
        starts: ``(S,)`` frames from which the film holds a whole clip.
        whole: ``(S,)`` bool, clips without a gap of more than twice their usual step.
    """

    following: IntArray
    starts: IntArray
    whole: NDArray[np.bool_]


class Film:
    """The frames of one film along time.

    Args:
        times: the times of its frames.
    """

    def __init__(self, times: FrameTimes) -> None:
        self.ticks = times.ticks
        self.spacing = times.spacing
        self._strides: dict[tuple[int, int], _Strides | None] = {}

    def __len__(self) -> int:
        return len(self.ticks)

    def strided(self, rng: np.random.Generator, stride: int, num_frames: int, frame: int | None = None) -> IntArray:
        """``(num_frames,)`` rising indices: from a random start always the first frame that is at least ``stride`` ticks later.

        So the step is the film's own spacing if that is larger. The stride is smaller if the film is too short, down to 1; the
        last frame is repeated if the film has fewer frames than the clip. A clip lies in a stretch without gaps of more than
        twice its step, if there is such a stretch.

        Args:
            rng: draws the start.
            stride: ticks from one frame of the clip to the next.
            num_frames: frames of the clip.
            frame: one that the clip must hold, or come as near to as it can.
        """
        found = self._fitted(stride, num_frames)
        if found is None:
            return np.minimum(np.arange(num_frames, dtype=np.int64), len(self) - 1)
        starts = found.starts[found.whole] if found.whole.any() else found.starts
        if frame is not None:
            holding = _holding(found, found.starts, num_frames, frame)
            whole = holding & found.whole
            starts = found.starts[whole if whole.any() else holding][
                ::-1
            ]  # in the order of `StridedFrameSampler.around`
        clip = [int(rng.choice(starts)) if frame is not None else int(starts[rng.integers(len(starts))])]
        while len(clip) < num_frames:
            clip.append(int(found.following[clip[-1]]))
        return np.array(clip, np.int64)

    def window(self, centre: int, length: int, num_frames: int) -> tuple[float, float]:
        """First tick, and tick after the last, of a window around a frame; it is shifted to lie inside the film.

        Args:
            centre: index of the frame in the middle of the window.
            length: length of the window in ticks; it is longer if it would hold too few frames at the film's spacing, see the method `length`.
            num_frames: number of frames that are drawn from it.
        """
        whole = float(self.ticks[-1] - self.ticks[0]) + self.spacing
        span = min(self.length(length, num_frames), whole)
        first = max(float(self.ticks[centre]) - span // 2, float(self.ticks[0]))
        first = min(first, float(self.ticks[-1]) + self.spacing - span)
        return first, first + span

    def length(self, length: int, num_frames: int) -> float:
        """A length in ticks, or the least that holds ``num_frames`` frames (but no more than ``length``) at the film's spacing."""
        return max(float(length), min(length, num_frames) * self.spacing)

    def between(self, first: float, end: float) -> tuple[int, int]:
        """(index of the first frame, index after the last) of the frames from tick ``first`` to before tick ``end``, to the nearest tick."""
        begin, last = np.searchsorted(self.ticks, [first - 0.5, end - 0.5])
        return int(begin), int(last)

    def _fitted(self, stride: int, num_frames: int) -> _Strides | None:
        """The clips at the largest stride up to the given one at which the film holds one; None if there is none."""
        key = stride, num_frames
        if key not in self._strides:
            low, high, best = 1, stride, None
            while low <= high:
                tried = high if best is None and high == stride else (low + high) // 2
                found = self._at(tried, num_frames)
                if len(found.starts):
                    best, low = found, tried + 1
                else:
                    high = tried - 1
            self._strides[key] = best
        return self._strides[key]

    def _at(self, stride: int, num_frames: int) -> _Strides:
        F = len(self)
        later = np.searchsorted(self.ticks, self.ticks + (stride - 0.5))
        following = np.append(np.maximum(later, np.arange(1, F + 1)), F)  # frames may be less than half a tick apart
        usual = max(1, math.ceil((stride - 0.5) / self.spacing)) * self.spacing
        ticks = np.append(self.ticks, np.inf)
        with np.errstate(invalid="ignore"):
            wide = ticks[following] - ticks > 2 * usual + self.spacing / 2
        place, broken = np.arange(F), np.zeros(F, np.bool_)
        for _ in range(num_frames - 1):
            broken |= wide[place]
            place = following[place]
        starts = np.flatnonzero(place < F)
        return _Strides(following, starts, ~broken[starts])


def _holding(strides: _Strides, starts: IntArray, num_frames: int, frame: int) -> NDArray[np.bool_]:
    """``(S,)`` which clips hold a frame or, if none does, come nearest to it."""
    distance, place = np.full(len(starts), np.iinfo(np.int64).max), starts
    for _ in range(num_frames):
        distance = np.minimum(distance, np.abs(place - frame))
        place = strides.following[place]
    nearest: NDArray[np.bool_] = distance == distance.min()
    return nearest
