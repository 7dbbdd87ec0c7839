"""Charts of many runs: a metric over a swept value, parallel coordinates, learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ultravid.evaluation.report.charts import COLOURS, DASHES, Axis, Series, line_chart
from ultravid.evaluation.report.html_page import Html, chart_figure, element
from ultravid.experiments.grouping import Grouping, Setting, axis_values, lower_is_better, short_keys
from ultravid.experiments.run_results import RunResult, canonical, last_step, learning_curves
from ultravid.utils.text import rounded

__all__ = ["curve_charts", "parallel_chart", "setting_styles", "sweep_charts"]

Link = Callable[[RunResult], str]

_MOST_LINES = 12  # of a chart whose lines have a legend
_MOST_CURVES = 60
_MOST_TICKS = 8
_MOST_AXES = 8  # of parallel coordinates
_LONGEST = 14  # characters of a tick's text
_LOG_FROM = 8.0  # ratio of the largest value to the smallest from which an axis is logarithmic


def setting_styles(settings: Sequence[Setting]) -> dict[int, tuple[str, str]]:
    """Colour and dash of each setting, by its number."""
    number = len(COLOURS)
    return {s.number: (COLOURS[s.number % number], DASHES[(s.number // number) % len(DASHES)]) for s in settings}


def sweep_charts(grouping: Grouping, metric: str, link: Link) -> list[Html]:
    """The metric over each key that runs are grouped by: a point a run, and a line through the means of runs that are alike otherwise."""
    results = [run for run in grouping.runs if run.counts_as_result and _is_defined(run, metric)]
    swept = [key for key in grouping.by if len({canonical(run.settings.get(key)) for run in results}) > 1]
    return [_sweep_chart(grouping, results, key, metric, link) for key in swept]


def _sweep_chart(grouping: Grouping, results: Sequence[RunResult], key: str, metric: str, link: Link) -> Html:
    axis, place = _axis_of(results, key)
    others = [other for other in grouping.by if other != key]
    lines: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for run in results:
        alike = tuple(canonical(run.settings.get(other)) for other in others)
        lines.setdefault(alike, {}).setdefault(place(run), []).append(run.metrics[metric])
    colours = {alike: COLOURS[n % len(COLOURS)] for n, alike in enumerate(lines)}
    dashes = {alike: DASHES[n // len(COLOURS) % len(DASHES)] for n, alike in enumerate(lines)}
    series = []
    for run in results:
        alike = tuple(canonical(run.settings.get(other)) for other in others)
        point = (place(run), run.metrics[metric])
        label = f"{run.name}: {metric} {point[1]:.2f}"
        series.append(Series(label, [point], colours[alike], has_line=False, radius=4, href=link(run)))
    is_categorical = axis.tick_texts is not None and axis_values(results, key) is None
    for alike, points in lines.items():
        means = [(x, sum(values) / len(values)) for x, values in sorted(points.items())]
        label = _values_text(others, alike) or "mean"
        line = Series(label, means, colours[alike], dashes[alike], has_line=not is_categorical, radius=0)
        series.insert(0, line if not is_categorical else Series(label, means, colours[alike], has_line=False, radius=7))
    chart = line_chart(f"{metric} over {key}", series, axis, _axis(metric, [run.metrics[metric] for run in results]))
    joined = "larger points are their means" if is_categorical else "lines join their means"
    told = (
        f"; one {'colour' if is_categorical else 'line'} for each {', '.join(map(last_step, others))}" if others else ""
    )
    listed = ", ".join(
        f"{name} ({_values_text(others, alike)})"
        for alike, name in ((alike, _colour_name(colours[alike])) for alike in lines)
    )
    more = f" {listed}." if others and len(lines) <= _MOST_LINES else ""
    scale = " Logarithmic axis." if axis.log else ""
    text = f"Each point is a finished run, at its last evaluation; {joined}{told}.{more}{scale}"
    return chart_figure(f"{metric} over {key}", chart, text)


def _values_text(keys: Sequence[str], values: Sequence[str]) -> str:
    """The values of keys in a line, with four significant digits."""
    return ", ".join(f"{last_step(key)}={rounded([v])[v]}" for key, v in zip(keys, values, strict=True))


_NAMES = dict(zip(COLOURS, ("blue", "orange", "green", "pink", "brown", "light blue"), strict=True))


def _colour_name(colour: str) -> str:
    return _NAMES.get(colour, colour)


def _axis_of(runs: Sequence[RunResult], key: str) -> tuple[Axis, Callable[[RunResult], float]]:
    """An axis over the values of a key, and where a run is on it; texts are spread evenly."""
    numbers = axis_values(runs, key)
    if numbers is not None:
        return _axis(key, numbers, numbers), lambda run: float(canonical(run.settings.get(key)))
    texts = sorted({canonical(run.settings.get(key)) for run in runs})
    places = {text: float(at) for at, text in enumerate(texts)}
    shown = [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in (t or "(none)" for t in texts)]
    axis = Axis(key, -0.5, len(texts) - 0.5, list(places.values()), tick_texts=shown)
    return axis, lambda run: places[canonical(run.settings.get(key))]


def _axis(label: str, values: Sequence[float], marked: Sequence[float] = ()) -> Axis:
    """An axis over values, with some room at its ends; logarithmic if they spread over several times the smallest."""
    low, high = min(values), max(values)
    log = bool(marked) and low > 0 and high / low >= _LOG_FROM
    if log:
        room = (high / low) ** 0.06
        ticks = list(marked) if len(marked) <= _MOST_TICKS else _powers(low, high)
        return Axis(label, low / room, high * room, ticks, log=True)
    room = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
    begin, end = low - room, high + room
    ticks = list(marked) if marked and len(marked) <= _MOST_TICKS else _round_ticks(begin, end)
    return Axis(label, begin, end, ticks)


def _round_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, some five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers, with 2 and 5 times them if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(ticks) > 2:
            break
    step = -(-len(ticks) // _MOST_TICKS)
    return ticks[::step] if ticks else [low, high]


def _is_defined(run: RunResult, metric: str) -> bool:
    return not math.isnan(run.metrics.get(metric, math.nan))


# Parallel coordinates

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 1120, 330, 34, 16, 90
_GRADIENT = ((68, 1, 84), (33, 145, 140), (217, 180, 20))  # dark to bright, as viridis, with a darker end


def parallel_chart(grouping: Grouping, metric: str, link: Link) -> Html | None:
    """A line a run over an axis for each key that differs and for the metric, by which lines are coloured; None if there are too few."""
    runs = [run for run in grouping.runs if run.counts_as_result and _is_defined(run, metric)]
    keys = [key for key in grouping.differing if len({canonical(run.settings.get(key)) for run in runs}) > 1]
    grouped = [key for key in keys if key in grouping.by]
    keys = [key for key in (grouped if len(grouped) > 1 else keys) if key != "name"][:_MOST_AXES]
    if len(runs) < 3 or len(keys) < 2:
        return None
    short = short_keys(keys)
    axes = [_axis_of(runs, key) for key in keys]
    values = [run.metrics[metric] for run in runs]
    axes.append((_axis(metric, values), lambda run: run.metrics[metric]))
    xs = [_SIDE + at * (_WIDTH - 2 * _SIDE) / (len(axes) - 1) for at in range(len(axes))]
    marks = [_vertical(axis, short.get(axis.label, axis.label), x) for (axis, _), x in zip(axes, xs, strict=True)]
    low, high = min(values), max(values)
    worst_first = sorted(runs, key=lambda run: run.metrics[metric], reverse=lower_is_better(metric))
    lines = []
    for run in worst_first:
        points = [f"{x:.1f} {_down(axis, place(run)):.1f}" for (axis, place), x in zip(axes, xs, strict=True)]
        share = (run.metrics[metric] - low) / (high - low) if high > low else 1.0
        shape = {"d": f"M{'L'.join(points)}", "fill": "none", "stroke-width": 2, "stroke-opacity": 0.8}
        text = element("title", None, f"{run.name}: {metric} {run.metrics[metric]:.2f}")
        line = element("path", {**shape, "stroke": _colour(1 - share if lower_is_better(metric) else share)}, text)
        lines.append(element("a", {"href": link(run)}, line) if link(run) else line)
    size = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "width": _WIDTH, "height": _HEIGHT, "role": "img"}
    return element("svg", {"class": "chart", **size, "aria-label": "parallel coordinates"}, *lines, *marks)


def _down(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.place(value) * (_HEIGHT - _TOP - _BOTTOM)


def _vertical(axis: Axis, label: str, x: float) -> Html:
    shape = {"x1": f"{x:.1f}", "x2": f"{x:.1f}", "y1": _TOP, "y2": _HEIGHT - _BOTTOM, "stroke": "#4a535e"}
    centre = {"x": f"{x:.1f}", "text-anchor": "middle"}
    parts = [element("line", shape), element("text", {**centre, "y": 16, "font-weight": "bold"}, label)]
    halo = {"stroke": "#fff", "stroke-width": 3, "paint-order": "stroke"}
    for tick, text in axis.texts():
        y = _down(axis, tick)
        parts.append(element("line", {"x1": f"{x - 4:.1f}", "x2": f"{x:.1f}", "y1": y, "y2": y, "stroke": "#4a535e"}))
        parts.append(element("text", {"x": f"{x - 7:.1f}", "y": f"{y + 4:.1f}", "text-anchor": "end", **halo}, text))
    return Html("".join(parts))


def _colour(share: float) -> str:
    """From dark to bright."""
    at = min(max(share, 0.0), 1.0) * (len(_GRADIENT) - 1)
    first = min(int(at), len(_GRADIENT) - 2)
    mixed = (round(a + (at - first) * (b - a)) for a, b in zip(_GRADIENT[first], _GRADIENT[first + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


# Learning curves


def curve_charts(grouping: Grouping, metrics: Sequence[str], link: Link) -> tuple[list[Html], str]:
    """What training recorded over iterations: metrics of evaluations, and the loss; the colours are those of settings.

    Returns:
        the charts, and what is not shown; "" if everything is.
    """
    chosen = list(grouping.runs)[:_MOST_CURVES]
    curves = {id(run): learning_curves(run.run) for run in chosen}
    styles = setting_styles(grouping.settings)
    setting_of = {id(run): setting for setting in grouping.settings for run in setting.runs}
    charts = []
    for name in (*metrics, "total_loss"):
        series = []
        for run in chosen:
            points = curves[id(run)].get(name, [])
            colour, dash = styles[setting_of[id(run)].number]
            if points:
                label = f"{run.name} ({setting_of[id(run)].label})"
                radius = 2.5 if len(points) < 3 else 0
                series.append(
                    Series(label, [(float(x), y) for x, y in points], colour, dash, radius=radius, href=link(run))
                )
        if any(len(line.points) > 1 for line in series):
            charts.append(_curve_chart(name, series))
    left = len(grouping.runs) - len(chosen)
    return charts, f"Learning curves are those of the first {_MOST_CURVES} runs; {left} are not drawn." if left else ""


def _curve_chart(name: str, series: Sequence[Series]) -> Html:
    values = [[point[i] for line in series for point in line.points] for i in (0, 1)]
    x, y = _axis("iteration", [0.0, *values[0]]), _axis(name, values[1])
    x = Axis(x.label, 0, max(values[0]), [t for t in x.ticks if 0 <= t <= max(values[0])])
    is_loss = name.endswith("loss")
    if is_loss and min(values[1]) > 0 and max(values[1]) / min(values[1]) > _LOG_FROM:
        y = _axis(name, values[1], _powers(min(values[1]), max(values[1])))
    what = "The loss of training as it was recorded" if is_loss else "Each evaluation during training"
    scale = " Logarithmic axis." if y.log else ""
    return chart_figure(
        f"{name} during training", line_chart(f"{name} over iterations", series, x, y), f"{what}.{scale}"
    )
