"""The server's side of decoding processes (`decoder_process`): starting and ending them, and messages if one breaks down.

`uploaded_stream` and `camera_stream` read frames from them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ultravid
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.records import TimedFrame
from ultravid.utils.errors import UserError

__all__ = [
    "MAX_FRAME_S",
    "MAX_OPEN_S",
    "DecodedFrame",
    "DecoderProcess",
    "Decoders",
    "DecodingError",
    "Privacy",
    "as_decoding_error",
]

MAX_OPEN_S = 120.0
"""How long opening a recording may take, in seconds."""

MAX_FRAME_S = 60.0
"""How long a frame may take, in seconds."""

_END_S = 3.0  # that the processes may take to end


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
        bounds: the bounds of what may be decoded.
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


@contextlib.contextmanager
def as_decoding_error() -> Iterator[None]:
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
