"""A run's own files of predictions: one for each video, and a manifest once all are there.

``<folder>/<video>-<hash>.npz`` holds all that the figures need of a video, ground truth included, so that a run can be
judged again without its annotations:

- ``header``: JSON text with ``format``, ``video_id``, ``fps``, ``patient``, ``metadata``, ``image_ids``, ``file_names`` (of the
  frames' pictures, null where one is not known; files of earlier versions don't have it) and ``fingerprint`` (what made the
  predictions; empty where it was not said).
- ``frame_index`` (F,) int64; ``num_boxes`` and ``num_gt`` (F,) int64, detections and lesion boxes of each frame.
- ``boxes`` (N, 4) float32 XYXY in pixels, ``scores`` (N,) float32, ``classes`` (N,) int64.
- ``gt_boxes`` (M, 4) float32, ``gt_classes`` and ``gt_track_ids`` (M,) int64.
- ``input_digests`` (F,) int64: of the pictures the model was given; an evaluation that is taken up compares them.

``<folder>/manifest.json`` lists the files in order. It is written last: a folder without it holds an unfinished evaluation.
Nothing in these files is pickled, and nothing pickled is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file

__all__ = [
    "MANIFEST",
    "PredictionFile",
    "find_manifest",
    "read_manifest",
    "read_video",
    "video_file_name",
    "write_manifest",
    "write_video",
]

MANIFEST = "manifest.json"
FORMAT = "ultravid predictions 1"

_ARRAYS: dict[str, tuple[str, int]] = {  # kind of number and dimensions
    "frame_index": ("i", 1),
    "num_boxes": ("i", 1),
    "num_gt": ("i", 1),
    "input_digests": ("i", 1),
    "boxes": ("f", 2),
    "scores": ("f", 1),
    "classes": ("i", 1),
    "gt_boxes": ("f", 2),
    "gt_classes": ("i", 1),
    "gt_track_ids": ("i", 1),
}


@dataclass(frozen=True, eq=False)
class PredictionFile:
    """A video read back.

    Attributes:
        video: what was found in it, and its ground truth.
        fingerprint: of what made the predictions.
        input_digests: ``(F,)`` int64, see the module.
    """

    video: VideoResult
    fingerprint: str
    input_digests: NDArray[np.int64]


def video_file_name(video_id: str) -> str:
    """A file name that tells which video it is, and is another for another id."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", video_id).strip("._")[-80:]
    return f"{safe or 'video'}-{hashlib.sha256(video_id.encode()).hexdigest()[:10]}.npz"


def write_video(
    folder: Path, video: VideoResult, fingerprint: str = "", input_digests: Sequence[int] | None = None
) -> Path:
    """Write a video's file, whole or not at all; the same video gives the same bytes.

    Raises:
        OSError: the folder can't be written.
    """
    frames = video.frames
    header = {
        "format": FORMAT,
        "video_id": video.video_id,
        "fps": video.fps,
        "patient": video.patient,
        "metadata": dict(video.metadata),
        "image_ids": [f.image_id for f in frames],
        "file_names": [f.file_name for f in frames],
        "fingerprint": fingerprint,
    }
    zeros = [np.zeros(0, np.int64)]
    arrays = {
        "frame_index": np.array([f.frame_index for f in frames], np.int64),
        "num_boxes": np.array([len(f.scores) for f in frames], np.int64),
        "num_gt": np.array([len(f.gt_boxes) for f in frames], np.int64),
        "input_digests": np.array([0] * len(frames) if input_digests is None else input_digests, np.int64),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(f.boxes for f in frames)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(f.scores for f in frames)]),
        "classes": np.concatenate(zeros + [_or_zeros(f.classes, len(f.scores)) for f in frames]),
        "gt_boxes": np.concatenate([np.zeros((0, 4), np.float32), *(f.gt_boxes for f in frames)]),
        "gt_classes": np.concatenate(zeros + [_or_zeros(f.gt_classes, len(f.gt_boxes)) for f in frames]),
        "gt_track_ids": np.concatenate(zeros + [_or_zeros(f.gt_track_ids, len(f.gt_boxes)) for f in frames]),
    }
    path = folder / video_file_name(video.video_id)
    with replace_file(path) as file:
        np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
    return path


def _or_zeros(values: NDArray[np.int64] | None, number: int) -> NDArray[np.int64]:
    return np.zeros(number, np.int64) if values is None else values


