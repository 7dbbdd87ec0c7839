"""Boxes and their labels in pictures, and the colours that they have everywhere: one for lesions, one for detections.

Legend: ``H, W`` height and width of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["DETECTION", "IGNORED", "TRUTH", "Colour", "css", "draw_boxes", "line_thickness"]

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

# Of the palette of Okabe and Ito ("Color universal design", 2008), lighter for grey tissue on black: a bluish green and an orange are
# told apart with any kind of colour vision, and both stand out from white paper.
TRUTH: Colour = (20, 190, 130)
"""Boxes of annotated lesions."""
DETECTION: Colour = (240, 138, 29)
"""Boxes of detections, and their labels."""
IGNORED: Colour = (140, 140, 140)
"""Annotated regions to ignore."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPITAL = 21.0  # px, height of a capital letter of this font at scale 1
_SMALLEST = 4.0  # px, below which a capital can't be read
_THUMBNAIL = 100  # px of the longer side, below which a label would cover more than it tells
_SHIFT = 4  # OpenCV takes coordinates as whole numbers of 1/16 px

_Rect = tuple[int, int, int, int]


def css(colour: Colour) -> str:
    """A colour as style sheets and SVG write it: ``#f08a1d``.

    Args:
        colour: red, green and blue, 0..255.
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: Sequence[Sequence[float]],
    colour: Colour,
    labels: Sequence[str] = (),
    occupied: list[_Rect] | None = None,
) -> None:
    """Draw boxes into an image, anti-aliased, with lines and labels that grow with the image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, contiguous; it is written to.
        boxes: ``(N, 4)`` XYXY in pixels; what lies outside of the image is drawn at its edge.
        colour: the colour of lines and labels.
        labels: text of each box; empty: none. It is above its box, or where there is room, inside of the image.
            Images of less than 100 px have none.
        occupied: where labels are that must not be covered; those of these boxes are added.
    """
    occupied = [] if occupied is None else occupied
    for box, label in zip(boxes, labels, strict=False):
        if label:
            _label(image, box, label, colour, occupied)
    thickness = line_thickness(image.shape[0], image.shape[1])
    for box in boxes:  # after the labels, which dim what is behind them
        _rectangle(image, box, colour, thickness)


def line_thickness(height: int, width: int) -> int:
    """The thickness of box lines in an image of this size, in pixels: 1 up to 480, 2 up to 800, ...

    Args:
        height: the image's height in pixels.
        width: the image's width in pixels.
    """
    return max(1, round(max(height, width) / 320))


def _rectangle(image: NDArray[np.uint8], box: Sequence[float], colour: Colour, thickness: int) -> None:
    """The line lies inside of the box's edge, so that lines at whole pixels are crisp. OpenCV's 3 is the middle of the pixel 3..4."""
    corners = []
    for low, high, limit in ((box[0], box[2], image.shape[1]), (box[1], box[3], image.shape[0])):
        low, high = (min(max(v, 0.0), limit) for v in (low, high))
        middle, half = (low + high) / 2, max((high - low - thickness) / 2, 0.0)
        inside = max(min(thickness / 2, limit / 2), 0.5)
        middle = min(max(middle, inside), max(inside, limit - inside))  # of a box that lies beyond the edge
        corners.append([round((v - 0.5) * 2**_SHIFT) for v in (middle - half, middle + half)])
    (x1, x2), (y1, y2) = corners
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA, _SHIFT)


def _label(image: NDArray[np.uint8], box: Sequence[float], text: str, colour: Colour, occupied: list[_Rect]) -> None:
    height, width = image.shape[:2]
    if max(height, width) < _THUMBNAIL:
        return
    scale = min(max(max(height, width) / 46, 8.0), 40.0) / _CAPITAL
    text_width = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    scale *= min(1.0, (width - 4) / text_width)
    if scale * _CAPITAL < _SMALLEST:  # the image is a few pixels wide
        return
    weight = max(1, round(scale * _CAPITAL / 14))
    text_width = cv2.getTextSize(text, _FONT, scale, weight)[0][0]
    above, below = round(scale * _CAPITAL) + 1, round(0.32 * scale * _CAPITAL) + 1
    gap = line_thickness(height, width) / 2 + 1
    left = round(min(max(box[0] - gap, 0.0), max(0.0, width - 4.0 - text_width)))
    tops = (box[1] - gap - above - below, box[3] + gap, box[1] + gap, box[3] - gap - above - below)
    places = [(left, round(top), left + text_width + 4, round(top) + above + below) for top in tops]
    fitting = [place for place in places if place[1] >= 0 and place[3] <= height]
    free = [place for place in fitting if not any(_overlap(place, other) for other in occupied)]
    x1, y1, x2, y2 = (free or fitting or [(left, 0, left + text_width + 4, above + below)])[0]
    occupied.append((x1, y1, x2, y2))
    behind = image[y1:y2, x1:x2]
    behind[:] = behind // 4  # dark enough to read on, and one still sees what is behind
    cv2.putText(image, text, (x1 + 2, y1 + above), _FONT, scale, colour, weight, cv2.LINE_AA)


def _overlap(a: _Rect, b: _Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
