"""Processes that decode uploads of viewers: FFmpeg and the decoders of pictures never run in the server itself.

A file may be made to break a decoder. Here that ends one recording: its process has no other's data, no rights to write to files, and
bounds on its memory and time.

    python -m ultravid.serving.page.decoder_process DESCRIPTOR

where DESCRIPTOR is the number of an open socket whose other end is `decoders`. This process imports what decoding needs, and forks for
each recording: a fork takes milliseconds, an import a second. It has one thread, so that a fork is safe. When the server ends, however it
ends, so does this process, and it ends the others.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import simplejpeg

from ultravid.datasets.readers.shown import Shown
from ultravid.datasets.readers.sidecar import sidecar_path
from ultravid.datasets.readers.source import ImageArray
from ultravid.serving.page.pictures import encode_picture
from ultravid.serving.page.wire import receive, receive_bytes, send
from ultravid.serving.privacy.blackout import Blackout, BlackoutRule, choose_blackout
from ultravid.serving.privacy.patient_values import patient_values
from ultravid.serving.privacy.scan_area import MAX_FRAMES_LOOKED_AT
from ultravid.serving.privacy.scanner_masks import read_scanner_masks
from ultravid.serving.records import TimedFrame
from ultravid.utils.errors import UserError

__all__ = ["main"]

_MAX_MEMORY = 4 << 30
_MAX_OPEN_FILES = 64
_LOOK_AGAIN = (8, MAX_FRAMES_LOOKED_AT)  # pictures of a camera
_NOTHING_BLACK = {
    BlackoutRule.NOTHING: "Nothing is blacked out, as the server was started with --allow-burned-in-text.",
    BlackoutRule.MASK: "Nothing is blacked out: the server's mask keeps the whole picture.",
    BlackoutRule.REGIONS: "Nothing is blacked out: the file states that the whole picture is ultrasound.",
    BlackoutRule.GUESS: "Nothing is blacked out: {guess}. That is a guess, and text on the scan itself stays: check that no "
    "name can be read.",
}
_BLACK = {
    BlackoutRule.MASK: "it lies outside what the server's mask and the file state as the scan.",
    BlackoutRule.REGIONS: "it lies outside the ultrasound regions that the file states.",
    BlackoutRule.GUESS: "it looks like text in the first frames, which may be a name. That is a guess, and text on the scan itself "
    "stays: check that no name can be read, and that no tissue is hidden.",
    BlackoutRule.ALL: "there was no frame to look at.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Start and end processes, as the server asks through the socket whose number is the only argument."""
    control = socket.socket(fileno=int((sys.argv[1:] if argv is None else argv)[0]))
    _import_readers()
    running: dict[int, int] = {}  # pid by the server's number
    try:
        while True:
            message, descriptors, *_ = socket.recv_fds(control, 64, 1)
            for number in [number for number, pid in running.items() if os.waitpid(pid, os.WNOHANG)[0]]:
                del running[number]  # it has ended
            if not message:
                return  # the server has ended
            word, _, text = message.decode().partition(" ")
            if word == "end":
                _end(running.pop(int(text), None))
                continue
            pid = os.fork()
            if pid == 0:
                running.clear()
                control.close()
                _work(Connection(descriptors[0]))
            running[int(text)] = pid
            os.close(descriptors[0])
    finally:
        for pid in running.values():
            _end(pid)


