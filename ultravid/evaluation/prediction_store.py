"""A run's prediction files: one per video, and a manifest that is written when all are complete.

``<folder>/<video>-<hash>.npz`` holds all that the metrics need of a video, ground truth included, so a run can be evaluated
again without its annotations:

- ``header``: JSON text with ``format``, ``video_id``, ``fps``, ``patient`` (null if unknown), ``patient_known`` (missing in files
  of version 0.1, which took the patient from the video's name unless one was stated: `VideoResult.patient_guessed`),
  ``metadata``, ``image_ids``, ``file_names`` (image file of each frame, null if unknown; missing in files of early versions)
  and ``fingerprint`` (hash that identifies the model; empty if unknown). ``views`` lists what frames show of their files
  (`FrameView`, without ``index_in_file``); missing if that is unknown, as in files of version 0.1.
- ``frame_index`` (F,) int64; in films with gaps or time stamps also ``frame_number`` (F,) int64, along the film at ``fps``, and
  ``time_s`` (F,) float64, time stamps in seconds; both are missing in files of early versions.
- ``num_boxes`` and ``num_gt`` (F,) int64, number of detections and lesion boxes of each frame.
- ``boxes`` (N, 4) float32 XYXY in pixels, ``scores`` (N,) float32, ``classes`` (N,) int64.
- ``gt_boxes`` (M, 4) float32, ``gt_classes`` and ``gt_track_ids`` (M,) int64.
- in videos with regions to ignore ``num_ignored`` (F,) int64, number of regions of each frame, ``ignored`` (R, 4) float32 and
  ``ignored_crowds`` (R,) int64, 0 or 1 (`FrameResult`). The detections on them are stored as all others.
- with ``views`` also ``view`` (F,) int64, which of them each frame has, and ``index_in_file`` (F,) int64, which of a movie's or
  DICOM file's frames it is, -1 for an image.
- ``input_digests`` (F,) int64: checksums of the images given to the model, compared when an evaluation is resumed.

``<folder>/manifest.json`` lists the files in order, with their SHA-256 (not in version 0.1). It is written last: a folder without
it is an unfinished evaluation.
Pickled data is neither written nor read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.bounds import MAX_FRAME_NUMBER, MAX_PREDICTION_BYTES, frame_size_fault
from ultravid.datasets.boxes import LARGEST
from ultravid.datasets.formats.coco_annotations import is_id
from ultravid.datasets.frame_times import known_rate, order_fault
from ultravid.datasets.json_files import parse_json, read_json
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError, FrameView
from ultravid.evaluation.records import check_record
from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.hashing import sha256_of
from ultravid.utils.run_folder import InferenceFolder, RunFolder
from ultravid.utils.text import shown

__all__ = [
    "PredictionFile",
    "find_manifest",
    "read_manifest",
    "read_video",
    "video_file_name",
    "write_manifest",
    "write_video",
]

MANIFEST = InferenceFolder(Path()).manifest.name
FORMAT = "ultravid predictions 1"

_ARRAYS: dict[str, tuple[str, int]] = {  # kind of dtype, number of dimensions
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
_TIME_ARRAYS = {"frame_number": ("i", 1), "time_s": ("f", 1)}
_REGION_ARRAYS = {"num_ignored": ("i", 1), "ignored": ("f", 2), "ignored_crowds": ("i", 1)}  # all or none
_VIEW_ARRAYS = {"view": ("i", 1), "index_in_file": ("i", 1)}  # all or none, with "views" in the header
_OPTIONAL_ARRAYS = {**_TIME_ARRAYS, **_REGION_ARRAYS, **_VIEW_ARRAYS}


@dataclass(frozen=True, eq=False)
class PredictionFile:
    """The content of a video's prediction file.

    Attributes:
        video: the video with its detections and ground truth.
        fingerprint: hash that identifies the model; empty if unknown.
        input_digests: ``(F,)`` int64, checksum of the image of each frame.
    """

    video: VideoResult
    fingerprint: str
    input_digests: NDArray[np.int64]


def video_file_name(video_id: str) -> str:
    """The file name for a video: a readable form of its id, and a hash that makes it unique."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", video_id).strip("._")[-80:]
    return f"{safe or 'video'}-{hashlib.sha256(video_id.encode(errors='surrogateescape')).hexdigest()[:10]}.npz"


