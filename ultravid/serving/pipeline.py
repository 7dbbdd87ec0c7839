"""From a source to files: decoding, detection, tracking, drawing and encoding run side by side, with a few frames queued between them.

Legend: ``H, W`` height and width of the source's image in pixels.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ultravid.datasets.readers.source import ImageArray
from ultravid.modeling.detector import Tracker
from ultravid.serving.live import FrameQueue, LatencyReport
from ultravid.serving.records import FrameDetections, TimedFrame
from ultravid.serving.sources.ahead import ReadAhead
from ultravid.serving.sources.base import RecordingStream
from ultravid.serving.writers.base import Picture, ResultWriter, close_writers, discard_writers

__all__ = ["STAGES", "PipelineReport", "StageClock", "run_pipeline", "timed_tracker"]

STAGES = ("decode", "detect", "track", "draw", "encode")
"""``encode`` is all that is written: movie, tables and pictures."""

T = TypeVar("T")
Detect = Callable[[TimedFrame], FrameDetections]
Paint = Callable[[TimedFrame, FrameDetections], Picture]


@dataclass
class StageClock:
    """How long a stage was at work, without its waiting.

    Attributes:
        wall_s: by the clock on the wall.
        cpu_s: the CPU seconds of the thread, without the threads that libraries start.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call a function and count its time."""
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return call(*arguments)
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.thread_time() - cpu


@dataclass
class PipelineReport:
    """The results and times of a pipeline.

    Attributes:
        num_frames: that were written.
        num_detections: in them.
        latency: of a live source: how many of its frames were dropped as they came too fast, and how late the others were.
        wall_s: from the start to the last file.
        stages: by the names of `STAGES`.
        was_stopped: whether it was asked to stop before the source's end.
    """

    num_frames: int = 0
    num_detections: int = 0
    latency: LatencyReport | None = None
    wall_s: float = 0.0
    stages: dict[str, StageClock] = field(default_factory=lambda: {name: StageClock() for name in STAGES})
    was_stopped: bool = False

    @property
    def fps(self) -> float:
        """Frames per second, from the file to the written movie."""
        return self.num_frames / self.wall_s if self.wall_s > 0 else 0.0

    def shares(self) -> dict[str, float]:
        """Each stage's share of the time in which stages were at work; they run side by side."""
        total = sum(clock.wall_s for clock in self.stages.values())
        return {name: clock.wall_s / total if total else 0.0 for name, clock in self.stages.items()}

    def as_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "frames": self.num_frames,
            "detections": self.num_detections,
            "dropped": 0 if self.latency is None else self.latency.num_dropped,
            **({} if self.latency is None else {"live": self.latency.as_json()}),
            "seconds": round(self.wall_s, 3),
            "frames_per_second": round(self.fps, 2),
            "stages": {
                name: {"share": round(self.shares()[name], 4), "wall_s": round(clock.wall_s, 3)}
                for name, clock in self.stages.items()
            },
        }


class _StoppedError(Exception):
    """Another stage failed or ended early; whoever waits for it ends too."""


class _Channel(Generic[T]):
    """A queue between two stages that holds a few items; the sender waits while it is full.

    Args:
        depth: how many items it holds.
    """

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._is_closed = False
        self._is_broken = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Add an item.

        Raises:
            _StoppedError: the receiver takes no more.
        """
        with self._changed:
            while len(self._items) >= self._depth and not self._is_broken:
                self._changed.wait()
            if self._is_broken:
                raise _StoppedError
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._is_closed and not self._is_broken:
                    self._changed.wait()
                if self._is_broken:
                    raise _StoppedError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def close(self) -> None:
        """The sender has no more items."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def break_off(self) -> None:
        """Both sides end at once."""
        with self._changed:
            self._is_broken = True
            self._items.clear()
            self._changed.notify_all()


def run_pipeline(
    stream: RecordingStream,
    detect: Detect,
    writers: Sequence[ResultWriter],
    *,
    paint: Paint | None = None,
    before_writing: Callable[[list[ImageArray]], None] | None = None,
    num_first: int = 32,
    depth: int = 8,
    stop: threading.Event | None = None,
    on_frame: Callable[[int], None] | None = None,
    track_clock: StageClock | None = None,
    latency_budget_ms: float | None = None,
) -> PipelineReport:
    """Run the frames of a source through a detector and write what was found.

    Three stages run side by side, with at most ``depth`` frames between two of them, so that memory does not grow with the length of the
    source. An error of one ends all of them, nothing is left of what was written, and it is raised here. So is a Ctrl-C.

    Args:
        stream: is iterated over and closed.
        detect: gives the detections of the next frame, in order.
        writers: each gets every frame; in the end they are closed in order, or discarded.
        paint: makes the picture that is written of a frame; None: the writers need none.
        before_writing: is given the source's first images before the first frame is painted, to look at; None: nothing waits for them.
        num_first: how many, at most.
        depth: frames between two stages.
        stop: once it is set, a live source ends, and what came until then is complete. Of a recording nothing is kept then.
        on_frame: called with the number of frames written, in the thread that writes.
        track_clock: of `timed_tracker`: its time is not that of detecting.
        latency_budget_ms: of a live source, see `FrameQueue`.

    Raises:
        OSError: the disk is full, or a file can't be written.
        KeyboardInterrupt: Ctrl-C; or ``stop`` was set, and the source is not live.
    """
    run = _Run(stream, detect, writers, paint, before_writing, num_first, depth, on_frame, latency_budget_ms)
    begin = time.perf_counter()
    try:
        run.wait(stop or threading.Event())
    finally:
        run.end()
    report = run.report
    if run.live is not None:
        report.latency = run.live.report()
    report.wall_s = time.perf_counter() - begin
    if track_clock is not None:
        report.stages["track"] = track_clock
        report.stages["detect"].wall_s -= track_clock.wall_s
        report.stages["detect"].cpu_s -= track_clock.cpu_s
    return report


