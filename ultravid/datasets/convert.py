"""Convert any dataset to COCO-VID: images as PNG in the layout of CVA-BUS, and a manifest of each video's source.

``output`` then holds ``<split>.json``, ``rawframes/<video>/%06d.png`` and ``manifest_<split>.json``. A video is written into
``unfinished/``, renamed when it is complete, and then recorded in a journal. So a conversion that was killed continues where it
stopped, and its result equals that of an uninterrupted one, byte for byte.

A video with a fault is left out whole, and the manifest lists it under ``skipped``: a video without one of its boxes would be
a wrong one. The names in a manifest are data, and lead nowhere but into ``rawframes``.

An image's file is named by the frame's place in the video. Its ``frame_id`` is the frame's number along the film and its ``time_s``
the frame's time stamp, if it has one, so that gaps and pauses are kept.

Regions to ignore are written as annotations without a lesion, marked ``iscrowd`` or ``ignore``. They are of no class; their
``category_id`` is the first one's, because COCO's own tools need one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ultravid.datasets.bounds import MAX_ANNOTATION_BYTES
from ultravid.datasets.burned_in import refuse_burned_in_text
from ultravid.datasets.classes import check_same_classes, class_names_of
from ultravid.datasets.faults import Fault, FaultSink
from ultravid.datasets.image_io import check_image
from ultravid.datasets.json_files import parse_json, read_json
from ultravid.datasets.readers import read_frame_image
from ultravid.datasets.readers.source import ImageArray
from ultravid.datasets.safe_files import NamedFiles, open_regular, read_bytes
from ultravid.datasets.video import DataError, Video
from ultravid.utils.file_io import replace_file
from ultravid.utils.hashing import sha256_of

__all__ = ["CONVERTER_VERSION", "check_output_folder", "sound_videos", "write_coco_video"]

CONVERTER_VERSION = 2  # increase it if the same videos give other bytes


def check_output_folder(path: Path, output: Path) -> None:
    """Refuse an output folder that lies in the folder to be read, or around it, where it would be read as data the next time.

    Raises:
        DataError: it does, or it is a file.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: is a file, not a folder. Choose another output.")
    if not path.is_dir():
        return
    inner, outer = Path(os.path.realpath(output)), Path(os.path.realpath(path))
    if inner == outer or outer in inner.parents:
        raise DataError(
            f"{output}: lies inside of {path}, which is read, and would be read as data the next time. Choose an output beside it."
        )
    if inner in outer.parents:
        raise DataError(f"{output}: holds {path}, which is read. Choose an output beside it.")


def sound_videos(videos: Sequence[Video], faults: Sequence[Fault], path: str | Path) -> list[Video]:
    """The videos without those that a fault is about: of these a frame or a box would be missing.

    Args:
        videos: what a reader returned.
        faults: what it rejected.
        path: the path of the dataset, for messages.

    Raises:
        DataError: no video is left, or a fault is not about one video, so that any may be wrong.
    """
    faulty: set[str] = set()
    for fault in faults:
        if not fault.videos and not fault.whole_video:
            raise DataError(
                f"{fault.file}: {fault.message}. It is not known which videos this concerns, so none was converted."
            )
        faulty.update(fault.videos)
    sound = [video for video in videos if video.video_id not in faulty]
    if not sound:
        raise DataError(f"{path}: holds no video that can be converted.")
    return sound


def write_coco_video(
    videos: Sequence[Video],
    output: Path,
    split: str,
    description: Mapping[str, Any],
    base: Path,
    faults: FaultSink | None = None,
    *,
    allow_burned_in_text: bool = False,
) -> Iterator[tuple[int, bool]]:
    """Write videos as COCO-VID.

    Args:
        videos: at least one.
        output: the folder, new or started by an earlier call with the same description; it may hold other splits.
        split: name of the JSON file.
        description: what the videos were read from, and how; stored in the manifest.
        base: the folder that the manifest's source files are relative to.
        faults: holds what the reader rejected, which the manifest then lists, and takes videos with a frame that can't be decoded,
            which are left out. None: such a frame ends the conversion.
        allow_burned_in_text: write frames of DICOM files that show more than an ultrasound region, see `Video.may_show_text`.

    Yields:
        after each video, its number of frames and whether they were already there, complete and of the same source.

    Raises:
        DataError: the folder holds something else, a video's name is not a safe path, or a frame can't be decoded, of every video
            if there are ``faults``.
    """
    _check_names([v.video_id for v in videos])
    check_same_classes(videos)
    if not allow_burned_in_text:
        ways = {"blank": "--blank-outside-region", "masks": "--masks TABLE", "allow": "--allow-burned-in-text"}
        refuse_burned_in_text(videos, "frames", **ways)
    journal = _Journal(output, split, description, {v.video_id for v in videos})
    records, written = [], []
    for video in videos:
        try:
            record, kept = _write_video(video, journal, base)
        except DataError as error:
            if faults is None:
                raise
            what = str(error).rstrip(".")
            kind, file = "video can't be converted", video.frames[0].path
            faults.faults.append(Fault(kind, what, file, videos=(video.video_id,), whole_video=True))
            journal.remove(video.video_id)
            continue
        records.append(record)
        written.append(video)
        yield len(video), kept
    if not written:
        raise DataError(f"{output}: not one of {len(videos)} videos can be converted.")
    _write_json(output / f"{split}.json", _coco(written, split))
    journal.finish(records, [f.message for f in faults.faults if not f.repaired] if faults else [])


