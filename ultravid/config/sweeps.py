"""Overrides with several values for a key, in hydra's sweep grammar: lists, ``range``, ``choice``, ``glob``, ``interval``.

    optimizer.lr=1e-4,3e-4        two values              train.seed=range(3)           0, 1 and 2
    model.depth=choice(18,34)     the same as 18,34       optimizer.lr=interval(1e-5,1e-2)   for a search: all between
    train.init_checkpoint='glob(weights/*.pth)'           the files that match, by name

Each value keeps the text that was typed, so that an override with one of them means what it means alone.
"""

from __future__ import annotations

import decimal
import glob
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.config.errors import OverrideError
from ultravid.config.override_values import Typed, parse_any, parse_value, quoted_value
from ultravid.config.overrides import split_override

__all__ = ["Choices", "Interval", "parse_sweep", "text_of_string"]

_MOST_VALUES = 1_000_000


@dataclass(frozen=True)
class Choices:
    """Several values for a key.

    Attributes:
        key: the full key, without a sign.
        sign: ``""``, ``"+"`` or ``"++"``, as in the override.
        values: each as text in the grammar of overrides.
    """

    key: str
    sign: str
    values: tuple[str, ...]

    def override(self, value: str) -> str:
        """The override that sets one value."""
        return f"{self.sign}{self.key}={value}"


@dataclass(frozen=True)
class Interval:
    """All numbers between two, for a search.

    Attributes:
        key: the full key, without a sign.
        sign: as in the override.
        low: the smallest value.
        high: the largest value.
        is_integer: whether only whole numbers are meant.
        is_log: whether values are spread evenly over their logarithm: ``tag(log, interval(1e-5, 1e-2))``.
    """

    key: str
    sign: str
    low: float
    high: float
    is_integer: bool
    is_log: bool

    def override(self, value: str) -> str:
        """The override that sets one value."""
        return f"{self.sign}{self.key}={value}"


def parse_sweep(override: str) -> Choices | Interval | None:
    """What an override sweeps over; None if it sets one value or deletes a key.

    Raises:
        OverrideError: it names a value twice or none at all, or is a sweep of a kind that means nothing here.
    """
    from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, RangeSweep, Sweep

    sign, key, typed = split_override(override)
    if sign == "~" or typed is None or not typed.strip() or not _may_be_sweep(typed):
        return None
    try:
        value = parse_any(key, typed)
    except OverrideError:  # a text that needs no quotes where a text was; anything else is refused when it is applied
        return None
    if isinstance(value, IntervalSweep):
        return _interval(sign, key, typed, value)
    if isinstance(value, Sweep) and getattr(value, "shuffle", False):
        raise OverrideError(
            f"{override!r}: shuffle gives another order each time; the order of jobs is fixed. Leave it out."
        )
    if isinstance(value, Sweep) and value.tags:
        raise OverrideError(f"{override!r}: only an interval of a search can have a tag. Leave it out.")
    if isinstance(value, ChoiceSweep):
        values = tuple(_text(item) for item in value.list)
    elif isinstance(value, RangeSweep):
        values = tuple(_numbers(override, value))
    elif isinstance(value, Glob):
        values = tuple(_files(override, value))
    elif _holds_sweep(value):
        raise OverrideError(
            f"{override!r}: a sweep inside a list or dict can't be spanned; name the whole values: a,b."
        )
    else:
        return None
    if not values:
        raise OverrideError(f"{override!r}: names no value.")
    if len(set(values)) < len(values):
        repeated = next(text for number, text in enumerate(values) if text in values[:number])
        raise OverrideError(f"{override!r}: names {repeated} twice.")
    return Choices(key, sign, values)


def text_of_string(value: str) -> str:
    """A string as the value of an override that gives that string again, in quotes if it needs them."""
    if not value or re.search(r"['\"\\\s]", value.replace(" ", "")):
        return quoted_value(value)
    try:
        read = parse_value("key", value, None)
    except OverrideError:
        return quoted_value(value)
    is_same = isinstance(read, Typed) and read.value == value and not read.is_quoted and not read.is_cast
    return value if is_same and value == value.strip() else quoted_value(value)


def _may_be_sweep(typed: str) -> bool:
    """Whether a text can be a sweep at all; most overrides are not, and parsing takes time."""
    file = typed.rpartition(":")[0]
    return ("," in typed or "(" in typed) and not (file and os.path.isfile(file))


def _interval(sign: str, key: str, typed: str, value: Any) -> Interval:
    low, high = value.start, value.end
    unknown = set(value.tags) - {"log", "int", "float"}
    if unknown:
        raise OverrideError(
            f"{f'{key}={typed}'!r}: there is no tag {min(unknown)!r}; an interval takes log, int and float."
        )
    if low is None or high is None or not low < high:
        raise OverrideError(f"{f'{key}={typed}'!r}: an interval begins below its end, as interval(1e-5, 1e-2).")
    if "log" in value.tags and low <= 0:
        raise OverrideError(f"{f'{key}={typed}'!r}: an interval with the tag log begins above 0.")
    is_integer = "int" in value.tags or (
        "float" not in value.tags and isinstance(low, int) and isinstance(high, int) and not isinstance(low, bool)
    )
    if is_integer and not (float(low).is_integer() and float(high).is_integer()):
        raise OverrideError(f"{f'{key}={typed}'!r}: the ends of an interval of whole numbers are whole numbers.")
    return Interval(key, sign, low, high, is_integer, "log" in value.tags)


def _numbers(override: str, value: Any) -> Iterator[str]:
    """The numbers of a range, which excludes its end; decimal, so that 0.1 steps give 0.3 and not 0.30000000000000004."""
    ends = (value.start, value.stop, value.step)
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in ends):
        raise OverrideError(
            f"{override!r}: a range goes from a number to a number, as range(3) or range(0.1, 0.5, 0.1)."
        )
    start, stop, step = (decimal.Decimal(str(number)) for number in ends)
    if not step:
        raise OverrideError(f"{override!r}: a range needs a step that is not 0.")
    if (stop - start) / step > _MOST_VALUES:
        raise OverrideError(f"{override!r}: names more than {_MOST_VALUES:,} values.")
    is_integer = all(isinstance(number, int) for number in ends)
    while (start < stop) if step > 0 else (start > stop):
        yield str(int(start)) if is_integer else repr(float(start))
        start += step


def _files(override: str, value: Any) -> list[str]:
    """The files that a glob matches, by name."""
    found = {path for pattern in value.include for path in glob.glob(pattern, recursive=True)}
    excluded = {path for pattern in value.exclude for path in glob.glob(pattern, recursive=True)}
    if not found - excluded:
        raise OverrideError(f"{override!r}: matches no file in {Path.cwd()}.")
    return [text_of_string(path) for path in sorted(found - excluded)]


def _holds_sweep(value: Any) -> bool:
    from hydra.core.override_parser.types import Glob, Sweep

    if isinstance(value, dict):
        return any(map(_holds_sweep, value.values()))
    return any(map(_holds_sweep, value)) if isinstance(value, list) else isinstance(value, Sweep | Glob)


def _text(value: Any) -> str:
    """A value as text in the grammar of overrides."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, Typed):
        if value.is_quoted or (value.is_cast and isinstance(value.value, str)):
            return quoted_value(str(value.value))
        return _text(value.value) if value.is_cast else value.text
    if isinstance(value, QuotedString):
        return quoted_value(value.text)
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_text(key)}:{_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, str):
        return text_of_string(value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)
