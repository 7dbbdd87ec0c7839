"""What a detector found: COCO's results beside their annotations, a run's own prediction files, and the record beside them."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import random
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.annotations import coco_content
from tests.fuzz.harness import Complaint, Family, Files, Reading, content_of
from tests.fuzz.mutations import change_bytes, change_json
from ultravid.datasets.faults import FaultSink
from ultravid.evaluation.matching import MatchedVideo, match_video
from ultravid.evaluation.metrics import TRAINING_METRICS, all_metrics
from ultravid.evaluation.prediction_store import find_manifest, read_videos, write_manifest, write_video
from ultravid.evaluation.records import write_record
from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.evaluation.run_facts import run_facts, run_warnings
from ultravid.evaluation.runs import check_metrics, load_run, load_videos
from ultravid.utils.file_io import dump_json
from ultravid.utils.processes import machine_id
from ultravid.utils.run_folder import InferenceFolder

__all__ = ["FAMILIES"]


def _coco_seeds() -> Sequence[Files]:
    rows = [
        {"image_id": 3 + n % 6, "category_id": 1, "bbox": [n, 1 + n, 4, 3.5], "score": round(0.9 - 0.1 * n, 3)}
        for n in range(8)
    ]
    return [{"found.json": json.dumps(rows).encode(), "x.json": json.dumps(coco_content()).encode()}]


def _read_coco(folder: Path, sink: FaultSink | None) -> list[VideoResult]:
    videos = list(load_videos(folder / "found.json", folder / "x.json"))
    for video in videos:
        match_video(video)
    return videos


def _check_coco(folder: Path, reading: Reading) -> None:
    """Every detection is there as it was written, at its image."""
    try:
        rows = json.loads(content_of(folder / "found.json").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Complaint(f"json: {error}") from error
    found = {frame.image_id: frame for video in reading.value for frame in video.frames}
    number = sum(len(frame.scores) for frame in found.values())
    assert number == len(rows) or reading.said, f"detections vanish: {number} of {len(rows)}"
    for row in rows:
        x, y, width, height = row["bbox"]
        frame = found[row["image_id"]]
        wanted = np.array([x, y, x + width, y + height], np.float32)
        near = np.isclose(frame.boxes, wanted).all(axis=1) & np.isclose(frame.scores, np.float32(row["score"]))
        assert near.any() or reading.said, f"another detection: none of image {row['image_id']!r} is {row}"


def _store_seeds() -> Sequence[Files]:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {}
        for video_id in ("v", "w/1"):
            frames = [_frame(rng, number) for number in range(4)]
            video = VideoResult(video_id, frames, 25.0, "p", {"device": "d"})
            files[video_id] = write_video(folder, video, "a fingerprint", [1, 2, 3, 4])
        write_manifest(folder, files, "a fingerprint")
        without_sums = json.loads((folder / "manifest.json").read_text())
        for row in without_sums["videos"]:
            del row["sha256"]  # as version 0.1 wrote it; with them every change is found at once
        whole = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return [whole, {**whole, "manifest.json": json.dumps(without_sums).encode()}]


def _frame(rng: np.random.Generator, number: int) -> FrameResult:
    corners = rng.uniform(0, 8, (2 + number % 2, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners[:, 0], corners[:, 0] + corners[:, 1]], axis=1)
    regions = {"ignored": boxes[1:], "ignored_crowds": np.ones(1, np.bool_)} if number == 2 else {}
    return FrameResult(
        frame_index=number,
        image_id=number + 10,
        gt_boxes=boxes[:1],
        boxes=boxes,
        scores=np.linspace(0.9, 0.1, len(boxes), dtype=np.float32),
        gt_track_ids=np.zeros(1, np.int64),
        gt_classes=np.zeros(1, np.int64),
        classes=np.zeros(len(boxes), np.int64),
        file_name=f"{number}.png",
        **regions,
    )


def _change_store(rng: random.Random, data: bytes) -> bytes:
    if data[:1] == b"{":
        return change_json(rng, data) if rng.random() < 0.8 else change_bytes(rng, data)
    if rng.random() < 0.4:
        return change_bytes(rng, data)
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice([*arrays, "header"])
    if name == "header":
        text = change_json(rng, str(arrays["header"]).encode()).decode("utf-8", "replace")
        arrays[name] = np.array(text)
    elif rng.random() < 0.1:
        del arrays[name]
    else:
        arrays[name] = _changed_array(rng, arrays[name])
    file = io.BytesIO()
    if rng.random() < 0.05:
        return _bomb(arrays)
    np.savez(file, **arrays)
    return file.getvalue()


def _changed_array(rng: random.Random, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    changed = array.copy()
    value = rng.choice((0, 1, -1, 7, 10**9, 2**62))
    if changed.dtype.kind == "f":
        value = rng.choice((value, np.nan, np.inf, 1e38))
    if changed.size and rng.random() < 0.5:
        changed.flat[rng.randrange(changed.size)] = value
        return changed
    ways = (
        lambda: changed.astype(rng.choice((np.float64, np.int32, np.uint8, np.complex64, "U3"))),
        lambda: changed[:-1],
        lambda: np.concatenate([changed, changed[:1]]),
        lambda: changed.reshape(-1),
        lambda: changed[..., None],
        lambda: np.zeros((0, 4)),
        lambda: np.array(value),
    )
    with np.errstate(all="ignore"):
        return np.asarray(rng.choice(ways)())


def _bomb(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """A small file that says that it holds 4 GB, or holds many more bytes than it has."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            data = content.getvalue()
            if name == "boxes":
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 28, 4)}
                )
                data = header.getvalue() + bytes(1 << 22)
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def _read_store(folder: Path, sink: FaultSink | None) -> list[VideoResult]:
    videos = list(read_videos(find_manifest(folder)))
    for video in videos:
        match_video(video)
    return videos


