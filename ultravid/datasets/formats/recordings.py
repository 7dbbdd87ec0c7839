"""Reader of recordings without annotations: movies, DICOM files and image folders, to run a detector on.

A sidecar file may give what a recording does not say about itself (`ultravid.datasets.readers.sidecar`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.formats.common import require_folder
from ultravid.datasets.formats.films import Film
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.masks import read_masks
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers import open_source
from ultravid.datasets.readers.search import FoundRecordings
from ultravid.datasets.readers.shown import Shown, choose_shown
from ultravid.datasets.video import DataError, Video

__all__ = ["load_recordings"]

_LEFT_OUT = "files or folders were left out"


def load_recordings(
    *,
    path: str | Path,
    crop: bool = True,
    blank_outside_region: bool = False,
    region: int | None = None,
    masks: str | Path | None = None,
    patients: str | Path | None = None,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read a movie, a DICOM file or an image folder, or all of them in a folder and the folders in it.

    A video is named by its path from ``path``. Its patient is the sidecar's, else the one that ``patients`` gives.

    Args:
        path: file or folder; local or mounted.
        crop: crop DICOM frames to their ultrasound region; of two regions, as of two views side by side, both are shown, and
            what is between them is black.
        blank_outside_region: black out what is outside of the region instead, and keep the image's size.
        region: of a DICOM file's several regions show this one only, from 1, the largest first; None: all.
        masks: a table of what to black out besides, by device and image size, see `ultravid.datasets.masks`. None: nothing.
        patients: a rule for patients, or a table of them, see `ultravid.datasets.patients.patient_rule`. None: DICOM files with
            the same PatientID are of one patient; the patients of other recordings are not known.
        faults: collects all faults, and the recordings without them are returned.

    Raises:
        DataError: the path holds no recording, or a file is damaged. Without ``faults``, the first fault is reported and the others
            are counted.
    """
    path = require_folder(path)

    def build() -> Index:
        if not path.exists():
            raise DataError(f"{path} does not exist.")
        own = FileFaults(path, faults)
        rule = patient_rule(patients)
        table = read_masks(masks)
        show = functools.partial(
            choose_shown, crop=crop, blank_outside_region=blank_outside_region, region=region, masks=table
        )
        found = FoundRecordings(path)
        videos = _read_all(found, path, show, rule, own)
        table.check_used(masks, own)
        rule.check([video.video_id for video in videos], own)
        return Index(videos, own.close(), (path.parent, *found.folders))

    arguments = {
        "path": str(path.absolute()),
        "crop": crop,
        "blank_outside_region": blank_outside_region,
        "region": region,
        "patients": str(patients),
    }
    return cached_index("recordings", arguments, [table_address(patients), masks], build, faults)


def _read_all(
    found: FoundRecordings, root: Path, show: Callable[..., Shown], rule: PatientRule, faults: FileFaults
) -> list[Video]:
    """The videos of all recordings.

    Raises:
        DataError: there is none.
    """
    videos: list[Video] = []
    for recording in found.recordings:
        with faults.rejecting("recording can't be read", recording):
            videos.append(_read(recording, root, show, rule, sum(map(len, videos)), faults))
    for name, reason in found.left_out:
        faults.repair(_LEFT_OUT, f"{name} {reason}", listed=True)
    if not videos and not faults.rejected:
        others = "; ".join(f"{name} {reason}" for name, reason in found.left_out[:3])
        raise DataError(f"{root}: holds no movie, DICOM file or image{f' ({others})' if others else ''}.")
    return videos


def _read(
    recording: Path, root: Path, show: Callable[..., Shown], rule: PatientRule, first_image: int, faults: FileFaults
) -> Video:
    video_id = recording.relative_to(root).as_posix() if recording != root else recording.name
    source = open_source(recording, crop=False)
    try:
        film = Film(source, video_id, show)
        frames = [film.frame(n, first_image + n) for n in range(len(source))]
        return film.video(frames, rule, faults.of_video(video_id))
    finally:
        source.close()
