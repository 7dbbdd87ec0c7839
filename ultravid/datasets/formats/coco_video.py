"""Readers of annotations in COCO's JSON: videos (COCO-VID), videos in the layout of CVA-BUS, and stills.

COCO-VID holds ``videos[]{id, name}``, ``images[]{id, video_id, frame_id, file_name, height, width}`` and
``annotations[]{id, image_id, bbox: [x, y, width, height], instance_id, category_id}``; ``track_id`` is taken where there is no
``instance_id``. A video may say its ``fps``, ``patient``, ``device``, ``organ``, ``hospital``, ``spacing_mm``, and more under
``metadata``, and its ``static_frames`` as a list of [first, last].

CVA-BUS (Lin et al., "A new dataset and a baseline model for breast lesion detection in ultrasound videos", MICCAI 2022)
lies on disk as ``<root>/{trainval,test}.json`` and ``<root>/rawframes/{benign,malignant}/<video>/%06d.png``. Its public
files hold frames without a box, frame numbers that do not run from 0, pictures that are not square, boxes of negative
width or height (the corner is on the other side), boxes past the frame's edge and boxes held over many frames. The first
three and the last are read as they are; the two kinds of boxes in between are mended, and how many is logged. Anything
else that is wrong is refused.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ultravid.datasets.faults import Faults
from ultravid.datasets.formats.common import (
    Row,
    check_patients,
    check_unique_ids,
    duplicates,
    hashable,
    make_frame,
    metadata_of,
    patient_from_name,
    picture_fault_kind,
    rate_of,
    read_json,
    read_patients,
    static_frames_fault,
    usable_box,
)
from ultravid.datasets.image_io import image_fault
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.video import DataError, Frame, Video

__all__ = ["load_coco_stills", "load_coco_video", "load_cva_bus"]

logger = logging.getLogger(__name__)


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
    paths = [root / f"{split}.json" for split in splits]

    def build() -> Index:
        table = read_patients(patients)
        parts = [_read_videos(path, [root / "rawframes", root], table, class_agnostic) for path in paths]
        videos = [video for part in parts for video in part.videos]
        twice = sorted(duplicates(v.video_id for v in videos))
        if twice:
            faults = Faults(root)
            more = "" if len(twice) == 1 else f" ({len(twice)} do)"
            faults.add("two videos with one id", f"video {twice[0]!r} stands in more than one split{more}")
            faults.raise_if_any()
        return Index(videos, [warning for part in parts for warning in part.warnings])

    return _cached("cva_bus", {"class_agnostic": class_agnostic}, paths, patients, build)


def load_coco_video(
    *,
    json_file: str | Path,
    image_root: str | Path | None = None,
    patients: str | Path | None = None,
    class_agnostic: bool = True,
) -> list[Video]:
    """Read a file of COCO-VID.

    Args:
        json_file: the JSON.
        image_root: the folder that file names are relative to; None: the folder of the JSON.
        patients: as of `load_cva_bus`.
        class_agnostic: one class, "lesion", whatever the annotation's category.

    Raises:
        DataError: as `load_cva_bus`.
    """
    path = Path(json_file)
    root = Path(image_root) if image_root else path.parent
    arguments = {"class_agnostic": class_agnostic, "image_root": str(root.absolute())}
    return _cached(
        "coco_video",
        arguments,
        [path],
        patients,
        lambda: _read_videos(path, [root], read_patients(patients), class_agnostic),
    )


def load_coco_stills(
    *, json_file: str | Path, image_root: str | Path | None = None, class_agnostic: bool = True
) -> list[Video]:
    """Read plain COCO annotations; each image becomes a video of one frame.

    Args:
        json_file: COCO's JSON. An image may carry ``patient``, ``device``, ...; without the first it is its own patient.
        image_root: the folder that file names are relative to; None: the folder of the JSON.
        class_agnostic: one class, "lesion", whatever the annotation's category.

    Raises:
        DataError: as `load_cva_bus`.
    """
    path = Path(json_file)
    root = Path(image_root) if image_root else path.parent
    arguments = {"class_agnostic": class_agnostic, "image_root": str(root.absolute())}
    return _cached(
        "coco_stills",
        arguments,
        [path],
        None,
        lambda: _build_videos(path, _stills_as_videos(path), [root], {}, class_agnostic),
    )


def _stills_as_videos(path: Path) -> dict[str, Any]:
    content = _read_content(path, needed=("images", "annotations"))
    videos = [
        {
            **image,
            "name": str(image.get("file_name")),
            "patient": image.get("patient", image.get("file_name")),
            "fps": None,
        }
        for image in content["images"]
    ]
    images = [{**image, "video_id": image.get("id"), "frame_id": 0} for image in content["images"]]
    return {**content, "videos": videos, "images": images}


def _cached(
    reader: str, arguments: dict[str, Any], paths: list[Path], patients: str | Path | None, build: Any
) -> list[Video]:
    return cached_index(reader, arguments, [*paths, *([Path(patients)] if patients is not None else [])], build)


def _read_videos(path: Path, roots: Sequence[Path], patients: Mapping[str, str], class_agnostic: bool) -> Index:
    content = _read_content(path, needed=("videos", "images", "annotations"))
    return _build_videos(path, content, roots, patients, class_agnostic)


def _read_content(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise DataError(
            f"Data folder {str(path.parent)!r} is not there. Set the environment variable ULTRAVID_DATASETS to the folder "
            f"that holds the data sets, or the config's key of the data set's own folder or file."
        )
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.json"))
        raise DataError(f"{path} is not there; JSON files in its folder: {', '.join(there) or 'none'}.")
    content = read_json(path)
    for key in needed:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: holds no list {key!r}, which the format asks for.")
        if not all(isinstance(row, dict) for row in content[key]):
            raise DataError(f"{path}: {key!r} holds something that is no object.")
    return dict(content)


def _build_videos(
    path: Path, content: dict[str, Any], roots: Sequence[Path], patients: Mapping[str, str], class_agnostic: bool
) -> Index:
    faults = Faults(path)
    names, images = _index(content, faults)
    faults.raise_if_any()  # later checks need sound ids
    if patients:
        check_patients(patients, names.values(), path)
    class_of, class_names = _classes(content, class_agnostic)
    rows = _group_annotations(content["annotations"], images, names, class_of, faults)
    frames: dict[Any, list[tuple[int, Frame]]] = defaultdict(list)
    listing = _Listing(roots)
    for image in images.values():
        file = _usable_file(image, names[image["video_id"]], listing, faults)
        if file is not None:
            frame = make_frame(
                (str(file), None), image["id"], (image["height"], image["width"]), rows.get(image["id"], [])
            )
            frames[image["video_id"]].append((image["frame_id"], frame))
    videos, warnings = [], []
    for row in content["videos"]:
        name = names.get(hashable(row.get("id")), "")
        numbered = sorted(frames[hashable(row.get("id"))], key=lambda pair: pair[0])
        if not numbered:
            warnings.append(f"{path}: video {name!r} has no frame and is left out.")
            continue
        given = patients.get(name, row.get("patient"))
        patient = patient_from_name(name) if given is None else str(given)
        fps = rate_of(row.get("fps"), f"video {name!r}", faults)
        static = _static_frames(row, len(numbered), faults)
        videos.append(Video(name, tuple(f for _, f in numbered), patient, fps, metadata_of(row), class_names, static))
    videos = check_unique_ids(videos, faults)
    return Index(videos, faults.close() + warnings)


def _static_frames(row: Mapping[str, Any], num_frames: int, faults: Faults) -> tuple[tuple[int, int], ...]:
    given = row.get("static_frames") or []
    if static_frames_fault(given, num_frames):
        faults.add("bad static_frames", f"video {row.get('name')!r}: {static_frames_fault(given, num_frames)}")
        return ()
    return tuple((first, last) for first, last in given)


def _classes(content: dict[str, Any], class_agnostic: bool) -> tuple[dict[Any, int], tuple[str, ...]]:
    """(class of each category id, the classes' names): categories by their ids, whether listed or only used."""
    listed = {hashable(c.get("id")): str(c.get("name")) for c in content.get("categories") or [] if isinstance(c, dict)}
    used = {hashable(a.get("category_id", 1)) for a in content["annotations"]}
    ids = sorted(
        {*map(hashable, listed), *used}, key=lambda i: (not isinstance(i, int), i if isinstance(i, int) else 0, str(i))
    )
    if class_agnostic:
        return dict.fromkeys(ids, 0), ("lesion",)
    return {c: k for k, c in enumerate(ids)}, tuple(listed.get(c, str(c)) for c in ids)


def _usable_file(image: dict[str, Any], video: str, listing: _Listing, faults: Faults) -> Path | None:
    where = f"video {video!r} frame {image['frame_id']}"
    name = str(image["file_name"])
    file = listing.find(name)
    if file is None:
        faults.add("frame is missing", f"{where}: {listing.roots[0] / name} is not on disk")
        return None
    fault = image_fault(file, image["height"], image["width"])
    if fault is not None:
        faults.add(picture_fault_kind(fault), f"{where}: {file} {fault}")
        return None
    return file


def _index(content: dict[str, Any], faults: Faults) -> tuple[dict[Any, str], dict[Any, dict[str, Any]]]:
    """Video names and sound images by id, with every fault of ids and sizes noted."""
    names = {hashable(row.get("id")): str(_name_of(row)) for row in content["videos"]}
    for kind, values in (
        ("videos have the id", (row.get("id") for row in content["videos"])),
        ("videos have the name", (_name_of(row) for row in content["videos"])),
        ("images have the id", (row.get("id") for row in content["images"])),
    ):
        for value in sorted(duplicates(values), key=str):
            faults.add("an id is used twice", f"two {kind} {value!r}")
    images: dict[Any, dict[str, Any]] = {}
    seen: set[tuple[Any, Any]] = set()
    for image in content["images"]:
        fault = _image_row_fault(image, names, seen)
        if fault is not None:
            faults.add("bad image row", fault)
        else:
            seen.add((image["video_id"], image["frame_id"]))
            images[image["id"]] = image
    return names, images


def _image_row_fault(image: dict[str, Any], names: dict[Any, str], seen: set[tuple[Any, Any]]) -> str | None:
    if not isinstance(image.get("id"), int | str):
        return f"image {image.get('file_name')!r} has the id {image.get('id')!r}"
    missing = [k for k in ("id", "video_id", "frame_id", "file_name", "height", "width") if image.get(k) is None]
    if missing:
        return f"image {image.get('id')!r} ({image.get('file_name')!r}) has no {missing[0]!r}"
    if not isinstance(image["video_id"], int | str) or image["video_id"] not in names:
        return f"image {image['id']!r} belongs to video {image['video_id']!r}, which is not listed"
    where = f"video {names[image['video_id']]!r} frame {image['frame_id']!r}"
    if not all(isinstance(image[k], int) and image[k] > 0 for k in ("height", "width")):
        return f"{where}: height {image['height']!r} and width {image['width']!r} are no sizes"
    if not isinstance(image["frame_id"], int):
        return f"{where}: frame_id is no whole number"
    return f"{where} is listed twice" if (image["video_id"], image["frame_id"]) in seen else None


def _group_annotations(
    annotations: list[dict[str, Any]],
    images: dict[Any, dict[str, Any]],
    names: dict[Any, str],
    class_of: dict[Any, int],
    faults: Faults,
) -> dict[Any, list[Row]]:
    """What is annotated in each image."""
    grouped: dict[Any, list[Row]] = defaultdict(list)
    for annotation in annotations:
        image_id = annotation.get("image_id")
        image = images.get(image_id) if isinstance(image_id, int | str) else None
        label = f"annotation {annotation.get('id')!r}"
        track = annotation.get("instance_id")
        track = annotation.get("track_id") or 0 if track is None else track
        if not isinstance(track, int) or not isinstance(annotation.get("category_id", 1), int):
            faults.add("bad annotation row", f"{label}: instance_id {track!r} or category_id is no whole number")
            continue
        if image is None:
            faults.add("bad annotation row", f"{label} belongs to image {image_id!r}, which is not listed")
            continue
        where = f"video {names[image['video_id']]!r} frame {image['frame_id']} {label}"
        if annotation.get("iscrowd"):
            faults.add("crowd region", f"{where}: is a crowd region, not one lesion")
            continue
        bbox = annotation.get("bbox")
        box = usable_box(_corners(bbox), image["height"], image["width"], where, faults, written=bbox)
        if box is not None:
            grouped[image["id"]].append((box, class_of[annotation.get("category_id", 1)], track))
    return grouped


def _corners(bbox: Any) -> Any:
    """XYXY of COCO's [x, y, width, height]; what is not four numbers is left as it is, to be refused."""
    if isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, int | float) for v in bbox):
        x, y, width, height = bbox
        return [x, y, x + width, y + height]
    return bbox


class _Listing:
    """Finds files by reading each folder once: asking for 25,000 files one by one is slow on a network drive."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots
        self.folders: dict[Path, set[str]] = {}

    def find(self, name: str) -> Path | None:
        for candidate in (root / name for root in self.roots):
            folder = candidate.parent
            if folder not in self.folders:
                self.folders[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
            if candidate.name in self.folders[folder]:
                return candidate
        return None


def _name_of(row: Mapping[str, Any]) -> Any:
    """A video's name; one without a name is called by its id."""
    return row["name"] if row.get("name") is not None else row.get("id")
