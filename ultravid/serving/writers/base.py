"""The base of all writers of results, and files that are complete or absent.

Legend: ``H, W`` height and width of the source's image in pixels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from ultravid.datasets.readers.source import ImageArray
from ultravid.serving.records import FrameDetections
from ultravid.serving.writers.errors import as_os_error

__all__ = ["PartialText", "Picture", "ResultWriter", "close_writers", "discard_writers", "temporary_name"]


class Picture(NamedTuple):
    """The picture of a frame.

    Attributes:
        plain: ``(H, W, 3)`` uint8 RGB, the frame with what is blacked out.
        drawn: the same with its boxes.
    """

    plain: ImageArray
    drawn: ImageArray


class ResultWriter(Protocol):
    """Writes what was found in the frames of one source. Nothing is to be seen of it until `close`, or ever after `discard`."""

    def add(self, found: FrameDetections, picture: Picture | None) -> None:
        """Add the next frame.

        Args:
            found: its detections.
            picture: what is shown of it; None if no writer needs it.

        Raises:
            OSError: the disk is full, or the file can't be written.
        """

    def close(self) -> None:
        """Complete the files and give them their names.

        Raises:
            OSError: as of `add`; nothing is left then.
        """

    def discard(self) -> None:
        """Leave nothing, unless `close` was called."""


def close_writers(writers: Sequence[ResultWriter]) -> None:
    """Close all in order; if one fails, those that follow are discarded.

    Args:
        writers: the writers of one source.

    Raises:
        OSError: of the one that fails.
    """
    try:
        for writer in writers:
            writer.close()
    finally:
        discard_writers(writers)


def discard_writers(writers: Sequence[ResultWriter]) -> None:
    """Discard all that are not closed.

    Args:
        writers: the writers of one source.
    """
    for writer in writers:
        writer.discard()


def temporary_name(path: Path) -> Path:
    """Where a file or folder is written until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


class PartialText:
    """A text file that is written under a temporary name, part by part.

    Args:
        path: the file; its folder exists.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_name(path)
        with as_os_error(path):
            self.file: IO[str] = self._temporary.open("w", encoding="utf-8", newline="")

    def write(self, text: str) -> None:
        """Add text.

        Raises:
            OSError: the disk is full.
        """
        with as_os_error(self.path):
            self.file.write(text)

    def close(self) -> None:
        """Complete the file.

        Raises:
            OSError: the disk is full; there is no file then.
        """
        try:
            with as_os_error(self.path):
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                self._temporary.replace(self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove it, unless it was closed."""
        with contextlib.suppress(OSError):  # what was buffered does not fit on the disk
            self.file.close()
        self._temporary.unlink(missing_ok=True)