def write_video(
    folder: Path, video: VideoResult, fingerprint: str = "", input_digests: Sequence[int] | None = None
) -> Path:
    """Write a video's prediction file, completely or not at all; equal content gives equal bytes.

    Raises:
        OSError: the file can't be written.
    """
    frames = video.frames
    header: dict[str, Any] = {
        "format": FORMAT,
        "video_id": video.video_id,
        "fps": video.fps,
        "patient": video.patient,
        "patient_known": video.patient is not None and not video.patient_guessed,
        "metadata": dict(video.metadata),
        "image_ids": [f.image_id for f in frames],
        "file_names": [f.file_name for f in frames],
        "fingerprint": fingerprint,
    }
    if video.class_names and all(f.classes is not None and f.gt_classes is not None for f in frames):
        header |= {"class_names": list(video.class_names), "category_ids": list(video.category_ids)}
    views = [f.view for f in frames if f.view is not None]
    distinct = list(dict.fromkeys(replace(view, index_in_file=None) for view in views))
    has_views = bool(views) and len(views) == len(frames)
    if has_views:
        header["views"] = [{k: v for k, v in asdict(view).items() if k != "index_in_file"} for view in distinct]
    zeros = [np.zeros(0, np.int64)]
    arrays: dict[str, NDArray[Any]] = {
        "frame_index": np.array([f.frame_index for f in frames], np.int64),
        "num_boxes": np.array([len(f.scores) for f in frames], np.int64),
        "num_gt": np.array([len(f.gt_boxes) for f in frames], np.int64),
        "input_digests": np.array([0] * len(frames) if input_digests is None else input_digests, np.int64),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(f.boxes for f in frames)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(f.scores for f in frames)]),
        "classes": np.concatenate(zeros + [_or_zeros(f.classes, len(f.scores)) for f in frames]),
        "gt_boxes": np.concatenate([np.zeros((0, 4), np.float32), *(f.gt_boxes for f in frames)]),
        "gt_classes": np.concatenate(zeros + [_or_zeros(f.gt_classes, len(f.gt_boxes)) for f in frames]),
        "gt_track_ids": np.concatenate(zeros + [f.track_ids for f in frames]),
    }
    numbers, times = [f.number for f in frames], [f.time_s for f in frames]
    if numbers != [f.frame_index for f in frames]:
        arrays["frame_number"] = np.array(numbers, np.int64)
    if any(time_s is not None for time_s in times):
        arrays["time_s"] = np.array([np.nan if time_s is None else time_s for time_s in times], np.float64)
    if any(f.ignored is not None for f in frames):
        regions = [np.zeros((0, 4), np.float32) if f.ignored is None else f.ignored for f in frames]
        crowds = [_or_zeros(f.ignored_crowds, len(boxes)) for f, boxes in zip(frames, regions, strict=True)]
        arrays["num_ignored"] = np.array([len(boxes) for boxes in regions], np.int64)
        arrays["ignored"] = np.concatenate(regions)
        arrays["ignored_crowds"] = np.concatenate(crowds).astype(np.int64)
    if has_views:
        place = {view: n for n, view in enumerate(distinct)}
        arrays["view"] = np.array([place[replace(view, index_in_file=None)] for view in views], np.int64)
        arrays["index_in_file"] = np.array(
            [-1 if view.index_in_file is None else view.index_in_file for view in views], np.int64
        )
    path = folder / video_file_name(video.video_id)
    with replace_file(path) as file:
        np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
    return path


def _or_zeros(values: NDArray[Any] | None, number: int) -> NDArray[Any]:
    return np.zeros(number, np.int64) if values is None else values


