"""The folder of results of many sources: finished sources, model and settings, and the report.

A source is done if its JSON is there and has the identity of what would be computed: the source's content, the weights and the
settings. The JSON is the last of a source's files to appear, so that a source that was interrupted is not done.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid import __version__
from ultravid.serving.privacy import output_key
from ultravid.serving.writers.json_file import read_ends
from ultravid.utils.errors import UserError
from ultravid.utils.folder_lock import locked, read_lock
from ultravid.utils.whole_files import dump_json, remove_path, write_whole

__all__ = ["QC_FOLDER", "REPORT_NAME", "Identity", "OutputFolder", "check_output_folder", "fingerprint"]

REPORT_NAME = "report.json"
QC_FOLDER = "qc"
"""Of the pictures that show what is blacked out of each source."""

_SUFFIXES = (".mp4", ".json", ".csv", ".tracks.csv", ".png", ".dcm", ".sr.dcm", ".sc.dcm", "_frames")
_OF_ALL = ("labels", QC_FOLDER, "qc.png", "coco_vid.json", "coco_results.json")
_RESERVED = re.compile(r"report|lock|coco_vid|coco_results|qc(_\d+)?", re.IGNORECASE)
"""Names whose files are those of all sources, in part."""
_ENDING = re.compile(r"\.(tracks|sr|sc)$", re.IGNORECASE)
"""What tells a source's files from each other, and so can't end the name of another source."""
_SAMPLE = 1 << 20  # bytes at the beginning, in the middle and at the end of a file
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\..+)?")
_ELSEWHERE = "choose another folder (--output-dir)"


@dataclass(frozen=True)
class Identity:
    """The settings that results depend on, besides their source.

    Attributes:
        model: SHA-256 of the weights.
        settings: by the names that the user knows.
    """

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As the files have it."""
        return {"model": self.model, "settings": json.loads(dump_json(dict(self.settings)))}

    def changes(self, other: Mapping[str, Any]) -> list[str]:
        """How another identity, as a file has it, differs: ``--conf: 0.25 before, 0.5 now``."""
        own, old = self.as_json()["settings"], other.get("settings") or {}
        found = [] if other.get("model") == self.model else ["the weights"]
        changed = [name for name in dict.fromkeys((*own, *old)) if own.get(name) != old.get(name)]
        return found + [f"{name}: {_shown(old.get(name))} before, {_shown(own.get(name))} now" for name in changed]


