"""Readers of images on disk that are annotated in COCO's JSON: videos (COCO-VID), the layout of CVA-BUS, and stills.

What the JSON may hold, and what is repaired or rejected: `ultravid.datasets.formats.coco_annotations`.

CVA-BUS (Lin et al., "A new dataset and a baseline model for breast lesion detection in ultrasound videos", MICCAI 2022)
lies on disk as ``<root>/{trainval,test}.json`` and ``<root>/rawframes/{benign,malignant}/<video>/%06d.png``. Its public
files hold frames without a box, frame numbers that do not run from 0, images that are not square, boxes of negative
width or height (the corner is on the other side), boxes past the frame's edge, and boxes that stay the same over many frames.
The two kinds of boxes in between are repaired, and a warning counts them; the rest is read as it is.

Regions that the JSON marks to be ignored become `Frame.ignored`: evaluation leaves detections on them out, and training treats
them as background.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultravid.datasets.faults import FaultSink, FileFaults, as_data_error
from ultravid.datasets.formats.coco_annotations import CocoAnnotations, CocoImage, CocoVideo, Id, read_coco_annotations
from ultravid.datasets.formats.common import Row, check_unique_ids, make_frame, make_video, require_folder
from ultravid.datasets.image_io import check_image, image_fault_kind
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.missing_files import MissingFiles
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.safe_files import NamedFiles
from ultravid.datasets.video import DataError, Frame, Video
from ultravid.utils.file_io import is_local
from ultravid.utils.text import nearest

__all__ = ["load_coco_stills", "load_coco_video", "load_cva_bus"]


def load_cva_bus(
    *,
    root: str | Path,
    splits: Sequence[str] = ("trainval",),
    patients: str | Path | None = None,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    allow_outside_root: bool = False,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read splits of a dataset in the layout of CVA-BUS.

    Args:
        root: the folder that holds ``<split>.json`` and ``rawframes``; local or mounted.
        splits: which JSON files, without ``.json``; their videos are joined.
        patients: a rule for patients, or a table of them, see `ultravid.datasets.patients.patient_rule`. A table takes precedence
            over the patient in a video's row, and that over a rule. None: a video whose row states none is its own patient.
        classes: names of categories in the order of their numbers; None: by category id.
        class_agnostic: use one class, "lesion", whatever the annotation's category; a warning counts those that are merged.
        allow_outside_root: read images that a JSON names outside of ``root``, by an absolute path, ``..`` or a symbolic link.
            ``rawframes`` may be a link in any case.
        faults: collects all faults, and the videos and frames without them are returned.

    Raises:
        DataError: a file is missing or holds what can't be used. Without ``faults``, the first fault is reported and the others
            are counted.
    """
    root = require_folder(root)
    paths = [root / f"{split}.json" for split in splits]

    def build() -> Index:
        how = "set root to the folder that holds the JSON files and rawframes"
        missing = [MissingFiles(root / "rawframes", how, "root", inside="rawframes") for _ in paths]
        rawframes = root / "rawframes"
        roots = [
            NamedFiles(folder, within=other, allow_outside_root=allow_outside_root)
            for folder, other in ((rawframes, root), (root, rawframes))
        ]
        read = _Source(paths, roots, missing, patient_rule(patients), faults, splits=True)
        index = read.index(classes, class_agnostic)
        own = FileFaults(root, faults)
        videos = check_unique_ids(index.videos, own, "in more than one split")
        own.raise_if_any()
        return Index(videos, index.warnings)

    arguments = {
        "class_agnostic": class_agnostic,
        "classes": classes and list(classes),
        "patients": str(patients),
        "allow_outside_root": allow_outside_root,
    }
    return cached_index("cva_bus", arguments, [*paths, table_address(patients)], build, faults)


