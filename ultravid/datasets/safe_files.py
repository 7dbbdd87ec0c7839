"""Opening untrusted files: only regular files, up to a number of bytes, and only inside the folder of the data.

A folder of data may hold a named pipe, which blocks whoever opens it; a link to a device, which never ends; or an annotation
file that names ``../../other/file``. `open_regular` and `read_bytes` refuse the first two, `NamedFiles` the third.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ultravid.datasets.video import DataError

__all__ = ["NamedFiles", "UnusableFileError", "open_regular", "read_bytes"]

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class UnusableFileError(OSError):
    """A file that is there but is not read: no regular file, or larger than its bound. ``strerror`` says which."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(errno.EINVAL, reason, os.fspath(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read its bytes, without waiting for what is no file.

    Raises:
        OSError: as by ``open``; `UnusableFileError` for a folder, a named pipe, a device or a socket, whose ``strerror`` names it.
    """
    try:
        number = os.open(
            path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )  # opening a pipe waits for a writer otherwise
    except ValueError:  # a NUL in the name
        raise UnusableFileError(path, "no file can have this name") from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that isn't there
            raise UnusableFileError(path, "it is a socket or a device, not a file") from None
        raise
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode):
            kind = next((text for test, text in _KINDS if test(mode)), "of another kind")
            raise UnusableFileError(path, f"it is {kind}, not a file")
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: see `open_regular`; `UnusableFileError` too if it is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= most:
            content = file.read(size + 1)  # of `most` bytes Python would reserve them all
            if len(content) > size:  # it grows, or its size is not known, as in /proc
                content += file.read(most)
            size = len(content)
        if size > most:
            raise UnusableFileError(path, f"it has {size:,} bytes, and at most {most:,} are read")
    return content


_HOW_TO_ALLOW = "If that is meant, set the reader's argument allow_outside_root=True (on a command line: --option allow_outside_root=true)."


class NamedFiles:
    """Files whose names stand in data: in an annotation file, a table, a manifest.

    A name must lead to somewhere inside ``root``, once ``..`` and symbolic links are followed. The root may be a link itself:
    what it points to is the root then. A link inside that leads out of it is refused as well, as an archive may hold one.

    Folders are resolved once each, so that a check costs microseconds.

    Args:
        root: the folder that the data may name files in.
        within: a folder around ``root`` that belongs to the data as well: links may lead into it, as those of git-annex and DVC do.
        allow_outside_root: accept any name. A user says so; data can't.
        hint: what the user can do about a name that is refused.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        within: str | os.PathLike[str] | None = None,
        allow_outside_root: bool = False,
        hint: str = _HOW_TO_ALLOW,
    ) -> None:
        self.root = Path(root)
        self._root = os.fspath(self.root)
        self.allow_outside_root = allow_outside_root
        self.hint = hint
        self._resolved_roots = [os.path.realpath(self.root), *([] if within is None else [os.path.realpath(within)])]
        self._inside: dict[str, bool] = {}

    def path(self, name: str, base: str | os.PathLike[str] | None = None) -> Path:
        """The path of a named file, whether or not it exists: ``base / name``, with its links as they are.

        Args:
            name: as the data give it.
            base: the folder that the name is relative to; None: the root.

        Raises:
            DataError: no file can have the name, or it leads out of the root.
        """
        return Path(self.text(name, base))

    def text(self, name: str, base: str | os.PathLike[str] | None = None) -> str:
        """As `path`, in a tenth of the time."""
        if not name or "\0" in name:
            raise DataError(f"{name!r} is not the name of a file.")
        found = os.path.join(self._root if base is None else base, name)
        if not self.allow_outside_root and not self._is_inside(found):
            raise DataError(f"{name!r} is outside of {self.root}, the folder of these data. {self.hint}")
        if "//" in found or "/." in found or found.startswith("./") or found.endswith("/"):
            found = str(Path(found))  # one spelling of a file
        return found

    def _is_inside(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):
            return self._leads_inside(path)
        if folder not in self._inside:
            self._inside[folder] = self._leads_inside(folder)
        return self._inside[folder]

    def _leads_inside(self, path: str) -> bool:
        resolved = os.path.realpath(path)
        return any(resolved == root or resolved.startswith(os.path.join(root, "")) for root in self._resolved_roots)
