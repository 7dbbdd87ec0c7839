"""What a reader found, kept from one run to the next: checking the headers of 25,000 pictures is slow.

An index is a file of JSON under ``$ULTRAVID_CACHE`` (``~/.cache/ultravid`` where it is not set, none where it is ``off``),
named after the reader and its arguments. Its first line holds fingerprints: of this package's readers, of the annotation
files' content, of names, sizes and times of the files in all folders concerned, and of the second line, which holds the
videos. An index of which one does not fit is made anew. It may hold patients' names as the data set does, and only its owner
may read it.
"""

from __future__ import annotations

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

from ultravid.datasets.faults import are_gathered
from ultravid.datasets.video import Frame, Video
from ultravid.utils.file_io import replace_file

__all__ = ["Index", "cached_index"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """What a reader gives.

    Attributes:
        videos: of the data set.
        warnings: warnings about them; they are logged whether the index is new or kept.
        watched: folders in which a file that comes, goes or changes makes the index old, beside those of the frames.
    """

    videos: list[Video]
    warnings: list[str] = field(default_factory=list)
    watched: tuple[Path, ...] = ()


def cached_index(
    reader: str, arguments: Mapping[str, Any], annotations: Sequence[Path], build: Callable[[], Index]
) -> list[Video]:
    """The videos that ``build`` gives, from an earlier run's index where nothing has changed.

    Args:
        reader: name of the reader.
        arguments: all that the reader was told, apart from files' content; made of what JSON can hold.
        annotations: files whose content counts. Where one can't be read, ``build`` is called, and says so.
        build: reads and checks the data set.

    Raises:
        DataError: ``build`` refuses the data.
    """
    folder = _cache_folder()
    content = _content_digest(annotations)
    if folder is None or content is None or are_gathered():
        return _tell(build())
    described = json.dumps([reader, arguments, [str(p.absolute()) for p in annotations]], sort_keys=True, default=str)
    path = folder / f"{reader}-{hashlib.sha256(described.encode()).hexdigest()[:24]}.json"
    fingerprint = {"code": _code_digest(), "content": content, "described": described}
    index = _load(path, fingerprint)
    if index is None:
        started = time.time_ns()
        index = build()
        _save(path, index, fingerprint, started)
    return _tell(index)


def _tell(index: Index) -> list[Video]:
    for warning in index.warnings:
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
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return None
    return digest.hexdigest()


def _listing(folders: Iterable[str]) -> tuple[str, int]:
    """(digest of the names, sizes and times of what lies in folders, newest time in ns)."""
    digest, newest = hashlib.sha256(), 0
    for folder in sorted(folders):
        rows = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    is_folder = entry.is_dir()
                    status = None if is_folder else entry.stat()
                    rows.append((entry.name, status and status.st_size, status and status.st_mtime_ns))
                    newest = max(newest, status.st_mtime_ns if status else 0)
        except OSError:
            rows = [("absent", None, None)]
        digest.update(repr((folder, sorted(rows, key=lambda row: row[0]))).encode())
    return digest.hexdigest(), newest


def _load(path: Path, fingerprint: Mapping[str, str]) -> Index | None:
    """The kept index; None where there is none, or one that is old, cut or another's."""
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
        logger.info("%s: the kept index can't be used (%s) and is made anew.", path, error)
        return None


def _save(path: Path, index: Index, fingerprint: Mapping[str, str], started: int) -> None:
    folders = {os.path.dirname(frame.path) for video in index.videos for frame in video.frames}
    folders |= {str(p) for p in index.watched}
    listing, newest = _listing(folders)
    if newest >= started:
        return  # a file changed while it was read: which of its states was seen is not known
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
        logger.warning("The index of the data can't be kept in %s (%s): it is made anew each time.", path.parent, error)


def _video_row(video: Video) -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "patient": video.patient,
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
    )