class OutputFolder:
    """The folder that a command writes to, locked while it does.

    Args:
        path: the folder.
        identity: the identity of this command's results.
        redo: process everything again, whatever is there.

    Attributes:
        entries: the entries of the report, by the sources' output names.
    """

    def __init__(self, path: Path, identity: Identity, *, redo: bool = False) -> None:
        self.path = path
        self.identity = identity
        self.redo = redo
        self.entries: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[OutputFolder]:
        """Lock the folder, which is created if necessary, and remove what an interrupted command left half written.

        Raises:
            LockedError: another process writes to it.
            UserError: it can't be written, or holds results of another model or of other settings.
        """
        with locked(self.path, "a prediction", _ELSEWHERE, command=Path(sys.argv[0]).name):
            self._check_identity()
            for folder in (self.path, self.path / "labels", self.path / QC_FOLDER):
                for entry in list(os.scandir(folder)) if folder.is_dir() else ():
                    if _TEMPORARY.fullmatch(entry.name) and "lock.json" not in entry.name:
                        remove_path(Path(entry.path))
            yield self

    def _check_identity(self) -> None:
        report = self.path / REPORT_NAME
        try:
            content = json.loads(report.read_bytes()) if report.is_file() else {}
        except (OSError, ValueError):
            content = {}
        if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
            return
        changes = self.identity.changes(content["identity"])
        if changes and not self.redo and self._has_results(content):
            raise UserError(
                f"{self.path} holds results that were computed with something else ({'; '.join(changes)}). Choose another folder "
                "(--output-dir), or process all again (--redo)."
            )
        if not changes:
            entries = content.get("sources")
            self.entries = {
                entry["name"]: entry for entry in entries or () if isinstance(entry, dict) and "name" in entry
            }

    def _has_results(self, report: Mapping[str, Any]) -> bool:
        """Whether anything was done in the folder: a command may have failed before, or been killed before it could report."""
        if report.get("sources"):
            return True
        for path in self.path.glob("*.json"):
            with contextlib.suppress(UserError):
                if "identity" in read_ends(path):
                    return True
        return False

    def refuse_foreign_files(self, names: Sequence[str]) -> None:
        """Refuse to write over files that no prediction wrote, such as a source itself, unless the folder has a report of one.

        Args:
            names: the names of the outputs of all sources.

        Raises:
            UserError: there are such files.
        """
        if (self.path / REPORT_NAME).is_file():
            return
        written = {*(f"{own_name(name)}{suffix}" for name in names for suffix in _SUFFIXES), *_OF_ALL}
        foreign = sorted(entry.name for entry in os.scandir(self.path) if entry.name in written)
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise UserError(
                f"{self.path / foreign[0]}{more} would be overwritten, and no prediction wrote it. Choose another --output-dir."
            )

    def json_file(self, name: str) -> Path:
        """Of a source's output name."""
        return self.path / f"{name}.json"

    def finished(self, name: str, source: str, files: Sequence[str] = ()) -> dict[str, Any] | None:
        """All of a source's JSON but its frames, if it is done.

        Args:
            name: the name of its outputs.
            source: its `fingerprint`.
            files: its other outputs: if one was deleted, the source is not done. Those that could not be made (``not_written`` of the JSON)
                need not be there.
        """
        path = self.json_file(name)
        if self.redo or not path.is_file():
            return None
        try:
            ends = read_ends(path)
        except UserError:
            return None
        expected = [file for file in files if file not in (ends.get("not_written") or ())]
        is_whole = all((self.path / file).exists() for file in expected)
        return ends if is_whole and ends.get("identity") == self.identity_of(source) else None

    def place_of(self, path: Path | None) -> str:
        """What tells whether a source lies where an earlier one did: a hash that can't be compared with guessed paths. "" without a path."""
        if path is None:
            return ""
        where = os.path.realpath(path).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(where, key=output_key(self.path), digest_size=8).hexdigest()

    @functools.cached_property
    def _earlier_names(self) -> dict[str, str]:
        """The names of outputs that earlier commands wrote, by the places of their sources."""
        found: dict[str, str] = {}
        for path in sorted(self.path.glob("*.json")):
            with contextlib.suppress(UserError):
                if place := read_ends(path).get("place"):
                    found.setdefault(place, path.stem)
        return found

    def earlier_name(self, place: str) -> str | None:
        """The name of the outputs that an earlier command wrote of a source, which may depend on the other sources of that command.

        Args:
            place: the result of `place_of`.
        """
        return self._earlier_names.get(place) if place else None

    def free_name(self, name: str, source: str, place: str) -> str:
        """The name of a source's outputs: the given one, unless results of another source, or files of all sources, have it.

        Args:
            name: the wanted one.
            source: the source's `fingerprint`.
            place: the result of `place_of`.
        """
        name = own_name(name)
        try:
            ends = read_ends(self.json_file(name)) if self.json_file(name).is_file() else {}
        except UserError:
            return name
        is_other = ends.get("place") not in (None, place) and (ends.get("identity") or {}).get("source") != source
        return f"{name}-{place[:8]}" if is_other and place else name

    def identity_of(self, source: str) -> dict[str, Any]:
        """What the JSON of a source has as its identity."""
        return {"source": source, **self.identity.as_json()}

    def finished_files(self) -> list[Path]:
        """The JSON files of all sources that are done with this model and these settings, by name."""
        found = []
        for path in sorted(self.path.glob("*.json")):
            with contextlib.suppress(UserError):
                identity = read_ends(path).get("identity")
                if isinstance(identity, dict) and not self.identity.changes(identity):
                    found.append(path)
        return found

    def write_report(self, **facts: Any) -> None:
        """Write ``report.json``.

        Args:
            facts: by keys that come before the sources.

        Raises:
            OSError: it can't be written.
        """
        content = {"ultravid": __version__, **facts, "identity": self.identity.as_json()}
        content["sources"] = list(self.entries.values())
        with write_whole(self.path / REPORT_NAME) as file:
            file.write((dump_json(content, indent=1) + "\n").encode())


def check_output_folder(path: Path) -> None:
    """Refuse a folder that results can't be written to, before a model is loaded for them; creates nothing.

    Raises:
        LockedError: another process writes to it.
        UserError: it can't be created or written.
    """
    there = path
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{path} can't be written: {there} is not a folder. Choose another --output-dir.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{path} can't be written: {os.strerror(errno.EACCES)}. Choose another --output-dir.")
    holder = read_lock(path)
    if holder is not None and not holder.is_own and holder.is_alive():
        raise holder.refusal(path, _ELSEWHERE)


def own_name(name: str) -> str:
    """A name of which no file is one that a folder of results has anyway: ``report`` becomes ``report_``, ``a.tracks`` ``a_tracks``."""
    name = _ENDING.sub(r"_\1", name)
    return f"{name}_" if _RESERVED.fullmatch(name) else name


def fingerprint(path: Path | None) -> str:
    """What tells whether a source is still the same: of a file its size, time and parts of its content; of a folder, its files.

    A hash, which tells nothing of names. "" of a source that is no file.

    Raises:
        OSError: it can't be read.
    """
    if path is None:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for inner in sorted(p for p in path.iterdir() if p.is_file()):
            status = inner.stat()
            digest.update(f"{inner.name} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        for at in sorted({0, max(0, status.st_size // 2 - _SAMPLE), max(0, status.st_size - _SAMPLE)}):
            file.seek(at)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
