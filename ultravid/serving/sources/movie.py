"""Movies, decoded once from their first frame to their last.

`ultravid.datasets.readers` decodes a movie once to number its frames before it reads any of them, and refuses one that is damaged.
Here frames come as they are decoded, with the same pixels, and what is damaged is reported behind the last whole frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ultravid.datasets.bounds import is_rate
from ultravid.datasets.frame_times import ASSUMED_FPS
from ultravid.datasets.readers.movie_frames import rgb_of
from ultravid.datasets.readers.sidecar import read_sidecar, sidecar_path
from ultravid.datasets.readers.source import Region
from ultravid.datasets.readers.stamps import HELD, StampedFrames
from ultravid.datasets.video import DataError
from ultravid.serving.records import TimedFrame
from ultravid.serving.sources.ahead import ReadAhead
from ultravid.serving.sources.film import Film
from ultravid.serving.sources.showing import Show

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["MovieStream"]

_MOST_HELD_BYTES = 1 << 28
_OTHER_RATE = "movies have a sidecar with another fps than their own; their own time stamps are kept"


class MovieStream:
    """A movie as a `RecordingStream`. `ultravid.datasets.readers.stamps` says which time a frame has whose time stamp can't be used.

    Frames that FFmpeg marks as damaged are given and counted; those at the end of the file, which are not whole, are left out.

    Args:
        path: the file.
        name: see `RecordingStream`.
        show: chooses what is shown of the images.
        vid_stride: give every n-th frame only.

    Raises:
        DataError: it is not a movie, or no frame of it can be decoded.
    """

    is_live = False
    regions: tuple[Region, ...] | None = None

    def __init__(self, path: Path, name: str, show: Show, *, vid_stride: int = 1) -> None:
        self.path = path
        self.name = name
        self.vid_stride = vid_stride
        sidecar = read_sidecar(path)
        self.metadata: Mapping[str, str | float] = sidecar.metadata
        self._film = Film(path)
        self._ahead: ReadAhead[TimedFrame] | None = None
        self._is_used = False
        try:
            self._decoded = self._film.frames()
            first = next(self._decoded, None)
            if first is None:
                why = self._film.damage[-1] if self._film.damage else f"{path}: holds no frame that can be decoded."
                raise DataError(why)
            self.size = self._film.seen.size
            self._look_at_rate(sidecar.fps)
            self._timed = self._with_times(first)
            self._begun = list(itertools.islice(self._timed, 1))  # by now it is known what the stamps are worth
            self.shown = show(self, str(self.metadata.get("device", "")))
        except BaseException:
            self.close()
            raise

    def _look_at_rate(self, sidecar_fps: float | None) -> None:
        stream, announced = self._film.stream, self._film.seen.announced
        rate = float(stream.average_rate or 0)
        rate = rate if is_rate(rate) else 0.0
        self.fps = rate / self.vid_stride if rate else None
        self._rate = rate or ASSUMED_FPS
        self._sidecar_fps = sidecar_fps if rate and sidecar_fps and abs(sidecar_fps - rate) > 0.02 * rate else None
        number = announced.frames
        self.states_num_frames = number is not None
        if number is None and announced.end_s is not None and rate:
            start_s = float((stream.start_time or 0) * (stream.time_base or 0))
            number = max(round((announced.end_s - start_s) * rate), 1)
        self.num_frames = None if number is None else -(-number // self.vid_stride)
        held = max(2, min(HELD, _MOST_HELD_BYTES // (2 * self.size[0] * self.size[1])))
        interval_s = 1 / Fraction(stream.average_rate if rate and stream.average_rate else ASSUMED_FPS)
        self._stamped: StampedFrames[VideoFrame] = StampedFrames(Fraction(stream.time_base or 0), interval_s, held)

    @property
    def time_base(self) -> Fraction | None:
        """As `RecordingStream.time_base`."""
        return self._stamped.time_base or None

    @property
    def repairs(self) -> Sequence[tuple[str, str]]:
        """As `RecordingStream.repairs`; what frames show is counted as far as they were decoded."""
        found = self._film.repairs() + self._stamped.repairs
        if self._sidecar_fps is not None:
            what = f"states {self._rate:g} frames/s, {sidecar_path(self.path).name} {self._sidecar_fps:g}"
            found.append((_OTHER_RATE, what))
        return found

    @property
    def damage(self) -> Sequence[str]:
        """As `RecordingStream.damage`."""
        return tuple(self._film.damage)

    def __iter__(self) -> Iterator[TimedFrame]:
        """As `RecordingStream.__iter__`."""
        if self._is_used:
            raise RuntimeError(f"{self.path}: its frames were given already; open it again.")
        self._is_used = True
        self._ahead = ReadAhead(self._images())
        return self._ahead

    def close(self) -> None:
        """As `RecordingStream.close`."""
        self._is_used = True
        if self._ahead is not None:
            self._ahead.close()
        self._film.close()

    def _images(self) -> Generator[TimedFrame]:
        for index, (frame, pts_s) in enumerate(itertools.chain(self._begun, self._timed)):
            if index % self.vid_stride == 0:
                yield TimedFrame(index, pts_s, rgb_of(frame))

    def _with_times(self, first: VideoFrame) -> Iterator[tuple[VideoFrame, float]]:
        for frame in itertools.chain([first], self._decoded):
            yield from self._stamped.add(frame, frame.pts)
        yield from self._stamped.end()
