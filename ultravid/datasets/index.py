"""A cache for the results of readers, because checking the headers of 25,000 images is slow.

An index is a JSON file under ``$ULTRAVID_CACHE`` (default: ``~/.cache/ultravid``; ``off``: no index is kept), named after the
reader and its arguments. Its first line holds fingerprints: of the code that reads, of the content of the annotation files,
of names, sizes and times of the files in all folders that the videos use, and of the second line, which holds the videos. If one
of them doesn't fit, the index is rebuilt. An index may hold patients' names, as the dataset does, and only its owner may read it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.classes import count_merged_classes, describe_merged_classes
from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.image_io import find_significant_bits, other_depth
from ultravid.datasets.json_files import find_file
from ultravid.datasets.patients import unify_spellings
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import Frame, PackedFrames, Video
from ultravid.utils.file_io import is_local, replace_file

__all__ = ["Index", "cached_index"]

logger = logging.getLogger(__name__)

_STILLS_GUESSED = (
    "sets of 16-bit stills don't state how many bits are used, which is guessed from the largest value of all of them"
)


@dataclass(frozen=True)
class Index:
    """What a reader found.

    Attributes:
        videos: the videos of the dataset.
        warnings: about the videos; issued whether the index is new or was cached.
        watched: folders, besides those of the frames, in which a new, removed or changed file makes the index outdated.
    """

    videos: list[Video]
    warnings: list[str] = field(default_factory=list)
    watched: tuple[Path, ...] = ()


def cached_index(
    reader: str,
    arguments: Mapping[str, Any],
    annotations: Sequence[str | Path | None],
    build: Callable[[], Index],
    faults: FaultSink | None = None,
) -> list[Video]:
    """The videos that ``build`` returns, from an earlier run's index if nothing has changed.

    Args:
        reader: name of the reader.
        arguments: all of the reader's arguments that decide what it finds, but for files; made of what JSON can hold.
        annotations: files whose content decides what it finds, at any address; None is skipped. If one can't be read, ``build`` is
            called, and raises.
        build: reads and checks the dataset.
        faults: the sink that ``build`` fills; with it no index is used, because an index holds no faults.

    Raises:
        DataError: raised by ``build``; or an address can't be read.
    """
    files = [address for address in annotations if address is not None]
    where = str(arguments.get("root") or arguments.get("path") or (files[0] if files else reader))
    folder = None if faults is not None else _cache_folder()
    content = None if folder is None else _content_digest(map(find_file, files))
    if folder is None or content is None:
        return _warn(reader, _complete(build(), where, faults))
    named = [str(Path(f).absolute()) if is_local(f) else str(f) for f in files]
    described = json.dumps([reader, arguments, named], sort_keys=True, default=str)
    path = folder / f"{reader}-{hashlib.sha256(described.encode()).hexdigest()[:24]}.json"
    fingerprint = {"code": _code_digest(), "content": content, "described": described}
    index = _load(path, fingerprint)
    if index is None:
        started = time.time_ns()
        index = _complete(build(), where)
        _save(path, index, fingerprint, started)
    return _warn(reader, index)


def _complete(index: Index, where: str, sink: FaultSink | None = None) -> Index:
    """What takes all of a reader's videos: one spelling of each patient, one scale for a recording's 16-bit images, and warnings.

    With a sink they are not issued: it gets those about patients and images, and the audit counts the classes itself.
    """
    faults, warnings = FileFaults(where, sink), []
    videos = unify_spellings(index.videos, faults)
    if sink is None and (merged := describe_merged_classes(count_merged_classes(videos))):
        warnings.append(f"{where}: {merged}")
    videos = _with_bits([_with_one_depth(video, faults) for video in videos], faults)
    return dataclasses.replace(index, videos=videos, warnings=[*index.warnings, *warnings, *faults.close()])


def _with_one_depth(video: Video, faults: FileFaults) -> Video:
    """A video without the images whose depth differs from the first's."""
    is_deep = _bits_of(video) > 0
    others = np.flatnonzero(is_deep != is_deep[0])
    if len(others) == 0:
        return video
    for n in others.tolist():
        what = f"{video.frames[n].path} {other_depth(16 if is_deep[n] else 8)}"
        faults.of_video(video.video_id).reject("frame has another depth", f"video {video.video_id!r} frame {n}: {what}")
    kept = [video.frames[n] for n in np.flatnonzero(is_deep == is_deep[0]).tolist()]
    return dataclasses.replace(video, frames=tuple(kept), static_frames=())  # which count frames


