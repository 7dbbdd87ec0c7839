"""Reader of recordings without annotations: movies, DICOM files and image folders, to run a detector on.

A sidecar file may give what a recording does not say about itself (`ultravid.datasets.readers.sidecar`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.formats.common import make_frame, require_folder
from ultravid.datasets.image_io import image_fault
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.patients import patient_from_name
from ultravid.datasets.readers import CroppedSource, is_recording, open_source, read_sidecar
from ultravid.datasets.readers.images import natural_order
from ultravid.datasets.readers.opener import is_dicom
from ultravid.datasets.video import DataError, Frame, Video

__all__ = ["load_recordings"]


def load_recordings(*, path: str | Path, crop: bool = True, faults: FaultSink | None = None) -> list[Video]:
    """Read a movie, a DICOM file or an image folder, or all of them in a folder and the folders in it.

    A video is named by its path from ``path``. Its patient is the sidecar's; otherwise DICOM files with the same patient's id share
    the name of the first of them (the id itself is never kept), and any other recording's patient is its file's name without
    a trailing side.

    Args:
        path: file or folder; local or mounted.
        crop: crop DICOM frames to their ultrasound region.
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
        named: dict[str, str] = {}
        for recording in _recordings(path):
            try:
                videos.append(_read(recording, path, crop, named, sum(map(len, videos))))
            except DataError as error:
                own.reject("recording can't be read", str(error).rstrip("."))
        if not videos and not own.rejected:
            raise DataError(f"{path}: holds no movie, DICOM file or image.")
        watched = [path.parent, *([path, *(p for p in path.rglob("*") if p.is_dir())] if path.is_dir() else [])]
        return Index(videos, own.close(), tuple(watched))

    return cached_index("recordings", {"path": str(path.absolute()), "crop": crop}, [], build, faults)


def _recordings(path: Path) -> Iterator[Path]:
    if not path.is_dir() or is_recording(path):
        yield path
    if path.is_dir():
        for inner in sorted(path.iterdir(), key=lambda p: natural_order(p.name)):
            if not inner.name.startswith(".") and (inner.is_dir() or is_recording(inner)):
                yield from _recordings(inner)


def _read(recording: Path, root: Path, crop: bool, named: dict[str, str], first_image: int) -> Video:
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
    patient = sidecar.patient or _patient(recording, video_id, named)
    return Video(video_id, tuple(frames), patient, sidecar.fps or source.fps, {**source.metadata, **sidecar.metadata})


def _patient(recording: Path, video_id: str, named: dict[str, str]) -> str:
    name = patient_from_name(video_id)
    if recording.is_dir() or not is_dicom(recording):
        return name
    from ultravid.datasets.readers.dicom import patient_token  # half a second, for those who have DICOM files

    token = patient_token(recording)
    return name if token is None else named.setdefault(token, name)
