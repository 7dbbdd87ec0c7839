"""A video along time: which frames show lesions, and the scores of detections that hit a lesion and that don't."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.lesion_metrics import HIT_IOU
from ultravid.evaluation.report.html_page import Html, element
from ultravid.evaluation.report.strips import DETECTION, LESION
from ultravid.evaluation.results import MatchedVideo

__all__ = ["FALSE_DETECTION", "timeline"]

FALSE_DETECTION = "#5b4a9c"

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _BOTTOM = 1120, 56, 150, 10, 6, 18
_MOST_COLUMNS = 320
_NUM_TICKS = 8


def timeline(videos: Sequence[MatchedVideo], names: Sequence[str], thresholds: Sequence[float]) -> Html:
    """The timeline of one video, a row per run; the lesions are those of the first run.

    Two dots per frame: the highest score of a detection that hits a lesion (IoU at least 0.5), and of one that does not. In a
    long video a dot covers several neighbouring frames.

    Args:
        videos: the video in each run.
        names: names of the runs.
        thresholds: score thresholds of the runs, drawn as dashed lines; nan draws no line.
    """
    first = videos[0]
    number, bottom = len(first.frame_index), _TOP + len(videos) * _ROW
    parts = [*_lesions(first, bottom), *_ticks(first, bottom)]
    for row, (video, name, threshold) in enumerate(zip(videos, names, thresholds, strict=True)):
        top = _TOP + row * _ROW
        parts.append(element("text", {"x": _LEFT - 32, "y": top + _ROW / 2 + 4, "text-anchor": "end"}, _short(name)))
        parts += [
            element("text", {"x": _LEFT - 6, "y": top + y, "text-anchor": "end"}, t) for y, t in ((12, "1"), (52, "0"))
        ]
        parts.append(_line(_LEFT, top + _ROW - 4, _WIDTH - _RIGHT, top + _ROW - 4, "#9aa4b0"))
        if not math.isnan(threshold):
            y = _height(top, threshold)
            parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "#4a535e", "4 3"))
        hits = video.best_iou >= np.float32(HIT_IOU)
        for chosen, colour in ((~hits, FALSE_DETECTION), (hits, DETECTION)):
            parts.append(_dots(video.frame[chosen], video.scores[chosen], number, top, colour))
    size = {"viewBox": f"0 0 {_WIDTH} {bottom + _BOTTOM}", "width": "100%", "role": "img"}
    return element("svg", {**size, "aria-label": f"scores along video {first.video_id}"}, *parts)


def _x(place: float, number: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * place / max(number, 1)


def _height(top: float, score: float) -> float:
    return top + 8 + (_ROW - 12) * (1 - min(1.0, max(0.0, score)))


def _lesions(video: MatchedVideo, bottom: int) -> Iterator[Html]:
    """A band for each run of consecutive frames that show a lesion."""
    number = len(video.frame_index)
    for track in np.unique(video.gt_track):
        frames = np.unique(video.gt_frame[video.gt_track == track])
        for part in np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1):
            left, right = _x(float(part[0]), number), _x(float(part[-1]) + 1, number)
            shape = {"x": f"{left:.1f}", "y": _TOP - 4, "width": f"{right - left:.1f}", "height": bottom - _TOP + 2}
            title = f"lesion {track}, frames {video.frame_index[part[0]]} to {video.frame_index[part[-1]]}"
            yield element("rect", {**shape, "fill": LESION, "fill-opacity": 0.22}, element("title", None, title))
            yield element("rect", {**shape, "height": 4, "fill": LESION})


def _ticks(video: MatchedVideo, bottom: int) -> Iterator[Html]:
    number = len(video.frame_index)
    for place in range(0, number, max(1, math.ceil(number / _NUM_TICKS))):
        x = _x(place + 0.5, number)
        yield _line(x, bottom - 4, x, bottom, "#9aa4b0")
        yield element(
            "text", {"x": f"{x:.1f}", "y": bottom + 12, "text-anchor": "middle"}, f"{video.frame_index[place]}"
        )


def _dots(frame: NDArray[np.int64], scores: NDArray[np.float32], number: int, top: float, colour: str) -> Html:
    """A dot at the highest score in each column."""
    columns = min(number, _MOST_COLUMNS)
    best = np.full(columns, -1.0)
    np.maximum.at(best, frame * columns // max(number, 1), scores)
    width = number / max(columns, 1)
    path = "".join(
        f"M{_x((c + 0.5) * width, number):.1f} {_height(top, best[c]):.1f}h0" for c in np.flatnonzero(best >= 0)
    )
    look = {"stroke": colour, "stroke-width": 3.6, "stroke-linecap": "round", "fill": "none"}
    return element("path", {"d": path or None, **look})


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str | None = None) -> Html:
    at = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", {**at, "stroke": colour, "stroke-dasharray": dash})


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"...{name[-16:]}"
