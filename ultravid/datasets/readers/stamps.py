"""The time of each frame of a film, from time stamps that may be missing or decrease, for frames that come one by one.

A frame's time is its own time stamp in seconds. What is done about frames without a stamp that can be used, in this order:

- If fewer than half of the first 16 frames have stamps that rise, as those of a bare H.264 stream, or if these are the stamps of
  frames in another order, as of B-frames in AVI, the stamps are of no use: the frames are evenly spaced at the stated rate.
- A frame without a stamp that rises lies evenly between its neighbours that have one. So does one of the first 16 whose stamp is far
  ahead of those that follow, unless more than a quarter of these 16 stamps don't rise.
- If stamps stay below an earlier one for 16 frames, the clock was set back, as where two transport streams were joined: all later
  stamps are shifted so that the film continues one usual interval after its last frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Generic, TypeVar

__all__ = ["HELD", "StampedFrames"]

T = TypeVar("T")

_NO_STAMPS = "movies have time stamps that can't be used, and are read as evenly spaced"
_SOME_STAMPS = "movies have frames without a time stamp that rises, which are placed between their neighbours"
_RESTART = "movies have a clock that jumps back; all later times are shifted"

HELD = 16
"""How many frames wait at most until the time of the first of them is known."""


class StampedFrames(Generic[T]):
    """Gives frames, in the order in which they are shown, their times. Except between neighbours that are too near, these are whole ticks.

    Args:
        time_base: seconds a tick of the stamps.
        interval_s: between frames as the container states their rate.
        held: how many frames may wait, at most.

    Attributes:
        is_begun: whether it was decided if the stamps are of use.
        time_base: seconds a tick; of evenly spaced frames that do not lie on the stamps' ticks, the interval between them.
        is_even: whether the frames are taken as evenly spaced because their stamps are of no use.
        missing: frames whose stamp was missing.
        not_rising: frames whose stamp was not above that of the frame before.
        restarts: how often the clock was set back.
    """

    def __init__(self, time_base: Fraction, interval_s: Fraction, held: int = HELD) -> None:
        self.time_base = time_base
        self._interval_s = interval_s
        self._held = max(held, 2)
        self._usual = (
            max(round(interval_s / time_base), 1) if time_base else 1
        )  # the last interval between stamps that rise
        self._shift = 0
        self._last: int | None = None
        self._waiting: list[tuple[T, int | None]] = []
        self.is_begun = False
        self.is_even = False
        self.missing = 0
        self.not_rising = 0
        self.restarts = 0

    @property
    def repairs(self) -> list[tuple[str, str]]:
        """What was done about stamps, as `FrameSource.repairs`; empty if each frame lies at its own."""
        found = []
        if self.is_even:
            rate = f"{float(1 / self._interval_s):.4g} frames a second"
            found.append((_NO_STAMPS, f"some are missing or do not increase; taken as {rate}"))
        if self.missing or self.not_rising:
            what = f"{self.missing} frames have none, those of {self.not_rising} do not rise"
            found.append((_SOME_STAMPS, what))
        if self.restarts:
            found.append((_RESTART, f"{self.restarts} times"))
        return found

    def add(self, frame: T, stamp: int | None) -> Iterator[tuple[T, float]]:
        """Take the next frame; yields the frames whose time in seconds is known by now."""
        if self.is_begun:
            yield from self._place(frame, stamp)
            return
        self._waiting.append((frame, stamp))
        if len(self._waiting) >= self._held:
            yield from self._begin()

    def end(self) -> Iterator[tuple[T, float]]:
        """The frames that are still waiting, when there is no other."""
        if not self.is_begun:
            yield from self._begin()
        yield from self._continue_evenly()

    def _begin(self) -> Iterator[tuple[T, float]]:
        self.is_begun = True
        first, self._waiting = self._waiting, []
        stamps = [stamp for _, stamp in first]
        rising = _longest_rise(stamps)
        self.is_even = 2 * len(rising) < len(stamps) or _are_reordered(stamps) or not self.time_base
        if self.is_even:
            self._count_evenly(next((s for s in stamps if s is not None), 0))
        is_one_clock = 4 * len(rising) >= 3 * len(stamps)  # otherwise it may have been set back
        for place, (frame, stamp) in enumerate(first):
            yield from self._place(frame, stamp, may_rise=not is_one_clock or place in rising)

    def _count_evenly(self, first: int) -> None:
        """From now on times are counted from that of the first stamp."""
        self._usual = 1
        if self.time_base and (self._interval_s / self.time_base).denominator == 1:
            self._usual = int(self._interval_s / self.time_base)
            self._last = first - self._usual
        else:
            self._last = round(first * self.time_base / self._interval_s) - 1
            self.time_base = self._interval_s

    def _place(self, frame: T, stamp: int | None, *, may_rise: bool = True) -> Iterator[tuple[T, float]]:
        if self.is_even:
            assert self._last is not None
            self._last += self._usual
            yield frame, float(self._last * self.time_base)
            return
        tick = None if stamp is None else stamp + self._shift
        if tick is None or not may_rise or (self._last is not None and tick <= self._last):
            self.missing += stamp is None
            self.not_rising += stamp is not None
            self._waiting.append((frame, stamp))
            if len(self._waiting) >= self._held:
                yield from self._give_up_waiting()
            return
        if self._waiting:
            yield from self._place_between(tick)
        elif self._last is not None:
            self._usual = tick - self._last
        self._last = tick
        yield frame, float(tick * self.time_base)

    def _place_between(self, tick: int) -> Iterator[tuple[T, float]]:
        waiting, self._waiting = self._waiting, []
        parts = len(waiting) + 1
        start = tick - parts * self._usual if self._last is None else self._last
        for k, (frame, _) in enumerate(waiting, start=1):
            at = Fraction((tick - start) * k, parts)
            yield (
                frame,
                float((round(at) if tick - start >= 2 * parts else at) * self.time_base + start * self.time_base),
            )

    def _give_up_waiting(self) -> Iterator[tuple[T, float]]:
        k = next((k for k, (_, stamp) in enumerate(self._waiting) if stamp is not None), None)
        if k is None or self._last is None:
            yield from self._continue_evenly()
            return
        waiting, self._waiting = self._waiting, []
        stamp = waiting[k][1]
        assert stamp is not None
        self.restarts += 1
        self._shift = self._last + (k + 1) * self._usual - stamp
        self.missing -= sum(s is None for _, s in waiting)
        self.not_rising -= sum(s is not None for _, s in waiting)
        for frame, each in waiting:
            yield from self._place(frame, each)

    def _continue_evenly(self) -> Iterator[tuple[T, float]]:
        waiting, self._waiting = self._waiting, []
        for frame, _ in waiting:
            self._last = 0 if self._last is None else self._last + self._usual
            yield frame, float(self._last * self.time_base)


def _longest_rise(stamps: Sequence[int | None]) -> set[int]:
    """The places of the most stamps that rise, if all others are passed over."""
    runs: list[list[int]] = []  # the longest that ends at each place
    for place, stamp in enumerate(stamps):
        before: list[int] = []
        for run in runs:
            last = stamps[run[-1]] if run else None
            if stamp is not None and last is not None and last < stamp and len(run) > len(before):
                before = run
        runs.append([*before, place] if stamp is not None else [])
    longest: list[int] = max(runs, key=len, default=[])
    return set(longest)


def _are_reordered(stamps: Sequence[int | None]) -> bool:
    """Whether stamps fall again and again, and would be without gaps if they were sorted: each is there, at another frame.

    One gap is that of a frame behind the last of these. Equal stamps, and stamps that are wrong by themselves, leave gaps.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    falls = sum(b < a for a, b in itertools.pairwise(known))
    if falls < 2 or 8 * falls < len(stamps) or len(set(known)) < len(known):
        return False
    steps = [b - a for a, b in itertools.pairwise(sorted(known))]
    usual = sorted(steps)[len(steps) // 2]
    return sum(2 * step >= 3 * usual for step in steps) <= 1
