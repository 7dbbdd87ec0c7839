"""``manifest.json``: what the checkpoints of a folder must be, so that one that changed on disk is found out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ultravid.utils.file_io import dump_json, replace_file

__all__ = ["MANIFEST", "changed_since_written", "enter", "listed", "sha256_of"]

MANIFEST = "manifest.json"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def enter(folder: Path, name: str, sha256: str, facts: dict[str, Any]) -> None:
    """Note a file that is about to take its name.

    The hash of the file that has the name so far is kept beside it: a process that is killed before the renaming leaves that
    one, which is good too. Files that are gone are forgotten.

    Args:
        folder: of the checkpoints.
        name: the file's.
        sha256: the new file's hash.
        facts: what else to say of it, as its iteration.
    """
    rows = {key: row for key, row in _read(folder).items() if (folder / key).is_file()}
    before = rows.get(name, {}).get("sha256")
    rows[name] = {**facts, "sha256": sha256, **({"sha256_before": before} if before else {})}
    with replace_file(folder / MANIFEST) as file:
        file.write(dump_json(rows, indent=1).encode())


def changed_since_written(path: Path) -> bool:
    """Whether a file is another than the manifest of its folder says; one that it doesn't name is taken as it is."""
    row = _read(path.parent).get(path.name)
    return row is not None and sha256_of(path) not in (row.get("sha256"), row.get("sha256_before"))


def listed(folder: Path) -> list[str]:
    """The names that a folder's manifest knows."""
    return list(_read(folder))


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        rows = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or cut: checkpoints are then judged by reading them
        return {}
    return rows if isinstance(rows, dict) else {}
