"""Readers of annotations in COCO's JSON: videos in the layout of CVA-BUS, and stills.

CVA-BUS (Lin et al., "A new dataset and a baseline model for breast lesion detection in ultrasound videos", MICCAI 2022)
lies on disk as ``<root>/{trainval,test}.json`` and ``<root>/rawframes/{benign,malignant}/<video>/%06d.png``. Its public
files hold frames without a box, frame numbers that do not run from 0, pictures that are not square, boxes of negative
width or height (the corner is on the other side), boxes past the frame's edge and boxes held over many frames. The first
three and the last are read as they are; the two kinds of boxes in between are mended, and how many is logged. Anything
else that is wrong is refused.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ultravid.data.image_io import image_fault
from ultravid.data.video import DataError, Frame, Video

__all__ = ["load_coco_stills", "load_cva_bus"]

logger = logging.getLogger(__name__)

_SIDE_SUFFIX = re.compile(r"[-_]\d?-?[lr]?$")


@dataclass
class _Faults:
    """Faults of one file in the order in which they are found; all of them are counted, the first is told."""

    path: Path
    found: list[str] = field(default_factory=list)
    mended: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def raise_if_any(self) -> None:
        if self.found:
            more = len(self.found) - 1
            others = f" ({more} more {'fault' if more == 1 else 'faults'} in this file)" if more else ""
            raise DataError(f"{self.path}: {self.found[0]}{others}")

    def log_mended(self) -> None:
        for what, where in self.mended.items():
            logger.warning("%s: %d boxes %s; the first: %s.", self.path, len(where), what, where[0])


def load_cva_bus(
    *,
    root: str | Path,
    splits: Sequence[str] = ("trainval",),
    patients: str | Path | None = None,
    class_agnostic: bool = True,
) -> list[Video]:
    """Read splits of a data set in the layout of CVA-BUS.

    Args:
        root: the folder that holds ``<split>.json`` and ``rawframes``.
        splits: which JSON files, without ``.json``; their videos are joined.
        patients: a JSON object from video name to patient. Without it the file's own ``patient`` of a video is taken,
            and without that the video's name less a trailing side (``-1-l``).
        class_agnostic: one class, "lesion", whatever the annotation's category.

    Raises:
        DataError: a file is missing or holds what can't be used; the first fault is told, the others are counted.
    """
    root = Path(root)
    table = _read_patients(patients)
    videos: list[Video] = []
    for split in splits:
        path = root / f"{split}.json"
        content = _read_json(path, needed=("videos", "images", "annotations"))
        videos += _build_videos(path, content, root / "rawframes", table, class_agnostic)
    duplicates = sorted(_duplicates(v.video_id for v in videos))
    if duplicates:
        raise DataError(f"{root}: video {duplicates[0]!r} stands in more than one split ({len(duplicates)} do).")
    return videos


def load_coco_stills(
    *, json_file: str | Path, image_root: str | Path | None = None, class_agnostic: bool = True
) -> list[Video]:
    """Read plain COCO annotations; each image becomes a video of one frame.

    Args:
        json_file: COCO's JSON. An image may carry ``patient``; else it is its own patient.
        image_root: the folder that file names are relative to; None: the folder of the JSON.
        class_agnostic: one class, "lesion", whatever the annotation's category.

    Raises:
        DataError: as `load_cva_bus`.
    """
    path = Path(json_file)
    content = _read_json(path, needed=("images", "annotations"))
    content = dict(content)
    content["videos"] = [
        {
            "id": image.get("id"),
            "name": str(image.get("file_name")),
            "patient": image.get("patient", image.get("file_name")),
        }
        for image in content["images"]
    ]
    content["images"] = [{**image, "video_id": image.get("id"), "frame_id": 0} for image in content["images"]]
    return _build_videos(path, content, Path(image_root) if image_root else path.parent, {}, class_agnostic)


def _read_json(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise DataError(
            f"Data folder {str(path.parent)!r} is not there. Set the environment variable ULTRAVID_DATASETS to the folder "
            f"that holds the data sets, or the config's key of the data set's own folder or file."
        )
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.json"))
        raise DataError(f"{path} is not there; JSON files in its folder: {', '.join(there) or 'none'}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    for key in needed:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: holds no list {key!r}, which the format asks for.")
        if not all(isinstance(row, dict) for row in content[key]):
            raise DataError(f"{path}: {key!r} holds something that is no object.")
    return dict(content)


def _read_patients(path: str | Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the table of patients can't be read: {error}") from error
    if not isinstance(table, dict):
        raise DataError(f"{path}: the table of patients must be an object from video name to patient.")
    return {str(k): str(v) for k, v in table.items()}


def _duplicates(values: Iterable[Any]) -> set[Any]:
    return {value for value, times in Counter(map(_hashable, values)).items() if times > 1}


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | str) or value is None else repr(value)


def _build_videos(
    path: Path,
    content: dict[str, Any],
    image_root: Path,
    patients: dict[str, str],
    class_agnostic: bool,
) -> list[Video]:
    faults = _Faults(path)
    names, images = _index(content, faults)
    faults.raise_if_any()  # later checks need sound ids
    boxes = _group_annotations(content["annotations"], images, names, faults)
    listed = [c.get("id") for c in content.get("categories", []) if isinstance(c, dict)]
    categories = sorted({*listed, *(a.get("category_id", 1) for a in content["annotations"])}, key=str)
    class_of = {category: 0 if class_agnostic else i for i, category in enumerate(categories)}
    frames: dict[Any, list[tuple[int, Frame]]] = defaultdict(list)
    listing = _Listing(image_root)
    for image in content["images"]:
        where = f"video {names[image['video_id']]!r} frame {image['frame_id']}"
        file = listing.find(str(image["file_name"]))
        if file is None:
            faults.found.append(f"{where}: {image_root / str(image['file_name'])} is not on disk")
            continue
        fault = image_fault(file, image["height"], image["width"])
        if fault is not None:
            faults.found.append(f"{where}: {file} {fault}")
            continue
        rows = boxes.get(image["id"], [])
        frame = Frame(
            path=str(file),
            image_id=image["id"],
            height=image["height"],
            width=image["width"],
            boxes=np.asarray([r[0] for r in rows], np.float32).reshape(-1, 4),
            classes=np.asarray([class_of[r[1]] for r in rows], np.int64),
            track_ids=np.asarray([r[2] for r in rows], np.int64),
        )
        frames[image["video_id"]].append((image["frame_id"], frame))
    faults.raise_if_any()
    faults.log_mended()
    videos = []
    for row in content["videos"]:
        numbered = sorted(frames[row["id"]], key=lambda pair: pair[0])
        if not numbered:
            logger.warning("%s: video %r has no frame and is left out.", path, names[row["id"]])
            continue
        name = names[row["id"]]
        given = patients.get(name, row.get("patient"))
        patient = _SIDE_SUFFIX.sub("", Path(name).stem) if given is None else str(given)
        fps = float(row["fps"]) if row.get("fps") else None
        videos.append(Video(name, tuple(f for _, f in numbered), patient, fps))
    return videos


def _index(content: dict[str, Any], faults: _Faults) -> tuple[dict[Any, str], dict[Any, dict[str, Any]]]:
    """Video names and images by id, with every fault of ids and sizes noted."""
    names = {_hashable(row.get("id")): str(row.get("name")) for row in content["videos"]}
    for kind, values in (
        ("videos have the id", (row.get("id") for row in content["videos"])),
        ("videos have the name", (row.get("name") for row in content["videos"])),
        ("images have the id", (row.get("id") for row in content["images"])),
    ):
        faults.found += [f"two {kind} {value!r}" for value in sorted(_duplicates(values), key=str)]
    images = {}
    seen: set[tuple[Any, Any]] = set()
    for image in content["images"]:
        if not isinstance(image.get("id"), int | str):
            faults.found.append(f"image {image.get('file_name')!r} has the id {image.get('id')!r}")
            continue
        missing = [k for k in ("id", "video_id", "frame_id", "file_name", "height", "width") if image.get(k) is None]
        if missing:
            faults.found.append(f"image {image.get('id')!r} ({image.get('file_name')!r}) has no {missing[0]!r}")
            continue
        if image["video_id"] not in names:
            faults.found.append(f"image {image['id']!r} belongs to video {image['video_id']!r}, which is not listed")
            continue
        where = f"video {names[image['video_id']]!r} frame {image['frame_id']!r}"
        if not all(isinstance(image[k], int) and image[k] > 0 for k in ("height", "width")):
            faults.found.append(f"{where}: height {image['height']!r} and width {image['width']!r} are no sizes")
        if not isinstance(image["frame_id"], int):
            faults.found.append(f"{where}: frame_id is no whole number")
        if (image["video_id"], image["frame_id"]) in seen:
            faults.found.append(f"{where} is listed twice")
        seen.add((image["video_id"], image["frame_id"]))
        images[image["id"]] = image
    return names, images


def _group_annotations(
    annotations: list[dict[str, Any]],
    images: dict[Any, dict[str, Any]],
    names: dict[Any, str],
    faults: _Faults,
) -> dict[Any, list[tuple[list[float], Any, int]]]:
    """(XYXY box, category, track) of each image's annotations."""
    grouped: dict[Any, list[tuple[list[float], Any, int]]] = defaultdict(list)
    for annotation in annotations:
        image_id = annotation.get("image_id")
        image = images.get(image_id) if isinstance(image_id, int | str) else None
        label = f"annotation {annotation.get('id')!r}"
        track = annotation.get("instance_id") or 0
        if not isinstance(track, int) or not isinstance(annotation.get("category_id", 1), int):
            faults.found.append(f"{label}: instance_id {track!r} or category_id is no whole number")
            continue
        if image is None:
            faults.found.append(f"{label} belongs to image {annotation.get('image_id')!r}, which is not listed")
            continue
        where = f"video {names[image['video_id']]!r} frame {image['frame_id']} {label}"
        if annotation.get("iscrowd"):
            faults.found.append(f"{where}: is a crowd region, not one lesion")
            continue
        box = _usable_box(annotation.get("bbox"), image, where, faults)
        if box is not None:
            grouped[image["id"]].append((box, annotation.get("category_id", 1), track))
    return grouped


