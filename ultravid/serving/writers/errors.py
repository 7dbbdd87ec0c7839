"""Errors of writing, as Python has them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import av

__all__ = ["as_os_error"]


@contextlib.contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """Raise FFmpeg's errors in the block as an `OSError` that names the file as the user knows it.

    Raises:
        OSError: a full disk, say.
    """
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        number = error.errno if isinstance(error.errno, int) and error.errno in errno.errorcode else errno.EIO
        reason = os.strerror(number) if number != errno.EIO else str(error.strerror or error)
        raise OSError(number, reason, str(path)) from error
