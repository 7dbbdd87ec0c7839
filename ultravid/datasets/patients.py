"""Patients of videos: a table of them, or a guess from the video's name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ultravid.datasets.json_files import read_json
from ultravid.datasets.video import DataError

__all__ = ["check_patients", "patient_from_name", "read_patients"]

logger = logging.getLogger(__name__)

_SIDE_SUFFIX = re.compile(r"[-_]\d?-?[lr]?$")


def read_patients(address: str | Path | None) -> dict[str, str]:
    """A table from video name to patient, a JSON object at any address; empty for None.

    Raises:
        DataError: the file can't be read, or is no such table.
    """
    if address is None:
        return {}
    table = read_json(address)
    if not isinstance(table, dict):
        raise DataError(f"{address}: the table of patients must be an object from video name to patient.")
    for name, patient in table.items():
        if not isinstance(patient, str | int) or isinstance(patient, bool):
            raise DataError(f"{address}: the patient of {name!r} is {patient!r}, not text or a whole number.")
    return {name: str(patient) for name, patient in table.items()}


def check_patients(table: Mapping[str, str], names: Iterable[str], path: str | Path) -> None:
    """Refuse a table of patients that names none of a dataset's videos; log how many of its names are unknown.

    Args:
        table: see `read_patients`.
        names: of the videos.
        path: of the dataset, for messages.

    Raises:
        DataError: the table isn't empty, and no video is in it.
    """
    unknown = sorted(set(table) - set(names))
    if unknown and len(unknown) == len(table):
        raise DataError(f"{path}: the table of patients names none of its videos; {unknown[0]!r} is not one of them.")
    if unknown:
        logger.info("%s: %d names in the table of patients are not videos, such as %r.", path, len(unknown), unknown[0])


def patient_from_name(name: str) -> str:
    """The stem of a video's file without a trailing side such as ``-1-l``."""
    return _SIDE_SUFFIX.sub("", Path(name).stem)
