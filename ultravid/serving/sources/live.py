"""Cameras and network streams, read by PyAV.

Network streams are tested with a local TCP and HTTP source. Real cameras (Video4Linux, on Linux alone) and RTSP devices are untested.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ultravid.datasets.bounds import frame_size_fault, is_rate
from ultravid.datasets.readers.movie_frames import rgb_of
from ultravid.datasets.readers.source import Region
from ultravid.datasets.video import DataError
from ultravid.serving.records import TimedFrame
from ultravid.serving.sources.listing import Source
from ultravid.serving.sources.live_clock import LiveClock
from ultravid.serving.sources.live_connection import Connection, ConnectionEndedError, check_camera
from ultravid.serving.sources.live_options import LiveOptions
from ultravid.serving.sources.showing import Show
from ultravid.utils.text import counted

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["LiveStream", "open_live"]

logger = logging.getLogger(__name__)

_WAITING = 2  # frames of a source that does not wait for us
_FASTEST = 1.25  # times the stream's own clock, at which frames of a sender that waits for us are given
_LISTED_GAPS = 100
_LONGEST_PAUSE_S = 2.0
_CLOCK_TICK = Fraction(1, 90_000)  # of frames without time stamps
_ENDED = "live streams ended and could not be reconnected"
_RESTAMPED = (
    "live streams have time stamps that are missing or do not increase; the arrival times of the frames are used"
)


class _Mailbox:
    """A queue of frames from the thread that reads to the code that uses them: the oldest are dropped, or the reader waits."""

    def __init__(self, *, drops: bool) -> None:
        self._drops = drops
        self._frames: deque[TimedFrame] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._is_closed = False
        self.dropped = 0

    def put(self, frame: TimedFrame) -> bool:
        """Whether somebody will ask for it."""
        with self._changed:
            while len(self._frames) >= _WAITING and not self._is_closed:
                if self._drops:
                    self._frames.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            self._frames.append(frame)
            self._changed.notify_all()
            return not self._is_closed

    def close(self, error: BaseException | None = None, *, at_once: bool = False) -> None:
        with self._changed:
            self._error = error
            self._is_closed = True
            if at_once:
                self._frames.clear()
            self._changed.notify_all()

    def get(self) -> TimedFrame:
        with self._changed:
            while not self._frames and not self._is_closed:
                self._changed.wait()
            if not self._frames:
                raise self._error or StopIteration
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame


class LiveStream(Iterator[TimedFrame]):
    """A camera or a network stream as a `RecordingStream`, read in a thread.

    A stream that stops is opened again, after waits that get longer; its frames are numbered on, its time axis keeps rising
    (`ultravid.serving.sources.live_clock`), and each gap is in `damage`. A stream that its sender closes and that does not come back has
    ended. An address at which a file is sent is no live source: all of its frames are given, and it is not opened again.

    Frames of a camera, and of an RTSP, RTMP or UDP stream, for which there is no time are dropped, and counted in `damage`. A TCP or HTTP
    sender waits instead, and what it sends at once is given at 1.25 times its own pace, so that none of it has to be dropped later.

    Args:
        source: a camera or an address.
        show: chooses what is shown of the images.
        vid_stride: give every n-th frame only.
        options: how long to wait.

    Raises:
        DataError: there is no such camera, no answer, or no video; the message holds no password.
    """

    path: Path | None = None
    regions: tuple[Region, ...] | None = None
    states_num_frames = False

    def __init__(self, source: Source, show: Show, *, vid_stride: int = 1, options: LiveOptions | None = None) -> None:
        self.name = source.name
        self.metadata: Mapping[str, str | float] = {}
        self._source = source
        self._options = options or LiveOptions()
        self._vid_stride = vid_stride
        self._images_path = Path(str(source))
        self._damage: list[str] = []
        self._repairs: list[tuple[str, str]] = []
        self._undecodable = self._damaged = self._gaps = 0
        self._is_stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection, self._first = self._connect_first()
        stream = self._connection.stream
        self._duration_s = self._connection.duration_s
        self.is_live = not self._connection.is_file
        self._waits_for_us = source.address is not None and source.address.lower().startswith(("tcp:", "http"))
        self._mailbox = _Mailbox(drops=not self._waits_for_us and self.is_live)
        rate = float(stream.average_rate or 0)
        self.fps = rate / vid_stride if is_rate(rate) else None
        number = round(self._duration_s * rate) if self._duration_s and is_rate(rate) else None
        self.num_frames = None if number is None else -(-number // vid_stride)
        image = rgb_of(self._first)
        self.size = (image.shape[0], image.shape[1])
        self.time_base: Fraction | None = Fraction(stream.time_base or 0) or _CLOCK_TICK
        self._clock = LiveClock(self.time_base)
        try:
            self.shown = show(_Images(self._images_path, self.size), "")
        except BaseException:
            self._connection.close()
            raise

    def _connect_first(self) -> tuple[Connection, VideoFrame]:
        try:
            return self._connect()
        except ConnectionEndedError as error:
            what = "camera" if self._source.camera is not None else "stream"
            raise DataError(f"{self._source}: this {what} can't be read: {error}.") from None

    def _connect(self) -> tuple[Connection, VideoFrame]:
        connection = Connection(self._source, self._options)
        try:
            context = connection.stream.codec_context
            fault = frame_size_fault(context.height, context.width) if context.height or context.width else None
            self._incoming = connection.frames()
            first = None if fault else next(self._incoming, None)
            if first is None:
                raise ConnectionEndedError(fault or "it sends no whole frame")
            fault = frame_size_fault(first.height, first.width)
            if fault is not None:
                raise ConnectionEndedError(fault)
            return connection, first
        except BaseException:
            connection.close()
            raise

    @property
    def repairs(self) -> Sequence[tuple[str, str]]:
        """As `RecordingStream.repairs`."""
        clock = self._clock
        if not clock.missing and not clock.shifted:
            return list(self._repairs)
        what = f"{clock.missing} frames have none, and {clock.shifted} times they did not rise or leapt ahead"
        return [*self._repairs, (_RESTAMPED, what)]

    @property
    def damage(self) -> Sequence[str]:
        """As `RecordingStream.damage`; what is known so far."""
        found = list(self._damage)
        if self._gaps > _LISTED_GAPS:
            found.append(f"{self._source}: stopped {self._gaps - _LISTED_GAPS} more times and came back.")
        for number, what in (
            (self._undecodable, "packet could not be decoded"),
            (self._damaged, "frame is marked as damaged"),
            (self._mailbox.dropped, "frame was dropped because it came faster than it was asked for"),
        ):
            if number:
                noun, _, rest = what.partition(" ")
                plural = rest.replace("is ", "are ", 1).replace("was ", "were ", 1).replace("it ", "they ")
                found.append(f"{self._source}: {counted(number, noun)} {rest if number == 1 else plural}.")
        return found

    def __iter__(self) -> Iterator[TimedFrame]:
        """As `RecordingStream.__iter__`."""
        if self._thread is not None or self._is_stopped.is_set():
            raise RuntimeError(f"{self._source}: its frames were given already; open it again.")
        self._thread = threading.Thread(target=self._run, name="ultravid-live", daemon=True)
        self._thread.start()
        return self

    def __next__(self) -> TimedFrame:
        return self._mailbox.get()

    def close(self) -> None:
        """As `RecordingStream.close`. A thread that waits for data ends by itself when its time is over."""
        self._is_stopped.set()
        self._mailbox.close(at_once=True)
        if self._thread is None:
            self._connection.close()
        else:
            self._thread.join(timeout=0.5)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for frame in self._frames():
                if self._is_stopped.is_set() or not self._mailbox.put(frame):
                    break
        except BaseException as raised:
            error = raised
        finally:
            self._connection.close()
            self._mailbox.close(error)

    def _frames(self) -> Generator[TimedFrame]:
        """The frames of one connection after another."""
        index, last_s, gap = 0, 0.0, ""
        while True:
            begin_s, begin = time.monotonic(), None
            stopped: str | None = None
            for frame, arrival_s in self._arriving():
                if isinstance(frame, ConnectionEndedError):
                    stopped = str(frame)
                    break
                stamp_s = None if frame.pts is None else frame.pts * Fraction(self._connection.stream.time_base or 0)
                is_reconnected = begin is None and index > 0
                pts_s = self._clock.time_s(stamp_s, arrival_s, is_reconnected=is_reconnected)
                if is_reconnected:
                    self._note_gap(gap, index, last_s, pts_s)
                begin = pts_s if begin is None else begin
                if index % self._vid_stride == 0:
                    image = rgb_of(frame)
                    if image.shape[:2] != self.size:
                        self._note_other_size(index, (image.shape[0], image.shape[1]))
                        return
                    self._keep_pace(pts_s - begin, begin_s)
                    yield TimedFrame(index, pts_s, image)
                index, last_s = index + 1, pts_s
                if self._is_stopped.is_set():
                    return
            gap = stopped or "its sender closed it"
            if not self._go_on(stopped, index, last_s):
                return

    def _arriving(self) -> Iterator[tuple[VideoFrame | ConnectionEndedError, float]]:
        """Frames and when they came; in the end why there is no other, unless the sender closed the connection."""
        yield self._first, time.monotonic()
        try:
            for frame in self._incoming:
                yield frame, time.monotonic()
        except ConnectionEndedError as error:
            yield error, time.monotonic()

    def _keep_pace(self, along_s: float, begin_s: float) -> None:
        if self._waits_for_us and self.is_live:
            early_s = along_s / _FASTEST - (time.monotonic() - begin_s)
            if early_s > 0:
                self._is_stopped.wait(min(early_s, _LONGEST_PAUSE_S))

    def _go_on(self, stopped: str | None, index: int, last_s: float) -> bool:
        """Whether the source was opened again after it stopped."""
        self._undecodable += self._connection.undecodable
        self._damaged += self._connection.damaged
        after = f"frame {index - 1} ({last_s:.2f} s)"
        if not self.is_live:
            if stopped is not None:
                self._damage.append(f"{self._source}: stopped after {after}: {stopped}.")
            return False
        self._connection.close()
        why = stopped or "its sender closed it"
        logger.warning("%s: stopped after %s: %s; trying to connect again.", self._source, after, why)
        for attempt in range(self._options.tries):
            if self._is_stopped.wait(self._options.first_wait_s * 2**attempt):
                return False
            try:
                self._connection, self._first = self._connect()
                return True
            except ConnectionEndedError as error:
                logger.info("%s: try %d of %d: %s.", self._source, attempt + 1, self._options.tries, error)
        text = f"stopped after {after}: {why}; it did not come back in {counted(self._options.tries, 'try').replace('trys', 'tries')}"
        if stopped is None:
            logger.warning(
                "%s: could not be reconnected, so it has ended; all frames received so far are kept.", self._source
            )
            self._repairs.append((_ENDED, text))
        else:
            self._damage.append(f"{self._source}: {text}.")
        return False

    def _note_gap(self, why: str, index: int, last_s: float, pts_s: float) -> None:
        text = (
            f"{self._source}: stopped after frame {index - 1} ({last_s:.2f} s): {why}; it came back {pts_s - last_s:.2f} s later, "
            "and what was sent in between is missing."
        )
        logger.warning("%s", text)
        self._gaps += 1
        if self._gaps <= _LISTED_GAPS:
            self._damage.append(text)

    def _note_other_size(self, index: int, size: tuple[int, int]) -> None:
        self._damage.append(
            f"{self._source}: frame {index} is {size[1]}x{size[0]} px, the first was {self.size[1]}x{self.size[0]}; it is read "
            "no further: start again for the new size."
        )


class _Images:
    """What a choice of what is shown is made of."""

    regions: tuple[Region, ...] | None = None

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path = path
        self.size = size


def open_live(source: Source, show: Show, *, vid_stride: int = 1, options: LiveOptions | None = None) -> LiveStream:
    """Open a camera or a network stream.

    Raises:
        DataError: see `LiveStream`.
    """
    if source.camera is not None:
        check_camera(source.camera)
    return LiveStream(source, show, vid_stride=vid_stride, options=options)
