"""The frame rate of a movie, and the time of each frame if they are not evenly spaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ultravid.datasets.bounds import is_rate
from ultravid.datasets.frame_times import is_evenly_spaced, rates_agree, usual_interval_s

__all__ = ["MovieTimes", "movie_times"]


@dataclass(frozen=True)
class MovieTimes:
    """What the time stamps of a movie say.

    Attributes:
        fps: frames per second; of an uneven film one over the usual interval; None if it is not known.
        times_s: the time of each frame in seconds from the first one; None if frames are evenly spaced to the time base's rounding, or if the
            stamps are missing or do not rise.
        are_ordered: whether each frame has a stamp, above that of the frame before it.
    """

    fps: float | None
    times_s: tuple[float, ...] | None
    are_ordered: bool


def movie_times(stamps: Sequence[int | None], time_base: float, stated_rate: float) -> MovieTimes:
    """Rate and times from presentation time stamps.

    Args:
        stamps: the time stamps of the frames in the order in which they are shown, in ticks of the time base; None where one is missing.
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
    times_s = (ticks - ticks[0]) * time_base
    if is_evenly_spaced(times_s):
        return MovieTimes(_rate(len(intervals) / float(times_s[-1]), stated), None, True)
    return MovieTimes(_rate(1 / usual_interval_s(times_s), stated), tuple(times_s.tolist()), True)


def _rate(measured: float, stated: float | None) -> float | None:
    """The container's rate is exact if it is true, but some containers state the camera's setting."""
    if stated is not None and rates_agree(stated, measured):
        return stated
    return measured if is_rate(measured) else None