def _with_bits(videos: list[Video], faults: FileFaults) -> list[Video]:
    """The videos with the scale of their 16-bit images: one for each recording, and one for all stills."""
    images_of: dict[str | None, list[str]] = {}
    for video in videos:
        if _is_of_deep_images(video):
            recording = video.video_id if len(video) > 1 else None
            images_of.setdefault(recording, []).extend(frame.path for frame in video.frames)
    numbers = {}
    for recording, images in images_of.items():
        bits = find_significant_bits(list(dict.fromkeys(images)))
        numbers[recording] = bits.number
        if recording is not None and bits.guess is not None:
            faults.repair(bits.guess[0], f"video {recording!r}: {bits.guess[1]}")
        elif bits.guess is not None:
            faults.repair(_STILLS_GUESSED, f"{len(images)} stills, {bits.guess[1]}")
    return [_with_scale(video, numbers) for video in videos]


def _bits_of(video: Video) -> NDArray[np.int8]:
    assert isinstance(video.frames, PackedFrames), "a video packs them"
    return video.frames.bits


def _is_of_deep_images(video: Video) -> bool:
    return bool(_bits_of(video)[0]) and video.frames[0].index_in_file is None


def _with_scale(video: Video, numbers: Mapping[str | None, int]) -> Video:
    if not _is_of_deep_images(video):
        return video
    bits = numbers[video.video_id if len(video) > 1 else None]
    return dataclasses.replace(video, frames=tuple(dataclasses.replace(frame, bits=bits) for frame in video.frames))


_warned: set[tuple[str, str]] = set()  # by reader: a run reads the same files for training and for evaluation


def _warn(reader: str, index: Index) -> list[Video]:
    for warning in index.warnings:
        if (reader, warning) not in _warned:
            _warned.add((reader, warning))
            logger.warning("%s", warning)
    return index.videos


def _cache_folder() -> Path | None:
    named = os.environ.get("ULTRAVID_CACHE", "")
    if named.lower() == "off":
        return None
    return Path(named).expanduser() if named else Path.home() / ".cache" / "ultravid"


@functools.cache
def _code_digest() -> str:
    """Digest of the modules that decide what an index holds: an index that older code made is not used."""
    here = Path(__file__).parent
    modules = [*here.glob("*.py"), *here.glob("formats/*.py"), *here.glob("readers/*.py")]
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(modules))).hexdigest()


def _content_digest(files: Iterable[Path]) -> str | None:
    digest = hashlib.sha256()
    try:
        for path in files:
            with open_regular(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]  # it has readinto
    except OSError:
        return None
    return digest.hexdigest()


def _listing(folders: Iterable[str]) -> tuple[str, int]:
    """(digest of the names, sizes and times of all files in the folders, newest time in ns)."""
    digest, newest = hashlib.sha256(), 0
    for folder in sorted(folders):
        rows = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        status = None if entry.is_dir() else entry.stat()
                    except OSError:  # a link that leads nowhere, or in a circle
                        status = os.lstat(entry.path)
                    rows.append((entry.name, status and status.st_size, status and status.st_mtime_ns))
                    newest = max(newest, status.st_mtime_ns if status else 0)
        except OSError:
            rows = [("absent", None, None)]
        digest.update(repr((folder, sorted(rows, key=lambda row: row[0]))).encode())
    return digest.hexdigest(), newest


