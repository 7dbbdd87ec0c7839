"""Reader of folders that were annotated with LabelMe: images, and a JSON file for each annotated one.

A JSON file may lie beside its image or in another folder (``labelme --output``): its ``imagePath``, which is relative to it, leads to
the image. If there is no such image, the one with the JSON's name counts, beside it or the only one of that name; this is reported.
An image without JSON is a frame without lesion, which is reported too.

A folder is a video; with ``stills`` each image is. Shapes of one ``group_id`` are a track; those without:
`ultravid.datasets.formats.lesions`. Rectangles, and the bounds of polygons, circles, oriented rectangles and masks, are boxes;
points and lines are rejected. Images inside the JSON (``imageData``) are not read: the image's file must exist.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ultravid.datasets.bounds import frame_size_fault, is_whole
from ultravid.datasets.boxes import is_number, repair_box
from ultravid.datasets.faults import FaultSink, FileFaults, as_data_error
from ultravid.datasets.folders import natural_order, walk_folders
from ultravid.datasets.formats.common import check_unique_ids, make_frame, make_video, require_folder
from ultravid.datasets.formats.lesions import AnnotatedBox, number_lesions
from ultravid.datasets.image_io import check_image, image_fault_kind, image_size
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.json_files import read_json
from ultravid.datasets.missing_files import MissingFiles
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.readers import read_sidecar
from ultravid.datasets.readers.images import SKIPPED_NUMBERS, list_images, skipped_numbers
from ultravid.datasets.safe_files import NamedFiles
from ultravid.datasets.video import DataError, Video
from ultravid.utils.text import shown

__all__ = ["load_labelme"]

_BY_NAME = "annotation files were matched to an image by name, because their imagePath leads to none"
_OTHER_NAME = "annotation files have another name than the image that their imagePath names"
_NOT_LABELME = "JSON files are not LabelMe's and are not read"
_NO_FILE = "videos have images without an annotation file, which are read as frames without lesion"
_NOT_ENTERED = "folders are not read"
_NO_BOX = "data sets have no annotated box"
_FLAGGED = "annotation files have flags set, which are not read"
_DIFFICULT = "shapes are marked as difficult, and are read as lesions"

_HOW_TO_FIND = "put them beside their JSON files, or read a folder that holds both (a config's root; a tool's --path, or the path of its --data)"

_KEPT = ("shapes", "imagePath", "imageHeight", "imageWidth", "flags")
_WITH_BOX = ("rectangle", "polygon", "circle", "oriented_rectangle", "rotation", "mask")
_WITHOUT_BOX = ("point", "points", "line", "linestrip")


def load_labelme(
    *,
    root: str | Path,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    stills: bool = False,
    patients: str | Path | None = None,
    allow_outside_root: bool = False,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read a folder that was annotated with LabelMe.

    Args:
        root: a local or mounted folder. It, and every folder in it, is one video if it holds images, named by its path from
            ``root``.
        classes: labels in the order of their numbers; None: sorted by name.
        class_agnostic: use one class, "lesion", whatever the label.
        stills: each image is a video of one frame, named by its path from ``root``; its sidecar is beside it.
        patients: a rule for patients, or a table of them by video name, see `ultravid.datasets.patients.patient_rule`. None: what a
            sidecar states.
        allow_outside_root: read images that an ``imagePath`` names outside of ``root``; their folder is one more video.
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
        walked = walk_folders(root)
        folders = walked.folders
        for folder, reason in walked.left_out:
            own.repair(_NOT_ENTERED, f"{folder} {reason}")
        files = [_read_file(path) for folder in folders for path in _annotation_files(folder)]
        images = _Images(folders, NamedFiles(root, allow_outside_root=allow_outside_root))
        names = tuple(classes or ()) if classes is not None or class_agnostic else _labels(files)
        reader = _Reader(root, own, patient_rule(patients), class_agnostic, names, stills)
        matched = reader.match(files, images)
        reader.missing.report(len(files), own)
        reader.read_all(images, matched)
        reader.patients.check([video.video_id for video in reader.videos], own)
        if reader.videos and not any(video.boxes_per_frame.any() for video in reader.videos):
            used = sum(map(len, matched.values()))
            what = f"{sum(map(len, reader.videos))} images; {used} of {len(files)} JSON files belong to one of them"
            own.repair(_NO_BOX, f"{root}: {what}")
        videos = check_unique_ids(reader.videos, own)
        # A sidecar lies beside its folder, and a new folder changes the one above.
        return Index(videos, own.close(), (root.parent, *folders))

    arguments = {
        "root": str(root.absolute()),
        "classes": list(classes) if classes else None,
        "class_agnostic": class_agnostic,
        "stills": stills,
        "patients": str(patients),
        "allow_outside_root": allow_outside_root,
    }
    return cached_index("labelme", arguments, [table_address(patients)], build, faults)


@dataclass
class _AnnotationFile:
    """A JSON file: what is needed of its content, or why it can't be read."""

    path: Path
    content: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None
    has_image_data: bool = False

    @property
    def shapes(self) -> list[Any] | None:
        shapes = self.content.get("shapes")
        return shapes if isinstance(shapes, list) else None


