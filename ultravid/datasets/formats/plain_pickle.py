"""Pickles of plain data.

A pickle is a program: it may name any function and have it called. Here it may name nothing, so it can make only dicts, lists,
tuples, sets, strings, bytes, numbers, booleans and None.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from ultravid.datasets.video import DataError

__all__ = ["read_plain_pickle"]


class _Refusal(Exception):  # noqa: N818  # carries a name out of the unpickler, and is never raised to a caller
    pass


class _PlainUnpickler(pickle.Unpickler):
    """Rejects whatever a pickle asks for by name, before anything is imported or called."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _Refusal(f"{module}.{name}")

    def persistent_load(self, _pid: Any) -> NoReturn:
        raise _Refusal("an object outside the file")


def read_plain_pickle(path: str | Path) -> Any:
    """The data in a pickle.

    Raises:
        DataError: the file can't be read, isn't a pickle, or holds code; the code is not run.
    """
    try:
        return _PlainUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    except _Refusal as refusal:
        raise DataError(
            f"{path}: the pickle wants {refusal}, which is code, not data; it was not run. "
            "Only dicts, lists, tuples, strings, numbers, booleans and None are accepted."
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path}: is not a pickle that can be read ({type(error).__name__}: {error}).") from None
