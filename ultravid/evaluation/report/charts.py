"""Charts as inline SVG: lines over two axes, and bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ultravid.evaluation.report.html_page import Html, element

__all__ = ["COLOURS", "DASHES", "Axis", "Series", "bar_chart", "line_chart"]

# Most colour-blind readers can distinguish these colours (Okabe and Ito, "Color universal design", 2008); in greyscale the
# dashes distinguish the lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5c00", "#56b4e9")
DASHES = ("", "7 3", "2 2", "9 3 2 3", "4 4", "1 3")

_WIDTH, _HEIGHT = 540, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 44


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        label: quantity and unit.
        low: value at the start.
        high: value at the end.
        ticks: values that are marked.
        log: logarithmic scale; values below ``low`` are drawn at ``low``.
        tick_texts: text at each tick; None: the values.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False
    tick_texts: Sequence[str] | None = None

    def place(self, value: float) -> float:
        """Position of a value: 0 at the start, 1 at the end; values outside are clipped."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, self.low)) if self.log else value
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def texts(self) -> Iterator[tuple[float, str]]:
        """Each tick and its text."""
        yield from zip(self.ticks, self.tick_texts or [f"{tick:g}" for tick in self.ticks], strict=True)


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        label: its name, shown as a tooltip.
        points: (x, y) in drawing order.
        colour: CSS colour.
        dash: dash array of SVG; empty: a solid line.
        steps: draw steps, first to the right, then up, for points that are thresholds.
        has_line: whether the points are joined.
        radius: the radius of a mark at each point, in pixels; 0: none.
        href: where the line and its points link to; "": nowhere.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dash: str = ""
    steps: bool = False
    has_line: bool = True
    radius: float = 0
    href: str = ""


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Html:
    """Lines over two axes.

    Args:
        title: description for screen readers.
        series: lines, in drawing order.
        x: horizontal axis.
        y: vertical axis.
    """
    return _chart(title, x, y, *(_line(s, x, y) for s in series if s.points))


def bar_chart(
    title: str, groups: Sequence[tuple[str, Sequence[float], str]], edges: Sequence[float], x: Axis, y: Axis
) -> Html:
    """A histogram; in each bin the bars of the groups are side by side.

    Args:
        title: description for screen readers.
        groups: name, height in each bin, and colour of each group.
        edges: edges of the bins, one more than there are bins.
        x: horizontal axis.
        y: vertical axis.
    """
    bars = []
    for number, (name, heights, colour) in enumerate(groups):
        for low, high, height in zip(edges[:-1], edges[1:], heights, strict=True):
            left, right = _x(x, low), _x(x, high)
            width = (right - left - 1) / len(groups)
            top = _y(y, height)
            shape = {"x": f"{left + number * width:.1f}", "y": f"{top:.1f}", "width": f"{width:.1f}"}
            shape |= {"height": f"{_y(y, y.low) - top:.1f}", "fill": colour}
            if height > 0:
                label = element("title", None, f"{name}, {low:.2f} to {high:.2f}: {height:g}")
                bars.append(element("rect", shape, label))
    return _chart(title, x, y, *bars)


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.place(value) * (_HEIGHT - _TOP - _BOTTOM)


def _line(series: Series, x: Axis, y: Axis) -> Html:
    path = ""
    for number, (at_x, at_y) in enumerate(series.points):
        left, top = f"{_x(x, at_x):.1f}", f"{_y(y, at_y):.1f}"
        path += f"M{left} {top}" if number == 0 else f"H{left}V{top}" if series.steps else f"L{left} {top}"
    shape = {"d": path, "fill": "none", "stroke": series.colour, "stroke-width": 2, "stroke-linejoin": "round"}
    label = element("title", None, series.label)
    marks = [element("path", {**shape, "stroke-dasharray": series.dash or None}, label)] if series.has_line else []
    for at_x, at_y in series.points if series.radius else ():
        place = {"cx": f"{_x(x, at_x):.1f}", "cy": f"{_y(y, at_y):.1f}", "r": series.radius}
        marks.append(element("circle", {**place, "fill": series.colour}, label))
    return element("a", {"href": series.href}, *marks) if series.href else Html("".join(marks))


def _chart(title: str, x: Axis, y: Axis, *marks: Html) -> Html:
    left, right, top, bottom = _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM
    parts = []
    for tick, text in x.texts():
        at = f"{_x(x, tick):.1f}"
        parts.append(_rule(at, top, at, bottom))
        parts.append(element("text", {"x": at, "y": bottom + 15, "text-anchor": "middle"}, text))
    for tick, text in y.texts():
        at = f"{_y(y, tick):.1f}"
        parts.append(_rule(left, at, right, at))
        parts.append(element("text", {"x": left - 6, "y": float(at) + 4, "text-anchor": "end"}, text))
    parts.append(element("text", {"x": (left + right) / 2, "y": _HEIGHT - 8, "text-anchor": "middle"}, x.label))
    turned = f"translate(13 {(top + bottom) / 2}) rotate(-90)"
    parts.append(element("text", {"transform": turned, "text-anchor": "middle"}, y.label))
    parts.append(
        element("path", {"d": f"M{left} {top}V{bottom}H{right}", "fill": "none", "stroke": "#4a535e"}),
    )
    size = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "width": _WIDTH, "height": _HEIGHT, "role": "img"}
    return element("svg", {"class": "chart", **size, "aria-label": title}, *parts, *marks)


def _rule(x1: object, y1: object, x2: object, y2: object) -> Html:
    return element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "stroke": "#e1e5ea"})
