"""The detections of all sources as COCO-VID, and as COCO's results of the same images.

`ultravid.datasets.load_coco_video` reads the first (the pictures are those that ``--save-frames`` writes), ``tools/evaluate.py`` both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultravid.serving.writers.base import PartialText
from ultravid.serving.writers.json_file import read_ends, read_frames
from ultravid.serving.writers.pictures import frame_file
from ultravid.utils.whole_files import dump_json

__all__ = ["write_coco_video"]

_UNTRACKED = 1_000_000  # from where on detections without a track have an ``instance_id`` each, so that they are not taken for one lesion


def write_coco_video(
    path: Path, results: Path, files: Sequence[Path], class_names: Sequence[str], picture_suffix: str = ".jpg"
) -> None:
    """Write the detections of files of `DetectionsJson`, which are read frame by frame.

    Args:
        path: the path of the COCO-VID file: each detection is an annotation with its ``score``, ``track_id`` and ``instance_id``.
        results: of the list of results: ``{image_id, category_id, bbox, score}``.
        files: one a source; a video is named like its file.
        class_names: the names of the classes of the model; ``category_id`` counts them from 1.
        picture_suffix: the file suffix of the pictures that ``--save-frames`` writes.

    Raises:
        OSError: they can't be written; what was there before is unchanged.
        UserError: a file is no such file.
    """
    parts: list[_List] = []
    coco = PartialText(path)
    try:
        found = PartialText(results)
        parts = [_List(PartialText(path.with_name(f"{path.name}.{key}"))) for key in ("images", "annotations")]
        try:
            videos = _add_files(files, picture_suffix, parts[0], parts[1], _List(found))
            categories = [{"id": n, "name": name} for n, name in enumerate(class_names, 1)]
            about = {"info": {"description": "Detections of a model, not annotations of a person"}}
            coco.write(f"{dump_json({**about, 'categories': categories, 'videos': videos})[:-1]}")
            for key, part in zip(("images", "annotations"), parts, strict=True):
                coco.write(f', "{key}": [')
                part.copy_to(coco)
                coco.write("\n]")
            coco.write("}\n")
            found.write("\n]\n")
            coco.close()
            found.close()
        finally:
            found.discard()
    finally:
        coco.discard()
        for part in parts:
            part.text.discard()


class _List:
    """Entries of a list, one a line."""

    def __init__(self, text: PartialText) -> None:
        self.text = text
        self.number = 0

    def add(self, entry: dict[str, Any]) -> None:
        self.text.write(",\n" if self.number else "\n")
        self.text.write(dump_json(entry))
        self.number += 1

    def copy_to(self, other: PartialText) -> None:
        self.text.file.flush()
        with Path(self.text.file.name).open(encoding="utf-8") as file:
            for line in file:
                other.write(line)


def _add_files(
    files: Sequence[Path], suffix: str, images: _List, annotations: _List, results: _List
) -> list[dict[str, Any]]:
    results.text.write("[")
    videos = []
    for number, file in enumerate(files, 1):
        ends = read_ends(file)
        videos.append({"id": number, "name": file.stem, "fps": ends.get("fps") or 0})
        size = {"height": ends["height"], "width": ends["width"]}
        start = None
        for frame in read_frames(file):
            start = frame["pts_s"] if start is None else start
            image_id = images.number + 1
            row = {"id": image_id, "video_id": number, "frame_id": frame["index"], **size}
            row["file_name"] = f"{file.stem}_frames/{frame_file(frame['index'], suffix)}"
            images.add({**row, "time_s": frame["pts_s"] - start})
            for detection in frame["detections"]:
                _add_detection(detection, image_id, number, annotations, results)
    return videos


def _add_detection(detection: dict[str, Any], image_id: int, video_id: int, annotations: _List, results: _List) -> None:
    x1, y1, x2, y2 = detection["box"]
    box = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
    row = {"image_id": image_id, "category_id": detection["class_id"] + 1, "bbox": box, "score": detection["score"]}
    results.add(row)
    track = detection["track_id"]
    instance = {"instance_id": _UNTRACKED + annotations.number if track is None else track, "track_id": track}
    area = {"area": round(box[2] * box[3], 3), "iscrowd": 0}
    annotations.add({"id": annotations.number + 1, "video_id": video_id, **row, **area, **instance})
