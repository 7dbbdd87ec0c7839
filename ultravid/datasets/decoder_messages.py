"""What OpenCV's decoders of images complain about.

libjpeg decodes a file with flipped or missing bytes, prints ``Corrupt JPEG data: ...`` to the standard error and returns an
image; libpng and libtiff do the same for some damage. OpenCV hands on neither the text nor the count, and Pillow and FFmpeg
notice less than libjpeg itself. So the standard error is led into a file while an image is decoded, which costs 4 us.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_image", "hide_panics"]

# libjpeg's warnings about pixels (not about an ICC profile), libpng's about a chunk, libtiff's errors.
_DAMAGE = re.compile(
    r"Corrupt JPEG data: (?!bad ICC)|Premature end of JPEG|Inconsistent progression|Invalid SOS|libpng (?:warning|error): .*CRC error|TIFF_Error"
)
_OURS = re.compile(
    r"JPEG|Inconsistent progression|JFIF|libpng|^\[ ?(?:WARN|ERROR|INFO|DEBUG)|Adobe|Bogus|Unsupported|TIFF|^\s*$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^\[.*?\] global \S+ |^libpng (?:warning|error): ")


class _StandardError:
    """Leads the process's standard error into a file."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._saved: int | None = None

    def __enter__(self) -> _StandardError:
        self.lock.acquire()
        if self._file is None:
            self._file = tempfile.TemporaryFile()
        try:
            self._saved = os.dup(2)
        except OSError:  # it is closed
            self._saved = None
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is None:
            os.close(2)
        else:
            os.dup2(self._saved, 2)
            os.close(self._saved)
        self.lock.release()

    def take(self) -> list[str]:
        """The lines that were written since the last call; what no decoder wrote, other threads did, and it is handed on."""
        assert self._file is not None, "it is read while it is led here"
        number = self._file.fileno()
        length = os.lseek(number, 0, os.SEEK_CUR)
        if not length:
            return []
        written = os.pread(number, length, 0)
        os.lseek(number, 0, os.SEEK_SET)
        os.ftruncate(number, 0)
        lines = written.decode(errors="replace").splitlines()
        panic = next((n for n, line in enumerate(lines) if " panicked at " in line), len(lines))
        del lines[panic:]  # a backtrace of many lines follows
        others = [line for line in lines if not _OURS.search(line)]
        if others and self._saved is not None:
            os.write(self._saved, "".join(f"{line}\n" for line in others).encode())
        return [line for line in lines if _OURS.search(line)]


_standard_error = _StandardError()


def _reset_after_fork() -> None:
    """A forked process shares its parent's file and its offset: it opens its own."""
    global _standard_error
    _standard_error = _StandardError()


os.register_at_fork(after_in_child=_reset_after_fork)


def decode_image(data: bytes, flags: int, page: int | None = None) -> tuple[NDArray[Any] | None, str]:
    """(the image that ``cv2.imdecode`` gives, None if it gives none; what the decoder says is damaged, "" if nothing).

    Args:
        data: the file's content.
        flags: of ``cv2.imdecode``.
        page: which page of a file of several.
    """
    array = np.frombuffer(data, np.uint8)
    with _standard_error as messages:
        try:
            image = cv2.imdecode(array, flags) if page is None else _decode_page(array, flags, page)
        except cv2.error as error:
            image, failed = None, str(error.err or "")
        else:
            failed = ""
        lines = messages.take()
    damage = [line for line in lines if _DAMAGE.search(line)] if image is not None else [*lines, failed]
    text = next((_PREFIX.sub("", line).strip() for line in damage if line.strip()), "")
    return image, text


@contextlib.contextmanager
def hide_panics() -> Iterator[None]:
    """Hide what decoders that are written in Rust print about a damaged file before they raise."""
    with _standard_error as messages:
        try:
            yield
        finally:
            messages.take()


def _decode_page(array: NDArray[np.uint8], flags: int, page: int) -> NDArray[Any] | None:
    found, pages = cv2.imdecodemulti(array, flags, range=(page, page + 1))
    return pages[0] if found and pages else None
