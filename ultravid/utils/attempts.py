"""The folders that the attempts of a run leave: ``attempts/1``, ``attempts/2``, ... of its output folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["attempt_files", "new_attempt_folder", "newest_record"]


def attempt_files(output_dir: str | Path, name: str) -> list[Path]:
    """The files of one name that attempts left, the newest attempt's last."""
    found = [p for p in Path(output_dir).glob(f"attempts/*/{name}") if p.parent.name.isdecimal()]
    return sorted(found, key=lambda p: int(p.parent.name))


def new_attempt_folder(output_dir: str | Path) -> Path:
    """Make the folder of the attempt that begins."""
    attempts = Path(output_dir) / "attempts"
    attempts.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in attempts.iterdir() if p.name.isdecimal()), default=0) + 1
    folder = attempts / str(number)
    folder.mkdir()
    return folder


def newest_record(output_dir: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """What the newest attempt wrote of itself (`ultravid.engine.hooks.RunRecord`), and its file; None: there is none."""
    for path in reversed(attempt_files(output_dir, "record.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a run that was killed may leave one behind
        if isinstance(record, dict):
            return path, record
    return None
