"""Finds what looks like text beside the scan in the first frames of a recording: names and dates may be among it.

A letter is a small, thin shape, brighter or darker than what is around it, that stands still. Letters of one height that stand side by
side are a word. No letter is read.

Legend: ``H, W`` height and width of an image in pixels; ``T`` frames; ``N`` shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.readers.source import ImageArray
from ultravid.serving.privacy.scan_area import MAX_FRAMES_LOOKED_AT, ScanArea, coloured_bands, is_coloured, resized

__all__ = ["find_text"]

_SIDE = 1280  # px; larger images are made smaller to look at
_STILL = 8  # frames at the start, and as many at the end, of which each is looked at for what stands still in them
_SAMPLED = 4  # of these
_STROKE = 15  # px, wider than the strokes of a scanner's letters
_CONTRAST = 30  # grey levels of a letter above, or below, what is around it
_OF_BEST = 0.45  # of the contrast nearby: below that are the halos that an encoder adds
_MOVES = 0.5  # of a shape's contrast: it changes by more within eight frames if it moves
_LOWEST, _HIGHEST = 5, 0.1  # height of letters: px, and of the image's height
_TALL = 24  # px that a letter may always be high
_SOLID = 0.75  # of its box: a square, a dot or a bar covers more, most letters less
_THIN = 0.15  # of its box: a trace, as of an ECG, covers less, letters that touch more
_GAP = 0.7  # of a letter's height, on either side: as far as the next letter of a word
_ALIKE = 1.8  # ratio of heights of two letters of a word
_PLAIN = 0.6  # of the pixels around a letter: as many are as bright as most
_DIFFERS = 0.3  # of the contrast: a letter differs from what most around it is like by more
_NOISE, _VARIES = 6, 0.2  # grey levels, and of the contrast: by what they may differ
_RUNS = 2.5  # strokes that a row of a word crosses, where its letters touch each other
_MARGIN = 0.35  # of a letter's height
_LONE = 2.5  # heights: a letter that is as near to a word belongs to it
_WIDE = 0.25  # of the image's width: a word or line that is as wide fills a band
_LONG = 4  # letters: speckle seldom looks like as many in a row
_IN_LINE = 0.6  # of a long word's shapes: as many stand on one line and are as high
_INSIDE = 0.7  # of a long word: it is typed onto the scan
_AROUND = 0.5  # of a short word that lies on what may be tissue: it is taken for speckle
_RIM = 0.9  # of the image's side: what is as long is the rim of a band, into which the scan is smeared
_GROUND = 31  # px; the median of as many is the colour of a band
_MOST = 4000  # shapes: more are no text, but texture


@dataclass(frozen=True)
class _Shapes:
    """Connected shapes.

    Attributes:
        boxes: ``(N, 4)`` int, x1, y1, x2, y2.
        solid: ``(N,)`` the share of its box that a shape covers.
        runs: ``(N,)`` strokes that its rows cross, on average.
    """

    boxes: NDArray[np.int64]
    solid: NDArray[np.float64]
    runs: NDArray[np.float64]

    @property
    def heights(self) -> NDArray[np.int64]:
        return np.asarray(self.boxes[:, 3] - self.boxes[:, 1])

    @property
    def widths(self) -> NDArray[np.int64]:
        return np.asarray(self.boxes[:, 2] - self.boxes[:, 0])


@dataclass(frozen=True)
class _Word:
    """A word's box in pixels, with its margin; the height of its letters; whether it has many of them."""

    left: int
    top: int
    right: int
    bottom: int
    letter: int
    is_long: bool


