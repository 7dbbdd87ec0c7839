"""Readers of images on disk that are annotated in COCO's JSON: videos (COCO-VID), the layout of CVA-BUS, and stills.

What the JSON may hold, and what is repaired or rejected: `ultravid.datasets.formats.coco_annotations`.

CVA-BUS (Lin et al., "A new dataset and a baseline model for breast lesion detection in ultrasound videos", MICCAI 2022)
lies on disk as ``<root>/{trainval,test}.json`` and ``<root>/rawframes/{benign,malignant}/<video>/%06d.png``. Its public
files hold frames without a box, frame numbers that do not run from 0, images that are not square, boxes of negative
width or height (the corner is on the other side), boxes past the frame's edge, and boxes that stay the same over many frames.
The two kinds of boxes in between are repaired, and a warning counts them; the rest is read as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.formats.coco_annotations import CocoAnnotations, CocoImage, CocoVideo, read_coco_annotations
from ultravid.datasets.formats.common import check_unique_ids, make_frame, make_video, require_folder
from ultravid.datasets.image_io import image_fault, image_fault_kind
from ultravid.datasets.index import Index, cached_index
from ultravid.datasets.patients import PatientRule, patient_rule, table_address
from ultravid.datasets.safe_files import NamedFiles
from ultravid.datasets.video import DataError, Frame, Video
from ultravid.utils.file_io import is_local

__all__ = ["load_coco_stills", "load_coco_video", "load_cva_bus"]


def load_cva_bus(
    *,
    root: str | Path,
    splits: Sequence[str] = ("trainval",),
    patients: str | Path | None = None,
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
        class_agnostic: use one class, "lesion", whatever the annotation's category.
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
        rule = patient_rule(patients)
        roots = [
            NamedFiles(root / "rawframes", allow_outside_root=allow_outside_root),
            NamedFiles(root, allow_outside_root=allow_outside_root),
        ]
        parts = [_read(path, roots, rule, class_agnostic, faults) for path in paths]
        own = FileFaults(root, faults)
        videos = check_unique_ids([video for part in parts for video in part.videos], own, "in more than one split")
        own.raise_if_any()
        return Index(videos, [warning for part in parts for warning in part.warnings])

    arguments = {"class_agnostic": class_agnostic, "patients": str(patients), "allow_outside_root": allow_outside_root}
    return cached_index("cva_bus", arguments, [*paths, table_address(patients)], build, faults)


def load_coco_video(
    *,
    json_file: str | Path,
    image_root: str | Path | None = None,
    patients: str | Path | None = None,
    class_agnostic: bool = True,
    allow_outside_root: bool = False,
    faults: FaultSink | None = None,
) -> list[Video]:
    """Read a COCO-VID file.

    Args:
        json_file: the JSON, at any address that ``ultravid.utils.file_io.PathManager`` handles.
        image_root: the folder that file names are relative to, local or mounted; None: the folder of a local JSON.
        patients: see `load_cva_bus`.
        class_agnostic: use one class, "lesion", whatever the annotation's category.
        allow_outside_root: read images that the JSON names outside of ``image_root``, by an absolute path, ``..`` or a symbolic
            link.
        faults: see `load_cva_bus`.

    Raises:
        DataError: see `load_cva_bus`.
    """
    root = _image_root(json_file, image_root)

    def build() -> Index:
        roots = [NamedFiles(root, allow_outside_root=allow_outside_root)]
        return _read(json_file, roots, patient_rule(patients), class_agnostic, faults)

    arguments = {
        "class_agnostic": class_agnostic,
        "image_root": str(root.absolute()),
        "patients": str(patients),
        "allow_outside_root": allow_outside_root,
    }
    return cached_index("coco_video", arguments, [json_file, table_address(patients)], build, faults)


def load_coco_stills(
    *,
    json_file: str | Path,
    image_root: str | Path | None = None,
    patients: str | Path | None = None,
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
        class_agnostic: use one class, "lesion", whatever the annotation's category.
        allow_outside_root: read images that the JSON names outside of ``image_root``, by an absolute path, ``..`` or a symbolic
            link.
        faults: see `load_cva_bus`.

    Raises:
        DataError: see `load_cva_bus`.
    """
    root = _image_root(json_file, image_root)

    def build() -> Index:
        roots = [NamedFiles(root, allow_outside_root=allow_outside_root)]
        return _read(json_file, roots, patient_rule(patients), class_agnostic, faults, stills=True)

    arguments = {
        "class_agnostic": class_agnostic,
        "image_root": str(root.absolute()),
        "patients": str(patients),
        "allow_outside_root": allow_outside_root,
    }
    return cached_index("coco_stills", arguments, [json_file, table_address(patients)], build, faults)


