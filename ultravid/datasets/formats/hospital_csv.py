"""Reader of datasets that hospitals deliver as a CSV of videos, with an ``info.json`` for each video and boxes in pickles.

On disk::

    <root>/<organ>/<YYYYMMDD-HHMMSS>.csv
        pkl_file, jpg_folder, neg, video_path, hospital, anno_format, polyline_error, db_key, device
    <jpg_folder>/*.jpg                 the frames, in natural order
    <jpg_folder>/info.json             {"num_frames": int, "cropped_shape": [height, width], "empty_flag": bool,
                                        "bbox": ..., "height_resize_ratio": ..., "static_frames": [[first, last], ...]}
    <pkl_file>                         the annotation

``jpg_folder`` and ``pkl_file`` are relative to the CSV's folder. ``cropped_shape`` is the size of the images on disk;
``bbox`` and ``height_resize_ratio`` say how they were cut from the movie and are not needed to read them. A video whose
``empty_flag`` is true, or whose row says ``polyline_error``, is skipped; a warning counts them. ``static_frames`` are stretches in
which the probe is held still, both ends included.

The pickle holds plain data (`read_plain_pickle`)::

    {"frames": {frame number from 0: [{"box": [x1, y1, x2, y2], "class": "Mass", "track_id": 0}, ...]}}

with boxes in pixels of the images on disk; a frame that is not in it has no lesion. A ``neg`` video has no lesion, and may
have no pickle.

A dataset's name is ``organ_hospital@timestamp``, or ``organ_ALL@timestamp`` for every hospital; ``@device`` after it selects
one device, or one group of devices that the config names.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.datasets.bounds import MAX_ANNOTATION_BYTES, frame_size_fault, is_whole
from ultravid.datasets.boxes import repair_box
from ultravid.datasets.faults import FaultSink, FileFaults, as_data_error
from ultravid.datasets.formats.common import (
    check_unique_ids,
    make_frame,
    make_video,
    require_folder,
    static_frames_fault,
)
from ultravid.datasets.formats.lesions import AnnotatedBox, number_lesions
from ultravid.datasets.formats.plain_pickle import read_plain_pickle
from ultravid.datasets.image_io import check_image, image_fault_kind
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.json_files import read_json
from ultravid.datasets.missing_files import MissingFiles
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers.images import list_images
from ultravid.datasets.safe_files import NamedFiles, read_bytes
from ultravid.datasets.video import DataError, Frame, Video
from ultravid.utils.text import counted, nearest, shown

__all__ = ["load_hospital_csv"]

CLASSES: Mapping[str, tuple[str, ...]] = {
    "breast": ("Mass", "Low-echo-zone", "Structural-disorder", "Lymph-node"),
    "thyroid": ("nodule", "other abnormality"),
}
"""Lesion classes by organ, in the order of their numbers."""

_NAME = re.compile(r"(?P<organ>[^_@]+)_(?P<hospital>[^@]+)@(?P<timestamp>\d{8}-\d{6})(?:@(?P<device>.+))?")
_COLUMNS = ("pkl_file", "jpg_folder", "neg", "video_path", "hospital", "anno_format", "polyline_error", "device")
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no")


@dataclass(frozen=True)
class _Name:
    organ: str
    hospital: str
    timestamp: str
    device: str | None


def load_hospital_csv(
    *,
    root: str | Path,
    datasets: Sequence[str],
    device_groups: Mapping[str, Sequence[str]] | None = None,
    patients: str | Path | None = None,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    allow_outside_root: bool = False,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read datasets of this layout.

    Args:
        root: the folder that holds one folder per organ; local or mounted.
        datasets: names such as ``breast_ALL@20230101-120000`` or ``breast_hospitalA@20230101-120000@deviceB``.
        device_groups: devices by the name of their group, which a dataset's name may give in place of a device.
        patients: a rule for patients, which looks at ``video_path``, or a table of them by video name, see
            `ultravid.datasets.patients.patient_rule`. None: the patients are not known.
        classes: names in the order of their numbers; None: the organ's, see `CLASSES`.
        class_agnostic: use one class, "lesion", whatever the annotation's.
        allow_outside_root: read folders and pickles that a CSV names outside of ``root``, by an absolute path, ``..`` or a symbolic
            link.
        faults: collects all faults, and the videos and frames without them are returned.

    Raises:
        DataError: a dataset's name is malformed, or a file is missing or holds what can't be used. Without ``faults``, the first
            fault is reported with its video and frame, and the others are counted. A pickle that holds code is rejected, and the
            code is not run.
    """
    root = require_folder(root)
    names = [_parse_name(name) for name in datasets]
    groups = {k: list(v) for k, v in (device_groups or {}).items()}
    files = [root / n.organ / f"{n.timestamp}.csv" for n in names]

    def build() -> Index:
        own = FileFaults(root, faults)
        files_of = NamedFiles(root, allow_outside_root=allow_outside_root)
        reader = _Reader(own, patient_rule(patients), classes, class_agnostic, files_of)
        for name, text, path in zip(names, datasets, files, strict=True):
            reader.read(path, name, text, groups)
        reader.patients.check([video.video_id for video in reader.videos], own)
        videos = check_unique_ids(reader.videos, own)
        skipped = [f"{root}: {counted(n, 'video')} with {why} skipped." for why, n in sorted(reader.skipped.items())]
        return Index(videos, own.close() + skipped, tuple(reader.watched))

    arguments = {
        "datasets": list(datasets),
        "device_groups": groups,
        "classes": list(classes) if classes else None,
        "class_agnostic": class_agnostic,
        "patients": str(patients),
        "allow_outside_root": allow_outside_root,
    }
    return cached_index("hospital_csv", arguments, [*files, table_address(patients)], build, faults)