def _write_video(video: Video, journal: _Journal, base: Path) -> tuple[dict[str, Any], bool]:
    """The video's record, and whether its frames were there already."""
    record = {"video": video.video_id, "source": _source(video, base), "num_frames": len(video)}
    folder = journal.frames.path(video.video_id)
    earlier = journal.records.get(video.video_id)
    if earlier is not None and all(earlier[key] == value for key, value in record.items()):
        digest = _digest(folder, video)
        if digest is not None and earlier["frames_sha256"] == digest:
            return {**record, "fps": video.fps, "frames_sha256": digest}, True
    digest = _write_frames(video, folder, journal.unfinished / video.video_id)
    record |= {"fps": video.fps, "frames_sha256": digest}
    journal.add(record)
    return record, False


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not _is_folder_name(name):
            raise DataError(
                f"Video {name!r}: its name can't be that of a folder in rawframes: no '..', '\\' or leading '/'."
            )
    for name in names:
        for parent in {p.as_posix() for p in PurePosixPath(name).parents} & set(names):
            raise DataError(
                f"Video {name!r} would be inside the folder of video {parent!r}. Convert the two separately."
            )


def _is_folder_name(name: Any) -> bool:
    """Whether a video's name is a plain relative path, which leads to a folder inside another."""
    if not isinstance(name, str) or {"\\", "\0"} & set(name):
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name


class _Journal:
    """Which videos of a split are done: one line per video during the conversion, the manifest after it."""

    def __init__(self, output: Path, split: str, description: Mapping[str, Any], names: set[str]) -> None:
        self.output = output
        self.names = names
        self.path = output / f"journal_{split}.jsonl"
        self.manifest = output / f"manifest_{split}.json"
        hint = "Remove the link that leads there."
        self.unfinished = NamedFiles(output, hint=hint).path(f"unfinished/{split}")
        self.frames = NamedFiles(output / "rawframes", hint=hint)  # may be a link to another disk
        self.header = {"converter_version": CONVERTER_VERSION, "split": split, **description}
        self.records: dict[str, dict[str, Any]] = {}
        for path in (output / f"{split}.json", self.path, self.manifest):
            if path.exists() and not path.is_file():
                raise DataError(f"{path}: is not a file, but it has the name of one that is written. Remove it.")
        ours = [*output.glob("manifest_*.json"), *output.glob("journal_*.jsonl")] if output.is_dir() else []
        if not ours and output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output} is not empty and holds no conversion. Choose another folder or remove this one.")
        self._read_own()
        for path in ours:
            if path not in (self.path, self.manifest) and (taken := names & _names_in(path)):
                raise DataError(
                    f"{path}: already holds video {min(taken)!r}; videos of two splits must have different names."
                )
        output.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            lines = [self.header, *self.records.values()]
            with replace_file(self.path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self.manifest.unlink(missing_ok=True)  # it marks a finished conversion

    def _read_own(self) -> None:
        path = self.path if self.path.exists() else self.manifest
        if not path.exists():
            return
        header, records = _read_records(path)
        if header != json.loads(json.dumps(self.header)):
            changed = _changes(header, json.loads(json.dumps(self.header)))
            raise DataError(f"{path}: is of another conversion ({changed}). Choose another folder or remove this one.")
        self.records = {r["video"]: r for r in records if r["video"] in self.names}
        for gone in {r["video"] for r in records} - self.names:
            self.remove(gone)

    def remove(self, name: str) -> None:
        """Remove a video's frames, which an earlier call wrote."""
        self.records.pop(name, None)
        shutil.rmtree(self.frames.path(name), ignore_errors=True)

    def add(self, record: dict[str, Any]) -> None:
        with self.path.open("r+b") as file:
            content = file.read()
            file.seek(content.rfind(b"\n") + 1)  # drops a line that was cut off when the last call was killed
            file.truncate()
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, records: Sequence[dict[str, Any]], skipped: Sequence[str]) -> None:
        more = {"skipped": list(skipped)} if skipped else {}
        _write_json(self.manifest, {**self.header, **more, "videos": list(records)})
        self.path.unlink()
        shutil.rmtree(self.unfinished, ignore_errors=True)
        if self.unfinished.parent.is_dir() and not any(self.unfinished.parent.iterdir()):
            self.unfinished.parent.rmdir()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> str:
    """What differs between two headers, with both values: ``options: patients was 'folder', is not given now``."""
    said = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            said.append(_changes(old, new, f"{key}."))
        elif old != new or (key in before) != (key in now):
            was, is_now = (repr(v) if key in each else "not given" for v, each in ((old, before), (new, now)))
            said.append(f"{above}{key} was {was}, is now {is_now}")
    return "; ".join(said)


