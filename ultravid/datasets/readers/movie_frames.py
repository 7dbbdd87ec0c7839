"""Decodes a movie from its first frame to its last: frames as RGB, and damage on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultravid.datasets.bounds import MAX_FRAMES
from ultravid.datasets.readers.movie_container import Announced, end_fault
from ultravid.datasets.readers.movie_turn import find_turn, turn_fault, turned
from ultravid.datasets.readers.source import ImageArray
from ultravid.datasets.video import DataError

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["SeenFrames", "demuxed", "rgb_of"]


class SeenFrames:
    """What is gathered while a movie is decoded, in memory that does not grow with its length.

    Args:
        path: the file.
        announced: what it announces.

    Attributes:
        number: the number of frames so far.
        size: (height, width) of the frames as they are shown; (0, 0) before the first one.
        end_s: when the last packet of the film ends, in seconds of the container's clock.
        end_of_all_s: when the last packet of any stream ends.
    """

    def __init__(self, path: Path, announced: Announced) -> None:
        self.path = path
        self.announced = announced
        self.number = 0
        self.size = (0, 0)
        self.end_s = 0.0
        self.end_of_all_s = 0.0
        self._interlaced = 0
        self._transparent = 0

    @property
    def of_how_many(self) -> str:
        """What the file announces, to continue a message; empty if it announces nothing."""
        return "" if self.announced.frames_text is None else f"; the file announces {self.announced.frames_text}"

    def see_packet(self, packet: Packet[Any], stream: VideoStream) -> None:
        """Note a packet of any stream of the container, of which ``stream`` is the film."""
        if packet.pts is not None and packet.time_base is not None:
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self.end_of_all_s = max(self.end_of_all_s, end_s)
            if packet.stream.index == stream.index:
                self.end_s = max(self.end_s, end_s)

    def see_frame(self, frame: VideoFrame) -> None:
        """Note the next frame.

        Raises:
            DataError: it is turned by no right angle, or of another size than the first; or there are too many.
        """
        where = f"{self.path}: frame {self.number}"
        if self.number >= MAX_FRAMES:
            raise DataError(f"{self.path}: has more than {MAX_FRAMES:,} frames, the most that are read of one film.")
        turn = find_turn(frame)
        if turn is None:
            raise DataError(f"{where} {turn_fault(frame)}: save it as it is to be seen.")
        size = (frame.height, frame.width) if turn[0] != 0 else (frame.width, frame.height)
        if self.number and size != self.size:
            raise DataError(
                f"{where} is {size[1]}x{size[0]} px, the first is {self.size[1]}x{self.size[0]}. "
                "All frames of a video must have the same size."
            )
        self.size = size
        self._interlaced += frame.interlaced_frame
        self._transparent += _is_transparent(frame)
        self.number += 1

    def shortfall(self, container: InputContainer, usual_s: float, longest_s: float) -> str | None:
        """Why less decoded than the file announces, to follow its name; None if all is there.

        Honest containers are off by a frame or two: they count frames that are dropped, or that refer to frames before a cut. So the
        time must be missing too, and of a file that is whole, much of it.

        Args:
            container: which is still open.
            usual_s: the median of the intervals between frames.
            longest_s: the longest of them.
        """
        announced, number = self.announced, self.number
        cut = end_fault(self.path, container.format.name, announced)
        if cut is not None:
            return f"is truncated: it {cut}, and {number} frames decode"
        missing = None if announced.frames is None else announced.frames - number
        if announced.end_s is None and missing is not None and missing > 0:
            return f"is damaged: it holds {announced.frames} frames, {number} decode"
        if announced.is_whole is False and missing is not None and missing > 0:
            return f"is truncated: it announces {announced.frames} frames, {number} decode"
        if announced.end_s is None or (missing is not None and missing <= 2):
            return None
        missing_s = announced.end_s - (self.end_of_all_s if announced.of_all_streams else self.end_s)
        tolerated_s = 0.5 * usual_s + 0.002  # which is Matroska's rounding
        if announced.is_whole is None:
            tolerated_s += max(0.5, longest_s)
        elif announced.is_whole:
            tolerated_s += max(1.0, 2 * longest_s, 0.25 * announced.end_s)
        if missing_s <= tolerated_s:
            return None
        return (
            f"is truncated: it announces {announced.frames_text or 'a film'} ({announced.end_s:.1f} s), {number} decode"
        )

    def repairs(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[str, str]]:
        """What of the movie was left as it is or guessed, as `FrameSource.repairs`."""
        if len(container.streams.video) > 1:
            number = list(container.streams.video).index(stream)
            what = (
                f"the {len(container.streams.video)} video streams, number {number} of {self.size[1]}x{self.size[0]} px"
            )
            yield "movies have several video streams or a cover picture, of which one film is read", f"of {what}"
        if self._interlaced:
            text = f"{self._interlaced} of {self.number} frames"
            yield "movies are interlaced, and each frame shows the lines of two moments", text
        if self._transparent:
            text = f"{self._transparent} of {self.number} frames"
            yield "movies have transparent pixels, which are shown in the colours that are stored with them", text
        if self.announced.untimed_frames:
            text = f"{self.announced.untimed_frames} of {self.number} frames"
            yield "animated GIFs have frames without a duration, which are taken as 0.1 s long", text
        ratio = stream.sample_aspect_ratio
        if ratio and ratio != 1:
            text = f"a pixel is {float(ratio):.4g} times as wide as high"
            yield "movies have pixels that are not square, and are read as they are stored", text


def demuxed(container: InputContainer, path: Path) -> Iterator[Packet[Any]]:
    """The packets of all streams; the last ones are empty and let the decoders give the frames that they hold back.

    Raises:
        DataError: a stream begins that was not there when the file was opened.
    """
    try:
        yield from container.demux()
    except IndexError:  # PyAV's
        raise DataError(f"{path}: has a stream that begins later than the others and is not announced.") from None


def rgb_of(frame: VideoFrame) -> ImageArray:
    """A frame as ``(H, W, 3)`` uint8 RGB, turned as the file states."""
    image = frame.to_ndarray(format="rgb24", threads=1)  # else as many as there are cores, in each process of a loader
    return turned(np.asarray(image, np.uint8), find_turn(frame) or (1, 0, 0, 1))


def _is_transparent(frame: VideoFrame) -> bool:
    if not frame.format.name.startswith(("argb", "abgr", "rgba", "bgra", "yuva", "gbra", "ya")):
        return False
    return int(frame.to_ndarray(format="rgba", threads=1)[..., 3].min()) < 255
