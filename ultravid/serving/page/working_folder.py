"""The private folder of a page's server: it holds uploads, and is deleted when the server ends, or when the next server starts.

All servers of a user share a folder, ``ultravid-page-<user id>`` in the folder for temporary files (``TMPDIR``); each has a folder of
its own in there, and keeps a lock (flock) on a file in it. The kernel releases the lock when the process ends, however it ends: a folder
whose lock can be had is abandoned.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ultravid.utils.errors import UserError

__all__ = ["WorkingFolder"]

logger = logging.getLogger(__name__)

_LOCK_NAME = "lock"


class WorkingFolder:
    """A folder of mode 0700 that lives as long as this process, or until `remove`.

    Args:
        parent: the folder for temporary files; None: the system's.

    Attributes:
        path: the folder.
        removed: how many folders of servers were deleted that had ended without doing so themselves.

    Raises:
        UserError: there is no room for it, or someone else has taken its name.
    """

    def __init__(self, parent: Path | None = None) -> None:
        root = Path(parent or tempfile.gettempdir()) / f"ultravid-page-{os.getuid()}"
        try:
            root.mkdir(mode=0o700, exist_ok=True)
            _refuse_what_is_not_ours(root)
            with _exclusive(root):
                self.removed = _remove_abandoned(root)
                self.path = Path(tempfile.mkdtemp(prefix="server-", dir=root))  # of mode 0700
                self._lock: IO[str] = (self.path / _LOCK_NAME).open("w")
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{root}, the folder for uploads, can't be written ({error.strerror}): set TMPDIR to another folder."
            ) from error
        if self.removed:
            logger.warning(
                "Deleted the uploads of %d earlier %s that had ended without doing so.",
                *(self.removed, "server" if self.removed == 1 else "servers"),
            )

    def new_path(self, suffix: str = "") -> Path:
        """A random name in the folder, of a file that does not exist."""
        return self.path / f"{secrets.token_hex(16)}{suffix}"

    def remove(self) -> None:
        """Delete the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)  # a process that was ended has just written something
        self._lock.close()


def _refuse_what_is_not_ours(root: Path) -> None:
    """Refuse a folder that another user could read, or has put there: everyone may write to the folder for temporary files."""
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(f"{root}, the folder for uploads, is someone else's: set TMPDIR to another folder.")
    if stat.S_IMODE(status.st_mode) != 0o700:
        root.chmod(0o700)


@contextlib.contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """A block that one process at a time is in: between its creation and its lock, a new folder looks abandoned."""
    with (root / _LOCK_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned(root: Path) -> int:
    removed = 0
    for folder in root.glob("server-*"):
        try:
            lock = (folder / _LOCK_NAME).open("a")
        except FileNotFoundError:  # its server died before it had one
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # that server is alive
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed
