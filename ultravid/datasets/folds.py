"""k-fold splits by patient."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from ultravid.datasets.patients import describe_unknown_patients, num_unknown_patients, unify_spellings
from ultravid.datasets.video import DataError, Video

__all__ = ["fold_of_patient", "folds_of_videos", "split_fold"]

logger = logging.getLogger(__name__)


def fold_of_patient(patient: str, num_folds: int) -> int:
    """The fold of a patient: sha256 of the name modulo the number of folds, the same on every machine and in any dataset.

    The name counts letter by letter, as it always did, so that a run that is resumed keeps its folds; where a dataset spells a
    patient in several ways, `folds_of_videos` takes one of them.

    Args:
        patient: the patient's name or number as the dataset has it.
        num_folds: the number of folds.

    Returns:
        The fold, from 0 to ``num_folds - 1``.
    """
    return int(hashlib.sha256(patient.encode(errors="surrogateescape")).hexdigest(), 16) % num_folds


def folds_of_videos(videos: Sequence[Video], num_folds: int) -> list[int]:
    """The fold of each video; two names of a patient that differ in case or blanks only are one patient."""
    return [fold_of_patient(v.patient, num_folds) for v in unify_spellings(videos)]


def split_fold(videos: Sequence[Video], fold: int, num_folds: int) -> tuple[list[Video], list[Video]]:
    """(videos to train on, videos of the held-out fold); a patient's videos are all on one side.

    Two names of a patient that differ in case or blanks only are one patient. A warning counts the videos whose patients are not
    known: each counts as a separate patient, so that a person with several of them may be on both sides.

    Args:
        videos: all videos; each part keeps their order.
        fold: the held-out fold, from 0.
        num_folds: the number of folds.

    Raises:
        DataError: there is no such fold.
    """
    if not 0 <= fold < num_folds:
        raise DataError(f"fold={fold} is not one of the {num_folds} folds 0 to {num_folds - 1}.")
    unknown = describe_unknown_patients(num_unknown_patients(videos), len(videos))
    if unknown:
        logger.warning("Folds: %s", unknown)
    held_out = [number == fold for number in folds_of_videos(videos, num_folds)]
    train = [v for v, out in zip(videos, held_out, strict=True) if not out]
    test = [v for v, out in zip(videos, held_out, strict=True) if out]
    return train, test
