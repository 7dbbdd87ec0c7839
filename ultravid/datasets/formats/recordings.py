"""Reader of recordings without annotations: movies, DICOM files and picture folders, to run a detector on.

What a recording does not say of itself may stand in a sidecar (`ultravid.datasets.readers.sidecar`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ultravid.datasets.faults import Faults
from ultravid.datasets.formats.common import make_frame, patient_from_name
from ultravid.datasets.image_io import image_fault
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.readers import CroppedSource, is_recording, open_source, read_sidecar
from ultravid.datasets.readers.opener import is_dicom
from ultravid.datasets.readers.pictures import natural_order
from ultravid.datasets.video import DataError, Frame, Video

__all__ = ["load_recordings"]


def load_recordings(*, path: str | Path, crop: bool = True) -> list[Video]:
    """Read a movie, a DICOM file or a picture folder, or all that lie in a folder and the folders in it.

    A video is named by its path from ``path``. Its patient is the sidecar's; without one, DICOM files that hold one patient's id
    share the name of the first of them (the id itself is never kept), and any other recording's patient is its file's
    name less a trailing side.

    Args:
        path: file or folder.
        crop: cut DICOM frames to their ultrasound region.

    Raises:
        DataError: nothing is there that frames are read from, or a file is damaged; the first fault is told, the others are
            counted.
    """
    path = Path(path)

    def build() -> Index:
        if not path.exists():
            raise DataError(f"{path} is not there.")
        faults = Faults(path)
        videos: list[Video] = []
        named: dict[str, str] = {}
        for recording in _recordings(path):
            try:
                videos.append(_read(recording, path, crop, named, sum(map(len, videos))))
            except DataError as error:
                faults.add("recording can't be read", str(error).rstrip("."))
        if not videos and not faults.found:
            raise DataError(f"{path}: holds no movie, DICOM file or picture.")
        watched = [path.parent, *([path, *(p for p in path.rglob("*") if p.is_dir())] if path.is_dir() else [])]
        return Index(videos, faults.close(), tuple(watched))

    return cached_index("recordings", {"path": str(path.absolute()), "crop": crop}, [], build)


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
