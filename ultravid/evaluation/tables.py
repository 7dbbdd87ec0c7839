"""Metrics as text: tables for the terminal and the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

__all__ = [
    "flatten_results_dict",
    "format_columns",
    "format_interval",
    "format_results",
    "format_undefined",
    "format_value",
    "print_csv_format",
]

logger = logging.getLogger(__name__)


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested results as one flat dict, names joined by "/"."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat


def format_results(results: Mapping[str, Any]) -> str:
    """A table of one row; a dash for nan."""
    flat = flatten_results_dict(results)
    return format_columns(list(flat), [[format_value(float(v)) for v in flat.values()]])


def format_value(value: float, digits: int = 2) -> str:
    """A value in a table; a dash for nan."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def format_interval(low: float, high: float) -> str:
    """An interval in a table; a dash for nan."""
    return "-" if math.isnan(low) else f"{format_value(low)} to {format_value(high)}"


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
    """Log results so that they can be pasted into a spreadsheet: one line of names, one of values per task."""
    nested = {k: v for k, v in results.items() if isinstance(v, Mapping)}
    flat = {k: v for k, v in results.items() if not isinstance(v, Mapping)}
    for task, values in [*nested.items(), *([("all", flat)] if flat else [])]:
        named = flatten_results_dict(values)
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(named))
        logger.info("copypaste: %s", ",".join(f"{float(v):.4f}" for v in named.values()))
