"""Reader of folders that were annotated with LabelMe: images with a JSON file of the same stem beside each.

An image without JSON is a frame without lesion. Shapes of one ``group_id`` are a track. Rectangles, and the bounds of polygons and
circles, are boxes. Images inside the JSON (``imageData``) are not read: the image's file must exist.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultravid.datasets.boxes import repair_box
from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.formats.common import Row, check_unique_ids, make_frame, make_video, require_folder
from ultravid.datasets.image_io import image_fault, image_fault_kind, image_size
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.json_files import read_json
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers import read_sidecar
from ultravid.datasets.readers.images import list_images, natural_order
from ultravid.datasets.video import DataError, Frame, Video

__all__ = ["load_labelme"]

_BY_ORDER = "shapes had no group_id and were tracked by their order in the frame"


def load_labelme(
    *,
    root: str | Path,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    patients: str | Path | None = None,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read a folder that was annotated with LabelMe.

    Args:
        root: a local or mounted folder. It, and every folder in it, is one video if it holds images, named by its path from
            ``root``.
        classes: labels in the order of their numbers; None: sorted by name.
        class_agnostic: use one class, "lesion", whatever the label.
        patients: a rule for patients, or a table of them by video name, see `ultravid.datasets.patients.patient_rule`. None: what a
            sidecar states.
        faults: collects all faults, and the videos and frames without them are returned.

    Raises:
        DataError: a file is missing or holds what can't be used. Without ``faults``, the first fault is reported with its video
            and frame, and the others are counted.
    """
    root = require_folder(root)

    def build() -> Index:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder.")
        own = FileFaults(root, faults)
        folders = sorted({root, *(p for p in root.rglob("*") if p.is_dir())}, key=lambda p: natural_order(str(p)))
        reader = _Reader(root, own, patient_rule(patients), class_agnostic)
        names = tuple(classes or ()) if classes is not None or class_agnostic else _labels(folders)
        for folder in folders:
            reader.read(folder, names)
        if not reader.videos and not own.rejected:
            raise DataError(f"{root}: no folder in it holds PNG or JPEG images.")
        reader.patients.check([video.video_id for video in reader.videos], own)
        videos = check_unique_ids(reader.videos, own)
        # A sidecar lies beside its folder, and a new folder changes the one above.
        return Index(videos, own.close(), (root.parent, *folders))

    arguments = {
        "root": str(root.absolute()),
        "classes": list(classes) if classes else None,
        "class_agnostic": class_agnostic,
        "patients": str(patients),
    }
    return cached_index("labelme", arguments, [table_address(patients)], build, faults)


def _labels(folders: Sequence[Path]) -> tuple[str, ...]:
    labels = set()
    for file in (f for folder in folders for f in _annotation_files(folder).values()):
        with contextlib.suppress(DataError):  # reported when its frame is read
            content = read_json(file)
            shapes = content.get("shapes") if isinstance(content, dict) else None
            labels |= {str(s.get("label")) for s in shapes or [] if isinstance(s, dict)}
    return tuple(sorted(labels))


def _annotation_files(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in folder.glob("*.json") if not p.name.endswith(".video.json")}


