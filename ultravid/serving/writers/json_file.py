"""The JSON of a source's detections: one entry per frame, written as frames arrive, for videos of any length.

The file is one object. Its first line holds what is known at the beginning and its last line what is known at the end, so that both
are read without the frames between them::

    {"source": "scan.mp4", "width": 640, "height": 480, ..., "frames": [
    {"index": 0, "pts_s": 0.0, "detections": []},
    ...
    ], "tracks": [...], ...}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ultravid.serving.records import FrameDetections
from ultravid.serving.writers.base import PartialText, Picture
from ultravid.utils.errors import UserError
from ultravid.utils.whole_files import dump_json

__all__ = ["DetectionsJson", "read_ends", "read_frames"]

_FRAMES = '"frames": ['
_LONGEST_LINE = 1 << 26


class DetectionsJson:
    """Writes the JSON of one source; a `ResultWriter`.

    Args:
        path: the file.
        source: how the source is called.
        size: (height, width) of its images.
        class_names: the names of the classes of the model.
        head: what else is known at the beginning, by keys that follow ``height``.
        foot: is asked when the writer is closed for what is known then, by keys that follow the frames.

    Raises:
        OSError: it can't be written.
    """

    def __init__(
        self,
        path: Path,
        source: str,
        size: tuple[int, int],
        class_names: Sequence[str],
        head: Mapping[str, Any] | None = None,
        foot: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._foot = foot
        self._class_names = class_names
        self._text = PartialText(path)
        self._separator = "\n"
        named = {"source": source, "width": size[1], "height": size[0], **(head or {})}
        self._text.write(f"{dump_json(named)[:-1]}, {_FRAMES}")

    def add(self, found: FrameDetections, picture: Picture | None = None) -> None:
        """As `ResultWriter.add`; the picture is not used."""
        del picture
        self._text.write(self._separator + dump_json(found.as_json(self._class_names)))
        self._separator = ",\n"

    def close(self) -> None:
        """As `ResultWriter.close`."""
        foot = {} if self._foot is None else dict(self._foot())
        self._text.write("\n]" + (f", {dump_json(foot)[1:-1]}" if foot else "") + "}\n")
        self._text.close()

    def discard(self) -> None:
        """As `ResultWriter.discard`."""
        self._text.discard()


def read_ends(path: Path) -> dict[str, Any]:
    """All of a file of `DetectionsJson` but its frames.

    Args:
        path: the file.

    Raises:
        UserError: it can't be read, or is not such a file.
    """
    try:
        with path.open("rb") as file:
            first = file.readline(_LONGEST_LINE).decode("utf-8")
            size = file.seek(0, 2)
            tail, length = b"", 1 << 12
            while tail.count(b"\n") < 2 and len(tail) < min(size, _LONGEST_LINE):
                length *= 4
                file.seek(max(0, size - length))
                tail = file.read()
        head, separator, _ = first.rpartition(_FRAMES)
        last = tail.rstrip().rpartition(b"\n")[2].decode("utf-8")
        if not separator or not last.startswith("]"):
            raise ValueError("it has no frames")
        both = json.loads(head.rstrip().rstrip(",") + "}"), json.loads("{" + last[1:].lstrip(", "))
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a file of detections as this version writes it ({error}).") from error
    return {**both[0], **both[1]}


def read_frames(path: Path) -> Iterator[dict[str, Any]]:
    """The frames of a file of `DetectionsJson`, one at a time.

    Args:
        path: the file.

    Raises:
        OSError: it can't be read.
    """
    with path.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            if line.startswith("]"):
                return
            yield json.loads(line.rstrip().rstrip(","))