def _annotation_files(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix.lower() == ".json" and not p.name.startswith(".")]
    found = [p for p in found if not p.name.lower().endswith(".video.json") and not p.is_dir()]
    return sorted(found, key=lambda p: natural_order(p.name))


def _read_file(path: Path) -> _AnnotationFile:
    try:
        content = read_json(path)
    except DataError as error:
        return _AnnotationFile(path, fault=str(error).rstrip("."))
    if not isinstance(content, dict):
        return _AnnotationFile(path)
    return _AnnotationFile(path, {k: content.get(k) for k in _KEPT}, has_image_data=bool(content.get("imageData")))


def _labels(files: Iterable[_AnnotationFile]) -> tuple[str, ...]:
    shapes = (shape for file in files for shape in file.shapes or ())
    return tuple(sorted({s["label"] for s in shapes if isinstance(s, dict) and isinstance(s.get("label"), str)}))


class _Images:
    """The images of a data set, and how a JSON file finds its own.

    Args:
        folders: all of the data set.
        named: resolves the names that JSON files give.

    Attributes:
        by_folder: the images of each folder that holds some, in natural order.
    """

    def __init__(self, folders: Iterable[Path], named: NamedFiles) -> None:
        self.by_folder = {folder: images for folder in folders if (images := list_images(folder))}
        self._named = named
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for image in (image for images in self.by_folder.values() for image in images):
            self._by_name[image.name.lower()].append(image)
            self._by_name[image.stem].append(image)

    def at(self, image_path: Any, file: Path) -> Path | None:
        """The image that an ``imagePath`` leads to; None if there is none.

        Raises:
            DataError: it leads out of the data set.
        """
        if not isinstance(image_path, str) or not image_path:
            return None
        path = self._named.path(image_path.replace("\\", "/"), file.parent)
        folder = os.path.realpath(path.parent)  # Path.resolve raises at a link that leads in a circle
        same = [image for image in self._by_name.get(path.name.lower(), ()) if os.path.realpath(image.parent) == folder]
        exact = [image for image in same if image.name == path.name] or same
        if not exact and self._named.allow_outside_root and path.is_file() and path.parent.is_dir():
            self.by_folder.setdefault(Path(folder), list_images(Path(folder)))
            exact = [image for image in self.by_folder[Path(folder)] if image.name == path.name]
        return exact[0] if len(exact) == 1 else None

    def named_as(self, file: Path, image_path: Any) -> list[Path]:
        """Images with a JSON's name: beside it, else anywhere, of which those in a folder of the same name come first."""
        beside = [image for image in self.by_folder.get(file.parent, ()) if image.stem == file.stem]
        if beside:
            return beside
        name = PurePosixPath(image_path.replace("\\", "/")).name if isinstance(image_path, str) else ""
        found = self._by_name.get(name.lower()) or self._by_name.get(file.stem) or []
        return [image for image in found if image.parent.name == file.parent.name] or list(found)