def _read_records(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header, and the records of videos, whose names are those of folders in ``rawframes``."""
    try:
        if path.suffix == ".jsonl":
            whole = read_bytes(path, MAX_ANNOTATION_BYTES).rpartition(b"\n")[0]
            header, *records = (parse_json(line, path) for line in whole.splitlines())
        else:
            header = read_json(path)
            records = header.pop("videos")
            header.pop("skipped", None)
        for record in records:
            if not _is_folder_name(record["video"]) or not {"source", "num_frames", "frames_sha256"} <= set(record):
                raise DataError(f"{path}: its record of video {record['video']!r} is not one that a conversion writes.")
        return dict(header), records
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    except (DataError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        raise DataError(f"{path}: is damaged ({reason}). Remove the folder and convert again.") from error


def _names_in(path: Path) -> set[str]:
    return {record["video"] for record in _read_records(path)[1]}


def _source(video: Video, base: Path) -> dict[str, Any]:
    """The files of a video, and a hash of all that its images depend on."""
    files = list(dict.fromkeys(frame.path for frame in video.frames))
    digest = hashlib.sha256()
    for name in files:
        try:
            with open_regular(name) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]  # it has readinto
        except OSError as error:
            raise DataError(f"Video {video.video_id!r}: {name} can't be read ({error.strerror}).") from error
    content = digest.hexdigest() if len(files) > 1 else sha256_of(Path(files[0]))
    chosen = [[Path(f.path).name, f.index_in_file, f.crop, *([f.blanked] if f.blanked else [])] for f in video.frames]
    shown = Path(files[0]) if len(files) == 1 else Path(os.path.commonpath([str(Path(f).parent) for f in files]))
    relative = os.path.relpath(shown, base)
    return {
        "file": shown.name if relative.startswith("..") else relative,
        "num_files": len(files),
        "sha256": content,
        "frames": hashlib.sha256(json.dumps(chosen).encode()).hexdigest(),
    }


def _digest(folder: Path, video: Video) -> str | None:
    """Digest of the frames on disk; None if one is missing or truncated, or there are too many."""
    names = [f"{n:06d}.png" for n in range(len(video))]
    if not folder.is_dir() or sorted(p.name for p in folder.iterdir() if p.is_file()) != names:
        return None
    digest = hashlib.sha256()
    for name, frame in zip(names, video.frames, strict=True):
        if check_image(folder / name, frame.height, frame.width).fault is not None:
            return None
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _write_frames(video: Video, folder: Path, unfinished: Path) -> str:
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    digest = hashlib.sha256()
    for n in range(len(video)):
        data = _png(read_frame_image(video, n))
        (unfinished / f"{n:06d}.png").write_bytes(data)
        digest.update(data)
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished.rename(folder)
    return digest.hexdigest()


def _png(image: ImageArray) -> bytes:
    """One channel if the image is grey: it is read back as three equal ones."""
    grey = np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])
    written, data = cv2.imencode(".png", image[..., 0] if grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert written
    return data.tobytes()


def _coco(videos: Sequence[Video], split: str) -> dict[str, Any]:
    names = class_names_of(videos)
    num_classes = max([len(names), *(int(f.classes.max()) + 1 for v in videos for f in v.frames if len(f.classes))])
    content: dict[str, Any] = {
        "info": {"split": split, "converter_version": CONVERTER_VERSION},
        "categories": [{"id": c + 1, "name": names[c] if c < len(names) else f"class {c}"} for c in range(num_classes)],
        "videos": [],
        "images": [],
        "annotations": [],
    }
    for video_number, video in enumerate(videos, start=1):
        content["videos"].append(_video_row(video, video_number))
        for n, frame in enumerate(video.frames):
            image_id = len(content["images"]) + 1
            row = {
                "id": image_id,
                "video_id": video_number,
                "frame_id": n if frame.number is None else frame.number,
                "file_name": f"{video.video_id}/{n:06d}.png",
                "height": frame.height,
                "width": frame.width,
            }
            if frame.time_s is not None:
                row["time_s"] = frame.time_s
            content["images"].append(row)
            for box, kind, track in zip(frame.boxes.tolist(), frame.classes, frame.track_ids, strict=True):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image_id,
                        "video_id": video_number,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "instance_id": int(track),
                        "category_id": int(kind) + 1,
                    }
                )
            for box, is_crowd in zip(frame.ignored.tolist(), frame.ignored_crowds.tolist(), strict=True):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image_id,
                        "video_id": video_number,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "iscrowd" if is_crowd else "ignore": 1,
                        "category_id": 1,
                    }
                )
    return content


def _video_row(video: Video, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": number, "name": video.video_id}
    if video.patient_known:
        row["patient"] = video.patient
    if video.fps is not None:
        row["fps"] = video.fps
    if video.metadata:
        row["metadata"] = dict(video.metadata)
    if video.static_frames:
        row["static_frames"] = [list(stretch) for stretch in video.static_frames]
    return row


def _write_json(path: Path, content: Any) -> None:
    with replace_file(path) as file:
        file.write(json.dumps(content, indent=1).encode())
