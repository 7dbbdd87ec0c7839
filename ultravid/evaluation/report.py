"""Figures as text."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

__all__ = ["flatten_results_dict", "format_results", "print_csv_format"]

logger = logging.getLogger(__name__)


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested figures with their names joined by "/"."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat


def format_results(results: Mapping[str, Any]) -> str:
    """A table of one row; a figure that is undefined is a dash."""
    flat = flatten_results_dict(results)
    row = ["-" if math.isnan(float(v)) else f"{float(v):.2f}" for v in flat.values()]
    return tabulate([row], headers=list(flat), tablefmt="pipe", stralign="right", disable_numparse=True)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log figures so that they can be pasted into a spreadsheet: names in a line, values in the next."""
    nested = {k: v for k, v in results.items() if isinstance(v, Mapping)}
    flat = {k: v for k, v in results.items() if not isinstance(v, Mapping)}
    for task, figures in [*nested.items(), *([("all", flat)] if flat else [])]:
        named = flatten_results_dict(figures)
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(named))
        logger.info("copypaste: %s", ",".join(f"{float(v):.4f}" for v in named.values()))
