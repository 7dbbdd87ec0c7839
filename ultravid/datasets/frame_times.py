"""The times of frames: the only module that computes them from frame numbers, time stamps and a frame rate.

The time of a frame is its time stamp or, without time stamps, its number in the film divided by the frame rate. Its *tick* is its
position in the film counted in frames at that rate: ticks of a film without gaps are one apart; if only every tenth frame was kept,
they are ten apart. "The 5 frames before" are the earlier frames whose tick is at most 5 less, rounded to whole ticks.

Legend: ``F`` frames of a film, in temporal order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.bounds import MAX_FPS, MAX_FRAME_NUMBER, MAX_TIME_S, MIN_FPS, is_rate
from ultravid.utils.text import shown

__all__ = [
    "ASSUMED_FPS",
    "FrameTimes",
    "frame_times",
    "is_evenly_spaced",
    "is_frame_number",
    "is_time_stamp",
    "known_rate",
    "order_fault",
    "rates_agree",
    "usual_interval_s",
]

FloatArray = NDArray[np.float64]

ASSUMED_FPS = 30.0
"""Frames per second of a film whose rate is not known; whatever uses it says so."""

_LEAST_STEP_S = 1e-7  # seconds between two frames: what float64 resolves at `MAX_TIME_S`
_RATES_AGREE = 0.02  # 30 and 29.97 do; 24 and 25 do not
_JITTER_S = 0.001  # of a clock of milliseconds


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """The times of a film's frames.

    Attributes:
        times_s: ``(F,)`` seconds from the film's start, rising.
        ticks: ``(F,)`` places along the film in frames at ``fps``; whole numbers, unless frames have time stamps.
        fps: ticks per second: the film's frame rate, else that of its time stamps, else `ASSUMED_FPS`.
        is_assumed: neither the rate nor time stamps are known, so that ``fps`` is a guess.
        spacing: the usual (median) distance of neighbouring frames in ticks; 1 for a single frame.
        duration_s: from the first frame to the last, plus one usual distance: without gaps ``F / fps``.
    """

    times_s: FloatArray
    ticks: FloatArray
    fps: float
    is_assumed: bool
    spacing: float
    duration_s: float

    @property
    def is_even(self) -> bool:
        """Whether neighbouring frames are one tick apart, to the nearest tick: none is missing between them."""
        return bool((np.abs(np.diff(self.ticks) - 1) < 0.5).all())


def frame_times(numbers: NDArray[np.int64], fps: float | None, stamps_s: FloatArray | None = None) -> FrameTimes:
    """The times of a film's frames.

    Args:
        numbers: ``(F,)`` of the frames along the film, rising.
        fps: frame rate; None if it is not known.
        stamps_s: ``(F,)`` time stamps, seconds from the film's start, rising; None if frames have none.
    """
    stamped = stamps_s is not None and len(stamps_s) > 1
    if stamps_s is None:
        rate = ASSUMED_FPS if fps is None else fps
        steps = np.diff(numbers)
        spacing = float(np.median(steps)) if len(steps) else 1.0
        ticks = numbers.astype(np.float64)
        along = float(ticks[-1] - ticks[0]) + spacing if len(ticks) else 0.0
        return FrameTimes(numbers / rate, ticks, rate, fps is None, spacing, along / rate)
    usual_s = float(np.median(np.diff(stamps_s))) if stamped else math.nan
    rate = fps if fps is not None else float(np.median(np.diff(numbers))) / usual_s if stamped else ASSUMED_FPS
    last_s = usual_s if stamped else 1 / rate
    duration_s = float(stamps_s[-1] - stamps_s[0]) + last_s if len(stamps_s) else 0.0
    return FrameTimes(stamps_s, stamps_s * rate, rate, fps is None and not stamped, last_s * rate, duration_s)


def order_fault(numbers: NDArray[np.int64], stamps_s: FloatArray) -> tuple[int, str] | None:
    """What is wrong with the numbers and time stamps of a film's frames: (place of the frame, message); None if nothing is.

    Args:
        numbers: ``(F,)`` of the frames along the film.
        stamps_s: ``(F,)`` time stamps, nan where a frame has none.
    """
    falls = np.flatnonzero(numbers[1:] <= numbers[:-1])
    if len(falls):
        at = int(falls[0])
        return at + 1, f"its number is {numbers[at + 1]}, not above {numbers[at]}, that of the frame before it"
    missing = np.isnan(stamps_s)
    if missing.all():
        return None
    if missing.any():
        at = int(np.flatnonzero(missing)[0])
        return at, f"has no time stamp, but {len(stamps_s) - int(missing.sum())} other frames of the video have one"
    falls = np.flatnonzero(np.diff(stamps_s) < _LEAST_STEP_S)
    if len(falls):
        at = int(falls[0])
        return at + 1, f"its time stamp is {stamps_s[at + 1]:g} s, not after {stamps_s[at]:g} s of the frame before it"
    return None


def is_evenly_spaced(times_s: FloatArray) -> bool:
    """Whether frames are evenly spaced, up to the rounding of their times: 33, 33 and 34 ms are.

    Args:
        times_s: ``(F,)`` seconds, rising; at least two.
    """
    mean = float(times_s[-1] - times_s[0]) / (len(times_s) - 1)
    grid = times_s[0] + mean * np.arange(len(times_s))
    tolerated = min(max(1.5 * _unit_s(times_s), _JITTER_S), 0.25 * mean)
    return float(np.abs(times_s - grid).max()) <= tolerated


def usual_interval_s(times_s: FloatArray) -> float:
    """The median interval of frames; if rounding shows, the mean of the intervals near it, as 33, 33 and 34 ms are 33.3 ms.

    Args:
        times_s: ``(F,)`` seconds, rising; at least two.
    """
    intervals = np.diff(times_s)
    median, unit = float(np.median(intervals)), _unit_s(times_s)
    # Of fewer units the unit is the film's own clock; of more, rounding is below half a percent.
    if not 5 <= median / unit <= 200:
        return median
    near = intervals[np.abs(intervals - median) <= max(1.01 * unit, 0.1 * median)]
    return float(np.mean(near)) if near.size else median  # of two intervals, 40 and 90 ms, none is near


def _unit_s(times_s: FloatArray) -> float:
    """What all intervals are multiples of, from a microsecond: the clock to which times were rounded."""
    return max(int(np.gcd.reduce(np.rint(1e6 * np.diff(times_s)).astype(np.int64))), 1) / 1e6


def rates_agree(one: float, other: float) -> bool:
    """Whether two statements of a frame rate are of one rate, which containers and scanners round."""
    return abs(one - other) <= _RATES_AGREE * other


def is_frame_number(value: Any) -> bool:
    """Whether a value can be the number of a frame along a film."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_FRAME_NUMBER


def is_time_stamp(value: Any) -> bool:
    """Whether a value can be a time stamp in seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_TIME_S


def known_rate(value: Any) -> float | None:
    """A frame rate as a file states it; None if it is not known, for which files write 0 or nothing.

    Raises:
        ValueError: it is no frame rate; the message says what is right.
    """
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and value == 0:
        return None
    if is_rate(value):
        return float(value)
    wanted = f"from {MIN_FPS:g} to {MAX_FPS:,.0f}" if number and value > 0 else "above 0"
    raise ValueError(f"{shown(value)}, not a number {wanted} (0: not known)")