def read_video(path: Path) -> PredictionFile:
    """Read a video's file and check all of it.

    Raises:
        UserError: it is not there, not whole, holds anything pickled, or holds what is no prediction; the message names
            the file and, where there is one, video and frame.
    """
    try:
        # Opened here, for numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            wanted = ("header", *_ARRAYS)
            arrays = {} if isinstance(content, np.ndarray) else {n: content[n] for n in wanted if n in content.files}
    except FileNotFoundError:
        raise UserError(f"{path} is not there.") from None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: can't be read, it is cut off or no file of predictions ({error}).") from error
    header = _checked_header(path, arrays)
    where = f"{path}: video {header['video_id']!r}"
    _check_arrays(where, arrays, header)
    return PredictionFile(_video(header, arrays), header["fingerprint"], arrays["input_digests"].astype(np.int64))


def _checked_header(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    missing = [name for name in ("header", *_ARRAYS) if name not in arrays]
    if missing:
        raise UserError(f"{path}: has no array {missing[0]!r}; it is no file of predictions.")
    try:
        header = json.loads(str(arrays["header"]))
    except ValueError as error:
        raise UserError(f"{path}: its header is not JSON ({error}).") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path}: its header does not say {FORMAT!r}.")
    kinds: dict[str, Any] = {
        "video_id": str,
        "fps": int | float | None,
        "patient": str | None,
        "metadata": dict,
        "image_ids": list,
        "fingerprint": str,
    }
    for key, kind in kinds.items():
        if key not in header or not isinstance(header[key], kind):
            raise UserError(f"{path}: its header has a {key!r} of {header.get(key)!r}, which is none.")
    names = header.setdefault("file_names", [None] * len(header["image_ids"]))
    if not isinstance(names, list) or not all(isinstance(name, str | None) for name in names):
        raise UserError(f"{path}: video {header['video_id']!r}: its file_names are no list of names.")
    fps = header["fps"]
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UserError(f"{path}: video {header['video_id']!r}: {fps!r} frames a second is no rate.")
    if not all(isinstance(v, str) for v in header["metadata"].values()):
        raise UserError(f"{path}: video {header['video_id']!r}: its metadata are not all text.")
    return header