class _Reader:
    """Reads the videos of one call."""

    def __init__(self, root: Path, faults: FileFaults, patients: PatientRule, class_agnostic: bool) -> None:
        self.root = root
        self.faults = faults
        self.patients = patients
        self.class_agnostic = class_agnostic
        self.videos: list[Video] = []
        self.num_images = 0

    def read(self, folder: Path, classes: Sequence[str]) -> None:
        annotations = _annotation_files(folder)
        images = list_images(folder)
        name = folder.relative_to(self.root).as_posix() if folder != self.root else folder.name
        for stem in sorted({p.stem for p in images if sum(q.stem == p.stem for q in images) > 1} & set(annotations)):
            self.faults.reject("bad annotation file", f"video {name!r}: two images share {annotations[stem]}")
        if not images:
            return
        for stem in sorted(set(annotations) - {p.stem for p in images}):
            self.faults.reject(
                "frame is missing", f"video {name!r}: {annotations[stem]} has no image {stem}.png or .jpg"
            )
        frames = []
        for number, image in enumerate(images):
            frame = self._frame(image, annotations.get(image.stem), classes, f"video {name!r} frame {number}")
            frames += [frame] if frame is not None else []
            self.num_images += 1
        if frames:
            sidecar = read_sidecar(folder)
            patient = self.patients.patient(name, sidecar.patient)
            shown = ("lesion",) if self.class_agnostic else tuple(classes)
            self.videos.append(
                make_video(name, frames, patient, fps=sidecar.fps, metadata=sidecar.metadata, class_names=shown)
            )

    def _frame(self, image: Path, annotation: Path | None, classes: Sequence[str], where: str) -> Frame | None:
        try:
            content = read_json(annotation) if annotation is not None else {"shapes": []}
            size = _announced_size(content, annotation) if annotation is not None else image_size(image)
            fault = image_fault(image, *size)
        except DataError as error:
            self.faults.reject("bad annotation file", f"{where}: {str(error).rstrip('.')}")
            return None
        if fault is not None:
            self.faults.reject(image_fault_kind(fault), f"{where}: {image} {fault}")
            return None
        rows = self._rows(content["shapes"], size, classes, where)
        return make_frame((str(image), None), self.num_images, size, rows)

    def _rows(self, shapes: list[Any], size: tuple[int, int], classes: Sequence[str], where: str) -> list[Row]:
        rows: list[Row] = []
        ungrouped = 0
        for n, shape in enumerate(shapes):
            here = f"{where} shape {n}"
            corners = _bounds(shape)
            label = shape.get("label") if isinstance(shape, dict) else None
            if corners is None:
                kind = shape.get("shape_type") if isinstance(shape, dict) else type(shape).__name__
                self.faults.reject("bad shape", f"{here}: is a {kind!r} whose corners can't be read")
                continue
            if not self.class_agnostic and label not in classes:
                self.faults.reject("bad shape", f"{here}: label {label!r} is not one of {', '.join(classes)}")
                continue
            track = shape.get("group_id")
            if track is None:
                ungrouped += 1
                track = -ungrouped  # group numbers are not negative
                self.faults.repair(_BY_ORDER, here)
            if isinstance(track, bool) or not isinstance(track, int):
                self.faults.reject("bad shape", f"{here}: group_id {track!r} is not a whole number")
                continue
            box = repair_box(corners, *size, here, self.faults)
            if box is not None:
                rows.append((box, 0 if self.class_agnostic else list(classes).index(str(label)), track))
        return rows


def _announced_size(content: Any, path: Path) -> tuple[int, int]:
    found = content if isinstance(content, dict) else {}
    height, width = found.get("imageHeight"), found.get("imageWidth")
    if not isinstance(found.get("shapes"), list) or not isinstance(height, int) or not isinstance(width, int):
        raise DataError(f"{path}: is not a LabelMe file: it needs shapes, imageHeight and imageWidth.")
    return height, width


def _bounds(shape: Any) -> list[float] | None:
    """XYXY of a rectangle, polygon or circle; None for anything else."""
    points = shape.get("points") if isinstance(shape, dict) else None
    pairs = isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points)
    if (
        not pairs
        or not points
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for p in points for v in p)
    ):
        return None
    kind = shape.get("shape_type") or "polygon"
    if kind == "circle" and len(points) == 2:  # its centre, and a point on its edge
        (x, y), (u, v) = points
        radius = math.hypot(u - x, v - y)
        return [x - radius, y - radius, x + radius, y + radius]
    if (kind == "rectangle" and len(points) in (2, 4)) or (kind == "polygon" and len(points) >= 3):
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return [min(xs), min(ys), max(xs), max(ys)]
    return None
