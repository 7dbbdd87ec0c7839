"""Movies, against FFmpeg that takes every error for one (`err_detect` explode) and counts its frames."""

from __future__ import annotations

import fractions
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.fuzz.harness import Complaint, Family, Files, Reading
from tests.fuzz.images import frames_of, read_recordings

__all__ = ["FAMILIES"]

FRAMES, SIZE = 5, 32
_KINDS = (
    ("a.mp4", "mp4", "libx264", "yuv420p"),
    ("a.mkv", "matroska", "libx264", "yuv420p"),
    ("a.webm", "webm", "libvpx", "yuv420p"),
    ("a.avi", "avi", "mjpeg", "yuvj420p"),
    ("a.mpg", "mpeg", "mpeg2video", "yuv420p"),
    ("a.mov", "mov", "mpeg4", "yuv420p"),
)


def _movie(container: str, codec: str, pixels: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=fractions.Fraction(25))
        stream.width = stream.height = SIZE
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = 3
        stream.codec_context.thread_count = 1
        for number in range(FRAMES):
            image = np.random.default_rng(number).integers(30 * number, 60 + 30 * number, (SIZE, SIZE, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, fractions.Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def _seeds() -> Sequence[Files]:
    return [{name: _movie(container, codec, pixels)} for name, container, codec, pixels in _KINDS]


def _check(folder: Path, reading: Reading) -> None:
    if not reading.value:
        assert reading.said, "no movie: and nothing was said"
    for video in reading.value:
        expected, complaint = _decoded(Path(video.frames[0].path))
        found = frames_of(video)
        assert len(found) <= len(expected), f"more frames: {len(found)} than FFmpeg decodes, {len(expected)}"
        if complaint:
            raise Complaint(complaint)
        assert len(found) == len(expected), f"fewer frames: {len(found)} of {len(expected)}"
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert np.array_equal(a, b), f"other pixels: frame {number}"
        numbers = [frame.index_in_file for frame in video.frames]
        assert numbers == list(range(len(numbers))), f"other numbers: {numbers}"


def _decoded(path: Path) -> tuple[list[np.ndarray[Any, Any]], str]:
    """The frames that FFmpeg decodes, and what it complains of if errors are not tolerated."""
    complaint = ""
    frames: list[np.ndarray[Any, Any]] = []
    for strict in (True, False):
        frames = []
        try:
            with av.open(str(path)) as container:
                stream: Any = container.streams.video[0]
                stream.codec_context.thread_count = 1
                if strict:
                    stream.codec_context.options = {"err_detect": "explode"}
                for frame in container.decode(stream):
                    frames.append(np.rot90(frame.to_ndarray(format="rgb24", threads=1), round(frame.rotation / 90) % 4))
                    if frame.is_corrupt:
                        complaint = complaint or f"frame {len(frames) - 1} is corrupt"
            if not complaint:
                break
        except (av.FFmpegError, OSError, IndexError) as error:
            complaint = complaint or f"FFmpeg: {error}"
    return frames, complaint


FAMILIES = (Family("movies", _seeds, ["a.*"], read_recordings, _check),)