def read_video(path: Path) -> PredictionFile:
    """Read and check a video's prediction file.

    Raises:
        UserError: the file is missing, cut off, contains pickled data or invalid values; the message names the file and, if
            known, video and frame.
    """
    try:
        # Opened here, because numpy does not close a file that turns out not to be an archive.
        with open_regular(path) as file:
            _check_sizes(file)
            content = np.load(file, allow_pickle=False)
            wanted = ("header", *_ARRAYS, *_OPTIONAL_ARRAYS)
            arrays = {n: content[n] for n in wanted if n in content.files}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(
            f"{path}: can't be read: it is cut off or not a prediction file ({str(error)[:200]})."
        ) from error
    header = _checked_header(path, arrays)
    where = f"{path}: video {header['video_id']!r}"
    _check_arrays(where, arrays, header)
    return PredictionFile(_video(header, arrays), header["fingerprint"], arrays["input_digests"].astype(np.int64))


def _check_sizes(file: BinaryIO) -> None:
    """Refuse an archive whose arrays are larger than they may be, or than the archive can hold, before memory is taken for them.

    Raises:
        ValueError: one is; or it isn't an archive of arrays.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no archive")
    total = 0
    with zipfile.ZipFile(file) as archive:
        for name in ("header", *_ARRAYS, *_OPTIONAL_ARRAYS):
            member = archive.NameToInfo.get(f"{name}.npy")
            if member is None:
                continue
            with archive.open(member) as opened:
                version = np.lib.format.read_magic(opened)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                if version not in read:
                    raise ValueError(f"{name!r} has the version {version} of numpy's format")
                shape, _, dtype = read[version](opened)
            size = math.prod(shape) * dtype.itemsize
            total += size
            if size > member.file_size or total > MAX_PREDICTION_BYTES:
                raise ValueError(f"{name!r} of shape {shape} would take {size:,} bytes")
    file.seek(0)


def _checked_header(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    regions = _REGION_ARRAYS if _REGION_ARRAYS.keys() & arrays.keys() else ()
    views = _VIEW_ARRAYS if _VIEW_ARRAYS.keys() & arrays.keys() else ()
    missing = [name for name in ("header", *_ARRAYS, *regions, *views) if name not in arrays]
    if missing:
        raise UserError(f"{path}: is not a prediction file: it has no array {missing[0]!r}.")
    try:
        header = parse_json(str(arrays["header"]), "its header")
    except DataError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path}: its header does not name the format {FORMAT!r}.")
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
            raise UserError(f"{path}: {shown(header.get(key))} in its header is not a valid {key!r}.")
    names = header.setdefault("file_names", [None] * len(header["image_ids"]))
    if not isinstance(names, list) or not all(isinstance(name, str | None) for name in names):
        raise UserError(f"{path}: video {header['video_id']!r}: its file_names are not a list of names.")
    fps = header["fps"]
    try:
        header["fps"] = known_rate(fps)
    except ValueError as error:
        raise UserError(f"{path}: video {header['video_id']!r}: its fps is {error}.") from error
    if not all(is_id(image_id) for image_id in header["image_ids"]):
        raise UserError(f"{path}: video {header['video_id']!r}: its image_ids are not all whole numbers or text.")
    for key, allowed in (("class_names", str), ("category_ids", int | str)):  # version 0.1 wrote none
        values = header.setdefault(key, [])
        if not isinstance(values, list) or not all(isinstance(v, allowed) for v in values):
            raise UserError(f"{path}: video {header['video_id']!r}: its {key} are not a list of names or numbers.")
    if not all(isinstance(v, str | int | float) for v in header["metadata"].values()):
        raise UserError(f"{path}: video {header['video_id']!r}: its metadata are not all text or numbers.")
    header["metadata"] = {key: str(value) for key, value in header["metadata"].items()}
    if views:
        header["views"] = _checked_views(f"{path}: video {header['video_id']!r}", header.get("views"))
    return header


def _checked_views(where: str, rows: Any) -> list[FrameView]:
    """The views of a header.

    Raises:
        UserError: they are none.
    """
    views = []
    listed: list[Any] = rows if isinstance(rows, list) else [None]
    for row in listed:
        try:
            crop, blanked = row["crop"], tuple(_box(box) for box in row["blanked"])
            view = FrameView(
                *(row["height"], row["width"]),
                crop=None if crop is None else _box(crop),
                blanked=blanked,
                bits=row["bits"],
                may_show_text=row["may_show_text"],
            )
            sizes_fault = frame_size_fault(view.height, view.width)
            sound = (
                sizes_fault is None
                and type(view.may_show_text) is bool
                and type(view.height) is type(view.width) is int
            )
            sound = sound and (view.bits is None or (type(view.bits) is int and 8 <= view.bits <= 16))
        except (TypeError, KeyError, ValueError):
            sound = False
        if not sound:
            raise UserError(
                f"{where}: {shown(row)} in its header's 'views' does not say what frames show of their files."
            )
        views.append(view)
    return views


def _box(values: Any) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = values
    if not all(type(v) is int for v in values) or not (0 <= x1 < x2 and 0 <= y1 < y2):
        raise ValueError
    return x1, y1, x2, y2


def _check_arrays(where: str, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    names = {"i": "whole numbers", "f": "floating-point numbers"}
    for name, (kind, dimensions) in {**_ARRAYS, **_OPTIONAL_ARRAYS}.items():
        if name in _OPTIONAL_ARRAYS and name not in arrays:
            continue
        array = arrays[name]
        if array.dtype.kind != kind or array.ndim != dimensions or (dimensions == 2 and array.shape[1] != 4):
            wanted = f"{names[kind]} of shape {'(N, 4)' if dimensions == 2 else '(N,)'}"
            raise UserError(f"{where}: {name!r} is {array.dtype} of shape {array.shape}; expected {wanted}.")
    sizes: dict[str, tuple[str, ...]] = {
        "num_boxes": ("boxes", "scores", "classes"),
        "num_gt": ("gt_boxes", "gt_classes", "gt_track_ids"),
    }
    if "num_ignored" in arrays:
        sizes["num_ignored"] = ("ignored", "ignored_crowds")
    of_frames = ("frame_index", *sizes, "input_digests", *_TIME_ARRAYS, *_VIEW_ARRAYS)
    per_frame = [name for name in of_frames if name in arrays]
    lengths = {len(header["image_ids"]), len(header["file_names"]), *(len(arrays[name]) for name in per_frame)}
    if len(lengths) > 1:
        raise UserError(
            f"{where}: frame_index, image_ids, file_names, times and the numbers of boxes have different lengths."
        )
    if "view" in arrays:
        most_views = len(header["views"])
        if ((arrays["view"] < 0) | (arrays["view"] >= most_views)).any() or (arrays["index_in_file"] < -1).any():
            raise UserError(f"{where}: 'view' or 'index_in_file' has values that name no view or frame.")
    for counts, members in sizes.items():
        for name in members:
            most = len(arrays[name])
            if (arrays[counts] < 0).any() or (arrays[counts] > most).any() or arrays[counts].sum() != len(arrays[name]):
                raise UserError(
                    f"{where}: the sum of {counts!r} is {arrays[counts].sum()}, but {name!r} has {len(arrays[name])} rows."
                )
    index = arrays["frame_index"]
    if len(index) and (index[0] < 0 or index.max() > MAX_FRAME_NUMBER):
        raise UserError(f"{where}: its frame numbers are not from 0 to {MAX_FRAME_NUMBER}.")
    if (np.diff(index) <= 0).any():
        raise UserError(f"{where}: frame {index[1:][np.diff(index) <= 0][0]} is repeated or out of order.")
    fault_of_times = order_fault(arrays.get("frame_number", index), arrays.get("time_s", np.full(len(index), np.nan)))
    if fault_of_times is not None:
        raise UserError(f"{where} frame {index[fault_of_times[0]]}: {fault_of_times[1]}.")
    for counts, (boxes, *_) in sizes.items():
        fault = first_fault(arrays[boxes], arrays["scores"] if boxes == "boxes" else None)
        if fault is not None:
            place, what = fault
            frame = int(np.repeat(index, arrays[counts])[place])
            raise UserError(f"{where} frame {frame}: {boxes!r} {place}: {what}.")


def first_fault(boxes: NDArray[Any], scores: NDArray[Any] | None) -> tuple[int, str] | None:
    """Index of the first invalid one of ``(N, 4)`` XYXY boxes (and ``(N,)`` scores), and what is wrong; None if all are valid."""
    finite = (np.abs(boxes) < LARGEST).all(axis=1)
    sized = ~((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    sound = finite & sized
    if scores is not None:
        sound &= np.isfinite(scores)
    if sound.all():
        return None
    place = int(np.flatnonzero(~sound)[0])
    if not finite[place]:
        return place, f"box {boxes[place].tolist()} contains nan, infinity or a huge number"
    if not sized[place]:
        return place, f"box {boxes[place].tolist()} (x1, y1, x2, y2) has a negative width or height"
    return place, f"the score {float(scores[place]) if scores is not None else math.nan} is not finite"


def _video(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> VideoResult:
    ends, gt_ends = arrays["num_boxes"].cumsum()[:-1], arrays["num_gt"].cumsum()[:-1]
    parts: dict[str, list[NDArray[Any]]] = {
        name: np.split(arrays[name].astype(np.float32), ends) for name in ("boxes", "scores")
    }
    parts["classes"] = np.split(arrays["classes"].astype(np.int64), ends)
    parts["gt_boxes"] = np.split(arrays["gt_boxes"].astype(np.float32), gt_ends)
    for name in ("gt_classes", "gt_track_ids"):
        parts[name] = np.split(arrays[name].astype(np.int64), gt_ends)
    numbers, times = (arrays[name].tolist() if name in arrays else None for name in _TIME_ARRAYS)
    regions = _regions(arrays) if "ignored" in arrays else [{}] * len(header["image_ids"])
    views = _views(header, arrays) if "view" in arrays else [None] * len(header["image_ids"])
    frames = [
        FrameResult(
            int(index),
            image_id,
            file_name=file_name,
            frame_number=numbers and numbers[f],
            time_s=times and times[f],
            **{name: part[f] for name, part in parts.items()},
            **regions[f],
            view=views[f],
        )
        for f, (index, image_id, file_name) in enumerate(
            zip(arrays["frame_index"], header["image_ids"], header["file_names"], strict=True)
        )
    ]
    guessed = header["patient"] is not None and header.get("patient_known") is not True
    return VideoResult(
        header["video_id"],
        frames,
        header["fps"],
        header["patient"],
        header["metadata"],
        guessed,
        class_names=tuple(header["class_names"]),
        category_ids=tuple(header["category_ids"]),
    )


def _views(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> list[FrameView | None]:
    """The view of each frame; those of images are shared."""
    known: list[FrameView] = header["views"]
    pairs = zip(arrays["view"].tolist(), arrays["index_in_file"].tolist(), strict=True)
    return [known[n] if inside < 0 else replace(known[n], index_in_file=inside) for n, inside in pairs]


def _regions(arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """``ignored`` and ``ignored_crowds`` of each frame that has such regions."""
    ends = arrays["num_ignored"].cumsum()[:-1]
    boxes = np.split(arrays["ignored"].astype(np.float32), ends)
    crowds = np.split(arrays["ignored_crowds"] != 0, ends)
    return [{"ignored": b, "ignored_crowds": c} if len(b) else {} for b, c in zip(boxes, crowds, strict=True)]


def write_manifest(folder: Path, files: Mapping[str, Path], fingerprint: str = "") -> None:
    """Write the manifest of a complete evaluation.

    Args:
        folder: folder of the prediction files.
        files: prediction file by video id, in order.
        fingerprint: hash that identifies the model.
    """
    rows = [{"video_id": video_id, "file": path.name, "sha256": sha256_of(path)} for video_id, path in files.items()]
    with replace_file(folder / MANIFEST) as file:
        file.write(dump_json({"format": FORMAT, "fingerprint": fingerprint, "videos": rows}, indent=1).encode())


def find_manifest(path: Path) -> Path:
    """The manifest of a run, given its output folder, its ``inference`` or ``predictions`` folder, or the manifest itself.

    Raises:
        UserError: there is no manifest.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        what = "is a named pipe or a device, not a file or folder" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}.")
    # A run's output folder has a manifest.json too, of its checkpoints; only a folder of predictions has .npz files beside it.
    tried = [path / MANIFEST] if any(path.glob("*.npz")) else []
    tried += [InferenceFolder(path).manifest, RunFolder(path).prediction_manifest]
    for manifest in tried:
        if manifest.is_file():
            return manifest
    others = [folder.path for folder in RunFolder(path).evaluations() if folder.manifest.is_file()]
    if others:
        raise UserError(
            f"{path} has no predictions in {RunFolder(path).inference.name}; give one of {_listed(others)}."
        )
    for manifest in tried:
        check_record(manifest)  # one that goes on, or did not end, says more
        number = len(list(manifest.parent.glob("*.npz")))
        if number:
            raise UserError(
                f"{manifest.parent} has the files of {number} videos but no {MANIFEST}: the evaluation is unfinished. "
                "Resume it with --eval-only 'dataloader.evaluator.evaluators[0].resume=true', or evaluate again."
            )
    inner = [p for p in sorted(path.glob("*/")) if RunFolder(p).prediction_manifest.is_file()]
    if inner:
        raise UserError(f"{path} has no predictions; give one of {_listed(inner)}.")
    raise UserError(f"{path} has no predictions: {', '.join(str(t) for t in tried)} do not exist.")


