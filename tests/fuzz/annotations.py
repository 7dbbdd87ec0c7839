"""Annotations: what each file holds is counted once more, by the plainest code that can do it.

Of every box that a file has, the reader's result has one too, or something was said about it; and every box of the result is one
of the file's, cut at the frame's edge.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import pickle
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.recordings import HOSPITAL_COLUMNS
from tests.fuzz.harness import Complaint, Family, Files, Reading, content_of
from tests.fuzz.images import HEIGHT, WIDTH, picture, png_bytes
from ultravid.datasets import (
    Frame,
    Video,
    load_coco_stills,
    load_coco_video,
    load_cva_bus,
    load_cvat_video,
    load_hospital_csv,
    load_labelme,
)
from ultravid.datasets.faults import FaultSink

__all__ = ["FAMILIES", "coco_content", "cvat_xml"]

Box = tuple[float, float, float, float]


def coco_content(prefix: str = "") -> dict[str, Any]:
    """COCO-VID of two videos, three frames each, five boxes of three lesions."""
    videos = [
        {"id": 1, "name": "v", "fps": 25, "patient": "p", "device": "d", "spacing_mm": 0.1},
        {"id": 2, "name": "w", "fps": 30.0, "patient": "q", "metadata": {"organ": "breast"}, "static_frames": [[0, 1]]},
    ]
    images = [
        {"id": 3 * v + k, "video_id": v, "frame_id": k, "file_name": f"{prefix}{'-vw'[v]}/{k:06d}.png"}
        | {"height": HEIGHT, "width": WIDTH}
        for v in (1, 2)
        for k in range(3)
    ]
    boxes = [
        (3, 0, [1, 2, 5, 6]),
        (4, 0, [2, 2, 5, 6]),
        (4, 1, [8.5, 1, 4, 4]),
        (6, 2, [0, 0, 16, 12]),
        (8, 2, [3, 4, 6, 5]),
    ]
    annotations = [
        {"id": n, "image_id": image, "video_id": 1 if image < 6 else 2, "bbox": box, "instance_id": lesion}
        | {"category_id": 1 + lesion % 2, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, lesion, box) in enumerate(boxes)
    ]
    categories = [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}]
    return {"videos": videos, "images": images, "annotations": annotations, "categories": categories}


def _pictures(prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{name}/{k:06d}.png": png_bytes(k) for name in "vw" for k in range(3)}


def _coco_video_seeds() -> Sequence[Files]:
    return [{"x.json": json.dumps(coco_content()).encode(), **_pictures()}]


def _cva_bus_seeds() -> Sequence[Files]:
    return [{"trainval.json": json.dumps(coco_content()).encode(), **_pictures("rawframes/")}]


def _coco_stills_seeds() -> Sequence[Files]:
    content = coco_content()
    del content["videos"]
    for image in content["images"]:
        del image["video_id"], image["frame_id"]
        image["patient"] = "p"
    for annotation in content["annotations"]:
        del annotation["video_id"]
    return [{"x.json": json.dumps(content).encode(), **_pictures()}]


def _read_coco_video(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_coco_video(json_file=folder / "x.json", class_agnostic=False, faults=sink)


def _read_coco_stills(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_coco_stills(json_file=folder / "x.json", class_agnostic=False, faults=sink)


def _read_cva_bus(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_cva_bus(root=folder, class_agnostic=False, faults=sink)


def _check_coco(file: str, stills: bool, folder: Path, reading: Reading) -> None:
    content = _json(folder / file)
    frames = _frames(reading.value)
    rows = [row for row in content.get("annotations", ()) if isinstance(row, dict)]
    _compare_boxes(((frame.image_id, frame) for frame in frames), rows, _coco_box, reading)
    names: dict[Any, Any] = {}
    for row in content["images"]:
        if isinstance(row, dict):
            names.setdefault(_key(row.get("id")), row.get("file_name"))  # the reader rejects an id's second row
    for frame in frames:
        name = str(names[_key(frame.image_id)])
        assert Path(frame.path).name == Path(name).name, f"another file: {frame.path} for {name}"
    if len(frames) < len(content["images"]):
        assert reading.said, f"fewer frames: {len(frames)} of {len(content['images'])}, and nothing was said"
    for video in reading.value if not stills else ():
        _check_video_row(video, content["videos"], reading)


def _check_video_row(video: Video, rows: Sequence[Any], reading: Reading) -> None:
    row = next(r for r in rows if str(r.get("id") if r.get("name") is None else r["name"]) == video.video_id)
    stated = row.get("fps")
    if _is_number(stated) and stated > 0:
        assert video.fps == stated or reading.said, f"another rate: {video.fps} for {stated}"
    elif stated is not None and stated != 0:
        assert reading.said, f"a rate is taken: for {stated!r}, which is none"
    if isinstance(row.get("patient"), str) and any(map(str.isalnum, row["patient"])) and not reading.said:
        assert video.patient == row["patient"], f"another patient: {video.patient!r} for {row['patient']!r}"


def _coco_box(row: Any) -> tuple[Any, Box | None]:
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return _key(row.get("image_id")), None
    return _key(row.get("image_id")), (box[0], box[1], box[0] + box[2], box[1] + box[3])


def _compare_boxes(
    found: Iterable[tuple[Any, Frame]],
    rows: Iterable[Any],
    box_of: Callable[[Any], tuple[Any, Box | None]],
    reading: Reading,
) -> None:
    """The boxes of the result are those of the file, cut at the edge; those that are missing are no more than what was said.

    Args:
        found: (key, frame) of what was read.
        rows: of the file, each with one box.
        box_of: the key of a row's frame, and its two corners; None if it has none that are numbers.
        reading: what was said.
    """
    by_key: dict[Any, list[Box]] = {}
    number = 0
    for row in rows:
        number += 1
        key, box = box_of(row)
        if box is not None:
            by_key.setdefault(key, []).append(box)
    kept = 0
    for key, frame in found:
        left = [_cut(box, frame.height, frame.width) for box in by_key.get(_key(key), [])]
        for box in frame.boxes.tolist():
            kept += 1
            near = [other for other in left if np.allclose(other, box, atol=2e-3)]
            assert near, f"a box of no row: {box} in frame {key!r}; the file has {left}"
            left.remove(near[0])
    missing = number - kept
    assert not missing or reading.said, f"boxes vanish: {missing} of {number}, and nothing was said"


def _cut(box: Box, height: int, width: int) -> Box:
    (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def _json(path: Path) -> Any:
    try:
        return json.loads(content_of(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Complaint(f"json: {error}") from error


def _frames(videos: Iterable[Video]) -> list[Frame]:
    return [frame for video in videos for frame in video.frames]


def _key(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else repr(value)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def cvat_xml(step: int = 1, start: int = 0) -> bytes:
    """Two tracks over six frames of a film; the second one ends before the last."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    for tag, text in (("id", "7"), ("name", "t"), ("size", "6"), ("mode", "interpolation"), ("source", "v")):
        ET.SubElement(task, tag).text = text
    for tag, number in (("start_frame", start), ("stop_frame", start + 5 * step)):
        ET.SubElement(task, tag).text = str(number)
    ET.SubElement(task, "frame_filter").text = f"step={step}" if step > 1 else ""
    size = ET.SubElement(task, "original_size")
    ET.SubElement(size, "width").text, ET.SubElement(size, "height").text = str(WIDTH), str(HEIGHT)
    labels = ET.SubElement(task, "labels")
    for name in ("benign", "malignant"):
        ET.SubElement(ET.SubElement(labels, "label"), "name").text = name
    for track, (label, frames) in enumerate((("benign", range(6)), ("malignant", range(1, 4)))):
        element = ET.SubElement(root, "track", id=str(track), label=label, source="manual")
        for frame in frames:
            last = track == 1 and frame == 3
            box = {"frame": str(start + frame * step), "outside": str(int(last)), "occluded": "0", "keyframe": "1"}
            corners = {"xtl": f"{1 + frame}.50", "ytl": "2", "xbr": f"{7 + frame}", "ybr": str(8 + track)}
            ET.SubElement(element, "box", {**box, **corners, "z_order": "0"})
    return ET.tostring(root)