def _check_arrays(where: str, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    names = {"i": "whole numbers", "f": "floating-point numbers"}
    for name, (kind, dimensions) in _ARRAYS.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.ndim != dimensions or (dimensions == 2 and array.shape[1] != 4):
            wanted = f"{names[kind]} of shape {'(N, 4)' if dimensions == 2 else '(N,)'}"
            raise UserError(f"{where}: {name!r} is {array.dtype} of shape {array.shape}; {wanted} are needed.")
    sizes = {"num_boxes": ("boxes", "scores", "classes"), "num_gt": ("gt_boxes", "gt_classes", "gt_track_ids")}
    per_frame = ("frame_index", "num_boxes", "num_gt", "input_digests")
    lengths = {len(header["image_ids"]), len(header["file_names"]), *(len(arrays[name]) for name in per_frame)}
    if len(lengths) > 1:
        raise UserError(
            f"{where}: frame_index, image_ids, file_names and the counts of boxes are of different lengths."
        )
    for counts, members in sizes.items():
        for name in members:
            if (arrays[counts] < 0).any() or arrays[counts].sum() != len(arrays[name]):
                raise UserError(
                    f"{where}: {counts!r} sums up to {arrays[counts].sum()}, {name!r} has {len(arrays[name])}."
                )
    index = arrays["frame_index"]
    if (np.diff(index) <= 0).any():
        raise UserError(f"{where}: frame {index[1:][np.diff(index) <= 0][0]} is there twice or out of order.")
    for counts, (boxes, *_) in sizes.items():
        fault = first_fault(arrays[boxes], arrays["scores"] if boxes == "boxes" else None)
        if fault is not None:
            place, what = fault
            frame = int(np.repeat(index, arrays[counts])[place])
            raise UserError(f"{where} frame {frame}: {boxes!r} {place}: {what}.")


def first_fault(boxes: NDArray[Any], scores: NDArray[Any] | None) -> tuple[int, str] | None:
    """The place of the first of ``(N, 4)`` XYXY boxes (and ``(N,)`` scores) that can't be used, and why; None: all can."""
    finite = np.isfinite(boxes).all(axis=1)
    sized = ~((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    sound = finite & sized
    if scores is not None:
        sound &= np.isfinite(scores)
    if sound.all():
        return None
    place = int(np.flatnonzero(~sound)[0])
    if not finite[place]:
        return place, f"box {boxes[place].tolist()} holds a nan or an infinite number"
    if not sized[place]:
        return place, f"box {boxes[place].tolist()} (x1, y1, x2, y2) has a negative width or height"
    return place, f"the score {float(scores[place]) if scores is not None else math.nan} is no number"


def _video(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> VideoResult:
    ends, gt_ends = arrays["num_boxes"].cumsum()[:-1], arrays["num_gt"].cumsum()[:-1]
    parts: dict[str, list[NDArray[Any]]] = {
        name: np.split(arrays[name].astype(np.float32), ends) for name in ("boxes", "scores")
    }
    parts["classes"] = np.split(arrays["classes"].astype(np.int64), ends)
    parts["gt_boxes"] = np.split(arrays["gt_boxes"].astype(np.float32), gt_ends)
    for name in ("gt_classes", "gt_track_ids"):
        parts[name] = np.split(arrays[name].astype(np.int64), gt_ends)
    frames = [
        FrameResult(int(index), image_id, file_name=file_name, **{name: part[f] for name, part in parts.items()})
        for f, (index, image_id, file_name) in enumerate(
            zip(arrays["frame_index"], header["image_ids"], header["file_names"], strict=True)
        )
    ]
    fps = None if header["fps"] is None else float(header["fps"])
    return VideoResult(header["video_id"], frames, fps, header["patient"], header["metadata"])


def write_manifest(folder: Path, files: Mapping[str, Path], fingerprint: str = "") -> None:
    """Say that a folder's evaluation is whole, and which file is which video's, in order."""
    rows = [{"video_id": video_id, "file": path.name} for video_id, path in files.items()]
    with replace_file(folder / MANIFEST) as file:
        file.write(dump_json({"format": FORMAT, "fingerprint": fingerprint, "videos": rows}, indent=1).encode())


def find_manifest(path: Path) -> Path:
    """The manifest of a run: of its output folder, its ``inference`` or ``predictions`` folder, or the manifest itself.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} is not there.")
    # A run's own folder holds a manifest too, of its checkpoints: in a folder of predictions there are files beside it.
    own = [""] if any(path.glob("*.npz")) else []
    tried = [path / sub / MANIFEST for sub in (*own, "predictions", "inference/predictions")]
    for manifest in tried:
        if manifest.is_file():
            return manifest
    for manifest in tried:
        number = len(list(manifest.parent.glob("*.npz")))
        if number:
            raise UserError(
                f"{manifest.parent} holds the files of {number} videos and no {MANIFEST}: the evaluation was not finished. "
                "Take it up with --eval-only dataloader.evaluator.evaluators[0].resume=true, or evaluate anew."
            )
    raise UserError(f"{path} holds no predictions; {', '.join(str(t) for t in tried)} are not there.")


def read_manifest(path: Path) -> list[tuple[str, Path]]:
    """Video ids and their files, in order.

    Raises:
        UserError: the manifest is none, or names a video twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no manifest of predictions: {error}") from error
    rows = content.get("videos") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(rows, list):
        raise UserError(f"{path}: is no manifest of predictions; one has a list 'videos' and the format {FORMAT!r}.")
    files: dict[str, Path] = {}
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("video_id", "file")):
            raise UserError(f"{path}: {row!r} is no object with a 'video_id' and a 'file'.")
        if row["video_id"] in files:
            raise UserError(f"{path}: names video {row['video_id']!r} twice.")
        if Path(row["file"]).name != row["file"]:
            raise UserError(f"{path}: video {row['video_id']!r}: {row['file']!r} is no name of a file beside it.")
        files[row["video_id"]] = path.parent / row["file"]
    return list(files.items())


def read_videos(manifest: Path) -> Iterator[VideoResult]:
    """The videos of a manifest, one after the other.

    Raises:
        UserError: see `read_manifest` and `read_video`; or a file holds another video than the manifest says.
    """
    for video_id, path in read_manifest(manifest):
        video = read_video(path).video
        if video.video_id != video_id:
            raise UserError(f"{path}: holds video {video.video_id!r}, {manifest.name} says {video_id!r}.")
        yield video
