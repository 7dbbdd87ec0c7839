"""Every family of files that is fuzzed. A new reader: write its `Family` beside the others, and list it here."""

from tests.fuzz import annotations, conversions, dicom, images, movies, predictions, tables
from tests.fuzz.harness import Family

__all__ = ["FAMILIES"]

FAMILIES: tuple[Family, ...] = (
    *images.FAMILIES,
    *movies.FAMILIES,
    *dicom.FAMILIES,
    *annotations.FAMILIES,
    *tables.FAMILIES,
    *predictions.FAMILIES,
    *conversions.FAMILIES,
)