def _cvat_seeds() -> Sequence[Files]:
    film = {f"v/{k:02d}.png": png_bytes(k) for k in range(12)}
    return [{"v.xml": cvat_xml(step, start), **film} for step, start in ((1, 0), (1, 4), (2, 0))]


def _read_cvat(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_cvat_video(xml=folder / "v.xml", source=folder / "v", class_agnostic=False, faults=sink)


def _check_cvat(folder: Path, reading: Reading) -> None:
    """Boxes that the file has on a frame are there; those between key frames may come besides."""
    try:
        root = ET.fromstring(content_of(folder / "v.xml"))
    except (ET.ParseError, ValueError, LookupError) as error:
        raise Complaint(f"XML: {error}") from error
    shown = [
        (element.get("frame"), corners)
        for track in root.findall("track")
        for element in track
        if element.tag == "box" and element.get("outside") != "1" and (corners := _cvat_corners(element)) is not None
    ]
    by_number = {int(Path(frame.path).stem): frame for frame in _frames(reading.value)}
    for text, corners in shown:
        frame = by_number.get(int(str(text))) if str(text).strip().isdecimal() else None
        boxes = [] if frame is None else frame.boxes.tolist()
        there = frame and any(np.allclose(_cut(corners, HEIGHT, WIDTH), box, atol=2e-3) for box in boxes)
        assert there or reading.said, f"a box vanishes: that of film frame {text}, {corners}; there are {boxes}"


def _cvat_corners(element: ET.Element) -> Box | None:
    try:
        corners = [float(element.get(key) or "nan") for key in ("xtl", "ytl", "xbr", "ybr")]
    except ValueError:
        return None
    return (corners[0], corners[1], corners[2], corners[3]) if all(map(math.isfinite, corners)) else None


def _labelme_seeds() -> Sequence[Files]:
    files: dict[str, bytes] = {f"v/{k}.png": png_bytes(k) for k in range(3)}
    shapes = [
        {"label": "benign", "points": [[1, 2], [6, 8]], "group_id": 0, "shape_type": "rectangle", "flags": {}},
        {
            "label": "malignant",
            "points": [[8, 2], [14, 3], [9, 9]],
            "group_id": 1,
            "shape_type": "polygon",
            "flags": {},
        },
        {"label": "benign", "points": [[8, 6], [10, 6]], "group_id": 2, "shape_type": "circle", "flags": {}},
    ]
    for k in range(3):
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes[: k + 1],
            "imagePath": f"{k}.png",
            "imageData": None,
        }
        files[f"v/{k}.json"] = json.dumps(content | {"imageHeight": HEIGHT, "imageWidth": WIDTH}).encode()
    return [files]


