"""The time axis of a live source, which always increases, whatever the source's own clock does."""

from __future__ import annotations

from fractions import Fraction

__all__ = ["LiveClock"]

_OTHER_CLOCK_S = 1.0  # by which a clock may differ from ours after a stop and still be the same
_JUMP_S = 10.0  # beyond the time that passed, which no frame rate explains


class LiveClock:
    """Times of frames, in whole ticks.

    A frame's time is its own stamp. If it has none, or the stamp does not rise, leaps ahead of the time that passed, or is of another clock
    after a reconnection, it is the time of the frame before and the time that passed between the two frames' coming; the stamps behind
    it are shifted accordingly.

    Args:
        time_base: seconds a tick.

    Attributes:
        missing: frames that had no stamp.
        shifted: how often the stamps were shifted without a reconnection.
    """

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self.missing = 0
        self.shifted = 0
        self._shift = 0
        self._last: int | None = None
        self._last_arrival_s = 0.0

    def time_s(self, stamp_s: Fraction | None, arrival_s: float, *, is_reconnected: bool = False) -> float:
        """The time of the next frame in seconds.

        Args:
            stamp_s: the frame's own.
            arrival_s: when it came, by a clock that rises.
            is_reconnected: whether it is the first frame after a reconnection.
        """
        passed = max(round((arrival_s - self._last_arrival_s) / self.time_base), 1)
        own = None if stamp_s is None else round(stamp_s / self.time_base) + self._shift
        self.missing += own is None
        if self._last is None:
            tick = own or 0
        elif own is not None and self._is_trusted(own - self._last, passed, is_reconnected):
            tick = own
        else:
            tick = self._last + passed
            if own is not None:
                self._shift += tick - own
                self.shifted += not is_reconnected
        self._last, self._last_arrival_s = tick, arrival_s
        return float(tick * self.time_base)

    def _is_trusted(self, step: int, passed: int, is_reconnected: bool) -> bool:
        if is_reconnected:
            tolerated = max(round(_OTHER_CLOCK_S / self.time_base), passed // 2)
            return step > 0 and abs(step - passed) <= tolerated
        return 0 < step <= passed + round(_JUMP_S / self.time_base)
