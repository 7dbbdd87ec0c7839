"""Guesses from the content of a recording where the scan is; the rest may hold names and dates.

A scan is the largest area of texture that thin lines can be removed from; text, rulers, dots and traces are thin lines. What changes
from frame to frame over more than a letter's stroke belongs to it as well. Bars and bands of one colour do not.

Legend: ``H, W`` height and width of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.readers.source import ImageArray

__all__ = ["MAX_FRAMES_LOOKED_AT", "ScanArea", "coloured_bands", "guess_scan_area", "is_coloured", "resized"]

MAX_FRAMES_LOOKED_AT = 32
"""First frames of a recording that the guess wants."""

_SIDE = 400  # px; larger images are made smaller to look at
_STROKE = 1 / 45  # of the shorter side: wider than the strokes of a scanner's letters, narrower than any scan
_DARK = 10  # grey levels above the background at which something is shown
_DIM = 4  # the same beside what is brighter: the flanks of a sector, deep tissue
_BACKGROUND = 48  # grey levels; what is brighter is no background
_CONTRAST = 40  # grey levels of a letter above what is around it
_WINDOW = 9  # px in which brightness varies if there is texture
_CHANGE = 14  # grey levels between frames: more than compression adds to what stands still
_FLAT = 1.2  # standard deviation of grey levels in a window without texture
_FLAT_NEAR = 6.0  # the same beside letters
_PART = 0.05  # of the largest area: a smaller one is no further view
_THIN = 0.15  # of the image's shorter side: an area that is thinner is a bar, not a further view
_SMALLEST = 0.02  # of the image: a smaller area is no scan
_STRONG = 60  # grey levels between the channels of a strong colour
_SMEAR = 15  # px: as far as compression smears colours, and more
_BAND = 0.02  # of the image: a smaller area of a strong colour is a colour bar
_WHOLE = 0.95  # of a side: as long is a band along it
_PLAIN = 0.7  # of a band that has its colour, and of the box around it that it covers
_COLOUR = 30  # grey levels between a colour's channels; grey that was compressed has less


@dataclass(frozen=True, eq=False)
class ScanArea:
    """Where a scan is.

    Attributes:
        clear: ``(H, W)`` the convex hull of what looks like a scan, of several views that of each.
        around: ``(H, W)`` the same and the texture that joins it: what may be tissue, but for a band with letters whose compression looks
            like texture.
    """

    clear: NDArray[np.bool_]
    around: NDArray[np.bool_]


def guess_scan_area(frames: Sequence[ImageArray]) -> ScanArea | None:
    """The part of a recording's images that shows the scan.

    Args:
        frames: ``(H, W, 3)`` uint8 each, of one size; the first 32 are looked at.

    Returns:
        None: there is nothing that could be a scan.
    """
    frames = frames[:MAX_FRAMES_LOOKED_AT]
    height, width = frames[0].shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = [resized(frame, size) for frame in frames]
    # The brightest channel: coloured text on a coloured band is dark in none of them.
    brightest = np.stack([np.asarray(frame.max(axis=-1), np.uint8) for frame in small])
    if is_coloured(small[0]):
        bands = coloured_bands(small[0])
        found = _scan_area(brightest, bands)
        # Compression smears colours, so that coloured letters look like texture; of a scan the luminance is texture as well.
        luma = np.stack([np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in small])
        by_luma = _scan_area(luma, bands)
        if found is not None and by_luma is not None:
            found = ScanArea(found.clear & by_luma.clear, found.around & by_luma.around)
    else:
        found = _scan_area(brightest)
    if found is None or size == (width, height):
        return found
    clear, around = (
        cv2.resize(part.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        for part in (found.clear, found.around)
    )
    return ScanArea(clear, around)


def resized(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """An image in another size, ``(width, height)``, each pixel the mean of those it replaces; the image itself if it has that size."""
    if image.shape[1::-1] == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def is_coloured(image: ImageArray) -> bool:
    """Whether an image ``(H, W, 3)`` has coloured parts, as small as a letter."""
    red, green, blue = cv2.split(image)
    brightest, darkest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return int(np.count_nonzero(cv2.subtract(brightest, darkest) > _COLOUR)) > 16


def coloured_bands(image: ImageArray) -> NDArray[np.bool_]:
    """``(H, W)`` where an image has a band or panel of one strong colour along a whole side, which is never tissue; with what stands on it."""
    height, width = image.shape[:2]
    strong = np.ptp(cv2.blur(image, (_SMEAR, _SMEAR)), axis=-1) > _STRONG
    _, labels, stats, _ = cv2.connectedComponentsWithStats(strong.astype(np.uint8), connectivity=8)
    bands = np.zeros((height, width), np.bool_)
    for label, (_, _, wide, high, area) in enumerate(stats.tolist()):
        is_along = wide >= _WHOLE * width or high >= _WHOLE * height
        if (
            label == 0
            or not is_along
            or not _BAND * labels.size <= area <= 0.5 * labels.size
            or area < _PLAIN * wide * high
        ):
            continue
        colours = image[labels == label].astype(np.int16)
        if (np.abs(colours - np.median(colours, axis=0)).max(axis=-1) <= _CONTRAST).mean() >= _PLAIN:
            bands |= labels == label
    closed = cv2.morphologyEx(bands.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((_SMEAR, _SMEAR), np.uint8))
    return np.asarray(closed > 0)


def _scan_area(grey: NDArray[np.uint8], bands: NDArray[np.bool_] | None = None) -> ScanArea | None:
    """Of ``(T, H, W)`` brightness, without ``bands``."""
    height, width = grey.shape[1:]
    stroke = max(7, round(_STROKE * min(height, width)) | 1)
    brush = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (stroke, stroke)), np.uint8)
    brightest = np.asarray(grey.max(axis=0))
    thick = np.asarray(cv2.morphologyEx(brightest, cv2.MORPH_OPEN, brush), np.uint8)
    changing = _changing(grey)
    letters = _lines(brightest, brush) & ~changing
    reach = 2 * stroke + _WINDOW
    near = cv2.dilate(letters.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    texture, dim = _texture(brightest, thick, grey[0], near, brush)
    # Bright speckle of a still picture looks like letters, and what is near it like their noise: here it counts.
    _, rough = _texture(brightest, thick, grey[0], np.zeros_like(near), brush)
    content = _without_thin(texture | changing, brush)
    if bands is not None:
        content, changing, dim, rough = (mask & ~bands for mask in (content, changing, dim, rough))
    content = _large_parts(content, _without_thin(changing, brush), 16 * stroke**2)
    content = _with_what_touches(content, _without_thin(dim, brush))
    if np.count_nonzero(content) < _SMALLEST * height * width:
        return None
    clear = _hulls(content)
    return ScanArea(clear, _with_what_touches(clear, _without_thin(rough | changing, brush)))


def _lines(grey: NDArray[np.uint8], brush: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Bright and dark lines that are thinner than the brush, such as letters."""
    bright = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, brush)
    dark = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, brush)
    return np.asarray(np.maximum(bright, dark) > _CONTRAST)