def find_text(frames: Sequence[ImageArray], scan: ScanArea | None) -> NDArray[np.bool_]:
    """Where something looks like text outside of the scan, with a margin, grown to the band or panel that it stands in.

    Args:
        frames: ``(H, W, 3)`` uint8 each, of one size; the first 32 are looked at.
        scan: ``(H, W)`` where the scan is; text inside of it is not looked for. None: text is looked for everywhere.

    Returns:
        ``(H, W)``; of the scan itself no more than what a long word that reaches into it covers.
    """
    frames = frames[:MAX_FRAMES_LOOKED_AT]
    height, width = frames[0].shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    clear, around = np.zeros((2, *size[::-1]), np.uint8)
    if scan is not None:
        clear = cv2.resize(scan.clear.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        around = cv2.resize(scan.around.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    words = [word for part in _parts(frames) for word in _words(part, size)]
    words += [word for frame in (frames[0], frames[-1]) for word in _words_on_bands(frame, size)]
    words = [word for word in words if _is_beside(word, clear, around)]
    text = np.zeros_like(clear)
    for word in words:
        kept = 0 if word.is_long else clear[word.top : word.bottom, word.left : word.right]
        text[word.top : word.bottom, word.left : word.right] |= 1 - kept
    if scan is not None:
        text |= _grown(words, text, clear) & (1 - (clear | around))
    if size != (width, height):
        text = cv2.resize(text, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(text > 0)


def _parts(frames: Sequence[ImageArray]) -> list[list[ImageArray]]:
    """A few of the first frames, and of the last ones: a text may appear in between."""
    if len(frames) < _STILL:
        return [[frames[0]]] if len(frames) == 1 else [[frames[0]], [frames[-1]]]
    step = (_STILL - 1) / (_SAMPLED - 1)
    first = [frames[round(step * n)] for n in range(_SAMPLED)]
    last = [frames[len(frames) - _STILL + round(step * n)] for n in range(_SAMPLED)]
    return [first] if len(frames) == _STILL else [first, last]


def _words(frames: Sequence[ImageArray], size: tuple[int, int]) -> list[_Word]:
    """What looks like words in frames that follow each other."""
    words = []
    for grey in _channels(frames, size):
        brightest, darkest = np.asarray(grey.max(axis=0)), np.asarray(grey.min(axis=0))
        # In the brightest of all frames are no dark gaps between the places of something bright that moves, and the other way round.
        for image, operation in ((brightest, cv2.MORPH_TOPHAT), (darkest, cv2.MORPH_BLACKHAT)):
            words += _grouped(_shapes(image, brightest - darkest, operation), size)
    return words


def _channels(frames: Sequence[ImageArray], size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Pictures ``(T, H, W)`` of the frames in which letters may stand out: the brightest channel, and of coloured frames two more.

    Red letters on blue are as bright as their ground: they are seen in the red channel; and in the luminance, which compression
    keeps sharper than any colour.
    """
    small = [resized(frame, size) for frame in frames]
    found = [np.stack([frame.max(axis=-1) for frame in small])]
    if is_coloured(small[0]):
        found.append(np.stack([frame[..., 0] for frame in small]))
        found.append(np.stack([np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in small]))
    return found


def _words_on_bands(frame: ImageArray, size: tuple[int, int]) -> list[_Word]:
    """What stands on bands and panels of a strong colour.

    Strong compression smears coloured letters into each other and makes their band rough, so that they look neither like letters nor
    like standing on plain ground. Whatever differs from the band's colour in any channel counts.
    """
    small = resized(frame, size)
    band = coloured_bands(small).astype(np.uint8)
    if not band.any():
        return []
    differs = cv2.absdiff(small, cv2.medianBlur(small, _GROUND)).max(axis=-1) > _CONTRAST
    joined = cv2.morphologyEx(band & differs, cv2.MORPH_CLOSE, np.ones((3, _STROKE // 2), np.uint8))
    words = []
    for x, y, width, height, _ in cv2.connectedComponentsWithStats(joined, connectivity=8)[2][1:].tolist():
        is_rim = max(width / size[0], height / size[1]) > _RIM
        if not is_rim and min(width, height) >= _LOWEST and height <= max(_TALL, _HIGHEST * size[1]):
            margin = max(2, round(_MARGIN * height))
            right, bottom = min(x + width + margin, size[0]), min(y + height + margin, size[1])
            words.append(_Word(max(x - margin, 0), max(y - margin, 0), right, bottom, height, False))
    return words


def _shapes(image: NDArray[np.uint8], change: NDArray[np.uint8], operation: int) -> _Shapes:
    """Thin shapes of the size of letters that stand still on a plain ground."""
    edge = _STROKE
    padded = cv2.copyMakeBorder(image, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    lines = cv2.morphologyEx(padded, operation, np.ones((_STROKE, _STROKE), np.uint8))[edge:-edge, edge:-edge]
    best = cv2.dilate(lines, np.ones((_STROKE // 2, _STROKE // 2), np.uint8))
    binary = ((lines > _CONTRAST) & (lines > _OF_BEST * best)).astype(np.uint8)
    number, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    covered = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    widths, heights = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    contrast = np.bincount(labels.ravel(), lines.ravel(), number) / covered
    changes = np.bincount(labels.ravel(), change.ravel(), number) / covered
    starts = binary.copy()
    starts[:, 1:] &= 1 - binary[:, :-1]
    runs = np.bincount(labels.ravel(), starts.ravel(), number) / heights
    fits = (heights >= _LOWEST) & (heights <= max(_TALL, _HIGHEST * image.shape[0])) & (changes <= _MOVES * contrast)
    fits &= (widths <= 30 * heights) & (heights <= 8 * widths)
    ground = cv2.absdiff(image, cv2.medianBlur(image, _STROKE))
    # What is cut out of a larger area of its own brightness, as by a cross, is no letter.
    fits &= np.bincount(labels.ravel(), ground.ravel(), number) >= _DIFFERS * contrast * covered
    fits &= _on_plain_ground(ground, best, binary, stats) >= _PLAIN
    fits[0] = False
    if np.count_nonzero(fits) > _MOST:
        fits[:] = False
    x1, y1 = stats[fits, cv2.CC_STAT_LEFT], stats[fits, cv2.CC_STAT_TOP]
    boxes = np.stack([x1, y1, x1 + widths[fits], y1 + heights[fits]], axis=1).astype(np.int64)
    return _Shapes(boxes, covered[fits] / (widths[fits] * heights[fits]), runs[fits])


def _on_plain_ground(
    ground: NDArray[Any], best: NDArray[Any], binary: NDArray[np.uint8], stats: NDArray[Any]
) -> NDArray[np.float64]:
    """Of each shape, the share of the pixels around it, letters aside, that are as bright as most: of speckle few are."""
    other = cv2.dilate(binary, np.ones((3, 3), np.uint8)) == 0
    plain = other & (ground <= np.maximum(_NOISE, _VARIES * best))
    height, width = ground.shape
    sides = np.maximum(2, (_MARGIN * stats[:, cv2.CC_STAT_HEIGHT]).astype(int))
    x1, y1 = np.maximum(stats[:, cv2.CC_STAT_LEFT] - sides, 0), np.maximum(stats[:, cv2.CC_STAT_TOP] - sides, 0)
    x2 = np.minimum(stats[:, cv2.CC_STAT_LEFT] + stats[:, cv2.CC_STAT_WIDTH] + sides, width)
    y2 = np.minimum(stats[:, cv2.CC_STAT_TOP] + stats[:, cv2.CC_STAT_HEIGHT] + sides, height)
    sums = [cv2.integral(mask.astype(np.uint8)) for mask in (plain, other)]
    of_plain, of_other = (s[y2, x2] - s[y1, x2] - s[y2, x1] + s[y1, x1] for s in sums)
    return np.asarray(of_plain / np.maximum(of_other, 1))


def _grouped(shapes: _Shapes, size: tuple[int, int]) -> list[_Word]:
    """Words: two or more letters of a height side by side, or one shape of letters that touch; and letters beside them."""
    count = len(shapes.boxes)
    if count == 0:
        return []
    heights, widths, boxes = shapes.heights, shapes.widths, shapes.boxes
    reach = _GAP * heights
    left, right = boxes[:, 0] - reach, boxes[:, 2] + reach
    overlap = np.minimum(boxes[:, None, 3], boxes[None, :, 3]) - np.maximum(boxes[:, None, 1], boxes[None, :, 1])
    lower = np.minimum(heights[:, None], heights[None])
    beside = (left[:, None] <= right[None]) & (left[None] <= right[:, None]) & (overlap >= 0.5 * lower)
    # A shape around another one is its frame, not its neighbour.
    apart = np.maximum(boxes[:, None, 0], boxes[None, :, 0]) + 1 >= np.minimum(boxes[:, None, 2], boxes[None, :, 2])
    alike = np.maximum(heights[:, None], heights[None]) <= _ALIKE * lower
    is_letter = (shapes.solid <= _SOLID) & (widths <= 2.5 * heights)
    is_word = (shapes.solid <= _SOLID) & (shapes.solid >= _THIN) & (widths >= 1.2 * heights) & (shapes.runs >= _RUNS)
    neighbours = beside & apart & alike
    np.fill_diagonal(neighbours, False)
    seeds = is_word | (is_letter & (neighbours & is_letter[None]).any(axis=1))
    if not seeds.any():
        return []
    groups = _connected(seeds, beside)
    words = [
        _word(boxes[members], round(float(np.median(heights[members]))), shapes, members, size) for members in groups
    ]
    taken = np.zeros(count, np.bool_)
    taken[np.concatenate(groups)] = True
    return words + _lone(shapes, words, taken, size)


def _word(
    boxes: NDArray[np.int64], letter: int, shapes: _Shapes, members: NDArray[np.int64], size: tuple[int, int]
) -> _Word:
    margin = max(2, round(_MARGIN * letter))
    left, top = np.maximum(boxes[:, :2].min(axis=0) - margin, 0)
    right, bottom = np.minimum(boxes[:, 2:].max(axis=0) + margin, size)
    in_line = np.abs(boxes[:, 3] - np.median(boxes[:, 3])) <= max(1.0, 0.15 * letter)
    in_line &= np.abs(boxes[:, 3] - boxes[:, 1] - letter) <= max(1.0, 0.3 * letter)
    num_letters = np.where(shapes.runs[members] >= _RUNS, shapes.runs[members], 1.0)[in_line].sum()
    is_long = bool(num_letters >= _LONG and in_line.mean() >= _IN_LINE)
    return _Word(int(left), int(top), int(right), int(bottom), letter, is_long)


def _connected(seeds: NDArray[np.bool_], beside: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Indices of seeds that stand side by side, and of what else stands beside them, such as dots and dashes."""
    left = seeds.copy()
    groups = []
    while left.any():
        group = np.zeros(len(seeds), np.bool_)
        front = np.zeros(len(seeds), np.bool_)
        front[np.flatnonzero(left)[0]] = True
        while front.any():
            group |= front
            front = beside[front & seeds].any(axis=0) & ~group if (front & seeds).any() else np.zeros_like(front)
        left &= ~group
        groups.append(np.flatnonzero(group))
    return groups


def _lone(shapes: _Shapes, words: Sequence[_Word], taken: NDArray[np.bool_], size: tuple[int, int]) -> list[_Word]:
    """Letters and icons that stand alone close to a word, as below it."""
    found = np.array([(w.left, w.top, w.right, w.bottom, w.letter) for w in words])
    reach = _LONE * found[:, 4]
    lone = []
    for index in np.flatnonzero(~taken):
        x1, y1, x2, y2 = shapes.boxes[index]
        near = (x1 < found[:, 2] + reach) & (x2 > found[:, 0] - reach)
        near &= (y1 < found[:, 3] + reach) & (y2 > found[:, 1] - reach)
        near &= (y2 - y1 <= 3 * found[:, 4]) & (x2 - x1 <= 6 * found[:, 4])
        if near.any():
            members = np.array([index])
            lone.append(_word(shapes.boxes[members], int(shapes.heights[index]), shapes, members, size))
    return lone


def _is_beside(word: _Word, clear: NDArray[np.uint8], around: NDArray[np.uint8]) -> bool:
    """Whether a word stands beside the scan; a long one if part of it does, a short one if it is on nothing like tissue."""
    if word.is_long:
        return _share(clear, word) < _INSIDE
    return _share(clear | around, word) < _AROUND


def _share(mask: NDArray[np.uint8], word: _Word) -> float:
    return float(mask[word.top : word.bottom, word.left : word.right].mean())


def _grown(words: Sequence[_Word], text: NDArray[np.uint8], clear: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W)``, 1 in the bands and panels beside a scan that words stand in."""
    height, width = clear.shape
    grown = text.copy()
    for word in words:
        rows = clear[word.top : word.bottom]
        if not rows.any():
            middle = (word.top + word.bottom) // 2
            if text[middle].sum() < _WIDE * width:
                continue
            top = 0 if word.top < 1.5 * word.letter else word.top
            bottom = height if word.bottom > height - 1.5 * word.letter else word.bottom
            grown[top:bottom] = 1
        elif not rows[:, : word.right].any():
            grown[word.top : word.bottom, : word.right] = 1
        elif not rows[:, word.left :].any():
            grown[word.top : word.bottom, word.left :] = 1
    if words:
        letter = round(float(np.median([word.letter for word in words])))
        grown = np.asarray(cv2.morphologyEx(grown, cv2.MORPH_CLOSE, np.ones((2 * letter + 1, 1), np.uint8)), np.uint8)
    return grown
