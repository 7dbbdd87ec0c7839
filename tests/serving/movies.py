"""Tiny movies whose frames say which they are: each has its own grey level and a white square in its own place, at a known time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Height and width of the frames in pixels."""

SIDE = 16
"""Of the white square in pixels."""

_LEVELS = 20


@dataclass(frozen=True)
class Movie:
    """A movie and what is in it.

    Attributes:
        path: the file.
        numbers: what `number_in` gives for each of its frames, in the order in which they are shown.
        times_s: the presentation time stamp of each, in seconds.
        tick_s: to what the container rounds times.
    """

    path: Path
    numbers: list[int]
    times_s: list[float]
    tick_s: float


def grey_of(number: int) -> int:
    """The grey level of a frame's background: 20 to 172, 8 apart, the same again every 20 frames."""
    return 20 + 8 * (number % _LEVELS)


def square_of(number: int) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) of the white square: it goes around the middle, on the grid of blocks in which movies are coded."""
    x, y = ((0, 0), (16, 0), (32, 0), (48, 16), (48, 32), (32, 48), (16, 48))[number % 7]
    return x, y, x + SIDE, y + SIDE


def picture_of(number: int) -> NDArray[np.uint8]:
    """The frame as ``(SIZE, SIZE, 3)`` uint8 RGB. The square is never in the middle, nor where `number_in` looks."""
    image = np.full((SIZE, SIZE, 3), grey_of(number), np.uint8)
    x1, y1, x2, y2 = square_of(number)
    image[y1:y2, x1:x2] = 235
    return image


def number_in(image: NDArray[Any]) -> int:
    """Which frame an image shows, modulo 20, whichever way it is turned."""
    grey = float(image[26:38, 26:38].mean())
    number = round((grey - 20) / 8)
    assert abs(grey - grey_of(number)) < 3, f"a grey level of {grey} is of no frame"
    return number


def write_movie(
    path: Path,
    ticks: Sequence[int],
    time_base: Fraction,
    *,
    codec: str = "libx264",
    rate: Fraction | int = 25,
    b_frames: int = 0,
    gop: int = 6,
    options: dict[str, str] | None = None,
    change: Callable[[av.VideoFrame], None] | None = None,
) -> Movie:
    """A movie whose frame ``n`` is shown at ``ticks[n] * time_base``; the container is that of the file's suffix.

    Those of AVI, bare MPEG-2, MPEG program streams, and transport streams with B-frames begin when their muxer wants them to.
    """
    more = {"mpegts_copyts": "1"} if path.suffix == ".ts" else {}
    with av.open(str(path), "w", options={**more, **(options or {})}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "qp": "4"}
        else:
            stream.codec_context.bit_rate = 4_000_000
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture_of(number), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = tick, time_base
            if change is not None:
                change(frame)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        tick_s = float(stream.time_base)
    shifted = path.suffix in (".avi", ".mpg", ".vob", ".m2v") or (path.suffix == ".ts" and b_frames > 0)
    start_s = decoded(path)[0][0] if shifted else float(ticks[0] * time_base)
    times = [start_s + float((tick - ticks[0]) * time_base) for tick in ticks]
    return Movie(path, [number % _LEVELS for number in range(len(ticks))], times, tick_s)


def constant_rate(path: Path, rate: Fraction | int, num_frames: int = 12, **more: Any) -> Movie:
    """Frames at a constant rate, such as ``Fraction(30000, 1001)``, the first at 0."""
    rate = Fraction(rate)
    return write_movie(path, range(num_frames), 1 / rate, rate=rate, **more)


def variable_rate(path: Path, num_frames: int = 12, pause_s: int = 2, **more: Any) -> Movie:
    """Frames 20, 45, 70, 20, ... ms apart, with a pause in the middle."""
    ticks, at = [], 0
    for number in range(num_frames):
        ticks.append(at)
        at += (20, 45, 70)[number % 3] + (1000 * pause_s if number == num_frames // 2 else 0)
    return write_movie(path, ticks, Fraction(1, 1000), **more)


def with_b_frames(path: Path, num_frames: int = 12, **more: Any) -> Movie:
    """Frames that are stored in another order than they are shown, at 29.97 a second."""
    return constant_rate(path, Fraction(30000, 1001), num_frames, b_frames=2, **more)


def late_start(path: Path, start_s: int = 3, num_frames: int = 12, **more: Any) -> Movie:
    """An MP4 whose first frame is shown at ``start_s``, for which it has an edit list with an empty edit."""
    return write_movie(path, [25 * start_s + n for n in range(num_frames)], Fraction(1, 25), **more)


def trimmed(path: Path, num_frames: int = 12, cut: int = 3, **more: Any) -> Movie:
    """An MP4 whose edit list hides its first ``cut`` frames: the first one that is shown is at 0."""
    whole = constant_rate(path, 25, num_frames, gop=num_frames, **more)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    (version, entries) = struct.unpack_from(">B3xI", data, at)
    assert (version, entries) == (0, 1)
    duration, media_time = struct.unpack_from(">Ii", data, at + 8)  # in units of the movie and of the track
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    track_scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    struct.pack_into(">Ii", data, at + 8, duration - movie_scale * cut // 25, media_time + track_scale * cut // 25)
    path.write_bytes(data)
    return Movie(path, whole.numbers[cut:], whole.times_s[: num_frames - cut], whole.tick_s)


def turned(path: Path, degrees: int = 90, num_frames: int = 6) -> Movie:
    """An MP4 that is to be shown turned clockwise by 90, 180 or 270 degrees."""
    movie = constant_rate(path, 25, num_frames)
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *(65536 * v for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    return movie


def transport_stream(path: Path, start_s: int = 10, num_frames: int = 12, **more: Any) -> Movie:
    """An MPEG transport stream (``.ts``) whose clock is at ``start_s`` when it begins, as of a recorder that runs all day."""
    ticks = [30 * start_s + number for number in range(num_frames)]
    return write_movie(path, ticks, Fraction(1, 30), rate=30, **more)


def bare_stream(path: Path, num_frames: int = 12) -> Movie:
    """A bare MPEG-2 stream (``.m2v``) without a container, for whose frames FFmpeg makes time stamps."""
    return constant_rate(path, 25, num_frames, codec="mpeg2video")


def truncated(movie: Movie, share: float = 0.5) -> Movie:
    """The same file, of which the end is missing; how many frames are left depends on it."""
    data = movie.path.read_bytes()
    movie.path.write_bytes(data[: int(share * len(data)) + 1])
    return movie


def decoded(path: Path) -> list[tuple[float, int]]:
    """(time stamp in seconds, `number_in`) of each frame as PyAV decodes them, whatever ultravid does."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            assert frame.pts is not None and stream.time_base is not None
            found.append((float(frame.pts * stream.time_base), number_in(frame.to_ndarray(format="rgb24"))))
    return found