def _image_root(json_file: str | Path, image_root: str | Path | None) -> Path:
    if image_root:
        return require_folder(image_root)
    if not is_local(json_file):
        raise DataError(f"{json_file}: name the local folder of its images as image_root.")
    return Path(json_file).parent


def _read(
    address: str | Path,
    roots: Sequence[NamedFiles],
    patients: PatientRule,
    class_agnostic: bool,
    sink: FaultSink | None,
    stills: bool = False,
) -> Index:
    """The videos of one JSON whose images lie in one of ``roots``."""
    _check_exists(address)
    faults = FileFaults(address, sink)
    annotations = read_coco_annotations(address, faults, patients=patients, stills=stills)
    reader = _ImageReader(annotations, roots, class_agnostic, faults)
    frames = {image_id: reader.frame(image) for image_id, image in annotations.images.items()}
    videos, warnings = [], []
    for video in annotations.videos.values():
        found = [frame for image in video.images if (frame := frames[image.image_id]) is not None]
        if found:
            videos.append(_video(video, found, reader.class_names))
        else:
            warnings.append(f"{address}: video {video.name!r} has no frame and is skipped.")
    return Index(videos, faults.close() + warnings)


def _check_exists(address: str | Path) -> None:
    path = Path(address)
    if not is_local(address) or path.is_file():
        return
    if not path.parent.is_dir():
        raise DataError(
            f"Data folder {str(path.parent)!r} does not exist. Set the environment variable ULTRAVID_DATASETS to the folder "
            f"that holds the datasets, or the config's key for the folder or file of this dataset."
        )
    others = ", ".join(sorted(p.name for p in path.parent.glob("*.json"))) or "none"
    raise DataError(f"{path} does not exist; JSON files in its folder: {others}.")


def _video(video: CocoVideo, frames: Sequence[Frame], class_names: tuple[str, ...]) -> Video:
    # A rejected frame shifts the numbers that static_frames count.
    static = video.static_frames if len(frames) == len(video.images) else ()
    return make_video(
        video.name,
        frames,
        video.patient,
        fps=video.fps,
        metadata=video.metadata,
        class_names=class_names,
        static_frames=static,
    )


class _ImageReader:
    """Turns annotated images into frames.

    Finds files by reading each folder once: asking for 25,000 files one by one is slow on a network drive.
    """

    def __init__(
        self, annotations: CocoAnnotations, roots: Sequence[NamedFiles], class_agnostic: bool, faults: FileFaults
    ) -> None:
        self.annotations = annotations
        self.roots = roots
        self.faults = faults
        self.files: dict[Path, set[str]] = {}
        if class_agnostic:
            self.class_of = dict.fromkeys(annotations.categories, 0)
            self.class_names: tuple[str, ...] = ("lesion",)
        else:
            self.class_of = {category: number for number, category in enumerate(annotations.categories)}
            self.class_names = tuple(annotations.categories.values())

    def frame(self, image: CocoImage) -> Frame | None:
        """The frame of an image, or None if its file is rejected."""
        where = self.annotations.where(image.image_id)
        if image.file_name is None:
            self.faults.reject("bad image row", f"{where}: image {image.image_id!r} has no 'file_name'")
            return None
        try:
            file = self._find(image.file_name)
        except DataError as error:
            self.faults.reject("frame is outside of the data's folder", f"{where}: {str(error).rstrip('.')}")
            return None
        if file is None:
            self.faults.reject("frame is missing", f"{where}: {self.roots[0].root / image.file_name} does not exist")
            return None
        fault = image_fault(file, image.height, image.width)
        if fault is not None:
            self.faults.reject(image_fault_kind(fault), f"{where}: {file} {fault}")
            return None
        rows = [(box, self.class_of[category], track) for box, category, track in image.lesions]
        return make_frame((str(file), None), image.image_id, (image.height, image.width), rows)

    def _find(self, name: str) -> Path | None:
        """The file of a name in the first root that has it.

        Raises:
            DataError: it has it in none, and is outside of one.
        """
        outside: DataError | None = None
        for root in self.roots:
            try:
                candidate = root.path(name)
            except DataError as error:
                outside = outside or error
                continue
            folder = candidate.parent
            if folder not in self.files:
                self.files[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
            if candidate.name in self.files[folder]:
                return candidate
        if outside is not None:
            raise outside
        return None