def _usable_box(bbox: Any, image: dict[str, Any], where: str, faults: _Faults) -> list[float] | None:
    """XYXY of COCO's [x, y, width, height] inside the frame, or None with the fault noted."""
    numbers = isinstance(bbox, list) and len(bbox) == 4
    if not numbers or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in bbox):
        faults.found.append(f"{where}: box {bbox!r} is not four numbers")
        return None
    if not all(math.isfinite(v) for v in bbox):
        faults.found.append(f"{where}: box {bbox!r} holds a nan or an infinite number")
        return None
    x, y, width, height = (float(v) for v in bbox)
    if width < 0 or height < 0:
        faults.mended["had a negative width or height and were turned round"].append(f"{where} {bbox}")
    left, right = sorted((x, x + width))
    top, bottom = sorted((y, y + height))
    clipped = [
        max(left, 0.0),
        max(top, 0.0),
        min(right, float(image["width"])),
        min(bottom, float(image["height"])),
    ]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        what = "is empty" if right == left or bottom == top else "lies outside the frame"
        faults.found.append(f"{where}: box {bbox} {what} ({image['width']}x{image['height']} px)")
        return None
    if clipped != [left, top, right, bottom]:
        faults.mended["went past the frame's edge and were clipped to it"].append(f"{where} {bbox}")
    return clipped


class _Listing:
    """Finds files by reading each folder once: asking for 25,000 files one by one is slow on a network drive."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[Path, set[str]] = {}

    def find(self, name: str) -> Path | None:
        for candidate in (
            self.root / name,
            self.root.parent / name if name.startswith("rawframes/") else None,
        ):
            if candidate is None:
                continue
            folder = candidate.parent
            if folder not in self.folders:
                self.folders[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
            if candidate.name in self.folders[folder]:
                return candidate
        return None
