"""Decodes the frames of a movie in one pass, and records damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from ultravid.datasets.readers.movie_container import ffmpeg_reason, find_announced, open_movie
from ultravid.datasets.readers.movie_frames import SeenFrames, demuxed
from ultravid.datasets.video import DataError
from ultravid.utils.text import counted

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Film"]

_ONE_TO_ONE = ("h264", "hevc")  # codecs of which each packet is a picture that is shown
_MOST_HELD = 16  # damaged frames that wait for a whole one
_MOST_INTERVALS = 1000  # of which the median is taken
_STRICT = "movies are damaged according to FFmpeg's strict check, and are read as FFmpeg repairs them"


class _ComplaintError(Exception):
    """What a strict decoder says."""


class _PacketStamps:
    """Counts the packets behind the first frame that give none: a decoder passes over what it does not know without a complaint."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._early: list[int] = []
        self._due = 0
        self._frames = 0
        self._is_interlaced = False

    def see_packet(self, packet: Packet[Any]) -> None:
        if packet.pts is None or packet.is_discard or not packet.size:
            return
        if self._first is not None:
            self._due += packet.pts > self._first
        elif len(self._early) < _MOST_INTERVALS:
            self._early.append(packet.pts)

    def see_frame(self, frame: VideoFrame) -> None:
        self._is_interlaced |= frame.interlaced_frame
        if self._first is not None:
            self._frames += 1
        elif frame.pts is not None:
            self._first = frame.pts
            self._due = sum(stamp > self._first for stamp in self._early)

    @property
    def lost(self) -> int:
        """How many; of interlaced films each field may be a packet, so that it is not known."""
        return 0 if self._is_interlaced else max(self._due - self._frames, 0)