class _Reader:
    """Reads the videos of one call."""

    def __init__(
        self,
        root: Path,
        faults: FileFaults,
        patients: PatientRule,
        class_agnostic: bool,
        classes: Sequence[str],
        stills: bool,
    ) -> None:
        self.root = root
        self.faults = faults
        self.patients = patients
        self.class_agnostic = class_agnostic
        self.classes = tuple(classes)
        self.stills = stills
        self.videos: list[Video] = []
        self.num_images = 0
        self.missing = MissingFiles(root, _HOW_TO_FIND)
        self._merged: Counter[str] = Counter()  # labels of the current video, if they are read as one

    def read_all(self, images: _Images, matched: Mapping[Path, Sequence[_AnnotationFile]]) -> None:
        """The videos of all folders.

        Raises:
            DataError: there is none.
        """
        for folder, found in images.by_folder.items():
            recordings = {image: [image] for image in found} if self.stills else {folder: found}
            for recording, of_video in recordings.items():
                with self.faults.rejecting("video can't be read", recording):
                    self.read(recording, of_video, matched)
        if not self.videos and not self.faults.rejected:
            raise DataError(f"{self.root}: no folder in it holds PNG or JPEG images.")

    def match(self, files: Sequence[_AnnotationFile], images: _Images) -> dict[Path, list[_AnnotationFile]]:
        """The JSON files of each image; of one that is claimed by several, all of them."""
        found: dict[Path, list[_AnnotationFile]] = defaultdict(list)
        for file in files:
            try:
                with as_data_error(file.path):
                    image = self._image(file, images)
            except DataError as error:
                what = f"video {self._name(file.path.parent)!r}: {str(error).rstrip('.')}"
                self.faults.reject("bad annotation file", what, videos=self._videos_beside(file, images))
                continue
            if image is not None:
                found[image].append(file)
        return found

    def _image(self, file: _AnnotationFile, images: _Images) -> Path | None:
        name, image_path = self._name(file.path.parent), file.content.get("imagePath")
        where, faults = f"video {name!r}", self.faults
        outside = ""
        try:
            image = images.at(image_path, file.path)
        except DataError as error:
            image, outside = None, f": imagePath {str(error).rstrip('.')}"
        by_name = images.named_as(file.path, image_path)
        beside = [other for other in by_name if other.parent == file.path.parent]
        if image is not None:
            if image.stem != file.path.stem:
                there = [other for other in images.by_folder.get(image.parent, ()) if other.stem == file.path.stem]
                what = f"its imagePath is {shown(image_path)}"
                if there or beside:
                    what += f", but {(beside or there)[0]} has its name"
                    may_lack = self._videos([image, *there, *beside])
                    faults.reject("bad annotation file", f"{where}: {file.path}: {what}", videos=may_lack)
                    return None
                faults.repair(_OTHER_NAME, f"{where}: {file.path}: {what}")
            return image
        if len(by_name) == 1:
            if file.fault is None and file.shapes is not None:
                faults.repair(_BY_NAME, f"{where}: {file.path}: {by_name[0]} for {shown(image_path)}{outside}")
            return by_name[0]
        if len(by_name) > 1:
            listed = ", ".join(str(other) for other in by_name[:3])
            what = "two images share" if beside else "several images have the name of"
            message = f"{where}: {what} {file.path}: {listed}{outside}"
            faults.reject("bad annotation file", message, videos=self._videos(by_name))
        elif file.fault is not None:
            may_lack = self._videos_beside(file, images)
            faults.reject("bad annotation file", f"{where}: {file.fault}", videos=may_lack)
        elif file.shapes is None:
            faults.repair(_NOT_LABELME, str(file.path))
        else:
            inside = "; the picture inside it (imageData) is not read, save it as a file" if file.has_image_data else ""
            led = f", and its imagePath {shown(image_path)} leads to none{inside}{outside}"
            message = f"{where}: {file.path} has no image {file.path.stem}.png or .jpg{led}"
            named = PurePosixPath(image_path.replace("\\", "/")).name if isinstance(image_path, str) else ""
            folder = os.path.relpath(file.path.parent, self.root)
            path = os.path.normpath(os.path.join(folder, named or f"{file.path.stem}.png"))
            self.missing.add(path, message, path if self.stills else name)
        return None

    def _videos(self, images: Iterable[Path]) -> list[str]:
        """Names of the videos of images."""
        return [self._name(image if self.stills else image.parent) for image in images]

    def _videos_beside(self, file: _AnnotationFile, images: _Images) -> list[str]:
        """Names of the videos that a file may be about whose own images it doesn't name: those in its folder."""
        return self._videos(images.by_folder.get(file.path.parent, ())) or [self._name(file.path.parent)]

    def _name(self, folder: Path) -> str:
        inside = folder != self.root and folder.is_relative_to(self.root)
        return folder.relative_to(self.root).as_posix() if inside else folder.name

    def read(self, recording: Path, images: Sequence[Path], matched: Mapping[Path, Sequence[_AnnotationFile]]) -> None:
        """The video of a folder, or of one image."""
        name = self._name(recording)
        faults = self.faults.of_video(name)
        drawn: list[tuple[Path, tuple[int, int], dict[str, Any]]] = []
        boxes: list[list[AnnotatedBox[int]]] = []
        self._merged.clear()
        for number, image in enumerate(images):
            where, files = f"video {name!r} frame {number}", matched.get(image, ())
            if len(files) > 1:
                what = f"{image} is annotated by {len(files)} files: {', '.join(str(file.path) for file in files)}"
                faults.reject("bad annotation file", f"{where}: {what}")
            elif (read := self._image_and_boxes(image, files[0] if files else None, where, faults)) is not None:
                size, bits, found = read
                drawn.append((image, size, {"image_id": self.num_images, "bits": bits}))
                boxes.append(found)
            self.num_images += 1
        numbered = number_lesions(boxes, f"video {name!r}", faults, stills=len(images) == 1)
        frames = [
            make_frame((str(image), None), size=size, rows=rows, **more)
            for (image, size, more), rows in zip(drawn, numbered, strict=True)
        ]
        num_without = sum(image not in matched for image in images)
        if num_without:
            faults.repair(_NO_FILE, f"video {name!r}: {num_without} of {len(images)} images")
        if frames:
            if (skipped := skipped_numbers(images)) is not None:
                faults.repair(SKIPPED_NUMBERS, f"video {name!r}: {skipped}")
            sidecar = read_sidecar(recording)
            patient = self.patients.patient(name, sidecar.patient)
            shown = ("lesion",) if self.class_agnostic else self.classes
            more = {"fps": sidecar.fps, "metadata": sidecar.metadata, "merged_classes": dict(self._merged)}
            self.videos.append(make_video(name, frames, patient, class_names=shown, **more))

    def _image_and_boxes(
        self, image: Path, file: _AnnotationFile | None, where: str, faults: FileFaults
    ) -> tuple[tuple[int, int], int | None, list[AnnotatedBox[int]]] | None:
        """The image's (height, width), its `Frame.bits` and its boxes; None if it is rejected."""
        try:
            size = None if file is None else _announced_size(file)
            size = image_size(image) if size is None else size
            checked = check_image(image, *size)
        except DataError as error:
            faults.reject("bad annotation file", f"{where}: {str(error).rstrip('.')}")
            return None
        if checked.fault is not None:
            faults.reject(image_fault_kind(checked.fault), f"{where}: {image} {checked.fault}")
            return None
        if file is not None and isinstance(flags := file.content.get("flags"), dict) and any(flags.values()):
            set_flags = ", ".join(str(key) for key, value in flags.items() if value)
            faults.repair(_FLAGGED, f"{where}: {file.path}: {set_flags}")
        return size, checked.bits, self._boxes(file.shapes or [] if file is not None else [], size, where, faults)

    def _boxes(
        self, shapes: list[Any], size: tuple[int, int], where: str, faults: FileFaults
    ) -> list[AnnotatedBox[int]]:
        boxes: list[AnnotatedBox[int]] = []
        for n, shape in enumerate(shapes):
            here = f"{where} shape {n}"
            fault = self._shape_fault(shape)
            if fault is not None:
                faults.reject("bad shape", f"{here}: {fault}")
                continue
            box = repair_box(_bounds(shape), *size, here, faults)
            if box is None:
                continue
            if shape.get("difficult") is True:
                faults.repair(_DIFFICULT, here)
            if self.class_agnostic:
                self._merged[str(shape.get("label"))] += 1
            kind = 0 if self.class_agnostic else self.classes.index(shape["label"])
            boxes.append(AnnotatedBox(box, kind, shape.get("group_id"), here))
        return boxes

    def _shape_fault(self, shape: Any) -> str | None:
        if not isinstance(shape, dict):
            return f"is {shown(shape)}, not an object"
        kind = shape.get("shape_type") or "polygon"
        if kind in _WITHOUT_BOX:
            return f"is a {kind!r}, which has no box; {', '.join(_WITH_BOX)} are read"
        if kind not in _WITH_BOX:
            return f"is a {shown(kind)}, which is not known; {', '.join(_WITH_BOX)} are read"
        if _bounds(shape) is None:
            return f"is a {shown(kind)} whose corners can't be read"
        label, track = shape.get("label"), shape.get("group_id")
        if not self.class_agnostic and label not in self.classes:
            return f"label {shown(label)} is not one of {', '.join(self.classes)}"
        if track is not None and not is_whole(track):
            return f"group_id {shown(track)} is not a whole number"
        return None


