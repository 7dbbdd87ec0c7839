"""Reader of recordings without annotations: movies, DICOM files and image folders, to run a detector on.

A sidecar file may give what a recording does not say about itself (`ultravid.datasets.readers.sidecar`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ultravid.datasets.faults import FaultSink, FileFaults, as_data_error
from ultravid.datasets.formats.common import make_frame, make_video, require_folder
from ultravid.datasets.image_io import image_fault
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers import CroppedSource, is_recording, open_source, read_sidecar
from ultravid.datasets.readers.images import natural_order
from ultravid.datasets.readers.opener import is_dicom
from ultravid.datasets.video import DataError, Frame, Video

__all__ = ["load_recordings"]


def load_recordings(
    *, path: str | Path, crop: bool = True, patients: str | Path | None = None, faults: FaultSink | None = None
) -> list[Video]:
    """Read a movie, a DICOM file or an image folder, or all of them in a folder and the folders in it.

    A video is named by its path from ``path``. Its patient is the sidecar's, else the one that ``patients`` gives.

    Args:
        path: file or folder; local or mounted.
        crop: crop DICOM frames to their ultrasound region.
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
        videos: list[Video] = []
        rule = patient_rule(patients)
        for recording in _recordings(path):
            try:
                with as_data_error(recording):
                    videos.append(_read(recording, path, crop, rule, sum(map(len, videos))))
            except DataError as error:
                own.reject("recording can't be read", str(error).rstrip("."), whole_video=True)
        if not videos and not own.rejected:
            raise DataError(f"{path}: holds no movie, DICOM file or image.")
        rule.check([video.video_id for video in videos], own)
        watched = [path.parent, *([path, *(p for p in path.rglob("*") if p.is_dir())] if path.is_dir() else [])]
        return Index(videos, own.close(), tuple(watched))

    arguments = {"path": str(path.absolute()), "crop": crop, "patients": str(patients)}
    return cached_index("recordings", arguments, [table_address(patients)], build, faults)


def _recordings(path: Path) -> Iterator[Path]:
    if not path.is_dir() or is_recording(path):
        yield path
    if path.is_dir():
        for inner in sorted(path.iterdir(), key=lambda p: natural_order(p.name)):
            if not inner.name.startswith(".") and (inner.is_dir() or is_recording(inner)):
                yield from _recordings(inner)


def _read(recording: Path, root: Path, crop: bool, rule: PatientRule, first_image: int) -> Video:
    whole = open_source(recording, crop=False)
    box = whole.region if crop else None
    source = whole if box is None else CroppedSource(whole, box)
    video_id = recording.relative_to(root).as_posix() if recording != root else recording.name
    frames: list[Frame] = []
    for n in range(len(source)):
        place = source.place(n)
        fault = image_fault(place[0], *source.size) if place[1] is None else None
        if fault is not None:
            raise DataError(f"video {video_id!r} frame {n}: {place[0]} {fault}.")
        frames.append(make_frame(place, first_image + n, source.size, [], crop=box))
    source.close()
    sidecar = read_sidecar(recording)
    dicom = recording if not recording.is_dir() and is_dicom(recording) else None
    patient = rule.patient(video_id, sidecar.patient, dicom=dicom)
    metadata = {**source.metadata, **sidecar.metadata}
    return make_video(video_id, frames, patient, fps=sidecar.fps or source.fps, metadata=metadata)