def _hull(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    hull = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32)), 1)
    return np.asarray(hull > 0)


def _changing(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where brightness differs between frames; a slight blur removes what a codec's noise adds around letters."""
    if len(grey) == 1:
        return np.zeros(grey.shape[1:], np.bool_)
    smooth = np.stack([cv2.GaussianBlur(image, (3, 3), 0) for image in grey])
    return np.asarray(smooth.max(axis=0).astype(np.int16) - smooth.min(axis=0) > _CHANGE)


def _texture(
    brightest: NDArray[np.uint8],
    thick: NDArray[np.uint8],
    first: NDArray[np.uint8],
    near: NDArray[np.bool_],
    brush: NDArray[np.uint8],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where something brighter than the background is shown that is neither a thin line nor a band of one colour, with or without text.

    Returns:
        ``(H, W)`` where it is clearly brighter, and where it is brighter at all.

    Args:
        brightest: ``(H, W)`` of all frames.
        thick: ``(H, W)`` the same without thin bright lines.
        first: ``(H, W)`` one frame, whose speckle is not averaged.
        near: ``(H, W)`` what is near lines that stand still, around which a codec adds noise.
        brush: wider than lines are.
    """
    is_shown = thick > _background(brightest) + _DIM
    is_flat = np.zeros(first.shape, np.bool_)
    most = np.where(near, _FLAT_NEAR**2, _FLAT**2)
    for letters in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE):  # bright ones, dark ones
        plain = _without_letters(first, brush, letters).astype(np.float32)
        mean = cv2.blur(plain, (_WINDOW, _WINDOW))
        is_flat |= cv2.blur(plain * plain, (_WINDOW, _WINDOW)) - mean * mean < most
    # Texture has flat spots: only a flat area that is as wide as a letter's strokes counts. Its rim is as flat as the rest.
    wide = cv2.morphologyEx((is_shown & is_flat).astype(np.uint8), cv2.MORPH_OPEN, brush)
    wide = cv2.dilate(wide, np.ones((_WINDOW, _WINDOW), np.uint8))
    dim = np.asarray(is_shown & (wide == 0))
    return dim & (thick > _background(brightest) + _DARK), dim


def _without_letters(grey: NDArray[np.uint8], brush: NDArray[np.uint8], operation: int) -> NDArray[np.uint8]:
    """An image with what is around it in place of bright or of dark lines, and of the noise that compression adds beside them."""
    without = np.asarray(cv2.morphologyEx(grey, operation, brush), np.uint8)
    is_line = cv2.absdiff(grey, without) > _CONTRAST
    near = cv2.dilate(is_line.astype(np.uint8), np.ones((_WINDOW, _WINDOW), np.uint8)) > 0
    return np.where(near, without, grey)


def _background(brightest: NDArray[np.uint8]) -> int:
    return min(int(np.percentile(brightest, 2)), _BACKGROUND)


def _without_thin(mask: NDArray[np.bool_], brush: NDArray[np.uint8]) -> NDArray[np.bool_]:
    # Beyond the border is what is at the border: a scan that fills the image keeps its corners.
    edge = len(brush)
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, brush)
    return np.asarray(opened[edge:-edge, edge:-edge] > 0)


def _large_parts(content: NDArray[np.bool_], changing: NDArray[np.bool_], moving: int) -> NDArray[np.bool_]:
    """The largest connected area, and those that are not much smaller, as the two views of a split screen.

    Args:
        content: ``(H, W)`` what may be a scan.
        changing: ``(H, W)`` what of it changes from frame to frame.
        moving: px; an area in which more than that changes is no clock.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(content.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    changed = np.bincount(labels[changing], minlength=len(areas))
    changed[0] = 0
    thinner = np.minimum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    large = (areas >= _PART * areas.max()) & (thinner >= _THIN * min(content.shape)) | (changed >= moving)
    large[0] = False
    large[areas.argmax()] = areas.max() > 0
    return np.asarray(large[labels])


def _with_what_touches(content: NDArray[np.bool_], more: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Content and those connected areas of something else that overlap it."""
    number, labels = cv2.connectedComponents((content | more).astype(np.uint8), connectivity=8)
    touched = np.zeros(number, np.bool_)
    touched[labels[content]] = True
    touched[0] = False
    return np.asarray(touched[labels])


def _hulls(content: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The convex hulls of the connected areas."""
    number, labels = cv2.connectedComponents(content.astype(np.uint8), connectivity=8)
    hulls = np.zeros(content.shape, np.bool_)
    for label in range(1, number):
        hulls |= _hull(labels == label)
    return hulls
