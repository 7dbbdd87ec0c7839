"""Which spellings of a patient's name are one patient."""

from __future__ import annotations

import unicodedata

__all__ = ["patient_key"]


def patient_key(name: str) -> str:
    """What two spellings of one patient's name share: it is trimmed, inner blanks count as one, and case does not count.

    Nor do signs that can't be seen, and whether an accent is a character by itself.
    """
    if not name.isascii():
        name = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return " ".join(name.split()).casefold()
