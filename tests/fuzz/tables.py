"""Small tables: sidecars of recordings, and tables of patients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.harness import Complaint, Family, Files, Reading, content_of
from tests.fuzz.images import png_bytes
from ultravid.datasets import Video, load_recordings
from ultravid.datasets.faults import FaultSink

__all__ = ["FAMILIES"]

_NUMBERS = ("fps", "spacing_mm", "spacing_y_mm")
_SIDECAR = {"fps": 25, "patient": "p-1", "device": "d", "organ": "breast", "hospital": "h", "spacing_mm": 0.1}


def _films() -> dict[str, bytes]:
    return {f"films/{name}/{k}.png": png_bytes(k) for name in "vw" for k in range(2)}


def _sidecar_seeds() -> Sequence[Files]:
    return [{"films/v.video.json": json.dumps(_SIDECAR | {"spacing_y_mm": 0.2}).encode(), **_films()}]


def _patient_seeds() -> Sequence[Files]:
    return [{"patients.json": json.dumps({"v": "anna", "w": 17}).encode(), **_films()}]


def _read_films(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_recordings(path=folder / "films", faults=sink)


def _read_with_table(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_recordings(path=folder / "films", patients=folder / "patients.json", faults=sink)


def _check_sidecar(folder: Path, reading: Reading) -> None:
    content = _json(folder / "films/v.video.json")
    assert len(reading.value) == 2 or reading.said, "a film vanishes: and nothing was said"
    for video in reading.value:
        if video.video_id != "v" or not isinstance(content, dict):
            continue
        found: dict[str, Any] = {"fps": video.fps, "patient": video.patient, **video.metadata}
        for key, value in content.items():
            if key == "fps" and value == 0:
                continue  # not known
            same = found.get(key) in (value, str(value)) or (key in _NUMBERS and found.get(key) == float(value))
            assert same or reading.said, f"another {key}: {found.get(key)!r} for {value!r}"


def _check_table(folder: Path, reading: Reading) -> None:
    content = _json(folder / "patients.json")
    assert len(reading.value) == 2 or reading.said, "a film vanishes: and nothing was said"
    for video in reading.value:
        stated = content.get(video.video_id)
        named = any(letter.isalnum() for letter in str("" if stated is None else stated))
        assert named or not video.patient_known, f"known patient: {video.patient!r} for {stated!r}"
        if video.patient_known and not reading.said:
            assert str(video.patient) == str(stated), f"another patient: {video.patient!r} for {stated!r}"


def _json(path: Path) -> Any:
    if not path.exists():
        return {}
    try:
        return json.loads(content_of(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Complaint(f"json: {error}") from error


FAMILIES = (
    Family("sidecar", _sidecar_seeds, ["films/v.video.json"], _read_films, _check_sidecar),
    Family("patients", _patient_seeds, ["patients.json"], _read_with_table, _check_table),
)
