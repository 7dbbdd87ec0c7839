"""Movies, read by PyAV; frames are numbered by decoding.

The number of frames that a container states can be off by one or two, and an MPEG program stream states none. So a movie is
decoded once when it is opened, which gives each frame's time stamp; a frame is then found by seeking to the key frame before it
and decoding up to its time stamp. If time stamps are missing or do not rise, frames are counted from the beginning.

What decodes is compared with what the file announces: a film of which much less decodes is truncated, and rejected.
Frames are shown as the file states: turned and mirrored. The two fields of an interlaced frame stay woven, and pixels that are not
square stay as they are stored, because annotations count stored pixels; both are said.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from ultravid.datasets.readers.movie_container import Announced, ffmpeg_reason, find_announced, open_movie
from ultravid.datasets.readers.movie_frames import SeenFrames, demuxed, rgb_of
from ultravid.datasets.readers.movie_times import MovieTimes, movie_times
from ultravid.datasets.readers.source import ImageArray, Region
from ultravid.datasets.video import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["MovieSource"]


@dataclass(frozen=True)
class _Index:
    """What decoding a movie once reveals.

    Attributes:
        time_stamps: the time stamps of each frame, in the stream's time base; None if one is missing or they do not rise.
        key_frames: numbers of the frames at which decoding can start.
        stream: which of the container's video streams is the film.
        repairs: see `FrameSource.repairs`.
    """

    num_frames: int
    size: tuple[int, int]
    fps: float | None
    times_s: tuple[float, ...] | None
    time_stamps: tuple[int, ...] | None
    key_frames: tuple[int, ...]
    stream: int
    repairs: tuple[tuple[str, str], ...]


_INDICES: OrderedDict[tuple[str, int, int], _Index] = OrderedDict()
_MAX_INDICES = 2048  # a few kB each; the number of open files is bounded elsewhere


class MovieSource:
    """A movie as a `FrameSource`. Reading frames in order decodes each once; any other order seeks.

    Args:
        path: the file.

    Raises:
        DataError: it is not a movie, a frame is damaged, or the file is truncated; the message names file and frame, and how many
            frames are announced and how many decode.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = _index_of(path)
        self.fps = self._index.fps
        self.times_s: Sequence[float] | None = self._index.times_s
        self.size = self._index.size
        self.region: Region | None = None
        self.regions: tuple[Region, ...] | None = None
        self.repairs: Sequence[tuple[str, str]] = self._index.repairs
        self.metadata: Mapping[str, str | float] = {}
        self.bits: int | None = None
        self._container: InputContainer | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._next = 0  # number of the frame that _frames yields next

    def __len__(self) -> int:
        return self._index.num_frames

    def read(self, index: int) -> ImageArray:
        """As `FrameSource.read`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: has {len(self)} frames, there is no frame {index}.")
        try:
            frame = self._decode(index)
        except (av.FFmpegError, OSError) as error:
            self.close()
            raise DataError(f"{self.path}: frame {index} can't be decoded: {ffmpeg_reason(error)}.") from error
        if frame is None:
            self.close()
            raise DataError(f"{self.path}: frame {index} can no longer be found; was the file changed?")
        return rgb_of(frame)

    def __iter__(self) -> Iterator[ImageArray]:
        return map(self.read, range(len(self)))

    def place(self, index: int) -> tuple[str, int | None]:
        """As `FrameSource.place`."""
        return str(self.path), index

    def close(self) -> None:
        """As `FrameSource.close`; the next `read` opens it again."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _decode(self, index: int) -> VideoFrame | None:
        keys = self._index.key_frames
        key = keys[bisect_right(keys, index) - 1] if keys and keys[0] <= index else 0
        # Decoding further is cheaper than seeking, unless there is a key frame in between.
        if self._container is None or not key <= self._next <= index:
            self._go_to(key, index)
        for frame in self._frames:
            number = self._next
            self._next += 1
            if number == index:
                return frame
        return None

    def _go_to(self, key: int, index: int) -> None:
        """Let ``_frames`` yield next a frame not past ``index``: ``key`` if seeking finds it, else frame 0."""
        stamps = self._index.time_stamps
        if stamps is not None and key > 0:
            container, stream = self._open()
            container.seek(stamps[key], stream=stream, backward=True)
            frames = container.decode(stream)
            # Frames before the first key frame refer to frames that were not decoded.
            first = next((f for f in frames if f.key_frame and f.pts is not None), None)
            if first is not None and first.pts is not None:
                number = bisect_left(stamps, first.pts)
                if number <= index and stamps[number] == first.pts:
                    self._frames, self._next = itertools.chain([first], frames), number
                    return
        container, stream = self._open()
        self._frames, self._next = container.decode(stream), 0

    def _open(self) -> tuple[InputContainer, VideoStream]:
        self.close()
        self._container, stream = open_movie(self.path, self._index.stream)
        return self._container, stream


