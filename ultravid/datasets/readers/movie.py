"""Movies, read by PyAV and numbered by what decodes.

The number of frames that a container states can be off by one or two, and an MPEG program stream states none. So a movie is
decoded once when it is opened, which gives each frame's time stamp; a frame is then found by seeking to the key frame before it
and decoding up to its time stamp. If time stamps are missing or do not rise, frames are counted from the beginning.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from ultravid.datasets.readers.source import ImageArray, Region
from ultravid.datasets.video import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["MovieSource"]

_RATES_AGREE = 0.02  # if a container's rate is this close to that of the time stamps, it is the more exact one


@dataclass(frozen=True)
class _Index:
    """What decoding a movie once reveals.

    Attributes:
        time_stamps: of each frame, in the stream's time base; None if one is missing or they do not rise.
        key_frames: numbers of the frames at which decoding can start.
    """

    num_frames: int
    size: tuple[int, int]
    fps: float | None
    time_stamps: tuple[int, ...] | None
    key_frames: tuple[int, ...]


_INDICES: OrderedDict[tuple[str, int, int], _Index] = OrderedDict()
_MAX_INDICES = 2048  # a few kB each; the number of open files is bounded elsewhere


class MovieSource:
    """A movie as a `FrameSource`. Reading frames in order decodes each once; any other order seeks.

    Args:
        path: the file.

    Raises:
        DataError: it is not a movie, a frame is damaged, or the file is truncated; the message names file and frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = _index_of(path)
        self.fps = self._index.fps
        self.times_s: Sequence[float] | None = None
        self.size = self._index.size
        self.region: Region | None = None
        self.regions: tuple[Region, ...] | None = None
        self.repairs: Sequence[tuple[str, str]] = ()
        self.metadata: Mapping[str, str | float] = {}
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
            raise DataError(f"{self.path}: frame {index} can't be decoded: {_reason(error)}.") from error
        if frame is None:
            self.close()
            raise DataError(f"{self.path}: frame {index} can no longer be found; was the file changed?")
        return _to_rgb(frame)

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
        self._container, stream = _open_movie(self.path)
        return self._container, stream


def _open_movie(path: Path) -> tuple[InputContainer, VideoStream]:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: can't be opened as a movie: {_reason(error)}.") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: has no video stream.")
    stream = container.streams.video[0]
    # Loaders parallelise by processes, and FFmpeg's own threads would not survive a fork.
    stream.codec_context.thread_count = 1
    return container, stream


def _index_of(path: Path) -> _Index:
    status = path.stat()
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    if key not in _INDICES:
        _INDICES[key] = _decode_once(path)
        while len(_INDICES) > _MAX_INDICES:
            _INDICES.popitem(last=False)
    _INDICES.move_to_end(key)
    return _INDICES[key]


def _decode_once(path: Path) -> _Index:
    container, stream = _open_movie(path)
    stamps: list[int | None] = []
    keys: list[int] = []
    size = (0, 0)
    try:
        for frame in container.decode(stream):
            turned = frame.rotation % 180 != 0
            found = (frame.width, frame.height) if turned else (frame.height, frame.width)
            if stamps and found != size:
                raise DataError(
                    f"{path}: frame {len(stamps)} is {found[1]}x{found[0]} px, the first is {size[1]}x{size[0]}. "
                    "All frames of a video must have the same size."
                )
            size = found
            if frame.is_corrupt:  # FFmpeg fills what is missing from neighbouring frames
                raise DataError(f"{path}: frame {len(stamps)} is damaged or truncated.")
            if frame.key_frame:
                keys.append(len(stamps))
            stamps.append(frame.pts)
        average = float(stream.average_rate or 0)
        time_base = float(stream.time_base or 0)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: frame {len(stamps)} can't be decoded: {_reason(error)}.") from error
    finally:
        container.close()
    if not stamps:
        raise DataError(f"{path}: holds no frame that can be decoded.")
    rising = tuple(s for s in stamps if s is not None)
    ordered = len(rising) == len(stamps) and all(a < b for a, b in itertools.pairwise(rising))
    fps = _rate(average, rising if ordered else (), time_base)
    return _Index(len(stamps), size, fps, rising if ordered else None, tuple(keys))


def _rate(average: float, stamps: Sequence[int], time_base: float) -> float | None:
    """Frames per second. The container's rate is exact if it is true, but some containers state the camera's setting."""
    if len(stamps) < 2:
        return average or None
    measured = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * time_base)
    return average if abs(average - measured) <= _RATES_AGREE * measured else measured


def _to_rgb(frame: VideoFrame) -> ImageArray:
    image = frame.to_ndarray(format="rgb24")
    turns = (
        round(frame.rotation / 90) % 4
    )  # a phone held upright stores its rotation beside the image, counter-clockwise
    return np.ascontiguousarray(np.rot90(image, turns) if turns else image, np.uint8)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
