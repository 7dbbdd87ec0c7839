"""Metrics as text: tables for the terminal and the log."""

from __future__ import annotations

import logging
import math
import numbers
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from ultravid.utils.errors import UserError

__all__ = [
    "digits_of",
    "flatten_results_dict",
    "format_columns",
    "format_interval",
    "format_results",
    "format_undefined",
    "format_value",
    "print_csv_format",
    "scalar_metrics",
]

logger = logging.getLogger(__name__)


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested results as one flat dict, names joined by "/".

    Args:
        results: values by name, or groups of them by name, at any depth.

    Raises:
        UserError: two values get the same name.
    """
    flat: dict[str, Any] = {}
    for name, value in results.items():
        nested = isinstance(value, Mapping)
        found = {f"{name}/{k}": v for k, v in flatten_results_dict(value).items()} if nested else {str(name): value}
        if taken := flat.keys() & found.keys():
            raise UserError(
                f"The results hold two metrics of one name, {min(taken)!r}; names of groups are joined by '/'."
            )
        flat.update(found)
    return flat


def scalar_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the results of an evaluation by their flat names; what is no number is left out with a warning.

    Numbers are those of Python, numpy and torch, alone or as the one element of an array; None, an undefined metric, is nan.

    Args:
        results: what an evaluator returned.

    Raises:
        UserError: the results are no dict, two values get the same name, or one has none.
    """
    if not isinstance(results, Mapping):
        raise UserError(
            f"The evaluation returned {reprlib.repr(results)}, which is not a dict: return metrics by name, as {{'AP': 61.5}}."
        )
    metrics = {}
    for name, value in flatten_results_dict(results).items():
        if not name:
            raise UserError(f"The evaluation returned {reprlib.repr(value)} without a name: the key is an empty text.")
        number = _number(value)
        if number is None:
            logger.warning(
                "The metric %r is %s, not a number: it is neither recorded nor compared. Return numbers, or a dict of them.",
                *(name, f"{reprlib.repr(value)} ({type(value).__name__})"),
            )
        else:
            metrics[name] = number
    return metrics


def _number(value: Any) -> float | None:
    """A value as a number, nan for None; None if it is not one."""
    if value is None:
        return math.nan
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:  # an integer beyond the largest float
            return -math.inf if value < 0 else math.inf
    if getattr(value, "shape", None) is not None and math.prod(value.shape) == 1:  # of numpy or torch
        value = value.item()
        return _number(value) if isinstance(value, numbers.Real) else None
    return None


def _as_text(value: Any, digits: int) -> str:
    number = _number(value)
    return str(value) if number is None else f"{number:.{digits}f}"


def format_results(results: Mapping[str, Any]) -> str:
    """A table of one row; a dash for nan.

    Args:
        results: numbers by name, or groups of them.

    Returns:
        The table in Markdown, with a heading.
    """
    flat = flatten_results_dict(results)
    return format_columns(
        list(flat), [["-" if v is None else format_value(float(v), digits_of(n)) for n, v in flat.items()]]
    )


def format_value(value: float, digits: int = 2) -> str:
    """A value in a table; a dash for nan."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def digits_of(name: str) -> int:
    """Digits after the point of a metric in a table: of fractions and of numbers per image four, of all others two."""
    return 4 if name.startswith(("legacy/", "FP/image@")) else 2


def format_interval(low: float, high: float, digits: int = 2) -> str:
    """An interval in a table; a dash for nan."""
    return "-" if math.isnan(low) else f"{format_value(low, digits)} to {format_value(high, digits)}"


def format_columns(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """A table of text, right-aligned except for the first ``left`` columns."""
    align = ["left" if i < left else "right" for i in range(len(headers))]
    return tabulate(
        rows, headers=list(headers), tablefmt="pipe", colalign=align if rows else None, disable_numparse=True
    )


def format_undefined(reasons: Mapping[str, str]) -> str:
    """One line that lists undefined metrics, grouped by reason.

    Args:
        reasons: reason by name of the metric, as `metrics.why_undefined` returns them.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log results so that they can be pasted into a spreadsheet: one line of names, one of values per task.

    Args:
        results: numbers by name for each task; names outside of a task are logged as the task ``all``.
    """
    nested = {k: v for k, v in results.items() if isinstance(v, Mapping)}
    flat = {k: v for k, v in results.items() if not isinstance(v, Mapping)}
    for task, values in [*nested.items(), *([("all", flat)] if flat else [])]:
        named = flatten_results_dict(values)
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(named))
        logger.info("copypaste: %s", ",".join(_as_text(v, 4) for v in named.values()))