class _Run:
    """The stages of one source."""

    def __init__(
        self,
        stream: RecordingStream,
        detect: Detect,
        writers: Sequence[ResultWriter],
        paint: Paint | None,
        before_writing: Callable[[list[ImageArray]], None] | None,
        num_first: int,
        depth: int,
        on_frame: Callable[[int], None] | None,
        latency_budget_ms: float | None,
    ) -> None:
        self.stream, self.detect, self.writers, self.paint = stream, detect, writers, paint
        self.before_writing, self.num_first, self.on_frame = before_writing, num_first, on_frame
        self.report = PipelineReport()
        self.decoded: _Channel[TimedFrame] = _Channel(depth)
        self.live: FrameQueue[TimedFrame] | None = None
        if stream.is_live:
            self.live = FrameQueue(None if latency_budget_ms is None else latency_budget_ms / 1000)
        self.found: _Channel[tuple[TimedFrame, FrameDetections]] = _Channel(depth)
        self._error: BaseException | None = None
        self._is_broken = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        stages = {"decode": self._decode, "detect": self._detect, "write": self._write}
        self._threads = [
            threading.Thread(target=self._guarded, args=(stage,), name=f"ultravid-{name}", daemon=True)
            for name, stage in stages.items()
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, stop: threading.Event) -> None:
        """Wait for the last stage.

        Raises:
            BaseException: what a stage raised; KeyboardInterrupt if the source is a recording and ``stop`` was set.
        """
        while not self._over.wait(0.1):
            if stop.is_set() and not self.report.was_stopped:
                self.report.was_stopped = True
                if not self.stream.is_live:
                    raise KeyboardInterrupt
                self.stream.close()  # which ends its iteration; what was decoded is still written
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End all stages, and leave nothing that is not complete."""
        self._break_off()
        self.stream.close()
        for thread in self._threads:
            thread.join()
        discard_writers(self.writers)

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except _StoppedError:
            pass
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._break_off()
            self._over.set()

    def _break_off(self) -> None:
        self._is_broken = True
        self.decoded.break_off()
        self.found.break_off()
        if self.live is not None:
            self.live.close()

    def _decode(self) -> None:
        clock = self.report.stages["decode"]
        frames = iter(self.stream)
        while (frame := clock.run(next, frames, None)) is not None:
            if self._is_broken:
                raise _StoppedError
            if self.live is not None:
                self.live.put(frame)
            else:
                self.decoded.put(frame)
        if isinstance(frames, ReadAhead):  # it decodes in its own thread, and what was counted is the waiting for it
            clock.wall_s, clock.cpu_s = frames.wall_s, frames.cpu_s
        if self.live is not None:
            self.live.close()
        self.decoded.close()

    def _detect(self) -> None:
        clock = self.report.stages["detect"]
        for frame in self.decoded if self.live is None else iter(self.live.get, None):
            found = clock.run(self.detect, frame)
            if self.live is not None:
                self.live.done()
            self.found.put((frame, found))
        self.found.close()

    def _write(self) -> None:
        waiting: list[tuple[TimedFrame, FrameDetections]] = []
        is_ready = self.before_writing is None
        for item in self.found:
            if is_ready:
                self._write_frame(*item)
                continue
            waiting.append(item)
            if len(waiting) == self.num_first:
                self._write_first(waiting)
                is_ready = True
        if not is_ready and waiting:
            self._write_first(waiting)
        self.report.stages["encode"].run(close_writers, self.writers)
        self._over.set()

    def _write_first(self, waiting: list[tuple[TimedFrame, FrameDetections]]) -> None:
        assert self.before_writing is not None
        self.report.stages["draw"].run(self.before_writing, [frame.image for frame, _ in waiting])
        for item in waiting:
            self._write_frame(*item)
        waiting.clear()

    def _write_frame(self, frame: TimedFrame, found: FrameDetections) -> None:
        picture = None if self.paint is None else self.report.stages["draw"].run(self.paint, frame, found)
        self.report.stages["encode"].run(self._add, found, picture)
        self.report.num_frames += 1
        self.report.num_detections += len(found.detections)
        if self.on_frame is not None:
            self.on_frame(self.report.num_frames)

    def _add(self, found: FrameDetections, picture: Picture | None) -> None:
        for writer in self.writers:
            writer.add(found, picture)


def timed_tracker(tracker: Tracker) -> tuple[Tracker, StageClock]:
    """A copy of a tracker that counts the time of its updates, and the clock that counts."""
    clock = StageClock()
    copied: Any = copy.copy(tracker)
    update = copied.update
    copied.update = lambda detections, state: clock.run(update, detections, state)
    return copied, clock
