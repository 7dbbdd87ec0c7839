"""Reader of recordings without annotations: movies, DICOM files and image folders, to run a detector on.

A sidecar file may give what a recording does not say about itself (`ultravid.datasets.readers.sidecar`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection
from pathlib import Path

from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.folders import natural_order, walk_folders
from ultravid.datasets.formats.common import require_folder
from ultravid.datasets.formats.films import Film
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.masks import read_masks
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers import is_recording, open_source
from ultravid.datasets.readers.images import list_images
from ultravid.datasets.readers.kinds import kind_of
from ultravid.datasets.readers.shown import Shown, choose_shown
from ultravid.datasets.readers.sidecar import sidecar_path
from ultravid.datasets.video import DataError, Video

__all__ = ["load_recordings"]

_LEFT_OUT = "files or folders were left out"
_EXPECTED_SUFFIXES = frozenset(
    {
        *(
            ".json",
            ".jsonl",
            ".xml",
            ".csv",
            ".tsv",
            ".txt",
            ".md",
            ".rst",
            ".log",
            ".yaml",
            ".yml",
            ".toml",
            ".ini",
            ".cfg",
        ),
        *(".html", ".htm", ".css", ".js", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".odt", ".rtf"),
        *(".srt", ".vtt", ".ass", ".sub", ".md5", ".sha1", ".sha256", ".db", ".exe", ".inf"),
    }
)
_EXPECTED_NAMES = frozenset({"dicomdir", "license", "licence", "readme", "notice", "checksums", "lockfile", "version"})


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
        found = _Recordings(path)
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


class _Recordings:
    """The recordings in a folder and those in it, in natural order, and the files that are none.

    Attributes:
        recordings: files, and folders of images.
        folders: in which they were looked for.
        left_out: name, and why it is not read; without hidden files, and without what commonly lies beside recordings.
    """

    def __init__(self, path: Path) -> None:
        self.recordings: list[Path] = []
        self.folders: list[Path] = []
        self.left_out: list[tuple[str, str]] = []
        if not path.is_dir():
            self.recordings.append(path)
            return
        walked = walk_folders(path)
        self.folders = walked.folders
        self.left_out += [(_name(folder, path), reason) for folder, reason in walked.left_out]
        for folder in self.folders:
            self._look_into(folder, path)
        self._drop_links_to_the_same_file(path)
        self.recordings.sort(key=lambda p: [natural_order(part) for part in p.relative_to(path).parts])

    def _look_into(self, folder: Path, root: Path) -> None:
        images = {image.name for image in list_images(folder)}
        if images:
            self.recordings.append(folder)
        described: list[Path] = []
        rest = []
        for file in sorted(folder.iterdir(), key=lambda p: natural_order(p.name)):
            if file.name.startswith("."):
                continue
            if file.is_dir():
                described.append(file)
            elif file.name in images:
                continue
            elif is_recording(file):
                self.recordings.append(file)
                described.append(file)
            else:
                rest.append(file)
        sidecars = {sidecar_path(recording).name for recording in described}
        for file in rest:
            reason = _why_left_out(file, sidecars)
            if reason is not None:
                self.left_out.append((_name(file, root), reason))

    def _drop_links_to_the_same_file(self, root: Path) -> None:
        reached = {os.path.realpath(p) for p in self.recordings if not p.is_symlink()}
        for link in [p for p in self.recordings if p.is_symlink() and p.is_file()]:
            if os.path.realpath(link) in reached:
                self.recordings.remove(link)
                self.left_out.append(
                    (_name(link, root), f"is a link to {os.path.realpath(link)}, which is read by its own name")
                )
            reached.add(os.path.realpath(link))


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _why_left_out(file: Path, sidecars: Collection[str]) -> str | None:
    """Why a file that is no recording should be mentioned; None if such files are expected beside recordings.

    Args:
        file: the file.
        sidecars: names that the sidecars of the recordings in its folder have.
    """
    if kind_of(file) == "image":
        return "is an image under another kind of file's name, and no frame of its folder"
    if file.name.endswith(".video.json"):
        return None if file.name in sidecars else "describes no recording in its folder"
    if file.suffix.lower() in _EXPECTED_SUFFIXES or file.name.lower().partition(".")[0] in _EXPECTED_NAMES:
        return None
    if not file.exists():
        return "is a link to nothing"
    if not file.is_file():
        return "is not a regular file"
    return "is empty" if file.stat().st_size == 0 else "is no movie, DICOM file or image"


def _read_all(
    found: _Recordings, root: Path, show: Callable[..., Shown], rule: PatientRule, faults: FileFaults
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
