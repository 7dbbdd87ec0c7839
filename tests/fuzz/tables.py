"""Small files beside the data: sidecars, and tables of patients, of masks, of CVAT's films, of splits and of hard frames."""

from __future__ import annotations

import csv
import functools
import io
import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from tests.conftest import load_tool
from tests.fuzz.annotations import cvat_xml
from tests.fuzz.harness import Complaint, Family, Files, Reading, content_of
from tests.fuzz.images import HEIGHT, WIDTH, frames_of, picture, png_bytes
from tests.fuzz.mutations import change_bytes, change_json, change_structure
from ultravid.data.mining import HardMining
from ultravid.datasets import Video, load_cvat_video, load_recordings
from ultravid.datasets.audit import Split
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
            if (key == "fps" and value == 0) or (key == "patient" and value == "" and not video.patient_known):
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


_DEVICES = {"v": "LOGIQ E10", "w": "d"}
_MASKS = {"LOGIQ  e10": {"16x12": [[0, 0, 16, 3], [2, 9, 7, 12]]}, "d": {"16x12": []}}


def _masks_seeds() -> Sequence[Files]:
    sidecars = {f"films/{v}.video.json": json.dumps({"device": d, "fps": 25}).encode() for v, d in _DEVICES.items()}
    tables = {"masks.json": json.dumps(_MASKS).encode(), "masks.yaml": yaml.safe_dump(_MASKS).encode()}
    return [{name: table, **sidecars, **_films()} for name, table in tables.items()]


def _masks_path(folder: Path) -> Path:
    return next((p for p in folder.iterdir() if p.suffix == ".yaml"), folder / "masks.json")


