"""Missing files of annotations: one message for a wrong folder, instead of one for each file.

If nearly all files are missing, the folder is wrong: the data set is refused, with the option that names the folder and, if the first
file is found near it, the folder that is right. If some are missing, they are counted by folder.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ultravid.datasets.faults import FileFaults
from ultravid.datasets.video import DataError

__all__ = ["WRONG_ROOT", "MissingFile", "MissingFiles"]

WRONG_ROOT = "files are missing under the root"
"""The kind of the fault if nearly all files are missing."""

_NEARLY_ALL = 0.9
_SHOWN = 5  # folders in a message
_MOST_FOLDERS = 200  # that are searched for the first file; more would be slow on a network drive


@dataclass(frozen=True)
class MissingFile:
    """A file that is not there.

    Attributes:
        name: from the root.
        message: names video and frame, and has no full stop.
        video: id of its video.
    """

    name: str
    message: str
    video: str


@dataclass
class MissingFiles:
    """Collects the missing files of one annotation file.

    Attributes:
        root: the folder in which the files were looked for.
        how: what would be right, such as "set image_root".
        option: the reader's argument that names the folder; "" if a folder that is found can't be given as it is.
        what: the files, in the plural.
        inside: the part of ``root`` below the folder that ``option`` names, such as "rawframes".
        by_folder: for each folder, the missing files.
    """

    root: Path
    how: str
    option: str = ""
    what: str = "pictures"
    inside: str = ""
    by_folder: dict[str, list[MissingFile]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, message: str, video: str) -> None:
        """Note a missing file, see `MissingFile`."""
        self.by_folder[os.path.dirname(self.root / name)].append(MissingFile(name, message, video))

    def are_nearly_all(self, total: int) -> bool:
        """Whether so many of ``total`` files are missing that the folder must be wrong."""
        return sum(map(len, self.by_folder.values())) > _NEARLY_ALL * total

    def report(self, total: int, faults: FileFaults) -> None:
        """Reject what is missing of ``total`` files.

        Raises:
            DataError: nearly all are missing, and ``faults`` has no sink. With a sink this is one fault.
        """
        number = sum(map(len, self.by_folder.values()))
        if number == 0:
            return
        if self.are_nearly_all(total):
            message = self._wrong_root(number, total)
            if faults.sink is None:
                raise DataError(f"{faults.path}: {message}.")
            faults.reject(WRONG_ROOT, message, number)
            return
        if faults.sink is None:
            faults.reject("frame is missing", self._counted(number, total), number)
            return
        for folder, missing in self.by_folder.items():
            several = f" ({len(missing)} {self.what} of {folder} are missing)" if len(missing) > 1 else ""
            videos = [file.video for file in missing]
            faults.reject("frame is missing", f"{missing[0].message}{several}", len(missing), videos=videos)

    def _counted(self, number: int, total: int) -> str:
        """The first missing file, and how many are missing in each folder."""
        first, *_ = next(iter(self.by_folder.values()))
        if number == 1:
            return first.message
        counts = [f"{len(missing)} in {folder}" for folder, missing in self.by_folder.items()]
        shown = ", ".join(counts[:_SHOWN]) + (
            f", and in {len(counts) - _SHOWN} more folders" if len(counts) > _SHOWN else ""
        )
        return f"{first.message}; {number} of {total} {self.what} are missing: {shown}"

    def _wrong_root(self, number: int, total: int) -> str:
        first, *_ = next(iter(self.by_folder.values()))
        folders = f" in {len(self.by_folder)} folders" if len(self.by_folder) > 1 else ""
        text = f"{number} of {total} {self.what} are missing under {self.root}{folders}: {self.how}. The first: {first.message}"
        right = next(
            (folder for folder in _near(self.root, self.inside) if os.path.exists(folder / self.inside / first.name)),
            None,
        )
        if right is not None and self.option:
            return f"{text}. It is found with {self.option}={right}"
        tail = Path(*Path(first.name).parts[-2:])  # a file's own name, such as 000000.png, may be that of many
        found = right or next((f for f in _near(self.root, "") if os.path.exists(f / tail)), None)
        return text if found is None else f"{text}. {found / tail} exists"


def _near(root: Path, inside: str) -> Iterator[Path]:
    """The folder above, the folders in ``root`` and those beside it, and the folders in these; a limited number of them."""
    start = Path(os.path.abspath(root))
    start = start.parent if inside and start.name == inside else start
    yield start
    yield start.parent
    rest = _MOST_FOLDERS
    for parent in (start, start.parent):
        for folder in _folders_in(parent, rest):
            yield folder
            rest -= 1
            for inner in _folders_in(folder, min(rest, 20)):
                yield inner
                rest -= 1


def _folders_in(folder: Path, most: int) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [Path(e.path) for e, _ in zip(entries, range(1000), strict=False) if e.is_dir()]
    except OSError:
        return []
    return sorted(found)[: max(most, 0)]
