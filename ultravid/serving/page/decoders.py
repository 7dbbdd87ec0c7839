"""The server's end of processes that decode (`decoder_process`): a recording, or a camera's pictures, as a `RecordingStream`.

What comes from such a process is checked as if a stranger had sent it.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import ultravid
from ultravid.datasets.readers.shown import Shown
from ultravid.datasets.readers.source import Region
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.pictures import PictureStore
from ultravid.serving.page.wire import receive, receive_bytes, send
from ultravid.serving.records import TimedFrame
from ultravid.utils.errors import UserError

__all__ = [
    "CameraInbox",
    "CameraStream",
    "DecodedFrame",
    "Decoders",
    "DecodingError",
    "Privacy",
    "StoredStream",
    "UploadedStream",
]

_OPEN_S = 120.0  # that opening a recording may take
_FRAME_S = 60.0  # that a frame may take
_END_S = 3.0  # that the processes may take to end
_SILENCE_S = 15.0  # that a camera may be silent


@dataclass(frozen=True)
class Privacy:
    """What of the frames is black in pictures.

    Attributes:
        mask: a file of `read_scanner_masks`.
        allow_burned_in_text: show whole frames.
    """

    mask: Path | None = None
    allow_burned_in_text: bool = False

    def as_job(self) -> dict[str, Any]:
        """For the process that decodes."""
        return {
            "mask": None if self.mask is None else str(self.mask.absolute()),
            "allow_burned_in_text": self.allow_burned_in_text,
        }


class DecodingError(UserError):
    """What a viewer has sent can't be decoded; the message is for the viewer and continues the recording's label."""


@dataclass(frozen=True, eq=False)
class DecodedFrame(TimedFrame):
    """A frame with its picture for the page.

    Attributes:
        picture: JPEG.
    """

    picture: bytes


def _environment() -> dict[str, str]:
    """That of the process: this package can be imported, and nothing that is secret is in it."""
    kept = ("PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    root = str(Path(ultravid.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, found.get("PYTHONPATH"))))
    return {**found, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Decoders:
    """Starts a process for each recording, by one that has imported what they need (`decoder_process`).

    Args:
        bounds: of what may be decoded.
        privacy: what is black in pictures.
    """

    def __init__(self, bounds: PageBounds, privacy: Privacy) -> None:
        self.bounds = bounds
        self.privacy = privacy
        self._lock = threading.Lock()
        self._host: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._number = 0
        self._is_closed = False

    def start(self) -> None:
        """Start now what the first recording would wait a second for."""
        with self._lock:
            self._started()

    def take(self) -> DecoderProcess:
        """A process that waits for its job.

        Raises:
            DecodingError: the server ends.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._is_closed:
                ours.close()
                raise DecodingError("the server ends.")
            self._number += 1
            message = f"start {self._number}".encode()
            try:
                socket.send_fds(self._started(), [message], [theirs.fileno()])
            except OSError:  # it was killed
                socket.send_fds(self._started(again=True), [message], [theirs.fileno()])
            return DecoderProcess(self, self._number, Connection(ours.detach()))

    def end(self, number: int) -> None:
        """End a process at once."""
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                self._control.send(f"end {number}".encode())

    def close(self) -> None:
        """End all."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def _started(self, again: bool = False) -> socket.socket:
        if again or (self._host is not None and self._host.poll() is not None):
            self._stop()
        if self._control is None:
            ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
            with theirs:
                self._host = subprocess.Popen(
                    [sys.executable, "-m", "ultravid.serving.page.decoder_process", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # FFmpeg's remarks may quote the file
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for the server
                )
            self._control = ours
        return self._control

    def _stop(self) -> None:
        if self._control is not None and self._host is not None:
            self._control.close()  # it ends the others, then itself
            try:
                self._host.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._host.kill()
                self._host.wait()
        self._control = self._host = None


class DecoderProcess:
    """A process that decodes one recording.

    Attributes:
        connection: to it.
    """

    def __init__(self, decoders: Decoders, number: int, connection: Connection) -> None:
        self.connection = connection
        self._decoders = decoders
        self._number = number
        self._closing = threading.Lock()
        self._is_closed = False

    def end(self) -> None:
        """End it at once, from any thread: who waits for it gets an EOFError."""
        self._decoders.end(self._number)

    def close(self) -> None:
        """End it, and close the connection; once, from any thread."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self.end()
                self.connection.close()