def _change_masks(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.25:
        return change_bytes(rng, data)
    if data.startswith(b"{"):
        return change_json(rng, data)
    return yaml.safe_dump(change_structure(rng, yaml.safe_load(data)), allow_unicode=rng.random() < 0.5).encode()


def _read_masked(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_recordings(path=folder / "films", masks=_masks_path(folder), faults=sink)


def _check_masks(folder: Path, reading: Reading) -> None:
    """What the table lists for a device and the size of its images is black, and nothing else."""
    path = _masks_path(folder)
    table = _json(path) if path.suffix == ".json" else _yaml(path)
    assert len(reading.value) == 2 or reading.said, "a film vanishes: and nothing was said"
    for video in reading.value:
        sizes = [s for device, s in table.items() if _plain(device) == _plain(_DEVICES[video.video_id])]
        parts = [b for s in sizes for size, b in s.items() if size.replace(" ", "") == f"{WIDTH}x{HEIGHT}"]
        assert parts or reading.said, f"no masks: of {video.video_id}, and nothing was said"
        for number, image in enumerate(frames_of(video)):
            expected = np.dstack([picture(number)] * 3)
            for x1, y1, x2, y2 in parts[0] if parts else ():
                expected[y1:y2, x1:x2] = 0
            assert np.array_equal(image, expected), f"other pixels: frame {number} of {video.video_id}"


def _plain(text: Any) -> str:
    seen = "".join(c for c in str(text) if unicodedata.category(c) != "Cf")  # such as a byte order mark
    return " ".join(seen.split()).casefold()


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(content_of(path).decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Complaint(f"YAML: {error}") from error


def _cvat_films_seeds() -> Sequence[Files]:
    films = {f"xml/{name}/{k}.png": png_bytes(k) for name in ("films/a", "b") for k in range(6)}
    table = {"one": "films/a", "two": "b"}
    return [{"films.json": json.dumps(table).encode(), "xml/one.xml": cvat_xml(), "xml/two.xml": cvat_xml(), **films}]


def _read_cvat_films(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_cvat_video(xml=folder / "xml", source=folder / "films.json", class_agnostic=False, faults=sink)


def _check_cvat_films(folder: Path, reading: Reading) -> None:
    """Each video's frames are those of the film that the table names, with all boxes."""
    table = _json(folder / "films.json")
    assert len(reading.value) == 2 or reading.said, f"videos vanish: {2 - len(reading.value)}, and nothing was said"
    for video in reading.value:
        film = folder / "xml" / table[video.video_id]
        names = [Path(frame.path).relative_to(film.resolve()).name for frame in video.frames]
        assert names == [f"{k}.png" for k in range(6)] or reading.said, f"other frames: {names}"
        number = sum(len(frame.boxes) for frame in video.frames)
        assert number == 8 or reading.said, f"boxes vanish: {8 - number}, and nothing was said"


def _split_seeds() -> Sequence[Files]:
    films = {f"films/{name}/0.png": png_bytes(0) for name in ("v", "w", "x")}
    return [{"splits.csv": b"id,split\nv,train\nw,test\nx,train\n", **films}]


@functools.cache
def _audit() -> ModuleType:
    return load_tool("audit_dataset")


def _read_splits(folder: Path, sink: FaultSink | None) -> list[Split]:
    path = folder / "splits.csv"
    table = _audit().read_split_table(path, "id", "split")
    found: list[Split] = _audit().split_by_table([Split("all", load_recordings(path=folder / "films"))], table, path)
    return found


def _check_splits(folder: Path, reading: Reading) -> None:
    """Each video is in the split that its only row, or all of its rows, name."""
    text = content_of(folder / "splits.csv").decode("utf-8-sig")
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    if len(set(header)) < len(header):
        raise Complaint("a column's name is there twice")
    found = {video.video_id: split.name for split in reading.value for video in split.videos}
    assert sorted(found) == ["v", "w", "x"], f"videos vanish: {sorted(found)} are left"
    for row in filter(None, rows):
        if len(row) > len(header):
            raise Complaint(f"a row has {len(row)} cells, the header {len(header)}")
        cells = dict(zip(header, row, strict=False))
        stated = cells.get("split")
        assert found.get(cells["id"], stated) == stated, f"another split: {found[cells['id']]!r} for {stated!r}"


def _hard_seeds() -> Sequence[Files]:
    hard = {"videos": {"v": 2.5, "w": 1}, "frames": {"v": [0, 1], "w": [1]}, "about": {"run": "r", "threshold": 0.3}}
    return [{"hard.json": json.dumps(hard).encode(), **_films()}]


def _read_hard(folder: Path, sink: FaultSink | None) -> tuple[list[tuple[int, float]], list[tuple[int, int]]]:
    mining = HardMining(path=folder / "hard.json")
    videos = load_recordings(path=folder / "films")
    return mining.listed_videos(videos), mining.listed_frames(videos)


def _check_hard(folder: Path, reading: Reading) -> None:
    """The entries of the videos that are there."""
    content = _json(folder / "hard.json")
    videos, frames = reading.value
    weights = content.get("videos", {})
    assert videos == [(n, weights[v]) for n, v in enumerate("vw") if v in weights], f"other videos: {videos}"
    numbers = content.get("frames", {})
    expected = [(n, number) for n, v in enumerate("vw") for number in sorted(set(numbers.get(v, [])))]
    assert frames == expected, f"other frames: {frames} for {expected}"


def _json(path: Path) -> Any:
    if not path.exists():
        return {}
    try:
        return json.loads(content_of(path).decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Complaint(f"json: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise Complaint("json: a key is there twice")
    return dict(pairs)


FAMILIES = (
    Family("sidecar", _sidecar_seeds, ["films/v.video.json"], _read_films, _check_sidecar),
    Family("patients", _patient_seeds, ["patients.json"], _read_with_table, _check_table),
    Family("masks", _masks_seeds, ["masks.*"], _read_masked, _check_masks, change=_change_masks),
    Family("cvat-films", _cvat_films_seeds, ["films.json"], _read_cvat_films, _check_cvat_films),
    Family("split-table", _split_seeds, ["splits.csv"], _read_splits, _check_splits),
    Family("hard-list", _hard_seeds, ["hard.json"], _read_hard, _check_hard),
)
