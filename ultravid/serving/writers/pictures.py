"""Pictures and text files, one a frame, as Ultralytics' ``save_frames`` and ``save_txt`` write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2

from ultravid.serving.records import FrameDetections
from ultravid.serving.writers.base import Picture, temporary_name
from ultravid.serving.writers.errors import as_os_error
from ultravid.utils.whole_files import remove_path, write_whole

__all__ = ["FramePictures", "StillPicture", "YoloLabels", "frame_file", "picture_suffix"]


def frame_file(index: int, suffix: str) -> str:
    """The name of the picture of a frame: its number in the source, from 0."""
    return f"{index:06d}{suffix}"


def picture_suffix(plain: bool) -> str:
    """Of the files of `FramePictures`.

    Args:
        plain: whether the pictures are those of the source without boxes, which are kept without loss.
    """
    return ".png" if plain else ".jpg"


class FramePictures:
    """Writes the picture of each frame to a folder, which appears when it is closed; a `ResultWriter`.

    Args:
        folder: the folder of the pictures; if there is one, it is replaced.
        plain: without boxes, and as PNG, which keeps every pixel; else with them, as JPEG.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, folder: Path, *, plain: bool = False) -> None:
        self.folder = folder
        self._plain = plain
        self._suffix = picture_suffix(plain)
        self._temporary = temporary_name(folder)
        with as_os_error(folder):
            self._temporary.mkdir()

    def add(self, found: FrameDetections, picture: Picture | None) -> None:
        """As `ResultWriter.add`."""
        assert picture is not None
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if self._suffix == ".jpg" else []
        done, data = cv2.imencode(self._suffix, (picture.plain if self._plain else picture.drawn)[..., ::-1], options)
        assert done
        with as_os_error(self.folder):
            (self._temporary / frame_file(found.index, self._suffix)).write_bytes(data.tobytes())

    def close(self) -> None:
        """As `ResultWriter.close`."""
        try:
            with as_os_error(self.folder):
                remove_path(self.folder)
                self._temporary.replace(self.folder)
        finally:
            self.discard()

    def discard(self) -> None:
        """As `ResultWriter.discard`."""
        remove_path(self._temporary)


class StillPicture:
    """Writes the picture of a source that has one frame, as a movie of one frame is of little use; a `ResultWriter`.

    Args:
        path: the file, a PNG.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._num_frames = 0
        self._picture: Picture | None = None

    def add(self, found: FrameDetections, picture: Picture | None) -> None:
        """As `ResultWriter.add`."""
        del found
        self._num_frames += 1
        self._picture = picture if self._num_frames == 1 else None

    def close(self) -> None:
        """As `ResultWriter.close`."""
        if self._picture is not None:
            done, data = cv2.imencode(".png", self._picture.drawn[..., ::-1])
            assert done
            with as_os_error(self.path), write_whole(self.path) as file:
                file.write(data.tobytes())

    def discard(self) -> None:
        """As `ResultWriter.discard`."""


class YoloLabels:
    """Writes a text file for each frame with detections, as Ultralytics does; a `ResultWriter`.

    A line is ``class x y width height``, of the middle and the size of the box as shares of the image's width and height, then the score
    if ``save_conf``, then the number of the track if there is one. Files are ``<name>_<number of the frame in its source, from 0>.txt``.

    Args:
        folder: the folder of the files, shared by all sources; it is created.
        name: the name of the source.
        size: (height, width) of its images.
        save_conf: write scores.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, folder: Path, name: str, size: tuple[int, int], *, save_conf: bool = False) -> None:
        self.folder = folder
        self._name = name
        self._size = size
        self._save_conf = save_conf
        self._temporary = temporary_name(folder / name)
        with as_os_error(folder):
            self._temporary.mkdir(parents=True)

    def add(self, found: FrameDetections, picture: Picture | None = None) -> None:
        """As `ResultWriter.add`."""
        del picture
        height, width = self._size
        lines = []
        for detection in found.detections:
            x1, y1, x2, y2 = detection.box
            numbers = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            numbers += [detection.score] if self._save_conf else []
            track = [] if detection.track_id is None else [str(detection.track_id)]
            lines.append(" ".join([str(detection.class_id), *(f"{v:.6g}" for v in numbers), *track]))
        if lines:
            path = self._temporary / f"{self._name}_{frame_file(found.index, '.txt')}"
            with as_os_error(self.folder):
                path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def close(self) -> None:
        """As `ResultWriter.close`."""
        try:
            with as_os_error(self.folder):
                is_own = re.compile(re.escape(self._name) + r"_\d{6,}\.txt").fullmatch
                for entry in list(os.scandir(self.folder)):  # of an earlier run, with other detections
                    if is_own(entry.name):
                        os.unlink(entry.path)
                for path in self._temporary.iterdir():
                    path.replace(self.folder / path.name)
        finally:
            self.discard()

    def discard(self) -> None:
        """As `ResultWriter.discard`."""
        remove_path(self._temporary)