def _load(path: Path, fingerprint: Mapping[str, str]) -> Index | None:
    """The cached index; None if there is none, or if it is outdated, truncated or of another reader."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        header = json.loads(head)
        if {k: header.get(k) for k in fingerprint} != dict(fingerprint):
            return None
        if header["body"] != hashlib.sha256(body).hexdigest() or header["listing"] != _listing(header["folders"])[0]:
            return None
        content = json.loads(body)
        return Index([_video_from(row) for row in content["videos"]], content["warnings"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        logger.info("%s: the cached index can't be used (%s) and is rebuilt.", path, error)
        return None


def _save(path: Path, index: Index, fingerprint: Mapping[str, str], started: int) -> None:
    folders = {os.path.dirname(frame.path) for video in index.videos for frame in video.frames}
    folders |= {str(p) for p in index.watched}
    listing, newest = _listing(folders)
    if newest >= started:
        return  # a file changed during the reading: it is not known which of its states was read
    body = json.dumps({"warnings": index.warnings, "videos": [_video_row(v) for v in index.videos]}).encode()
    header = {
        **fingerprint,
        "folders": sorted(folders),
        "listing": listing,
        "body": hashlib.sha256(body).hexdigest(),
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replace_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(header).encode() + b"\n" + body)
    except OSError as error:
        logger.warning("The dataset's index can't be cached in %s (%s) and is rebuilt each time.", path.parent, error)


def _video_row(video: Video) -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "patient": video.patient,
        "patient_known": video.patient_known,
        "may_show_text": video.may_show_text,
        "category_ids": video.category_ids,
        "merged_classes": dict(video.merged_classes),
        "fps": video.fps,
        "metadata": dict(video.metadata),
        "class_names": video.class_names,
        "static_frames": video.static_frames,
        "frames": [
            [
                frame.path,
                frame.image_id,
                frame.height,
                frame.width,
                frame.index_in_file,
                frame.crop,
                frame.boxes.tolist(),
                frame.classes.tolist(),
                frame.track_ids.tolist(),
                frame.number,
                frame.time_s,
                frame.blanked,
                frame.bits,
                *([frame.ignored.tolist(), frame.ignored_crowds.tolist()] if len(frame.ignored) else []),
            ]
            for frame in video.frames
        ],
    }


def _video_from(row: dict[str, Any]) -> Video:
    return Video(
        video_id=row["video_id"],
        frames=tuple(_frame_from(*values) for values in row["frames"]),
        patient=row["patient"],
        fps=row["fps"],
        metadata=row["metadata"],
        class_names=tuple(row["class_names"]),
        static_frames=tuple((first, last) for first, last in row["static_frames"]),
        patient_known=row["patient_known"],
        may_show_text=row["may_show_text"],
        category_ids=tuple(row["category_ids"]),
        merged_classes=row["merged_classes"],
    )


def _frame_from(
    path: str,
    image_id: int,
    height: int,
    width: int,
    index_in_file: int | None,
    crop: list[int] | None,
    boxes: list[list[float]],
    classes: list[int],
    track_ids: list[int],
    number: int | None,
    time_s: float | None,
    blanked: list[list[int]],
    bits: int | None,
    ignored: Sequence[list[float]] = (),
    ignored_crowds: Sequence[bool] = (),
) -> Frame:
    return Frame(
        path=path,
        image_id=image_id,
        height=height,
        width=width,
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        classes=np.asarray(classes, np.int64),
        track_ids=np.asarray(track_ids, np.int64),
        index_in_file=index_in_file,
        crop=(crop[0], crop[1], crop[2], crop[3]) if crop is not None else None,
        number=number,
        time_s=time_s,
        blanked=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in blanked),
        bits=bits,
        ignored=np.asarray(ignored, np.float32).reshape(-1, 4),
        ignored_crowds=np.asarray(ignored_crowds, np.bool_),
    )
