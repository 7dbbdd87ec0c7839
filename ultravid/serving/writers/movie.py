"""A movie of pictures at given time stamps, which browsers play.

Legend: ``H, W`` height and width of a picture in pixels.
"""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from ultravid.datasets.readers.source import ImageArray
from ultravid.serving.records import FrameDetections
from ultravid.serving.writers.base import Picture, temporary_name
from ultravid.serving.writers.errors import as_os_error

if TYPE_CHECKING:
    from av.packet import Packet

__all__ = ["MovieWriter"]

_NO_CLOCK = Fraction(1, 1_000_000)
_MOST_TICKS = 10_000_000  # a second; an MP4 has 32 bits for the distance of two frames
_LONGEST_STEP = 2**31 - 2  # ticks between two frames: FFmpeg gives a frame that comes later another time stamp
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers
_USUAL_S = Fraction(1, 25)  # that the last frame is shown if nothing else is known


class MovieWriter:
    """Writes an MP4 (H.264, 4:2:0) under a temporary name; `close` completes it and gives it its own.

    Each frame is shown at its own time: the file has the clock of the source, and an edit list if the first frame comes after 0. Nothing
    of the source but the pictures is in it. The format needs even sides: a picture whose side is odd gets a copy of its last
    row or column, so that everything else stays where it is.

    It is a `ResultWriter`.

    Args:
        path: the file; its folder exists.
        size: (H, W) of the pictures.
        time_base: seconds a tick of the source's clock; None: microseconds.
        fps: about how many frames there are a second, to show the last one for as long as that; None: as long as the one before.
        crf: of H.264: quality, from 0 (lossless) to 51; each 6 less take about twice the bytes.
        preset: the preset of x264: "ultrafast" to "veryslow".
        threads: the number of threads of the encoder; 0: as many as it likes.

    Attributes:
        num_frames: how many were added.
        moved_s: by how much all frames were moved, as an MP4 can't begin before 0; 0 unless the first time stamp is negative.
        num_adjusted: how many frames have another time stamp than they were given: it did not rise, or a pause before them was longer than
            an MP4 can hold, 36 minutes by a clock of microseconds and 6 hours by one of 90 kHz.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        time_base: Fraction | None,
        *,
        fps: float | None = None,
        crf: int = 20,
        preset: str = "veryfast",
        threads: int = 1,
    ) -> None:
        self.path = path
        self.num_frames = 0
        self.num_adjusted = 0
        self.moved_s = Fraction(0)
        self._temporary = temporary_name(path)
        self._size = size
        clock = time_base if time_base is not None and 0 < time_base.denominator <= _MOST_TICKS else _NO_CLOCK
        self._tick, self._ticks_a_second = clock, clock.denominator
        self._last = -1
        self._shift = 0  # of all frames from now on, in ticks
        usual = round((1 / Fraction(fps) if fps else _USUAL_S) * self._ticks_a_second)
        self._usual = min(max(usual, 1), _LONGEST_STEP)
        height, width = (side + side % 2 for side in size)
        self._buffer = np.zeros((height, width, 3), np.uint8) if (height, width) != size else None
        options = {
            "movflags": "+faststart",
            "video_track_timescale": str(self._ticks_a_second),
            "movie_timescale": str(self._ticks_a_second),  # in which the edit list states the first frame's time
        }
        with as_os_error(path):
            self._container = av.open(os.path.abspath(self._temporary), "w", format="mp4", options=options)
            try:
                stream: Any = self._container.add_stream("libx264", rate=round(fps) if fps and fps >= 1 else 25)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                context = stream.codec_context
                context.time_base = Fraction(1, self._ticks_a_second)
                context.thread_count = threads
                context.colorspace, context.color_primaries, context.color_trc = _BT709, _BT709, _BT709
                context.color_range = _LIMITED
                # Frames are stored in the order in which they are shown, so a player needs no correction of their times.
                # Of a grey scan only boxes are coloured. With x264's own quality of colour, traces of a box stay in the frames after it; without
                # them a movie of the phantom is 1% larger.
                colour = {"x264-params": "chroma-qp-offset=-8"}
                stream.options = {"crf": str(crf), "preset": preset, "bf": "0", "g": "60", **colour}
                self._container.start_encoding()
            except BaseException:
                self.discard()
                raise
        self._stream = stream

    def add(self, found: FrameDetections, picture: Picture | None) -> None:
        """As `ResultWriter.add`."""
        assert picture is not None
        frame = av.VideoFrame.from_ndarray(self._even(picture.drawn), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = self._stamp(found.pts_s), Fraction(1, self._ticks_a_second)
        with as_os_error(self.path):
            self._write(self._stream.encode(frame))
        self.num_frames += 1

    def close(self) -> None:
        """Complete the file.

        Raises:
            OSError: the disk is full, or the file can't be written; there is none then.
        """
        try:
            with as_os_error(self.path):
                self._write(self._stream.encode())
                self._container.close()
                self._check()
                with self._temporary.open("rb") as file:
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave no file, unless `close` has completed it."""
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):  # it can't be completed, and need not be
            self._container.close()
        self._temporary.unlink(missing_ok=True)

    def _stamp(self, pts_s: float) -> int:
        """The time stamp in ticks, above that of the frame before."""
        stated = round(Fraction(pts_s) / self._tick) * self._tick.numerator
        if self.num_frames == 0 and stated < 0:
            self._shift = -stated
            self.moved_s = Fraction(-stated, self._ticks_a_second)
        ticks = max(stated + self._shift, self._last + 1)
        if self.num_frames and ticks - self._last > _LONGEST_STEP:
            ticks = self._last + _LONGEST_STEP
            self._shift = ticks - stated
        self.num_adjusted += ticks != stated + self.moved_s * self._ticks_a_second
        if self.num_frames:
            self._usual = ticks - self._last
        self._last = ticks
        return ticks

    def _even(self, picture: ImageArray) -> ImageArray:
        height, width = self._size
        if picture.shape != (height, width, 3):
            raise ValueError(
                f"{self.path.name}: a picture is {picture.shape[1]}x{picture.shape[0]} px, not {width}x{height}."
            )
        if self._buffer is None:
            return np.ascontiguousarray(picture)
        self._buffer[:height, :width] = picture
        self._buffer[height:, :width] = picture[-1:]
        self._buffer[:, width:] = self._buffer[:, width - 1 : width]
        return self._buffer

    def _write(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            packet.duration = self._usual  # of the last one; of others the next one's time stamp says it
            self._container.mux(packet)

    def _check(self) -> None:
        """Refuse a file that lacks frames: FFmpeg reports an error of the last write to nobody."""
        with av.open(os.path.abspath(self._temporary), format="mp4") as container:
            found = sum(packet.size > 0 for packet in container.demux(video=0))
        if found != self.num_frames:
            raise OSError(f"{found} of {self.num_frames} frames were written")