def _listed(paths: Sequence[Path]) -> str:
    return f"{', '.join(map(str, paths[:4]))}{', ...' if len(paths) > 4 else ''}"


def read_manifest(path: Path) -> list[tuple[str, Path]]:
    """Video ids and their files, in order.

    Raises:
        UserError: the file is not a manifest, or names a video twice.
    """
    return [(row["video_id"], path.parent / row["file"]) for row in _read_manifest(path)["videos"]]


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except DataError as error:
        raise UserError(f"{path}: is not a manifest of predictions: {str(error).removeprefix(f'{path}: ')}") from error
    rows = content.get("videos") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: is not a manifest of predictions, which has a list 'videos' and the format {FORMAT!r}."
        )
    known: set[str] = set()
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("video_id", "file")):
            raise UserError(f"{path}: {shown(row)} is not an object with a 'video_id' and a 'file'.")
        if row["video_id"] in known:
            raise UserError(f"{path}: names video {row['video_id']!r} twice.")
        known.add(row["video_id"])
        if Path(row["file"]).name != row["file"]:
            raise UserError(f"{path}: video {row['video_id']!r}: {row['file']!r} is not the name of a file beside it.")
    found: dict[str, Any] = content
    return found


def read_videos(manifest: Path) -> Iterator[VideoResult]:
    """The videos of a manifest, read one by one.

    Raises:
        UserError: as `read_manifest` and `read_video`; or a file holds another video than the manifest says, the detections of
            another model, or has changed since the manifest was written.
    """
    content = _read_manifest(manifest)
    for row in content["videos"]:
        video_id, path = row["video_id"], manifest.parent / row["file"]
        read = read_video(path)
        if read.video.video_id != video_id:
            raise UserError(f"{path}: holds video {read.video.video_id!r}, but {manifest.name} says {video_id!r}.")
        model = content.get("fingerprint")
        if model and read.fingerprint and model != read.fingerprint:
            raise UserError(f"{path}: holds the detections of another model than {manifest.name} says. Evaluate again.")
        if "sha256" in row and row["sha256"] != sha256_of(path):
            raise UserError(
                f"{path}: has changed since the evaluation: its SHA-256 is not the one in {manifest.name}. Evaluate again."
            )
        yield read.video
