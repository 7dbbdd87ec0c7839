"""Strips of a video's frames with lesions (green) and detections (orange), as inline SVG over embedded images."""

from __future__ import annotations

import base64
import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.image_io import read_image
from ultravid.datasets.readers import read_frame_view
from ultravid.datasets.safe_files import NamedFiles
from ultravid.datasets.video import DataError, FrameView
from ultravid.evaluation.report.html_page import Html, element
from ultravid.evaluation.results import FrameResult, frame_text
from ultravid.utils import drawing
from ultravid.utils.drawing import css
from ultravid.utils.errors import UserError

__all__ = ["DETECTION", "LESION", "ImageFinder", "MarkedFrame", "chosen_frames", "strip"]

LESION, DETECTION, _IGNORED = css(drawing.TRUTH), css(drawing.DETECTION), css(drawing.IGNORED)

_SIDE = 256
_JPEG_QUALITY = 75


@dataclass(frozen=True, eq=False)
class _Picture:
    """What there is of a frame's picture: its (H, W, 3) RGB pixels, else why they are not shown."""

    pixels: NDArray[np.uint8] | None
    why_not: str = ""


_NOT_FOUND, _HIDDEN = _Picture(None, "image not found"), _Picture(None, "not shown: may hold text")


class ImageFinder:
    """Finds the image files of frames. A relative name leads out of none of the folders, also not by ``..`` or a link.

    Args:
        folders: folders in which relative names are searched, in order, after the current folder.
        images: folder to which the images were moved; the longest trailing part of a name that exists in it is taken. None:
            the images are where their names say.
        anywhere: absolute names may lead anywhere, as those do that an evaluation of ours recorded. False: into one of the folders.
        allow_burned_in_text: read frames of DICOM files that show more than an ultrasound region. By default they are not shown,
            because the patient's name may be burnt in.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        images: Path | None = None,
        *,
        anywhere: bool = True,
        allow_burned_in_text: bool = False,
    ) -> None:
        self._allow_burned_in_text = allow_burned_in_text
        self._folders = [NamedFiles(folder) for folder in (Path(), *folders)]
        self._images = None if images is None else NamedFiles(images)
        self._anywhere = anywhere

    def find(self, name: str | None) -> Path | None:
        """The image file of this name; None if there is no such file."""
        if not name:
            return None
        if self._anywhere and Path(name).is_absolute() and Path(name).is_file():
            return Path(name)
        tried = [(folder, name) for folder in self._folders]
        if self._images is not None:
            parts = Path(name).parts
            tried += [
                (self._images, str(Path(*parts[start:]))) for start in range(Path(name).is_absolute(), len(parts))
            ]
        for folder, inner in tried:
            with contextlib.suppress(DataError):
                path = folder.path(inner)
                if path.is_file():
                    return path
        return None

    def read(self, frame: FrameResult) -> _Picture:
        """The picture of a frame as the model saw it: cropped and blacked out as its reader did."""
        if frame.view is not None and frame.view.may_show_text and not self._allow_burned_in_text:
            return _HIDDEN
        path = self.find(frame.file_name)
        if path is None:
            return _NOT_FOUND
        try:
            return _Picture(_pixels(path, frame.view))
        except UserError:
            return _NOT_FOUND


def _pixels(path: Path, view: FrameView | None) -> NDArray[np.uint8]:
    if view is None:  # of COCO results, or of a run of an early version: images alone, no movie and no DICOM file
        return read_image(path)
    return read_frame_view(path, view)


@dataclass(frozen=True, eq=False)
class MarkedFrame:
    """A frame, and the boxes that the strip is about; its other boxes are drawn thin.

    Attributes:
        frame: the frame with all of its boxes.
        lesions: indices of the ground-truth boxes to highlight; None: all.
        detections: indices of the detections to highlight; None: all.
    """

    frame: FrameResult
    lesions: Collection[int] | None = None
    detections: Collection[int] | None = None


def chosen_frames(frames: NDArray[np.int64], number: int, num_frames: int) -> NDArray[np.int64]:
    """Which frames a strip shows: evenly spaced ones, first and last included; of a short stretch all, and frames around it.

    Args:
        frames: indices of the frames of the stretch, ascending.
        number: how many frames to show; all of the video's if it has fewer.
        num_frames: number of frames of the video.
    """
    if len(frames) <= number:
        places = np.arange(num_frames)
        distance = np.abs(places[:, None] - frames[None]).min(axis=1)
        return np.sort(places[np.argsort(distance, kind="stable")[:number]])
    return frames[np.linspace(0, len(frames) - 1, number).round().astype(np.int64)]


def strip(frames: Sequence[MarkedFrame], threshold: float, finder: ImageFinder) -> tuple[Html, Counter[str]]:
    """Frames side by side.

    Args:
        frames: frames of one video.
        threshold: detections of a lower score are not drawn.
        finder: finds the images.

    Returns:
        the strip; and how many images there are ("all"), can't be read ("missing") or are not shown because text may be burnt in
        ("hidden").
    """
    images = [finder.read(marked.frame) for marked in frames]
    drawn = [_frame(marked, threshold, image) for marked, image in zip(frames, images, strict=True)]
    counts = Counter(all=len(images), missing=images.count(_NOT_FOUND), hidden=images.count(_HIDDEN))
    return element("div", {"class": "strip"}, *drawn), counts


def _frame(marked: MarkedFrame, threshold: float, read: _Picture) -> Html:
    image = read.pixels
    frame = marked.frame
    kept = np.flatnonzero(frame.scores >= np.float32(threshold)).tolist()
    width, height = _size(frame, image)
    regions = [] if frame.ignored is None else frame.ignored.tolist()
    marks = [element("title", None, f"grey: {len(regions)} regions to ignore")] if regions else []
    marks += [_box(box, _IGNORED, height, own=False) for box in regions]
    marks += [
        _box(box, LESION, height, marked.lesions is None or place in marked.lesions)
        for place, box in enumerate(frame.gt_boxes.tolist())
    ]
    for place in kept:
        own = marked.detections is None or place in marked.detections
        box = frame.boxes[place].tolist()
        marks += [
            _box(box, DETECTION, height, own),
            *([_score(box, frame.scores[place], width, height)] if own else []),
        ]
    if image is not None:
        shape = {"href": _data_url(image), "width": width, "height": height}
        marks.insert(0, element("image", shape))
    else:
        at = {"x": width / 2, "y": 0.95 * height, "text-anchor": "middle", "style": f"font-size:{height / 12:.1f}px"}
        marks.append(element("text", at, read.why_not))
    label = f"frame {frame_text(frame)}: {len(frame.gt_boxes)} lesions, {len(kept)} detections"
    size = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label}
    return element("div", {"class": "frame"}, element("svg", size, *marks), element("span", None, frame_text(frame)))


def _size(frame: FrameResult, image: NDArray[np.uint8] | None) -> tuple[float, float]:
    """Width and height of the frame in pixels; if they are not known, a square that holds its boxes."""
    if image is not None:
        return float(image.shape[1]), float(image.shape[0])
    if frame.view is not None:
        return float(frame.view.width), float(frame.view.height)
    corners = np.concatenate([frame.boxes, frame.gt_boxes])[:, 2:]
    side = float(corners.max(initial=64.0)) * 1.05
    return side, side


def _box(box: Sequence[float], colour: str, height: float, own: bool) -> Html:
    x1, y1, x2, y2 = box
    shape = {"x": f"{x1:.1f}", "y": f"{y1:.1f}", "width": f"{x2 - x1:.1f}", "height": f"{y2 - y1:.1f}"}
    width = height / (75 if own else 160)
    look = {"stroke-width": f"{width:.2f}", "stroke-dasharray": None if own else f"{3 * width:.1f} {2 * width:.1f}"}
    return element("rect", {**shape, "fill": "none", "stroke": colour, **look})


def _score(box: Sequence[float], score: float, width: float, height: float) -> Html:
    """The score above the box, inside the frame, outlined so that it is legible on bright tissue."""
    size = height / 14
    x = min(max(0.0, box[0]), width - 2 * size)
    y = box[1] - 0.25 * size if box[1] > 1.3 * size else min(height - 2, box[3] + size)
    look = f"font-size:{size:.1f}px;fill:{DETECTION};stroke:#000;stroke-width:{size / 6:.1f}px;paint-order:stroke"
    return element("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "style": look}, f"{score:.2f}")


def _data_url(image: NDArray[np.uint8]) -> str:
    """A ``data:`` URL that holds the image as a small JPEG."""
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(image[..., ::-1]), size, interpolation=cv2.INTER_AREA)
    done, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
