"""JSON files at any address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ultravid.datasets.video import DataError
from ultravid.utils.file_io import AddressError, local_path

__all__ = ["find_file", "read_json"]


def find_file(address: str | Path) -> Path:
    """The local file of an address: itself, or a download.

    Raises:
        DataError: the address can't be read. A local path is returned whether or not a file is there.
    """
    try:
        return local_path(address)
    except AddressError as error:
        raise DataError(str(error)) from error


def read_json(address: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: the file doesn't exist, can't be read or isn't JSON.
    """
    path = find_file(address)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise DataError(f"{address}: is JSON that is nested too deeply.") from None
    except ValueError as error:
        raise DataError(f"{address}: is not JSON: {error}.") from error
    except FileNotFoundError:
        raise DataError(f"{address} does not exist.") from None
    except OSError as error:
        raise DataError(f"{address}: can't be read ({error.strerror}).") from error
