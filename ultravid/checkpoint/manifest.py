"""``manifest.json``: the hashes of a folder's checkpoints, to detect one that changed on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.hashing import sha256_of
from ultravid.utils.run_folder import RunFolder

__all__ = ["changed_since_written", "listed_names", "record_file"]


def record_file(folder: Path, name: str, sha256: str, facts: dict[str, Any]) -> None:
    """Record the hash of a file that is about to be renamed to ``name``.

    The hash of the file that has the name now is kept beside it: if the process is killed before it renames, that file stays,
    and it is good too. Files that were removed are dropped from the manifest.

    Args:
        folder: the folder of the checkpoints.
        name: the file's name.
        sha256: the new file's hash.
        facts: what else to record about the file, as its iteration.
    """
    rows = {key: row for key, row in _read(folder).items() if (folder / key).is_file()}
    before = rows.get(name, {}).get("sha256")
    rows[name] = {**facts, "sha256": sha256, **({"sha256_before": before} if before else {})}
    with replace_file(RunFolder(folder).manifest) as file:
        file.write(dump_json(rows, indent=1).encode())


def changed_since_written(path: Path) -> bool:
    """Whether a file differs from what its folder's manifest says; a file that is not listed there counts as unchanged."""
    row = _read(path.parent).get(path.name)
    return row is not None and sha256_of(path) not in (row.get("sha256"), row.get("sha256_before"))


def listed_names(folder: Path) -> list[str]:
    """The names of the files in a folder's manifest."""
    return list(_read(folder))


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        rows = json.loads(RunFolder(folder).manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: checkpoints are then judged by reading them
        return {}
    return rows if isinstance(rows, dict) else {}
