"""Pictures of a camera, decoded in another process (`decoder_process`), as a `RecordingStream`; and the stored pictures.

What comes from that process is checked as if a stranger had sent it.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from ultravid.datasets.readers.shown import Shown
from ultravid.datasets.readers.source import Region
from ultravid.serving.page.decoders import (
    MAX_FRAME_S,
    MAX_OPEN_S,
    DecodedFrame,
    Decoders,
    DecodingError,
    Privacy,
    as_decoding_error,
)
from ultravid.serving.page.pictures import PictureStore
from ultravid.serving.page.wire import receive, receive_bytes, send
from ultravid.serving.records import TimedFrame

__all__ = ["CameraInbox", "CameraStream", "StoredStream"]

_SILENCE_S = 15.0  # that a camera may be silent


class CameraStream:
    """Pictures of a viewer's camera, decoded in another process, as a `RecordingStream` of `DecodedFrame`.

    Args:
        decoders: that start the process.
        inbox: to which the pictures come.

    Attributes:
        blackout: as of `UploadedStream`, for the last picture.

    Raises:
        DecodingError: there is no picture, or the first one can't be decoded.
    """

    name = "camera"
    is_live = True
    fps: float | None = None
    time_base: Fraction | None = None
    num_frames: int | None = None
    path: Path | None = None
    regions: tuple[Region, ...] | None = None
    metadata: Mapping[str, str | float] = {}
    repairs: Sequence[tuple[str, str]] = ()
    damage: Sequence[str] = ()
    is_cut = False
    blackout = ""

    def __init__(self, decoders: Decoders, inbox: CameraInbox) -> None:
        self._process = decoders.take()
        self._bounds = bounds = decoders.bounds
        self._inbox = inbox
        try:
            with as_decoding_error():
                limits = {"max_pixels": bounds.max_pixels, "max_cpu_s": bounds.max_analysis_s + MAX_OPEN_S}
                send(self._process.connection, {"kind": "pictures", **limits, **decoders.privacy.as_job()})
                first = inbox.take()
                if first is None:
                    raise DecodingError("the camera has sent no picture.")
                self.size: tuple[int, int] = (0, 0)
                self._first = self._decode(0, *first)
                self.size = (self._first.image.shape[0], self._first.image.shape[1])
                self.shown = Shown(None, (), self.size, None)
        except BaseException:
            self.close()
            raise

    def _decode(self, index: int, number: int, pts_s: float, content: bytes) -> DecodedFrame:
        connection = self._process.connection
        connection.send_bytes(content)
        header = receive(connection, MAX_FRAME_S)
        if "error" in header:
            raise DecodingError(f"picture {number} can't be used: {str(header['error'])[:300]}")
        pixels = receive_bytes(connection, MAX_FRAME_S)
        picture = receive_bytes(connection, MAX_FRAME_S)
        self.blackout = str(header["blackout"])
        height, width = (int(v) for v in header["size"])
        if len(pixels) != height * width * 3 or not 0 < height * width <= self._bounds.max_pixels:
            raise ValueError(f"picture {number} is not as it was announced")
        if index and (height, width) != self.size:
            raise DecodingError(
                f"picture {number} is {width}x{height} px, the first is {self.size[1]}x{self.size[0]}: start the camera again."
            )
        image = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        return DecodedFrame(index, pts_s, image, picture)

    def __iter__(self) -> Iterator[DecodedFrame]:
        """As `RecordingStream`; ends when the camera does.

        Raises:
            DecodingError: a picture can't be decoded.
        """
        with as_decoding_error():
            yield self._first
            for index in range(1, self._bounds.max_frames + 1):
                taken = self._inbox.take()
                if taken is None:
                    return
                if index == self._bounds.max_frames:
                    self.is_cut = True
                    return
                yield self._decode(index, *taken)

    def cancel(self) -> None:
        """End the process, from any thread: an iteration that is under way raises `DecodingError`."""
        self._inbox.close()
        self._process.end()

    def close(self) -> None:
        """As `RecordingStream.close`."""
        self._process.close()


class StoredStream:
    """Pictures that were kept of a camera, decoded in another process.

    Args:
        decoders: that start the process.
        pictures: what was kept.
        size: (height, width) of the frames in pixels.
        num_frames: how many there are.
    """

    fps: float | None = None
    time_base: Fraction | None = None

    def __init__(self, decoders: Decoders, pictures: PictureStore, size: tuple[int, int], num_frames: int) -> None:
        self._process = decoders.take()
        self._pictures = pictures
        self.size = size
        self._num_frames = num_frames
        limits = {"max_pixels": decoders.bounds.max_pixels, "max_cpu_s": decoders.bounds.max_analysis_s}
        try:
            with as_decoding_error():  # what was black is black
                send(self._process.connection, {"kind": "pictures", **limits, **Privacy(None, True).as_job()})
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[TimedFrame]:
        """The frames, without their times.

        Raises:
            DecodingError: one can't be decoded.
        """
        height, width = self.size
        with as_decoding_error():
            for index in range(self._num_frames):
                self._process.connection.send_bytes(self._pictures.read([index])[0])
                header = receive(self._process.connection, MAX_FRAME_S)
                pixels = receive_bytes(self._process.connection, MAX_FRAME_S)
                receive_bytes(self._process.connection, MAX_FRAME_S)
                if header.get("size") != [height, width] or len(pixels) != height * width * 3:
                    raise ValueError(f"picture {index} is not as it was stored")
                yield TimedFrame(index, 0.0, np.frombuffer(pixels, np.uint8).reshape(height, width, 3))

    def close(self) -> None:
        """End the process."""
        self._process.close()


class CameraInbox:
    """Pictures that have come and are not decoded yet, two at most: an older one makes room for a newer one.

    Attributes:
        num_dropped: pictures that made room.
    """

    def __init__(self) -> None:
        self._pictures: queue.Queue[tuple[int, float, bytes] | None] = queue.Queue(maxsize=2)
        self._is_closed = False
        self.num_dropped = 0
        self._number = 0

    def put(self, pts_s: float, content: bytes) -> None:
        """Add a picture; never waits."""
        if self._is_closed:
            return
        item = (self._number, pts_s, content)
        self._number += 1
        while True:
            try:
                self._pictures.put_nowait(item)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._pictures.get_nowait()
                    self.num_dropped += 1

    def take(self) -> tuple[int, float, bytes] | None:
        """The next picture's number, time in seconds and content; None when the camera has ended, or is silent for 15 s."""
        try:
            return self._pictures.get(timeout=_SILENCE_S)
        except queue.Empty:
            return None

    def close(self) -> None:
        """The camera has ended."""
        self._is_closed = True
        with contextlib.suppress(queue.Full):
            self._pictures.put_nowait(None)
            return
        with contextlib.suppress(queue.Empty):
            self._pictures.get_nowait()
        with contextlib.suppress(queue.Full):
            self._pictures.put_nowait(None)
