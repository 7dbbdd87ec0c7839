"""JSON files at any address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ultravid.datasets.bounds import MAX_ANNOTATION_BYTES, MAX_DEPTH
from ultravid.datasets.safe_files import read_bytes
from ultravid.datasets.video import DataError
from ultravid.utils.file_io import AddressError, local_path

__all__ = ["find_file", "parse_json", "read_json"]


def find_file(address: str | Path) -> Path:
    """The local file of an address: itself, or a download.

    Raises:
        DataError: the address can't be read. A local path is returned whether or not a file is there.
    """
    try:
        return local_path(address)
    except AddressError as error:
        raise DataError(str(error)) from error


def read_json(address: str | Path, most: int = MAX_ANNOTATION_BYTES) -> Any:
    """The content of a JSON file, at most `MAX_DEPTH` deep. Its whole numbers may be larger than 64 bits or a float hold.

    Args:
        address: the address of the file.
        most: its largest size, bytes.

    Raises:
        DataError: the file doesn't exist, can't be read, is no regular file, is larger than ``most``, isn't JSON in UTF-8 (a byte
            order mark is accepted), names a key twice in one object, or holds deeper lists or a number of more than 4,300 digits.
    """
    path = find_file(address)
    try:
        content = read_bytes(path, most)
    except FileNotFoundError:
        raise DataError(f"{address} does not exist.") from None
    except OSError as error:
        raise DataError(f"{address}: can't be read ({error.strerror}){_json_files_in(path)}.") from error
    return parse_json(content, address)


def _json_files_in(folder: Path) -> str:
    """What could be meant by a folder, to continue a message."""
    found = sorted(p.name for p in folder.glob("*.json") if p.name != "manifest.json" and p.is_file())
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"; it holds {', '.join(found[:5])}{more}" if found else ""


def parse_json(content: bytes | str, where: str | Path) -> Any:
    """The value of a JSON text, within the bounds of `read_json`.

    Args:
        content: the text, or its bytes in UTF-8.
        where: the file, for messages.

    Raises:
        DataError: see `read_json`.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_object)
        # A file's name that is not UTF-8 is kept in such halves; any other can be written nowhere.
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except RecursionError:
        raise DataError(f"{where}: is JSON that is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start})."
        ) from None
    except UnicodeEncodeError:
        raise DataError(f"{where}: holds half of a UTF-16 pair (\\ud800 to \\udfff), which is not text.") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON: {error}.") from error
    except _DuplicateKeyError as error:
        raise DataError(f"{where}: an object in it has the key {error.args[0]!r} twice.") from None
    except ValueError:  # Python's, of more than 4,300 digits
        raise DataError(f"{where}: holds a whole number of more than 4,300 digits.") from None
    _check_depth(value, where)
    return value


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for n, key in enumerate(keys) if key in keys[:n]))
    return found


def _check_depth(value: Any, where: str | Path) -> None:
    """Level by level, as a function that calls itself would meet the limit that it looks for."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        values = (v for inner in level for v in (inner.values() if isinstance(inner, dict) else inner))
        level = [v for v in values if isinstance(v, dict | list)]
        if not level:
            return
    raise DataError(
        f"{where}: is JSON that is nested too deeply: more than {MAX_DEPTH} lists and objects inside each other."
    )
