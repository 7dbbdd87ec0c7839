"""Tells which spellings of a patient's name mean the same patient."""

from __future__ import annotations

from ultravid.utils.text import spelling_key

__all__ = ["patient_key"]


def patient_key(name: str) -> str:
    """What two spellings of one patient's name share, see `spelling_key`."""
    return spelling_key(name)
