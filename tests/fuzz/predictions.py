"""What a detector found: COCO's results beside their annotations, and a run's own prediction files."""

from __future__ import annotations

import io
import json
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
from ultravid.evaluation.matching import match_video
from ultravid.evaluation.prediction_store import find_manifest, read_videos, write_manifest, write_video
from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.evaluation.runs import load_videos

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


FAMILIES = (
    Family(
        "coco-results",
        _coco_seeds,
        ["found.json", "x.json"],
        _read_coco,
        _check_coco,
        said_of_sound="all classes count as one",
    ),
    Family("prediction-store", _store_seeds, ["*"], _read_store, _check_store, change=_change_store),
)
