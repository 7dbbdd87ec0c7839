"""The frame rate of a movie, and the time of each frame where they are not evenly spaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ultravid.datasets.bounds import is_rate

__all__ = ["MovieTimes", "movie_times"]

_RATES_AGREE = 0.02  # if a container's rate is this close to that of the time stamps, it is the more exact one
_ROUNDED = (
    5,
    200,
)  # ticks a frame: of fewer, the tick is the film's own clock; of more, rounding is below half a percent


@dataclass(frozen=True)
class MovieTimes:
    """What the time stamps of a movie say.

    Attributes:
        fps: frames per second; of an uneven film one over the usual interval; None if it is not known.
        times_s: of each frame, seconds from the first one; None if frames are evenly spaced to the time base's rounding, or if the
            stamps are missing or do not rise.
        are_ordered: whether each frame has a stamp, above that of the frame before it.
    """

    fps: float | None
    times_s: tuple[float, ...] | None
    are_ordered: bool


def movie_times(stamps: Sequence[int | None], time_base: float, stated_rate: float) -> MovieTimes:
    """Rate and times from presentation time stamps.

    Args:
        stamps: of the frames in the order in which they are shown, in ticks of the time base; None where one is missing.
        time_base: seconds a tick.
        stated_rate: frames per second as the container states or estimates them; 0: it does not.
    """
    stated = stated_rate if is_rate(stated_rate) else None
    ticks = np.array([stamp for stamp in stamps if stamp is not None], np.int64)
    if len(ticks) < len(stamps) or len(ticks) < 2 or time_base <= 0:
        return MovieTimes(stated, None, len(ticks) == len(stamps))
    intervals = np.diff(ticks)
    if (intervals <= 0).any():
        return MovieTimes(stated, None, False)
    mean = float(ticks[-1] - ticks[0]) / len(intervals)
    grid = ticks[0] + mean * np.arange(len(ticks))
    if np.abs(ticks - grid).max() <= min(1.5, 0.25 * mean):
        return MovieTimes(_rate(1 / (mean * time_base), stated), None, True)
    times_s = (ticks - ticks[0]) * time_base
    return MovieTimes(_rate(1 / (_usual(intervals) * time_base), stated), tuple(times_s.tolist()), True)


def _usual(intervals: np.ndarray) -> float:
    """The median interval; if rounding shows, the mean of the intervals near it, as 33, 33 and 34 ms are 33.3 ms."""
    median = float(np.median(intervals))
    if not _ROUNDED[0] <= median <= _ROUNDED[1]:
        return median
    return float(np.mean(intervals[np.abs(intervals - median) <= max(1.0, 0.1 * median)]))


def _rate(measured: float, stated: float | None) -> float | None:
    """The container's rate is exact if it is true, but some containers state the camera's setting."""
    if stated is not None and abs(stated - measured) <= _RATES_AGREE * measured:
        return stated
    return measured if is_rate(measured) else None
