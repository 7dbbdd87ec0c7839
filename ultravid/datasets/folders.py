"""Lists the folders below a folder, each once, whatever links there are."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ultravid.datasets.safe_files import open_regular

__all__ = ["FoundFolders", "natural_order", "walk_folders"]


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key to sort by in which runs of digits count as numbers."""
    parts = re.findall(r"(\d+)|(\D+)", name)
    return [(0, int(digits), "") if digits else (1, 0, text.lower()) for digits, text in parts], name


@dataclass
class FoundFolders:
    """What `walk_folders` finds.

    Attributes:
        folders: the first is the folder itself; a folder comes before those in it, and these are in natural order.
        left_out: folders that are not entered, and why.
    """

    folders: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def walk_folders(root: str | Path) -> FoundFolders:
    """A folder and all folders below it.

    Links are followed, and no folder is visited twice: a link to a folder that is reached by its own name, as one that leads
    back to a folder above it, is left out. So is a folder below the root in which ``tools/convert_dataset.py`` put its output:
    that holds the same films again. Hidden folders, whose names begin with a dot, are skipped.
    """
    root = Path(root)
    found = FoundFolders()
    visited: dict[tuple[int, int], Path] = {}
    links = _walk_real(root, visited, found)
    while links:  # after the folders themselves, so that each is reached by its own name if it has one
        link = links.pop(0)
        try:
            before = visited.get(_identity(link))
        except OSError as error:
            found.left_out.append((link, f"can't be followed ({error.strerror})"))
            continue
        if before is not None:
            found.left_out.append((link, f"is a link to {before}, which is read by its own name"))
        else:
            links += _walk_real(link, visited, found)
    found.folders.sort(key=lambda path: [natural_order(part) for part in path.relative_to(root).parts])
    return found


def _walk_real(start: Path, visited: dict[tuple[int, int], Path], found: FoundFolders) -> list[Path]:
    """Visit a folder and those in it that are no links; returns the links to folders."""
    links: list[Path] = []
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        try:
            entries = [e for e in os.scandir(folder) if not e.name.startswith(".")]
            inner = [e for e in entries if _is_folder(e)]
            identity = _identity(folder)
        except OSError as error:
            found.left_out.append((folder, f"can't be read ({error.strerror})"))
            continue
        if identity in visited:  # a mount of a folder inside itself
            found.left_out.append((folder, f"is {visited[identity]}, which is read by that name"))
            continue
        if visited and (written := _conversion_in(entries)) is not None:
            found.left_out.append((folder, f"is the output of a conversion ({written}), which is not read as data"))
            continue
        visited[identity] = folder
        found.folders.append(folder)
        links += sorted((folder / e.name for e in inner if e.is_symlink()), key=lambda p: natural_order(p.name))
        waiting += [folder / e.name for e in inner if not e.is_symlink()]
    return links


def _conversion_in(entries: Sequence[os.DirEntry[str]]) -> str | None:
    """The name of the file in a folder that says that it is a conversion's output, finished or not; None if there is none."""
    if not any(entry.name in ("rawframes", "unfinished") for entry in entries):
        return None
    for entry in entries:
        if entry.name.startswith(("manifest_", "journal_")) and entry.name.endswith((".json", ".jsonl")):
            with contextlib.suppress(OSError), open_regular(entry.path) as file:
                if b'"converter_version"' in file.read(4096):
                    return entry.name
    return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
