"""Receives an upload: writes it as it arrives, and refuses it as soon as it is too large, too slow or not a recording."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.requests import ClientDisconnect

from ultravid.datasets.readers.kinds import kind_of
from ultravid.datasets.readers.source import DICOM_SUFFIXES, IMAGE_SUFFIXES, MOVIE_SUFFIXES
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.recording import Recording

__all__ = ["RefusedUploadError", "announced_fault", "drain", "known_suffix", "receive_upload"]

_SILENCE_S = 30.0  # between two chunks
_DRAIN_S = 1.0
_LOOK_AT = 1 << 18  # bytes after which it can be told whether it is a recording


class RefusedUploadError(Exception):
    """An upload that is refused.

    Attributes:
        status: the status of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def known_suffix(label: str) -> str:
    """The suffix of a file's name if it is one of those that readers know; else ""."""
    suffix = os.path.splitext(label)[1].lower()
    return suffix if suffix in MOVIE_SUFFIXES | DICOM_SUFFIXES | IMAGE_SUFFIXES else ""


def announced_fault(length: str | None, bounds: PageBounds) -> str | None:
    """What is wrong with the length that a request announces, in bytes; None if nothing is, or it announces none."""
    if length is None:
        return None
    if not length.isdecimal():
        return "Content-Length is not a number."
    if int(length) > bounds.max_upload_bytes:
        return _too_large(bounds)
    return "The file is empty (0 bytes)." if int(length) == 0 else None


async def receive_upload(
    chunks: AsyncIterator[bytes], recording: Recording, bounds: PageBounds, is_full: Callable[[], bool]
) -> None:
    """Write an upload to the recording's path.

    Args:
        chunks: the chunks of the request's body.
        recording: whose `Recording.num_uploaded_bytes` grows.
        bounds: the bounds of the page.
        is_full: whether there is no room for more.

    Raises:
        RefusedUploadError: it is too large, too slow, empty or no recording, was removed meanwhile, or the disk is full.
    """
    deadline = time.monotonic() + bounds.max_upload_s
    is_known = False
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(recording.path, flags, 0o600), "wb") as file:
            while (chunk := await _next_chunk(chunks, deadline)) is not None:
                recording.num_uploaded_bytes += len(chunk)
                if recording.num_uploaded_bytes > bounds.max_upload_bytes:
                    raise RefusedUploadError(413, _too_large(bounds))
                if recording.is_removed:  # its file has no name any more, but would still fill the disk
                    raise RefusedUploadError(410, "The recording was removed.")
                if is_full():
                    raise RefusedUploadError(507, "The server has no space for it now; try again later.")
                file.write(chunk)
                if recording.num_uploaded_bytes >= _LOOK_AT and not is_known:
                    file.flush()
                    is_known = _look_at(recording.path)
    except OSError as error:
        raise RefusedUploadError(507, f"The server can't store it ({error.strerror}).") from error
    if recording.num_uploaded_bytes == 0:
        raise RefusedUploadError(400, "The file is empty (0 bytes).")
    if not is_known:
        _look_at(recording.path)


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read on for a second after a refusal: some browsers look for the answer only when they have sent all, or much."""
    deadline = time.monotonic() + _DRAIN_S
    with contextlib.suppress(RefusedUploadError, ClientDisconnect):
        while await _next_chunk(chunks, deadline) is not None:
            pass


def _look_at(path: Path) -> bool:
    if kind_of(path) is None:
        raise RefusedUploadError(
            415, "It is not a recording that this page can read: send a movie, a DICOM file or a picture."
        )
    return True


async def _next_chunk(chunks: AsyncIterator[bytes], deadline: float) -> bytes | None:
    try:
        left = min(_SILENCE_S, deadline - time.monotonic())
        return await asyncio.wait_for(anext(chunks), max(left, 0.0))
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise RefusedUploadError(408, "The upload takes too long.") from None


def _too_large(bounds: PageBounds) -> str:
    return f"The file is too large: this page takes {bounds.max_upload_mb:,.6g} MB at most (--max-upload-mb)."