class Film:
    """Decodes a movie once, from its first frame to its last.

    FFmpeg decodes as strictly as it can. At its first complaint the movie is decoded again as players do it, up to that frame, and
    from there on a second, strict decoder counts what it complains of.

    Args:
        path: the file.

    Attributes:
        container: which is open until `close`.
        stream: the film in it.
        seen: what was gathered so far.
        damage: what could not be read; complete once `frames` has come to its end.

    Raises:
        DataError: the file is not a movie.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        self._complaint: str | None = None
        self._repairs: list[tuple[str, str]] | None = None  # once the file is closed
        self._open()

    def _open(self) -> None:
        self.container: InputContainer
        self.stream: VideoStream
        self.container, self.stream = open_movie(self.path)
        try:
            if self._complaint is None:
                self.stream.codec_context.options = {"err_detect": "explode"}
            self.seen = SeenFrames(self.path, find_announced(self.path, self.container, self.stream))
        except BaseException:
            self.container.close()
            raise
        self._strict: Any = None  # a decoder of the same film
        self._packets = 0
        self._complaints = 0
        self._lost = 0
        self._packet_stamps = _PacketStamps() if self.stream.codec_context.name in _ONE_TO_ONE else None
        self._corrupt = 0
        self._unreadable: str | None = None
        self._last_stamp: int | None = None
        self._intervals: list[int] = []
        self._longest = 0

    def close(self) -> None:
        """Close the file. No other thread may be decoding."""
        if self._repairs is None:
            self._repairs = self.repairs()  # FFmpeg's memory that they are read from is freed now
            self.container.close()

    def repairs(self) -> list[tuple[str, str]]:
        """What was guessed or repaired so far, as `FrameSource.repairs`."""
        if self._repairs is not None:
            return list(self._repairs)
        found = list(self.seen.repairs(self.container, self.stream))
        if self._complaint is not None and not self._is_damaged:
            found.insert(0, (_STRICT, self._complaint))
        return found

    @property
    def _is_damaged(self) -> bool:
        """Whether what a strict decoder complains of is damage: of most packets it is the way in which the film was encoded."""
        return 2 * self._complaints <= self._packets

    def frames(self) -> Iterator[VideoFrame]:
        """The frames in the order in which they are shown. Damaged ones are among them, but at the end of the film.

        Raises:
            DataError: the first frame has a size or a turn that is not read.
        """
        given = 0
        try:
            for frame in self._whole():
                yield frame
                given += 1
        except _ComplaintError as error:
            number = self.seen.number
            self._complaint = f"{f'after frame {number - 1}' if number else 'at its beginning'} ({error})"
            self.container.close()
            self._open()
            for number, frame in enumerate(self._whole()):
                if number >= given:
                    yield frame
        self._finish()

    def _whole(self) -> Iterator[VideoFrame]:
        held: list[VideoFrame] = []
        for frame in self._decoded():
            try:
                self.seen.see_frame(frame)
            except DataError as error:
                if self.seen.number == 0:
                    raise
                self.damage.append(str(error))
                return
            self._see_stamp(frame)
            if frame.is_corrupt and len(held) < _MOST_HELD:  # FFmpeg fills what is missing from neighbouring frames
                held.append(frame)
                continue
            self._corrupt += len(held) + frame.is_corrupt
            yield from held
            held.clear()
            yield frame
        if held:
            self.seen.number -= len(held)
            self.damage.append(
                f"{self.path}: its last frame can't be decoded completely, and is left out."
                if len(held) == 1
                else f"{self.path}: its last {len(held)} frames can't be decoded completely, and are left out."
            )

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self._demuxed():
            self.seen.see_packet(packet, self.stream)
            if packet.stream.index != self.stream.index:
                continue
            if self._complaint is not None:
                self._count_complaints(packet)
            try:
                found = self.stream.decode(packet)
            except (av.FFmpegError, OSError, ValueError) as error:
                if self._complaint is None:
                    raise _ComplaintError(ffmpeg_reason(error)) from None
                self._lost += 1
                continue
            for frame in found:
                if self._packet_stamps is not None:
                    self._packet_stamps.see_frame(frame)
                yield frame
        if self._unreadable is not None:  # the decoder was not told that this was the last packet
            yield from self.stream.decode(None)

    def _demuxed(self) -> Iterator[Packet[Any]]:
        try:
            yield from demuxed(self.container, self.path)
        except (av.FFmpegError, OSError) as error:
            self._unreadable = ffmpeg_reason(error)
        except DataError as error:
            if self.seen.number == 0:
                raise
            self.damage.append(str(error))

    def _count_complaints(self, packet: Packet[Any]) -> None:
        if self._strict is None:
            context = self.stream.codec_context
            self._strict = av.CodecContext.create(context.codec.name, "r")
            self._strict.extradata = context.extradata
            self._strict.options = {"err_detect": "explode"}
            self._strict.thread_count = 1
        self._packets += bool(packet.size)
        try:
            self._strict.decode(packet)
        except (av.FFmpegError, OSError, ValueError):
            self._complaints += 1

    def _see_stamp(self, frame: VideoFrame) -> None:
        if frame.pts is None:
            return
        interval = frame.pts - self._last_stamp if self._last_stamp is not None else 0
        self._last_stamp = frame.pts
        if interval > 0:
            self._longest = max(self._longest, interval)
            if len(self._intervals) < _MOST_INTERVALS:
                self._intervals.append(interval)

    def _finish(self) -> None:
        """Note what is damaged, now that there is no other frame."""
        number, file = self.seen.number, self.path
        tick_s = float(self.stream.time_base or 0)
        usual_s = float(np.median(self._intervals)) * tick_s if self._intervals else 0.04
        longest_s = self._longest * tick_s if self._intervals else 0.04
        fault = self.seen.shortfall(self.container, usual_s, longest_s)
        is_end_cut = fault is not None or self._unreadable is not None or bool(self.damage)
        if self._complaint is not None and self._is_damaged and not (is_end_cut and self._complaints <= 1):
            self.damage.append(
                f"{file}: {counted(self._complaints, 'packet')} of {self._packets} can't be decoded without errors, the first "
                f"{self._complaint}; what is missing is filled from other frames."
            )
        lost = max(self._lost, 0 if self._packet_stamps is None else self._packet_stamps.lost)
        if lost > is_end_cut:  # the packet at which the file is cut
            self.damage.append(f"{file}: {counted(lost, 'frame')} of its stream could not be decoded at all.")
        if self._corrupt:
            self.damage.append(f"{file}: {self._corrupt} of {counted(number, 'frame')} are marked as damaged.")
        if self._unreadable is not None:
            self.damage.append(f"{file}: can't be read beyond frame {number - 1}: {self._unreadable}.")
        if fault is not None:
            self.damage.append(f"{file}: {fault}.")
