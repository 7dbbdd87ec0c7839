"""A lock on a folder of runs: two commands that work in one folder would overwrite each other's files."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from ultravid.utils.errors import UserError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(folder: Path, work: str) -> Iterator[int]:
    """Hold a lock on a folder, which is created if necessary.

    The lock lasts as long as this process or a process that inherited the file descriptor, so also while a run that was left
    behind by a killed command is still training.

    Args:
        folder: the folder.
        work: what holds the lock, for the message: "a cross-validation, or a fold of an earlier one".

    Yields:
        the file descriptor, for processes that are to inherit the lock.

    Raises:
        UserError: another process holds the lock, or the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"--output-dir {folder} can't be written: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: {work} is still running there.") from None
        yield file.fileno()