def _parse_name(name: str) -> _Name:
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(
            f"{name!r} is not the name of a dataset: write organ_hospital@YYYYMMDD-HHMMSS, or organ_hospital@YYYYMMDD-HHMMSS@device."
        )
    return _Name(**match.groupdict())


class _Reader:
    """Reads the videos of one call."""

    def __init__(
        self,
        faults: FileFaults,
        patients: PatientRule,
        classes: Sequence[str] | None,
        class_agnostic: bool,
        files: NamedFiles,
    ) -> None:
        self.faults = faults
        self.patients = patients
        self.classes = classes
        self.class_agnostic = class_agnostic
        self.files = files
        self.videos: list[Video] = []
        self.skipped: Counter[str] = Counter()
        self.watched: set[Path] = set()
        self._merged: Counter[str] = Counter()  # classes of the current video, if they are read as one
        self.num_images = 0

    def read(self, path: Path, name: _Name, text: str, groups: Mapping[str, Sequence[str]]) -> None:
        rows = _read_rows(path)
        for column, wanted in (
            ("hospital", None if name.hospital == "ALL" else [name.hospital]),
            ("device", _devices(name, groups)),
        ):
            if wanted is not None:
                there = sorted({row[column] for row in rows})
                rows = [row for row in rows if row[column] in wanted]
                if not rows:
                    raise DataError(
                        f"{path}: no video of dataset {text!r} has the {column} {' or '.join(wanted)}; "
                        f"there are {', '.join(there)}."
                    )
        missing = self._missing_folders(path.parent, rows, name.organ)
        if len(rows) > 1 and missing.are_nearly_all(len(rows)):
            missing.report(len(rows), self.faults)
            gone = {file.name for found in missing.by_folder.values() for file in found}
            rows = [row for row in rows if row["jpg_folder"] not in gone]
        for row in rows:
            try:
                with as_data_error(path):
                    self._read_row(path.parent, row, name.organ)
            except DataError as error:
                what = f"video {_video_name(name.organ, row)!r}: {str(error).rstrip('.')}"
                self.faults.reject("video can't be read", what, videos=[_video_name(name.organ, row)], whole_video=True)

    def _missing_folders(self, base: Path, rows: Sequence[Mapping[str, str]], organ: str) -> MissingFiles:
        """The folders of videos that do not exist; names that lead elsewhere are left to `_read_row`."""
        missing = MissingFiles(
            base, "set root to the folder that holds them under the organ's name", what="videos' folders"
        )
        for row in rows:
            with contextlib.suppress(DataError, OSError, ValueError):
                if not self.files.path(row["jpg_folder"], base).is_dir():
                    video = _video_name(organ, row)
                    what = f"video {video!r}: {base / row['jpg_folder']} does not exist"
                    missing.add(row["jpg_folder"], what, video)
        return missing

    def _read_row(self, base: Path, row: Mapping[str, str], organ: str) -> None:
        name = _video_name(organ, row)
        where, faults = f"video {name!r}", self.faults.of_video(name)
        if row["anno_format"] not in ("json", "xml"):
            faults.reject("bad row", f"{where}: anno_format {row['anno_format']!r} is not json or xml")
        folder = self.files.path(row["jpg_folder"], base)
        pickle = self.files.path(row["pkl_file"], base) if row["pkl_file"] else None
        self.watched |= {folder, *([pickle.parent] if pickle else [])}
        info = _read_info(folder / "info.json")
        if info["empty_flag"]:
            self.skipped["an empty_flag"] += 1
            return
        if _flag(row, "polyline_error"):
            self.skipped["a polyline_error"] += 1
            return
        classes = self._classes_of(organ)
        annotated = self._annotation(pickle, row)
        self._merged.clear()
        frames = self._frames(folder, info, annotated, classes, where, faults)
        static = _static_frames(info, info["num_frames"], folder)
        if frames:
            patient = self.patients.patient(name, path=(row["video_path"] or row["jpg_folder"]).replace("\\", "/"))
            metadata = {
                k: v for k, v in (("organ", organ), ("hospital", row["hospital"]), ("device", row["device"])) if v
            }
            shown = ("lesion",) if self.class_agnostic else classes
            self.videos.append(
                make_video(
                    name,
                    frames,
                    patient,
                    metadata=metadata,
                    class_names=shown,
                    static_frames=static,
                    merged_classes=dict(self._merged),
                )
            )

    def _classes_of(self, organ: str) -> tuple[str, ...]:
        classes = self.classes or CLASSES.get(organ)
        if classes is None:
            raise DataError(
                f"the classes of organ {organ!r} are not known: name them in the reader's argument classes."
            )
        return tuple(classes)

    def _annotation(self, path: Path | None, row: Mapping[str, str]) -> dict[int, list[Any]]:
        """What the pickle holds for each frame; nothing for a negative video."""
        negative = _flag(row, "neg")
        if path is None and negative:
            return {}
        if path is None:
            raise DataError("its row names no pkl_file, and does not say that it is negative (neg).")
        content = read_plain_pickle(path)
        frames = content.get("frames") if isinstance(content, dict) else None
        if not isinstance(frames, dict) or not all(isinstance(v, list) for v in frames.values()):
            raise DataError(f"{path}: must hold {{'frames': {{frame number: list of boxes}}}}.")
        bad = [k for k in frames if isinstance(k, bool) or not isinstance(k, int)]
        if bad:
            raise DataError(f"{path}: frame number {bad[0]!r} is not a whole number.")
        if negative and any(frames.values()):
            raise DataError(f"{path}: holds boxes, but the CSV says that the video is negative.")
        return frames

    def _frames(
        self,
        folder: Path,
        info: Mapping[str, Any],
        annotated: Mapping[int, list[Any]],
        classes: Sequence[str],
        where: str,
        faults: FileFaults,
    ) -> list[Frame]:
        images = list_images(folder)
        if len(images) != info["num_frames"]:
            raise DataError(f"{folder}: holds {len(images)} images, its info.json says {info['num_frames']} frames.")
        for number in sorted(annotated):
            if not 0 <= number < len(images):
                faults.reject(
                    "box in no frame", f"{where} frame {number}: has boxes, but there are {len(images)} frames"
                )
        size = (info["cropped_shape"][0], info["cropped_shape"][1])
        boxes = [
            self._boxes(annotated.get(n, []), size, classes, f"{where} frame {n}", faults) for n in range(len(images))
        ]
        rows_of = number_lesions(boxes, where, faults)
        frames = []
        for number, (image, rows) in enumerate(zip(images, rows_of, strict=True)):
            here = f"{where} frame {number}"
            checked = check_image(image, *size)
            if checked.fault is not None:
                faults.reject(image_fault_kind(checked.fault), f"{here}: {image} {checked.fault}")
            else:
                frames.append(make_frame((str(image), None), self.num_images, size, rows, bits=checked.bits))
            self.num_images += 1
        return frames

    def _boxes(
        self, boxes: list[Any], size: tuple[int, int], classes: Sequence[str], where: str, faults: FileFaults
    ) -> list[AnnotatedBox[int]]:
        found: list[AnnotatedBox[int]] = []
        for n, entry in enumerate(boxes):
            here = f"{where} box {n}"
            if not isinstance(entry, dict) or not {"box", "class"} <= set(entry):
                faults.reject("bad annotation row", f"{here}: is {shown(entry)}, not {{'box', 'class', 'track_id'}}")
                continue
            track, kind = entry.get("track_id"), entry["class"]
            if kind not in classes or not (track is None or is_whole(track)):
                near = nearest(kind, classes) if isinstance(kind, str) else None
                hint = f" (did you mean {near!r}?)" if near else f" (classes are {', '.join(classes)})"
                what = (
                    f"unknown class {shown(kind)}{hint}"
                    if kind not in classes
                    else f"track_id {shown(track)} is not a whole number"
                )
                faults.reject("bad annotation row", f"{here}: {what}")
                continue
            box = repair_box(entry["box"], *size, here, faults)
            if box is not None:
                if self.class_agnostic:
                    self._merged[kind] += 1
                found.append(AnnotatedBox(box, 0 if self.class_agnostic else list(classes).index(kind), track, here))
        return found


