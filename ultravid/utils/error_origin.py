"""Finds out whether an error comes from a user's code, a library, or ultravid."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

__all__ = ["error_in_one_line", "is_of_others", "shown_frames", "users_frames"]

_PACKAGE = Path(__file__).resolve().parents[1]
_OURS = tuple(f"{folder}/" for folder in (_PACKAGE, *(_PACKAGE.parent / n for n in ("tools", "configs_py"))))
_LIBRARIES = tuple({f"{Path(path).resolve()}/" for path in sysconfig.get_paths().values()})
_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process")
_FRAME = re.compile(r'^ +File "(.+)", line (\d+), in (\S+)$', re.MULTILINE)


def users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The places in a user's own code that an error passed through, the outermost first.

    Those that called ultravid in the first place don't count: what calls a tool. The error of a worker process that loads data
    has them in its text.

    Args:
        error: the error, with its traceback.
    """
    frames = list(_frames(error))
    inner = next((i for i, frame in enumerate(frames) if frame.filename.startswith(f"{_PACKAGE}/")), len(frames))
    found = [frame for frame in frames[inner:] if not is_of_others(frame.filename)]
    if not found and _IN_WORKER.match(str(error)):
        places = [traceback.FrameSummary(file, int(line), name) for file, line, name in _FRAME.findall(str(error))]
        found = [frame for frame in places if not is_of_others(frame.filename)]
    return found


def shown_frames(frames: list[traceback.FrameSummary], most: int = 5) -> str:
    """Some places as a traceback shows them, the last ones; "" without any.

    Args:
        frames: the places, the outermost first.
        most: how many are shown at most.
    """
    rows = []
    for frame in frames[-most:]:
        code = linecache.getline(frame.filename, frame.lineno or 0).strip()
        rows.append(
            f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' + (f"\n    {code}" if code else "")
        )
    return "\n".join(rows)


def error_in_one_line(error: BaseException) -> str:
    """The kind of an error and what it says; of one that a worker process raised, what it said there.

    Args:
        error: the error.
    """
    kind, text = type(error).__name__, str(error).strip()
    if _IN_WORKER.match(text):
        last = text.rpartition("\n")[2]
        return f"{last} (in a worker process that loads data)"
    text = "; ".join(line.strip() for line in text.splitlines()[:4] if line.strip())
    return f"{kind}: {text}" if text else kind


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name, lookup_line=False)


def is_of_others(file: str) -> bool:
    """Whether a file is ultravid's, python's or that of an installed library.

    Args:
        file: a path as a traceback has it; one that begins with ``<`` is not the user's either.
    """
    if file.startswith("<") or "site-packages/" in file or "dist-packages/" in file:
        return True
    path = f"{Path(file).resolve()}"
    return path.startswith((*_OURS, *_LIBRARIES))