def _read_labelme(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_labelme(root=folder, classes=["benign", "malignant"], class_agnostic=False, faults=sink)


def _check_labelme(folder: Path, reading: Reading) -> None:
    rows = []
    for path in sorted(folder.rglob("*.json")):
        if not path.is_file():
            continue
        content = _json(path)
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            raise Complaint(f"{path.name} has no list of shapes")
        rows += [(path.stem, shape) for shape in shapes]
    pairs = [(Path(frame.path).stem, frame) for frame in _frames(reading.value)]
    _compare_boxes(pairs, rows, _labelme_box, reading)


def _labelme_box(row: tuple[str, Any]) -> tuple[str, Box | None]:
    stem, shape = row
    points = shape.get("points") if isinstance(shape, dict) else None
    try:
        if not all(_is_number(v) for point in points for v in point):
            return stem, None
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        if shape.get("shape_type") == "circle":
            radius = math.dist(points[0], points[1])
            return stem, (xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius)
        return stem, (min(xs), min(ys), max(xs), max(ys))
    except (TypeError, LookupError, ValueError, OverflowError):
        return stem, None


def _hospital_seeds() -> Sequence[Files]:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(HOSPITAL_COLUMNS)
    writer.writerow(["v.pkl", "v", "False", "p1/v.mp4", "A", "json", "False", "1", "d"])
    writer.writerow(["", "w", "True", "p2/w.mp4", "B", "json", "False", "2", "e"])
    rows: dict[int, list[dict[str, Any]]] = {
        0: [{"box": [1, 2, 7, 8], "class": "Mass", "track_id": 0}],
        2: [
            {"box": [2.5, 2, 7, 8], "class": "Mass", "track_id": 0},
            {"box": [9, 1, 15, 6], "class": "Lymph-node", "track_id": 1},
        ],
    }
    info = {"num_frames": 3, "cropped_shape": [HEIGHT, WIDTH], "empty_flag": False, "static_frames": [[0, 1]]}
    files = {"breast/20230101-120000.csv": table.getvalue().encode(), "breast/v.pkl": pickle.dumps({"frames": rows})}
    for name in "vw":
        files[f"breast/{name}/info.json"] = json.dumps(info).encode()
        files |= {f"breast/{name}/{k}.jpg": _jpeg(k) for k in range(3)}
    return [files]


@functools.cache
def _jpeg(seed: int) -> bytes:
    import cv2

    return bytes(cv2.imencode(".jpg", picture(seed))[1].tobytes())


def _read_hospital(folder: Path, sink: FaultSink | None) -> list[Video]:
    return load_hospital_csv(root=folder, datasets=["breast_ALL@20230101-120000"], class_agnostic=False, faults=sink)


def _check_hospital(folder: Path, reading: Reading) -> None:
    """Rows of the table, frames of the folders and boxes of the pickles."""
    text = content_of(folder / "breast/20230101-120000.csv").decode("utf-8-sig")
    table = list(csv.DictReader(io.StringIO(text, newline=""), restval=""))
    assert len(reading.value) == len(table) or reading.said, f"videos vanish: {len(reading.value)} of {len(table)}"
    for video in reading.value:
        row = next(r for r in table if f"breast/{r['jpg_folder']}" == video.video_id)
        images = [p for p in (folder / "breast" / row["jpg_folder"]).iterdir() if p.suffix == ".jpg"]
        assert len(video) == len(images) or reading.said, f"frames vanish: {len(video)} of {len(images)}"
        stems = [path.stem for path in images]
        if sorted(stems) != [str(k) for k in range(len(stems))]:
            continue  # renamed images are frames in another order
        pairs = [(int(Path(frame.path).stem), frame) for frame in video.frames]
        path = folder / "breast" / row["pkl_file"]
        content = _unpickled(path) if row["pkl_file"] else {"frames": {}}
        rows = [(number, box) for number, boxes in content["frames"].items() for box in boxes]
        _compare_boxes(pairs, rows, _hospital_box, reading)


def _unpickled(path: Path) -> Any:
    class Plain(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise Complaint(f"the pickle names {module}.{name}")

    try:
        return Plain(io.BytesIO(content_of(path))).load()
    except Complaint:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise Complaint(f"pickle: {error}") from error


def _hospital_box(row: tuple[int, Any]) -> tuple[int, Box | None]:
    box = row[1].get("box") if isinstance(row[1], dict) else None
    numbers = isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box))
    return row[0], (box[0], box[1], box[2], box[3]) if numbers else None


FAMILIES = (
    Family(
        "coco-video", _coco_video_seeds, ["x.json"], _read_coco_video, functools.partial(_check_coco, "x.json", False)
    ),
    Family(
        "coco-stills", _coco_stills_seeds, ["x.json"], _read_coco_stills, functools.partial(_check_coco, "x.json", True)
    ),
    Family(
        "cva-bus",
        _cva_bus_seeds,
        ["trainval.json", "rawframes/v/*.png"],
        _read_cva_bus,
        functools.partial(_check_coco, "trainval.json", False),
    ),
    Family("cvat-video", _cvat_seeds, ["v.xml"], _read_cvat, _check_cvat),
    Family("labelme", _labelme_seeds, ["v/*"], _read_labelme, _check_labelme),
    Family("hospital-csv", _hospital_seeds, ["breast/*"], _read_hospital, _check_hospital),
)