def _index_of(path: Path) -> _Index:
    status = path.stat()
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    if key not in _INDICES:
        _INDICES[key] = _decode_once(path)
        while len(_INDICES) > _MAX_INDICES:
            _INDICES.popitem(last=False)
    _INDICES.move_to_end(key)
    return _INDICES[key]


class _Decoded(SeenFrames):
    """What is gathered while a movie is decoded for the first time.

    Attributes:
        stamps: time stamps of the frames, in the stream's time base.
        key_frames: numbers of the frames at which decoding can start.
    """

    def __init__(self, path: Path, announced: Announced) -> None:
        super().__init__(path, announced)
        self.stamps: list[int | None] = []
        self.key_frames: list[int] = []

    def decode(self, container: InputContainer, stream: VideoStream) -> None:
        for packet in demuxed(container, self.path):
            self.see_packet(packet, stream)
            if packet.stream.index == stream.index:
                for frame in stream.decode(packet):
                    self._add(frame)

    def _add(self, frame: VideoFrame) -> None:
        number = self.number
        self.see_frame(frame)
        if frame.is_corrupt:  # FFmpeg fills what is missing from neighbouring frames
            raise DataError(f"{self.path}: frame {number} is damaged or truncated{self.of_how_many}.")
        if frame.key_frame:
            self.key_frames.append(number)
        self.stamps.append(frame.pts)


def _decode_once(path: Path, complaint: str | None = None) -> _Index:
    """Decode a movie as strictly as FFmpeg can; if it complains, once more as it is read, and then the complaint is a repair.

    Strict decoders also complain of films that players show without a flaw, so a complaint alone is no reason to reject one.
    """
    container, stream = open_movie(path)
    if complaint is None:
        stream.codec_context.options = {"err_detect": "explode"}
    found = _Decoded(path, find_announced(path, container, stream))
    try:
        found.decode(container, stream)
        _refuse_truncated(found, container, stream)
        if not found.stamps:
            raise DataError(f"{path}: holds no frame that can be decoded.")
        times = movie_times(found.stamps, Fraction(stream.time_base or 0), float(stream.average_rate or 0))
        ordered = tuple(stamp for stamp in found.stamps if stamp is not None) if times.are_ordered else None
        return _Index(
            len(found.stamps),
            found.size,
            times.fps,
            times.times_s,
            ordered,
            tuple(found.key_frames),
            list(container.streams.video).index(stream),
            tuple(_repairs(found, container, stream, times, complaint)),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        what = f"frame {len(found.stamps)} can't be decoded: {ffmpeg_reason(error)}"
        if complaint is None:
            return _decode_once(path, what)
        raise DataError(f"{path}: {what}{found.of_how_many}.") from error
    finally:
        container.close()


def _refuse_truncated(found: _Decoded, container: InputContainer, stream: VideoStream) -> None:
    """Reject a film of which less decodes than the file announces."""
    stamps = sorted(stamp for stamp in found.stamps if stamp is not None)
    intervals = np.diff(stamps) * float(stream.time_base or 0) if len(stamps) > 1 else np.array([0.04])
    fault = found.shortfall(container, float(np.median(intervals)), float(intervals.max()))
    if fault is not None:
        raise DataError(f"{found.path}: {fault}.")


def _repairs(
    found: _Decoded, container: InputContainer, stream: VideoStream, times: MovieTimes, complaint: str | None
) -> Iterator[tuple[str, str]]:
    if complaint is not None:
        yield "movies are damaged according to FFmpeg's strict check, and are read as FFmpeg repairs them", complaint
    yield from times.repairs
    yield from found.repairs(container, stream)
