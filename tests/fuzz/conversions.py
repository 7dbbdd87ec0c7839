"""Conversions that go on where an earlier one stopped: their manifests and journals are files too, and may be damaged or crafted."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.harness import Family, Files, Reading
from tests.fuzz.images import png_bytes
from ultravid.datasets import load_recordings
from ultravid.datasets.convert import write_coco_video
from ultravid.datasets.faults import FaultSink

__all__ = ["FAMILIES"]

_DESCRIPTION: dict[str, Any] = {"format": "recordings", "dataset": "films", "options": {}}


def _convert(folder: Path, most: int | None = None) -> None:
    """Convert ``films`` to ``out``; stop after ``most`` videos, as if killed."""
    videos = load_recordings(path=folder / "films")
    for number, _ in enumerate(
        write_coco_video(videos, folder / "out", "test", _DESCRIPTION, folder / "films"), start=1
    ):
        if number == most:
            return


@functools.cache
def _whole() -> dict[str, bytes]:
    return _converted(None)


def _converted(most: int | None) -> dict[str, bytes]:
    files = {f"films/{name}/{k}.png": png_bytes(k) for name in "vw" for k in range(2)}
    with tempfile.TemporaryDirectory() as name:
        for path, data in files.items():
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / path).write_bytes(data)
        _convert(Path(name), most)
        found = [path for path in sorted(Path(name).rglob("*")) if path.is_file()]
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in found}


def _seeds() -> Sequence[Files]:
    finished = _whole()
    journal = {
        name.replace("journal_test", "journal_train"): data for name, data in _converted(1).items() if "journal" in name
    }
    return [finished, _converted(1), {**finished, **{name: data for name, data in journal.items() if not data}}]


def _read(folder: Path, sink: FaultSink | None) -> None:
    _convert(folder)


def _check(folder: Path, reading: Reading) -> None:
    """The result is that of a conversion that was never interrupted."""
    for name, data in _whole().items():
        path = folder / name
        assert path.is_file(), f"a file is missing: {name}"
        assert path.read_bytes() == data or name.startswith("films"), f"another file: {name}"


FAMILIES = (Family("conversion", _seeds, ["out/*.json", "out/*.jsonl"], _read, _check, output="out"),)
