"""Frames of a live source, dropped rather than queued, so that detections are never later than a budget."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ultravid.serving.records import FrameDetections, TimedFrame
from ultravid.utils.text import counted

__all__ = ["FrameQueue", "LatencyReport", "LiveDetections"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LAST_FRAMES = 8  # of which the detector's longest time counts


@dataclass(frozen=True)
class LatencyReport:
    """How many frames of a live source were detected, dropped or late so far.

    Attributes:
        num_frames: frames that arrived.
        num_detected: frames that were given to the detector.
        num_dropped: frames that were dropped.
        num_late: frames whose detections came later than the latency budget.
        mean_latency_ms: mean time from the arrival of a frame to its detections; nan before the first.
        max_latency_ms: longest of these times; nan before the first.
    """

    num_frames: int = 0
    num_detected: int = 0
    num_dropped: int = 0
    num_late: int = 0
    mean_latency_ms: float = math.nan
    max_latency_ms: float = math.nan

    def as_json(self) -> dict[str, float | None]:
        """The attributes by name, as reports have them; latencies are None before the first frame."""
        mean, most = (None if math.isnan(ms) else round(ms, 1) for ms in (self.mean_latency_ms, self.max_latency_ms))
        return {"came": self.num_frames, "late": self.num_late, "mean_latency_ms": mean, "max_latency_ms": most}

    def __str__(self) -> str:
        share = 100 * self.num_dropped / max(1, self.num_frames)
        late = f", {counted(self.num_late, 'frame')} later than the budget" if self.num_late else ""
        return (
            f"{counted(self.num_frames, 'frame')} received, {self.num_dropped} of them ({share:.0f}%) were dropped{late}; "
            f"latency {self.mean_latency_ms:.0f} ms on average, {self.max_latency_ms:.0f} ms at most"
        )


class FrameQueue(Generic[T]):
    """Frames that wait for a detector, and the choice of the next one.

    Without a budget it is the newest, and older ones are dropped. With one it is the oldest whose detections will come within the budget
    if the detector takes as long as for the slowest of the last frames: a short delay then costs no frame. If none will, it is the newest.

    Args:
        budget_s: seconds from a frame's coming to its detections; None: only the newest frame is kept.
        clock: the time in seconds.
    """

    def __init__(self, budget_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget_s = budget_s
        self._clock = clock
        self._waiting: deque[tuple[T, float]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._error: BaseException | None = None
        self._started = (0.0, 0.0)  # when the frame that is being detected came, and when its detection began
        self._took_s: deque[float] = deque(maxlen=_LAST_FRAMES)
        self._came = self._detected = self._dropped = self._late = 0
        self._sum_s = self._max_s = 0.0

    def put(self, frame: T) -> None:
        """Add a frame that comes now."""
        with self._changed:
            now = self._clock()
            self._waiting.append((frame, now))
            self._came += 1
            kept = 0.0 if self.budget_s is None else self.budget_s
            while len(self._waiting) > 1 and now - self._waiting[0][1] >= kept:
                self._drop()
            self._changed.notify()

    def close(self, error: BaseException | None = None) -> None:
        """No more frames will come; ``error`` is raised by `get` once the waiting ones are done."""
        with self._changed:
            self._is_closed = True
            self._error = error
            self._changed.notify_all()

    def get(self) -> T | None:
        """The next frame for the detector, as soon as there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._is_closed)
            if not self._waiting:
                if self._error is not None:
                    raise self._error
                return None
            now = self._clock()
            while len(self._waiting) > 1 and not self._is_in_time(now):
                self._drop()
            frame, came = self._waiting.popleft()
            self._started = (came, now)
            return frame

    def done(self) -> None:
        """The detections of the frame that `get` gave are there."""
        with self._changed:
            now = self._clock()
            came, began = self._started
            latency, took = now - came, now - began
            self._took_s.append(took)
            self._detected += 1
            self._late += self.budget_s is not None and latency > self.budget_s
            self._sum_s += latency
            self._max_s = max(self._max_s, latency)

    def report(self) -> LatencyReport:
        """How many frames were detected, dropped or late so far."""
        with self._changed:
            n = self._detected
            mean, most = (1e3 * self._sum_s / n, 1e3 * self._max_s) if n else (math.nan, math.nan)
            return LatencyReport(self._came, n, self._dropped, self._late, mean, most)

    def _is_in_time(self, now: float) -> bool:
        # The longest time, not the mean: by the mean, a slow detector would be given frames that half of the time are just too late.
        return self.budget_s is not None and now - self._waiting[0][1] + max(self._took_s, default=0) <= self.budget_s

    def _drop(self) -> None:
        self._waiting.popleft()
        self._dropped += 1


class LiveDetections:
    """Detections of a live source, in the frames that can be processed in time.

    A thread reads the source. Iterating gives each frame that was detected, with its detections; the numbers of the frames say which were
    dropped, and `report` counts them. The end of an iteration closes the source.

    Args:
        source: the source of the frames; if it has a method ``close``, that ends an iteration over it.
        detect: gives the detections of a frame.
        latency_budget_ms: see `FrameQueue`.
        clock: the time in seconds.
    """

    def __init__(
        self,
        source: Iterable[TimedFrame],
        detect: Callable[[TimedFrame], FrameDetections],
        *,
        latency_budget_ms: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._detect = detect
        self._queue: FrameQueue[TimedFrame] = FrameQueue(
            None if latency_budget_ms is None else latency_budget_ms / 1e3, clock
        )
        self._is_stopped = threading.Event()

    @property
    def report(self) -> LatencyReport:
        """How many frames were detected, dropped or late so far."""
        return self._queue.report()

    def __iter__(self) -> Iterator[tuple[TimedFrame, FrameDetections]]:
        """Iterates, once, over (frame, its detections).

        Raises:
            Exception: what the source raised, after the frames before it.
        """
        thread = threading.Thread(target=self._read, name="reads a live source", daemon=True)
        thread.start()
        try:
            while (frame := self._queue.get()) is not None:
                found = self._detect(frame)
                self._queue.done()
                yield frame, found
        finally:
            self._is_stopped.set()
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
            thread.join(timeout=5)
            report = self.report
            logger.log(logging.WARNING if report.num_dropped else logging.INFO, "%s.", report)

    def _read(self) -> None:
        try:
            for frame in self._source:
                if self._is_stopped.is_set():
                    break
                self._queue.put(frame)
        except BaseException as error:  # of any kind: it is raised where the frames are used
            self._queue.close(error)
        else:
            self._queue.close()