def _check_store(folder: Path, reading: Reading) -> None:
    """The arrays are those that numpy reads."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8-sig"))
    assert len(reading.value) == len(manifest["videos"]), "videos vanish"
    for row, video in zip(manifest["videos"], reading.value, strict=True):
        with np.load(folder / row["file"]) as archive:
            for name in ("boxes", "scores", "gt_boxes"):
                read = [getattr(frame, name) for frame in video.frames]
                assert np.array_equal(np.concatenate(read), archive[name]), f"other {name}: in video {video.video_id}"
            assert [frame.frame_index for frame in video.frames] == archive["frame_index"].tolist(), "other frames"


_METRICS = "inference/metrics.json"
_MANIFEST = "inference/predictions/manifest.json"


@functools.cache
def _evaluation() -> dict[str, bytes]:
    """An evaluation's predictions, metrics and record."""
    files = {f"inference/predictions/{name}": data for name, data in _store_seeds()[0].items()}
    with tempfile.TemporaryDirectory() as name:
        for path, data in files.items():
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / path).write_bytes(data)
        videos = [match_video(video) for video in read_videos(Path(name) / _MANIFEST)]
        files[_METRICS] = dump_json(all_metrics(videos), indent=1).encode()
        hashes = {file.removeprefix("inference/"): hashlib.sha256(data).hexdigest() for file, data in files.items()}
        content = {
            "by": "command",
            "command": "python tools/lazyconfig_train.py --eval-only",
            "begin": "2020-01-01T00:00:00",
            "end": "2020-01-01T00:01:00",
            "pid": 1,
            "how": "finished",
            **machine_id(),
            "weights": {"path": "m.pth", "sha256": "0" * 64, "iteration": 10, "averaged": False},
            "config": {"file": "config.yaml", "sha256": "0" * 64},
            "evaluators": [{"class": "a.VideoEvaluator", "settings": {"score_threshold": 0.05}}],
            "data": {"name": "test", "sha256": "0" * 64, "videos": 2, "frames": 8},
            "seen": {"videos": 2, "frames": 8},
            "versions": {"ultravid": "0.2"},
            "run": {"folder": "/runs/a"},
            "folder": "/runs/a/inference",
            "files": hashes,
        }
        write_record(InferenceFolder(Path(name) / "inference"), content)
        files["inference/record.json"] = (Path(name) / "inference/record.json").read_bytes()
    return files


def _evaluation_seeds() -> Sequence[Files]:
    whole = _evaluation()
    return [
        whole,
        {name: data for name, data in whole.items() if not name.endswith("record.json")},
    ]  # as of version 0.1


def _change_evaluation(rng: random.Random, data: bytes) -> bytes:
    changed = change_json(rng, data) if rng.random() < 0.9 else change_bytes(rng, data)
    if b'"checksum"' not in data or rng.random() < 0.2:
        return changed
    content = json.loads(changed)  # the sum fits what a forger wrote
    content.pop("checksum", None)
    text = json.dumps(content, sort_keys=True)
    return json.dumps({**content, "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


def _read_evaluation(folder: Path, sink: FaultSink | None) -> list[MatchedVideo]:
    videos, _ = load_run(folder / "inference")
    check_metrics(folder / "inference", videos)
    facts = run_facts(folder / "inference")
    assert all(isinstance(text, str) for text in (*facts.values(), *run_warnings(folder / "inference"))), "facts"
    return videos


def _check_evaluation(folder: Path, reading: Reading) -> None:
    """The record has the hashes of the files, or without a record the metrics are those of the predictions."""
    sound = _evaluation()
    assert {video.video_id for video in reading.value} <= {"v", "w/1"}, "another video"
    record, metrics = folder / "inference/record.json", folder / _METRICS
    if not metrics.is_file():
        return
    if record.is_file() and json.loads(content_of(record)).get("by") != "predictions":
        for name in (_METRICS, _MANIFEST):
            recorded = json.loads(content_of(record))["files"][name.removeprefix("inference/")]
            assert hashlib.sha256(content_of(folder / name)).hexdigest() == recorded, f"another file: {name}"
    elif not record.is_file():
        known, written = json.loads(sound[_METRICS]), json.loads(content_of(metrics).decode("utf-8-sig"))
        for name in TRAINING_METRICS:
            value = written.get(name, known[name])
            same = value == known[name] or math.isclose(value, known[name], abs_tol=0.01)
            assert same, f"another metric: {name} {value}"


FAMILIES = (
    Family(
        "coco-results",
        _coco_seeds,
        ["found.json", "x.json"],
        _read_coco,
        _check_coco,
        said_of_sound="take all classes as one",
    ),
    Family("prediction-store", _store_seeds, ["*"], _read_store, _check_store, change=_change_store),
    Family(
        "evaluation",
        _evaluation_seeds,
        ["inference/*.json"],
        _read_evaluation,
        _check_evaluation,
        change=_change_evaluation,
        said_of_sound="iscrowd",
    ),
)