def load_coco_video(
    *,
    json_file: str | Path,
    image_root: str | Path | None = None,
    patients: str | Path | None = None,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    allow_outside_root: bool = False,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read a COCO-VID file.

    Args:
        json_file: the JSON, at any address that ``ultravid.utils.file_io.PathManager`` handles.
        image_root: the folder that file names are relative to, local or mounted; None: the folder of a local JSON.
        patients: see `load_cva_bus`.
        classes: names of categories in the order of their numbers; None: by category id.
        class_agnostic: use one class, "lesion", whatever the annotation's category; a warning counts those that are merged.
        allow_outside_root: read images that the JSON names outside of ``image_root``, by an absolute path, ``..`` or a symbolic
            link.
        faults: see `load_cva_bus`.

    Raises:
        DataError: see `load_cva_bus`.
    """
    return _load_file(
        "coco_video", json_file, image_root, patients, classes, class_agnostic, allow_outside_root, faults
    )


def load_coco_stills(
    *,
    json_file: str | Path,
    image_root: str | Path | None = None,
    patients: str | Path | None = None,
    classes: Sequence[str] | None = None,
    class_agnostic: bool = True,
    allow_outside_root: bool = False,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read plain COCO annotations; each image becomes a video of one frame.

    Args:
        json_file: COCO's JSON, at any address that ``ultravid.utils.file_io.PathManager`` handles. An image may carry ``patient``,
            ``device``, ...
        image_root: the folder that file names are relative to, local or mounted; None: the folder of a local JSON.
        patients: see `load_cva_bus`, for images.
        classes: names of categories in the order of their numbers; None: by category id.
        class_agnostic: use one class, "lesion", whatever the annotation's category; a warning counts those that are merged.
        allow_outside_root: read images that the JSON names outside of ``image_root``, by an absolute path, ``..`` or a symbolic
            link.
        faults: see `load_cva_bus`.

    Raises:
        DataError: see `load_cva_bus`.
    """
    return _load_file(
        "coco_stills", json_file, image_root, patients, classes, class_agnostic, allow_outside_root, faults
    )


def _load_file(
    reader: str,
    json_file: str | Path,
    image_root: str | Path | None,
    patients: str | Path | None,
    classes: Sequence[str] | None,
    class_agnostic: bool,
    allow_outside_root: bool,
    faults: FaultSink | None,
) -> list[Video]:
    """What `load_coco_video` and `load_coco_stills` return; ``reader`` is which."""
    root = _image_root(json_file, image_root)

    def build() -> Index:
        named = NamedFiles(root, allow_outside_root=allow_outside_root)
        missing = MissingFiles(root, "set image_root (in a tool: --option image_root=DIR)", "image_root")
        stills = reader == "coco_stills"
        source = _Source([json_file], [named], [missing], patient_rule(patients), faults, stills)
        return source.index(classes, class_agnostic)

    arguments = {
        "class_agnostic": class_agnostic,
        "classes": classes and list(classes),
        "image_root": str(root.absolute()),
        "patients": str(patients),
        "allow_outside_root": allow_outside_root,
    }
    return cached_index(reader, arguments, [json_file, table_address(patients)], build, faults)


def _image_root(json_file: str | Path, image_root: str | Path | None) -> Path:
    if image_root:
        return require_folder(image_root)
    if not is_local(json_file):
        raise DataError(f"{json_file}: name the local folder of its images as image_root.")
    return Path(json_file).parent


_BACKSLASHES = "images are named with backslashes, which are read as slashes"


@dataclass(frozen=True)
class _Source:
    """JSON files whose images lie in one of ``roots``."""

    addresses: Sequence[str | Path]
    roots: Sequence[NamedFiles]
    missing: Sequence[MissingFiles]  # of each file
    patients: PatientRule
    sink: FaultSink | None
    stills: bool = False
    splits: bool = False  # whether a config names the files as splits of a folder

    def index(self, classes: Sequence[str] | None, class_agnostic: bool) -> Index:
        """The videos of all files, and warnings."""
        opened = []
        for address in self.addresses:
            _check_exists(address, self.splits)
            faults = FileFaults(address, self.sink)
            with as_data_error(address):
                annotations = read_coco_annotations(address, faults, patients=self.patients, stills=self.stills)
            opened.append((annotations, faults))
        names = None if class_agnostic else classes or _class_names([annotations for annotations, _ in opened])
        videos, warnings = [], []
        for (annotations, faults), missing in zip(opened, self.missing, strict=True):
            numbers = _ClassNumbers(annotations.categories, names, [file.categories for file, _ in opened])
            reader = _ImageReader(annotations, self.roots, numbers, faults, missing)
            frames = {image_id: reader.frame(image) for image_id, image in annotations.images.items()}
            missing.report(len(frames), faults)
            empty = []
            for video in annotations.videos.values():
                found = [frame for image in video.images if (frame := frames[image.image_id]) is not None]
                if found:
                    videos.append(_video(video, found, numbers))
                elif not video.images:  # what the faults don't say
                    empty.append(video.name)
            warnings += faults.close()
            if empty:
                some = f"{len(empty)} of {len(annotations.videos)} videos have no image and are skipped"
                first = ", ".join(map(repr, empty[:3])) + (", ..." if len(empty) > 3 else "")
                warnings.append(f"{annotations.path}: {some}: {first}.")
        return Index(videos, warnings)


def _class_names(files: Sequence[CocoAnnotations]) -> list[str]:
    """The categories of all files by id, whichever of them lists one.

    Raises:
        DataError: a file gives one name to two categories.
    """
    for file in files:
        names = list(file.categories.values())
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            ids = ", ".join(repr(i) for i, name in file.categories.items() if name == twice)
            raise DataError(
                f"{file.path}: the categories {ids} are all named {twice!r}; with class_agnostic=False each needs a name."
            )
    by_id = {(number, name) for file in files for number, name in file.categories.items()}
    order = sorted(by_id, key=lambda key: (isinstance(key[0], str), str(key[0]) if isinstance(key[0], str) else key[0]))
    return list(dict.fromkeys(name for _, name in order))


class _ClassNumbers:
    """Number of the class of each category of a file.

    Args:
        categories: names of the file's categories by id.
        names: names of the classes in the order of their numbers; None: all categories are one class.
        everywhere: the categories of all files: a class that this file lacks has the id of another file.
    """

    def __init__(
        self, categories: Mapping[Id, str], names: Sequence[str] | None, everywhere: Sequence[Mapping[Id, str]]
    ) -> None:
        self.categories = categories
        self.merges = names is None
        self.names: tuple[str, ...] = ("lesion",) if names is None else tuple(names)
        self._number = {i: 0 if names is None else _place(names, name) for i, name in categories.items()}
        id_of = {name: i for file in everywhere for i, name in file.items() if i not in categories}
        id_of |= {name: i for i, name in categories.items()}
        free = max([0, *(i for i in id_of.values() if isinstance(i, int))])
        if names is None:
            self.ids: tuple[Id, ...] = tuple(categories) if len(categories) == 1 else ()
        else:
            self.ids = tuple(id_of[n] if n in id_of else free + k + 1 for k, n in enumerate(names))

    def of(self, category: Id) -> int | None:
        """The number of a category's class; None if it is not one of the classes."""
        return self._number[category]


def _place(names: Sequence[str], name: str) -> int | None:
    return list(names).index(name) if name in names else None


def _check_exists(address: str | Path, is_split: bool) -> None:
    path = Path(address)
    if not is_local(address) or os.path.lexists(path):
        return
    if not path.parent.is_dir():
        raise DataError(
            f"Data folder {str(path.parent)!r} does not exist. Set the environment variable ULTRAVID_DATASETS to the folder "
            f"that holds the datasets, or the config's key for the folder or file of this dataset."
        )
    beside = sorted(p.name for p in path.parent.glob("*.json") if not p.name.startswith("manifest_"))
    similar = nearest(path.name, beside)
    hint = f" Did you mean {similar!r}?" if similar else ""
    if beside and is_split:
        hint += (
            f" In a folder of that layout, data.splits=[...] names the JSON files of a config, "
            f"data.test_splits=[{Path(beside[0]).stem}] those of its evaluation."
        )
    raise DataError(f"{path} does not exist; JSON files in its folder: {', '.join(beside) or 'none'}.{hint}")


def _video(video: CocoVideo, frames: Sequence[Frame], numbers: _ClassNumbers) -> Video:
    # A rejected frame shifts the numbers that static_frames count.
    static = video.static_frames if len(frames) == len(video.images) else ()
    kept = {frame.image_id for frame in frames}
    categories = [row[1] for image in video.images if image.image_id in kept for row in image.lesions]
    merged = Counter(numbers.categories[category] for category in categories) if numbers.merges else {}
    return make_video(
        video.name,
        frames,
        video.patient,
        fps=video.fps,
        metadata=video.metadata,
        class_names=numbers.names,
        category_ids=numbers.ids,
        merged_classes=dict(merged),
        static_frames=static,
    )


class _ImageReader:
    """Turns annotated images into frames.

    Finds files by reading each folder once: asking for 25,000 files one by one is slow on a network drive.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        roots: Sequence[NamedFiles],
        numbers: _ClassNumbers,
        faults: FileFaults,
        missing: MissingFiles,
    ) -> None:
        self.annotations = annotations
        self.roots = roots
        self.faults_of = {video.name: faults.of_video(video.name) for video in annotations.videos.values()}
        self.missing = missing
        self.files: dict[str, set[str]] = {}
        self.numbers = numbers

    def frame(self, image: CocoImage) -> Frame | None:
        """The frame of an image, or None if its file is rejected."""
        where = self.annotations.where(image.image_id)
        video = self.annotations.videos[image.video_id].name
        faults = self.faults_of[video]
        if image.file_name is None:
            faults.reject("bad image row", f"{where}: image {image.image_id!r} has no 'file_name'")
            return None
        try:
            file = self._find(image.file_name)
            if file is None and "\\" in image.file_name:
                file = self._find(image.file_name.replace("\\", "/"))
                if file is not None:
                    faults.repair(_BACKSLASHES, f"{where}: {image.file_name!r}")
        except DataError as error:
            faults.reject("frame is outside of the data's folder", f"{where}: {str(error).rstrip('.')}")
            return None
        if file is None:
            self.missing.add(image.file_name, f"{where}: {self.roots[0].root / image.file_name} does not exist", video)
            return None
        checked = check_image(file, image.height, image.width)
        if checked.fault is not None:
            faults.reject(image_fault_kind(checked.fault), f"{where}: {file} {checked.fault}")
            return None
        rows: list[Row] = []
        for box, category, track in image.lesions:
            number = self.numbers.of(category)
            if number is None:
                name = self.annotations.categories[category]
                faults.reject("unknown class", f"{where}: class {name!r} is not one of {', '.join(self.numbers.names)}")
            else:
                rows.append((box, number, track))
        more: dict[str, Any] = {"number": image.frame_id, "time_s": image.time_s, "bits": checked.bits}
        if image.ignored:
            more["ignored"] = np.asarray([region.box for region in image.ignored], np.float32)
            more["ignored_crowds"] = np.asarray([region.is_crowd for region in image.ignored], np.bool_)
        return make_frame((file, None), image.image_id, (image.height, image.width), rows, **more)

    def _find(self, name: str) -> str | None:
        """The file of a name in the first root that has it.

        Raises:
            DataError: it has it in none, and is outside of one.
        """
        outside: DataError | None = None
        for root in self.roots:
            try:
                candidate = root.text(name)
            except DataError as error:
                outside = outside or error
                continue
            folder, last = os.path.split(candidate)
            if folder not in self.files:
                self.files[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if last in self.files[folder]:
                return candidate
        if outside is not None:
            raise outside
        return None