def _announced_size(file: _AnnotationFile) -> tuple[int, int] | None:
    """(height, width) that the JSON states; None if it states none."""
    if file.fault is not None:
        raise DataError(f"{file.fault}.")
    if file.shapes is None:
        raise DataError(f"{file.path}: is not a LabelMe file: it needs a list 'shapes'.")
    height, width = file.content.get("imageHeight"), file.content.get("imageWidth")
    if height is None or width is None:
        return None
    if not is_whole(height) or not is_whole(width):
        raise DataError(f"{file.path}: imageHeight {shown(height)} or imageWidth {shown(width)} is not a whole number.")
    if (fault := frame_size_fault(height, width)) is not None:
        raise DataError(f"{file.path}: {fault}.")
    return height, width


def _bounds(shape: Any) -> list[float] | None:
    """XYXY of a shape with an area; None for anything else."""
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(points, list) or not points:
        return None
    if not all(isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points):
        return None
    kind = shape.get("shape_type") or "polygon"
    if kind == "circle" and len(points) == 2:  # its centre, and a point on its edge
        (x, y), (u, v) = points
        radius = math.hypot(u - x, v - y)
        return [x - radius, y - radius, x + radius, y + radius]
    several = (kind == "rectangle" and len(points) in (2, 4)) or (kind == "polygon" and len(points) >= 3)
    several |= kind in ("oriented_rectangle", "rotation") and len(points) == 4
    if several or (kind == "mask" and len(points) == 2):
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        last = 1 if kind == "mask" else 0  # a mask's corners are its first and last pixels
        return [min(xs), min(ys), max(xs) + last, max(ys) + last]
    return None
