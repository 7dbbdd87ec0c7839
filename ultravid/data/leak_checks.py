"""Finds patients and files that are both in training and in evaluation, before any long work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ultravid.data.loader_videos import loader_videos
from ultravid.datasets.patient_key import patient_key
from ultravid.datasets.readers.kinds import is_dicom
from ultravid.datasets.video import Video

__all__ = ["warn_of_shared_patients"]

logger = logging.getLogger(__name__)

_reported: WeakSet[Any] = (
    WeakSet()
)  # test data, so that a second hook, or the resumed half of a trial run (``--quick``), does not repeat it


def warn_of_shared_patients(trained: Any, evaluated: Any) -> None:
    """Warn of patients and of files that are both in the training and in the evaluation; folds share none.

    Only patients that are known count, compared as `patient_key` does, and of a file its first frame. Copies of a file and DICOM
    files of one patient under other names are found by the audit alone, which reads the images.

    Args:
        trained: the loader of the training.
        evaluated: a loader of the evaluation, or several by name.
    """
    tested = loader_videos(evaluated)
    shared, files = _shared_patients(loader_videos(trained), tested), _shared_files(loader_videos(trained), tested)
    if not (shared or files) or all(video in _reported for video in tested):
        return
    _reported.update(tested)
    said = []
    if shared:
        number = len({patient_key(video.patient) for video in tested if video.patient_known})
        train, test = next(iter(shared.values()))
        said.append(
            f"{len(shared)} of its {number} known patients (the first: {test.patient!r}, of {train.video_id!r} in "
            f"training and {test.video_id!r} in evaluation)"
        )
    if files:
        number = len({video.frames[0].path for video in tested})
        said.append(f"{len(files)} of its {number} files (the first: {files[0]})")
    logger.warning(
        "The evaluation is not independent of the training: it shares %s. Its metrics look better than they are; tools/audit_dataset.py with both "
        "data sets lists all.",
        " and ".join(said),
    )


def _shared_patients(trained: Sequence[Video], tested: Sequence[Video]) -> dict[str, tuple[Video, Video]]:
    """The first video on each side of each patient that both have, by `patient_key`."""
    first = {patient_key(v.patient): v for v in reversed(trained) if v.patient_known}
    found: dict[str, tuple[Video, Video]] = {}
    for video in tested:
        if video.patient_known and (train := first.get(patient_key(video.patient))) is not None:
            found.setdefault(patient_key(video.patient), (train, video))
    ids = {video.video_id for video in (*trained, *tested)} if found else set()
    return {key: pair for key, pair in found.items() if not (pair[1].patient in ids and all(map(_is_dicom, pair)))}


def _is_dicom(video: Video) -> bool:
    """Whether a video is a DICOM file: its patient may be called like the file, and files of two data sets alike by chance."""
    frame = video.frames[0]
    return frame.index_in_file is not None and is_dicom(Path(frame.path))


def _shared_files(trained: Sequence[Video], tested: Sequence[Video]) -> list[str]:
    known = {video.frames[0].path for video in trained}
    return list(dict.fromkeys(video.frames[0].path for video in tested if video.frames[0].path in known))