class UploadedStream:
    """A file, decoded in another process, as a `RecordingStream` of `DecodedFrame`.

    Args:
        decoders: that start the process.
        path: of the file.
        for_movie: frames are black where pictures are, and have no pictures.

    Attributes:
        blackout: what the viewer is told of what is black in pictures; None if nothing is.
        is_cut: whether frames were left out because there are more than `PageBounds.max_frames`.

    Raises:
        DecodingError: it can't be opened, or is beyond the bounds.
    """

    name = "recording"
    is_live = False

    def __init__(self, decoders: Decoders, path: Path, *, for_movie: bool = False) -> None:
        self._process = decoders.take()
        self._bounds = bounds = decoders.bounds
        self.path: Path | None = path
        self.damage: Sequence[str] = ()
        self.is_cut = False
        job = {
            "kind": "recording",
            "path": str(path),
            "for_movie": for_movie,
            "max_frames": bounds.max_frames,
            "max_pixels": bounds.max_pixels,
            "max_cpu_s": bounds.max_analysis_s + _OPEN_S,
            **decoders.privacy.as_job(),
        }
        try:
            with _as_decoding_error():
                send(self._process.connection, job)
                self._take_facts(self._receive(_OPEN_S))
        except BaseException:
            self.close()
            raise

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        header = receive(self._process.connection, timeout_s)
        if "error" in header:
            raise DecodingError(str(header["error"])[:1000])
        return header

    def _take_facts(self, facts: dict[str, Any]) -> None:
        height, width = (int(v) for v in facts["size"])
        if not (height > 0 and width > 0 and height * width <= self._bounds.max_pixels):
            raise ValueError("its size is beyond the bounds")
        self.size = (height, width)
        shown = facts["shown"]
        crop = None if shown["crop"] is None else _region(shown["crop"], self.size)
        blanked = tuple(_region(part, self.size) for part in shown["blanked"])
        fault = None if shown["fault"] is None else str(shown["fault"])
        whole = self.size if crop is None else (crop[3] - crop[1], crop[2] - crop[0])
        self.shown = Shown(crop, blanked, whole, fault)
        self.regions: tuple[Region, ...] | None = None
        if facts["regions"] is not None:
            self.regions = tuple(_region(part, self.size) for part in facts["regions"])
        self.fps = None if facts["fps"] is None else float(facts["fps"])
        base = facts["time_base"]
        self.time_base = None if base is None else Fraction(int(base[0]), int(base[1]))
        self.num_frames = None if facts["num_frames"] is None else int(facts["num_frames"])
        self.metadata: Mapping[str, str | float] = {
            str(k): v if isinstance(v, float | int) else str(v) for k, v in facts["metadata"].items()
        }
        self.blackout = None if facts["blackout"] is None else str(facts["blackout"])
        self.repairs: Sequence[tuple[str, str]] = tuple((str(kind), str(text)) for kind, text in facts["repairs"])

    def __iter__(self) -> Iterator[DecodedFrame]:
        """As `RecordingStream`.

        Raises:
            DecodingError: a frame can't be decoded; the recording was closed.
        """
        height, width = self.size
        with _as_decoding_error():
            for index in range(self._bounds.max_frames + 1):
                header = self._receive(_FRAME_S)
                if header.get("end"):
                    self.damage = tuple(str(text) for text in header["damage"])
                    self.is_cut = bool(header["is_cut"])
                    return
                pixels = receive_bytes(self._process.connection, _FRAME_S)
                picture = receive_bytes(self._process.connection, _FRAME_S)
                pts_s = float(header["pts_s"])
                if len(pixels) != height * width * 3 or header["index"] != index or not math.isfinite(pts_s):
                    raise ValueError(f"frame {index} is not as it was announced")
                image = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
                yield DecodedFrame(index, pts_s, image, picture)

    def cancel(self) -> None:
        """End the process, from any thread: an iteration that is under way raises `DecodingError`."""
        self._process.end()

    def close(self) -> None:
        """As `RecordingStream.close`."""
        self._process.close()


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
    blackout: str | None = None

    def __init__(self, decoders: Decoders, inbox: CameraInbox) -> None:
        self._process = decoders.take()
        self._bounds = bounds = decoders.bounds
        self._inbox = inbox
        try:
            with _as_decoding_error():
                limits = {"max_pixels": bounds.max_pixels, "max_cpu_s": bounds.max_analysis_s + _OPEN_S}
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
        header = receive(connection, _FRAME_S)
        if "error" in header:
            raise DecodingError(f"picture {number} can't be used: {str(header['error'])[:300]}")
        pixels = receive_bytes(connection, _FRAME_S)
        picture = receive_bytes(connection, _FRAME_S)
        self.blackout = None if header["blackout"] is None else str(header["blackout"])
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
        with _as_decoding_error():
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
        with _as_decoding_error():  # what was black is black
            send(self._process.connection, {"kind": "pictures", **limits, **Privacy(None, True).as_job()})

    def __iter__(self) -> Iterator[TimedFrame]:
        """The frames, without their times.

        Raises:
            DecodingError: one can't be decoded.
        """
        height, width = self.size
        with _as_decoding_error():
            for index in range(self._num_frames):
                self._process.connection.send_bytes(self._pictures.read([index])[0])
                header = receive(self._process.connection, _FRAME_S)
                pixels = receive_bytes(self._process.connection, _FRAME_S)
                receive_bytes(self._process.connection, _FRAME_S)
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


def _region(value: Any, size: tuple[int, int]) -> Region:
    x1, y1, x2, y2 = (int(v) for v in value)
    if not (0 <= x1 <= x2 <= size[1] and 0 <= y1 <= y2 <= size[0]):
        raise ValueError("a part lies outside of the image")
    return x1, y1, x2, y2


@contextlib.contextmanager
def _as_decoding_error() -> Iterator[None]:
    """What a broken process does, as a message for the viewer."""
    try:
        yield
    except DecodingError:
        raise
    except TimeoutError:
        raise DecodingError("a frame takes too long to decode.") from None
    except (EOFError, OSError):  # it was ended, by a bound or by its own fault
        raise DecodingError("the decoder has broken down on it; the file is damaged, or too large to decode.") from None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise DecodingError("the decoder has broken down on it.") from None