def _end(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _work(connection: Connection) -> NoReturn:
    """Do the job that comes through a connection, and end."""
    try:
        _restrict(resource.RLIMIT_CORE, 0)  # a core dump would hold the recording
        _restrict(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
        job = receive(connection)
        with _reported(connection, job):
            _restrict(resource.RLIMIT_AS, _MAX_MEMORY)
            _restrict(resource.RLIMIT_CPU, int(job["max_cpu_s"]))
            _restrict(resource.RLIMIT_FSIZE, 0)
            if job["kind"] == "pictures":
                _decode_pictures(connection, job)
            else:
                _decode_recording(connection, job)
    except (EOFError, OSError):  # the server has ended, or wants no more
        pass
    finally:
        os._exit(0)  # nothing is left to do that a broken decoder could disturb


def _import_readers() -> None:
    """Import now what a recording will need, while nobody waits."""
    import ultravid.datasets.readers.dicom
    import ultravid.datasets.readers.movie
    import ultravid.serving.sources  # noqa: F401


def _restrict(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


@contextlib.contextmanager
def _reported(connection: Connection, job: dict[str, Any]) -> Iterator[None]:
    """Send an error to the server: a user's as it is but for the path, of another one nothing but its kind."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except UserError as error:
        text = str(error)
        if "path" in job:  # an error continues the recording's label
            text = text.replace(f"{job['path']}: ", "")
        send(connection, {"error": _with_label(text, job)})
    except MemoryError:
        send(connection, {"error": "it takes more memory than a recording may take"})
    except Exception as error:
        send(connection, {"error": f"it can't be decoded ({type(error).__name__})", "is_bug": True})


def _with_label(message: str, job: dict[str, Any]) -> str:
    """A message about a file by what the viewer calls it, in place of its path and its random name, which says nothing to the viewer."""
    if "path" in job:
        for spelling in (job["path"], Path(job["path"]).name):
            message = message.replace(spelling, job["label"])
    return message


def _decode_recording(connection: Connection, job: dict[str, Any]) -> None:
    from ultravid.serving.sources import open_stream

    path = Path(job["path"])
    stream = open_stream(path)  # a path, whatever it looks like
    try:
        if patient_values(path).occur_in(job["label"]):
            job["label"] = f"recording-{path.stem[:8]}{path.suffix}"  # of a random name
        height, width = stream.size
        if height * width > job["max_pixels"]:
            raise UserError(
                f"its frames have {width}x{height} px; this page takes {job['max_pixels']:,} px at most (--max-pixels)."
            )
        if stream.states_num_frames and (stream.num_frames or 0) > job["max_frames"]:
            raise UserError(
                f"it has {stream.num_frames:,} frames; this page takes {job['max_frames']:,} at most (--max-frames)."
            )
        frames = iter(stream)
        first = list(itertools.islice(frames, MAX_FRAMES_LOOKED_AT))
        blackout = _blackout(job, stream, [frame.image for frame in first])
        send(connection, {**_facts(stream, job), "blackout": _said(blackout)})
        is_cut = _send_frames(connection, itertools.chain(first, frames), blackout, job)
        send(connection, {"end": True, "damage": [_with_label(text, job) for text in stream.damage], "is_cut": is_cut})
    finally:
        stream.close()


def _send_frames(connection: Connection, frames: Iterator[TimedFrame], blackout: Blackout, job: dict[str, Any]) -> bool:
    """Send frames with their pictures; whether there are more than may be sent."""
    for number, frame in enumerate(frames):
        if number >= job["max_frames"]:
            return True
        shown = blackout.apply(frame.image)
        image, picture = (shown, b"") if job["for_movie"] else (frame.image, encode_picture(shown))
        send(
            connection,
            {"index": frame.index, "pts_s": frame.pts_s},
            np.ascontiguousarray(image).data.cast("B"),
            picture,
        )
    return False


def _blackout(job: dict[str, Any], stream: Any, first_frames: Sequence[ImageArray]) -> Blackout:
    masks = None if job["mask"] is None else read_scanner_masks(job["mask"])
    return choose_blackout(stream, first_frames, masks, job["allow_burned_in_text"])


def _said(blackout: Blackout, pictures: str = "each picture") -> str:
    """The note for the viewer on what is blacked out and why, whether that is a guess, and what to check then."""
    if blackout.kept is None:
        return _NOTHING_BLACK[blackout.rule].format(guess=blackout.reason.partition(", as ")[0])
    share = "All" if blackout.share == 1 else f"{100 * max(blackout.share, 0.001):.2g}%"
    return f"{share} of {pictures} is black: {_BLACK[blackout.rule]}"


def _facts(stream: Any, job: dict[str, Any]) -> dict[str, Any]:
    shown, base = stream.shown, stream.time_base
    sidecar = f"; {sidecar_path(stream.path).name} can state the fps"  # a viewer has no place to put it
    return {
        "label": job["label"],
        "size": list(stream.size),
        "shown": {
            "crop": shown.crop,
            "blanked": [list(part) for part in shown.blanked],
            "size": list(shown.size),
            "fault": shown.fault,
        },
        "fps": stream.fps,
        "time_base": None if base is None else [base.numerator, base.denominator],
        "num_frames": None if stream.num_frames is None else min(stream.num_frames, job["max_frames"]),
        "metadata": dict(stream.metadata),
        "repairs": [[kind, _with_label(text.removesuffix(sidecar), job)] for kind, text in stream.repairs],
        "regions": None if stream.regions is None else [list(part) for part in stream.regions],
    }


class _CameraImages:
    """What `choose_blackout` asks of a source, for a camera: it states nothing."""

    regions = None
    metadata: Mapping[str, str | float] = {}

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.shown = Shown(None, (), size, None)


def _decode_pictures(connection: Connection, job: dict[str, Any]) -> None:
    """Decode a camera's pictures one by one, as they come: JPEG in, ``(H, W, 3)`` uint8 RGB and JPEG with its black parts out.

    What is black is guessed at the first picture, and again when more are known.
    """
    first: list[ImageArray] = []
    blackout: Blackout | None = None
    while True:
        content = receive_bytes(connection)
        try:
            image = _decoded(content, int(job["max_pixels"]))
            if len(first) < MAX_FRAMES_LOOKED_AT:
                first.append(image)
            if blackout is None or (len(first) in _LOOK_AGAIN and first[-1] is image):
                blackout = _blackout(job, _CameraImages((image.shape[0], image.shape[1])), first)
            picture = encode_picture(blackout.apply(image))
        except (UserError, ValueError, MemoryError) as error:
            send(connection, {"error": str(error) if isinstance(error, UserError) else "it is not a picture in JPEG"})
            continue
        header = {"size": [image.shape[0], image.shape[1]], "blackout": _said(blackout, "each picture that is kept")}
        send(connection, header, np.ascontiguousarray(image).data.cast("B"), picture)


def _decoded(content: bytes, max_pixels: int) -> ImageArray:
    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    if height * width > max_pixels:
        raise UserError(f"it has {width}x{height} px; this page takes {max_pixels:,} px at most (--max-pixels).")
    return np.asarray(simplejpeg.decode_jpeg(content, colorspace="RGB"), np.uint8)


if __name__ == "__main__":
    main()
