"""Pickles of plain data.

A pickle is a program: it may name any function and have it called. Here it may name nothing, so it can make only dicts, lists,
tuples, sets, strings, bytes, numbers, booleans and None.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from ultravid.datasets.bounds import MAX_ANNOTATION_BYTES, MAX_DEPTH, MAX_PLAIN_VALUES, MAX_WHOLE
from ultravid.datasets.safe_files import read_bytes
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
        DataError: the file can't be read, isn't a pickle, holds code, which is not run, or unpacks to more than the bounds of
            `ultravid.datasets.bounds`.
    """
    try:
        content = read_bytes(path, MAX_ANNOTATION_BYTES)
        _check_program(content)
        value = _PlainUnpickler(io.BytesIO(content)).load()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    except _Refusal as refusal:
        raise DataError(
            f"{path}: the pickle wants {refusal}, which is code, not data; it was not run. "
            "Only dicts, lists, tuples, strings, numbers, booleans and None are accepted."
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path}: is not a pickle that can be read ({type(error).__name__}: {error}).") from None
    _check_value(value, path)
    return value


def _check_program(content: bytes) -> None:
    """Refuse instructions that take memory or time out of all proportion to the file.

    The stack is followed without building anything: of each value only how many values hashing it visits, as a tuple may hold
    another twice, which holds a third twice, and so on; as the key of a dict it is hashed at once.

    Raises:
        ValueError: there is such an instruction, or it isn't a pickle.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _NUMBERED and int(argument or 0) > len(content):  # memory is taken up to this number
            raise ValueError(f"it numbers an object {argument}, but has {len(content)} bytes")
        if opcode.name == "DUP":  # never written, and doubles a value at each use
            raise ValueError("it copies its own values")
        if opcode.name in _NUMBERED or opcode.name == "MEMOIZE":
            memo[len(memo) if opcode.name == "MEMOIZE" else int(argument or 0)] = stack[-1]
        elif opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name in _FETCHING:
            stack.append(memo[int(argument or 0)])
        else:
            number = len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                number = len(stack) - marks.pop() + opcode.stack_before.index(pickletools.markobject)
            taken = stack[len(stack) - number :]
            del stack[len(stack) - number :]
            size = 1 + sum(taken) if opcode.name in _HASHED_WHOLE else 1
            if size > MAX_PLAIN_VALUES:
                raise ValueError(f"a tuple unpacks to more than {MAX_PLAIN_VALUES:,} values")
            stack += [size] * len(opcode.stack_after)


_NUMBERED = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_FETCHING = frozenset({"GET", "BINGET", "LONG_BINGET"})
_HASHED_WHOLE = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"})


def _check_value(value: Any, path: str | Path) -> None:
    """Refuse what is small in the file and has no end when it is walked, shown or compared.

    Raises:
        DataError: it holds too many values, is nested too deeply, or has a number of more than 64 bits.
    """
    known: dict[int, tuple[int, int]] = {}

    def measure(value: Any, depth: int) -> tuple[int, int]:
        """(values inside, each counted as often as it is reached; how deep they lie)."""
        if not isinstance(value, dict | list | tuple | set | frozenset):
            if isinstance(value, int) and not -MAX_WHOLE <= value <= MAX_WHOLE:
                raise DataError(f"{path}: holds a whole number of more than 64 bits.")
            return 1, 0
        if id(value) not in known:
            inner = chain(value, value.values()) if isinstance(value, dict) else iter(value)
            number, height = 1, 0
            for each in inner if depth < MAX_DEPTH else ():
                found = measure(each, depth + 1)
                number, height = number + found[0], max(height, found[1])
            known[id(value)] = number, height + 1
        number, height = known[id(value)]
        if number > MAX_PLAIN_VALUES:
            raise DataError(f"{path}: unpacks to more than {MAX_PLAIN_VALUES:,} values.")
        if depth + height > MAX_DEPTH:
            raise DataError(f"{path}: holds more than {MAX_DEPTH} lists and dicts inside each other.")
        return number, height

    measure(value, 0)
