"""The frame rate of a movie, and the time of each frame if they are not evenly spaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ultravid.datasets.bounds import is_rate
from ultravid.datasets.frame_times import ASSUMED_FPS, is_evenly_spaced, rates_agree, usual_interval_s
from ultravid.datasets.readers.stamps import StampedFrames

__all__ = ["MovieTimes", "movie_times"]


@dataclass(frozen=True)
class MovieTimes:
    """What the time stamps of a movie say.

    Attributes:
        fps: frames per second; of an uneven film one over the usual interval; None if it is not known.
        times_s: the time of each frame in seconds from the first one; None if frames are evenly spaced to the time base's rounding, or if
            their stamps are of no use.
        repairs: what was done about stamps that can't be used, as `FrameSource.repairs`.
    """

    fps: float | None
    times_s: tuple[float, ...] | None
    repairs: tuple[tuple[str, str], ...]

    @property
    def are_ordered(self) -> bool:
        """Whether each frame has a stamp, above that of the frame before it."""
        return not self.repairs


def movie_times(stamps: Sequence[int | None], time_base: Fraction, stated_rate: float) -> MovieTimes:
    """Rate and times from presentation time stamps; `ultravid.datasets.readers.stamps` says what is done about those that can't be used.

    Args:
        stamps: the time stamps of the frames in the order in which they are shown, in ticks of the time base; None where one is missing.
        time_base: seconds a tick.
        stated_rate: frames per second as the container states or estimates them; 0: it does not.
    """
    stated = stated_rate if is_rate(stated_rate) else None
    stamped: StampedFrames[None] = StampedFrames(time_base, 1 / Fraction(stated or ASSUMED_FPS))
    seconds = [time for stamp in stamps for _, time in stamped.add(None, stamp)] + [time for _, time in stamped.end()]
    repairs = tuple(stamped.repairs)
    if stamped.is_even or len(seconds) < 2:
        return MovieTimes(stated, None, repairs)
    times_s = np.array(seconds) - seconds[0]
    if is_evenly_spaced(times_s):
        return MovieTimes(_rate(1 / float(times_s[-1] / (len(times_s) - 1)), stated), None, repairs)
    return MovieTimes(_rate(1 / usual_interval_s(times_s), stated), tuple(times_s.tolist()), repairs)


def _rate(measured: float, stated: float | None) -> float | None:
    """The container's rate is exact if it is true, but some containers state the camera's setting."""
    if stated is not None and rates_agree(stated, measured):
        return stated
    return measured if is_rate(measured) else None
