"""Local files that are complete or absent, and names for files that are replaced by new ones."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["archive_file", "dump_json", "next_free_path", "remove_path", "write_whole"]


@contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a local file under a temporary name, flush it to disk, and rename it when the block ends without an error.

    A device or a pipe, such as ``/dev/null`` or ``/dev/stdout``, is written to as it is: it must not be replaced by a file.

    Args:
        path: where the file is written; one that is there is replaced.

    Returns:
        Inside the block: the file, open for bytes.

    Raises:
        OSError: the disk is full or the folder can't be written; a file that was at ``path`` before is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    try:
        with (path if is_special else temporary).open("wb") as file:
            yield file
            file.flush()
            if not is_special:
                os.fsync(file.fileno())
        if not is_special:
            temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder and its content; does nothing if it does not exist.

    Args:
        path: the file or folder. An error while a folder is removed is ignored.

    Raises:
        OSError: a file can't be removed.
    """
    if path.is_dir():
        import shutil  # here and below, as reading a config starts faster without

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def archive_file(path: Path) -> None:
    """Rename a file to the first free of ``<name>.1``, ``<name>.2``, ..., so that another may take its name.

    Args:
        path: the file.

    Raises:
        OSError: it can't be renamed.
    """
    path.rename(next_free_path(path.parent, f"{path.name}."))


def next_free_path(folder: Path, prefix: str) -> Path:
    """The first of ``<prefix>1``, ``<prefix>2``, ... in a folder that does not exist yet.

    Args:
        folder: the folder.
        prefix: how the name begins.
    """
    return next(path for number in itertools.count(1) if not (path := folder / f"{prefix}{number}").exists())


def dump_json(value: Any, indent: int | None = None) -> str:
    """JSON in which a number that is nan or infinite is ``null``; numbers keep all digits.

    Args:
        value: dicts, lists and tuples of plain values.
        indent: blanks for each level of indentation; None writes one line.
    """
    import json

    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return value
