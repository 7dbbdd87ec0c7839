"""Finds the recordings in a folder, and lists the other files."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from ultravid.datasets.folders import natural_order, walk_folders
from ultravid.datasets.readers.images import list_images
from ultravid.datasets.readers.kinds import bare_stream_fault, kind_of
from ultravid.datasets.readers.opener import is_recording
from ultravid.datasets.readers.sidecar import sidecar_path

__all__ = ["FoundRecordings"]

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


class FoundRecordings:
    """The recordings in a folder and those in it, in natural order, and the files that are none.

    Args:
        path: the folder; of a file, the file itself is the only recording.

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
    if file.stat().st_size == 0:
        return "is empty"
    return bare_stream_fault(file) or "is no movie, DICOM file or image"
