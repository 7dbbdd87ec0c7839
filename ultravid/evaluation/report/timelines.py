"""A video along time: which frames show lesions, and the scores of detections that hit a lesion and that don't."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.frame_times import FrameTimes
from ultravid.evaluation.lesion_metrics import HIT_IOU
from ultravid.evaluation.report.html_page import Html, element
from ultravid.evaluation.report.strips import DETECTION, LESION
from ultravid.evaluation.results import MatchedVideo

__all__ = ["FALSE_DETECTION", "timeline"]

FALSE_DETECTION = "#5b4a9c"

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _BOTTOM = 1120, 56, 150, 10, 6, 18
_MOST_COLUMNS = 320
_NUM_MARKS = 8


def timeline(videos: Sequence[MatchedVideo], names: Sequence[str], thresholds: Sequence[float]) -> Html:
    """The timeline of one video, a row per run; the lesions are those of the first run.

    Two dots per frame: the highest score of a detection that hits a lesion (IoU at least 0.5), and of one that does not. In a
    long video a dot covers several neighbouring frames. The axis is time: gaps and pauses of the film are left empty.

    Args:
        videos: the video in each run.
        names: names of the runs.
        thresholds: score thresholds of the runs, drawn as dashed lines; nan draws no line.
    """
    first = videos[0]
    axis, bottom = _TimeAxis(first.times), _TOP + len(videos) * _ROW
    parts = [*_lesions(first, axis, bottom), *_marks(axis, bottom)]
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
            parts.append(_dots(first.times.ticks[video.frame[chosen]], video.scores[chosen], axis, top, colour))
    size = {"viewBox": f"0 0 {_WIDTH} {bottom + _BOTTOM}", "width": "100%", "role": "img"}
    return element("svg", {**size, "aria-label": f"scores along video {first.video_id}"}, *parts)


class _TimeAxis:
    """Places along the time of a film.

    Attributes:
        times: the times of the film's frames.
        first: tick of the first frame.
        length: in ticks, from the first frame to one usual distance after the last.
        columns: number of columns that dots are drawn in.
    """

    def __init__(self, times: FrameTimes) -> None:
        self.times = times
        self.first, last = (float(times.ticks[place]) if len(times.ticks) else 0.0 for place in (0, -1))
        self.length = last - self.first + times.spacing
        self.columns = max(1, min(round(self.length / times.spacing), _MOST_COLUMNS))

    def x(self, tick: float) -> float:
        """Where a tick is drawn."""
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (tick - self.first) / self.length

    def marks(self) -> Iterator[tuple[float, str]]:
        """(tick, label) of about eight marks: seconds, or numbers of frames if the rate is not known."""
        rate = 1.0 if self.times.is_assumed else self.times.fps
        least = self.length / rate / _NUM_MARKS
        power = 10.0 ** math.floor(math.log10(least))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
        step = max(step, 1.0) if self.times.is_assumed else step
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        number = math.ceil(self.first / rate / step - 1e-9)
        while (tick := number * step * rate) < self.first + self.length:
            yield tick, f"{number * step:.{digits}f}{'' if self.times.is_assumed else ' s'}"
            number += 1


def _height(top: float, score: float) -> float:
    return top + 8 + (_ROW - 12) * (1 - min(1.0, max(0.0, score)))


def _lesions(video: MatchedVideo, axis: _TimeAxis, bottom: int) -> Iterator[Html]:
    """A band for each run of consecutive frames that show a lesion; a gap of the film ends it."""
    ticks, spacing = video.times.ticks, video.times.spacing
    for track in np.unique(video.gt_track):
        frames = np.unique(video.gt_frame[video.gt_track == track])
        ends = (np.diff(frames) > 1) | (np.diff(ticks[frames]) > 1.5 * spacing)
        for part in np.split(frames, np.flatnonzero(ends) + 1):
            left, right = axis.x(float(ticks[part[0]])), axis.x(float(ticks[part[-1]]) + spacing)
            shape = {"x": f"{left:.1f}", "y": _TOP - 4, "width": f"{right - left:.1f}", "height": bottom - _TOP + 2}
            title = f"lesion {track}, frames {video.frame_index[part[0]]} to {video.frame_index[part[-1]]}"
            yield element("rect", {**shape, "fill": LESION, "fill-opacity": 0.22}, element("title", None, title))
            yield element("rect", {**shape, "height": 4, "fill": LESION})


def _marks(axis: _TimeAxis, bottom: int) -> Iterator[Html]:
    for tick, label in axis.marks():
        x = axis.x(tick)
        yield _line(x, bottom - 4, x, bottom, "#9aa4b0")
        yield element("text", {"x": f"{x:.1f}", "y": bottom + 12, "text-anchor": "middle"}, label)


def _dots(ticks: NDArray[np.float64], scores: NDArray[np.float32], axis: _TimeAxis, top: float, colour: str) -> Html:
    """A dot at the highest score in each column."""
    column = ((ticks - axis.first) * axis.columns // axis.length).astype(np.int64)
    best = np.full(axis.columns, -1.0)
    np.maximum.at(best, np.minimum(column, axis.columns - 1), scores)
    width = axis.length / axis.columns
    path = "".join(
        f"M{axis.x(axis.first + (c + 0.5) * width):.1f} {_height(top, best[c]):.1f}h0"
        for c in np.flatnonzero(best >= 0)
    )
    look = {"stroke": colour, "stroke-width": 3.6, "stroke-linecap": "round", "fill": "none"}
    return element("path", {"d": path or None, **look})


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str | None = None) -> Html:
    at = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", {**at, "stroke": colour, "stroke-dasharray": dash})


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"...{name[-16:]}"