def _video_name(organ: str, row: Mapping[str, str]) -> str:
    return f"{organ}/{row['jpg_folder']}"


def _devices(name: _Name, groups: Mapping[str, Sequence[str]]) -> list[str] | None:
    return None if name.device is None else list(groups.get(name.device, [name.device]))


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        text = read_bytes(path, MAX_ANNOTATION_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        rows = [{k: v for k, v in row.items() if isinstance(k, str)} for row in reader]
        columns = reader.fieldnames or []
    except OSError as error:
        there = sorted(p.name for p in path.parent.glob("*.csv")) if path.parent.is_dir() else []
        raise DataError(
            f"{path}: can't be read ({error.strerror}); tables in its folder: {', '.join(there) or 'none'}."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not a CSV table: {error}.") from error
    twice = sorted(c for c, n in Counter(columns).items() if n > 1)
    if twice:
        raise DataError(f"{path}: has two columns {twice[0]!r}.")
    missing = [c for c in _COLUMNS if c not in columns]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)}.")
    return rows


def _flag(row: Mapping[str, str], column: str) -> bool:
    value = row[column].strip().lower()
    if value not in _TRUE + _FALSE:
        raise DataError(f"{column} is {row[column]!r} in the CSV, not True or False.")
    return value in _TRUE


def _read_info(path: Path) -> dict[str, Any]:
    info = read_json(path)
    if not isinstance(info, dict):
        raise DataError(f"{path}: must be a JSON object.")
    shape = info.get("cropped_shape")
    numbers = isinstance(shape, list) and len(shape) == 2 and all(is_whole(v) and v > 0 for v in shape)
    if not info.get("empty_flag") and (not numbers or not is_whole(info.get("num_frames"))):
        raise DataError(f"{path}: num_frames must be a whole number and cropped_shape [height, width].")
    if numbers and (fault := frame_size_fault(*info["cropped_shape"])) is not None:
        raise DataError(f"{path}: {fault}.")
    if not isinstance(info.get("empty_flag", False), bool):
        raise DataError(f"{path}: empty_flag is {shown(info['empty_flag'])}, neither true nor false.")
    return {"empty_flag": False, **info}


def _static_frames(info: Mapping[str, Any], num_frames: int, folder: Path) -> tuple[tuple[int, int], ...]:
    stretches = info.get("static_frames") or []
    fault = static_frames_fault(stretches, num_frames)
    if fault is not None:
        raise DataError(f"{folder / 'info.json'}: {fault}.")
    return tuple((first, last) for first, last in stretches)
