"""The HTML page of many runs: settings, their differences, every run with a link to its report, charts, and the origin of each run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from ultravid.evaluation.report.html_page import (
    Cell,
    Html,
    Row,
    caption,
    command,
    element,
    legend,
    page,
    section,
    table,
    value_cell,
)
from ultravid.evaluation.tables import digits_of, format_interval
from ultravid.experiments.grouping import Grouping, short_keys, shown_values
from ultravid.experiments.paired import Comparison
from ultravid.experiments.run_results import RunResult, canonical, number_in
from ultravid.experiments.summary_charts import curve_charts, parallel_chart, setting_styles, sweep_charts
from ultravid.experiments.summary_tables import UNITS, mean_text, provenance
from ultravid.utils.text import counted

__all__ = ["summary_page"]

Link = Callable[[RunResult], str]

_CHARTED = 2  # metrics
_MOST_IN_LEGEND = 24


def summary_page(
    title: str, grouping: Grouping, comparison: Comparison, command_line: str, reports: Mapping[str, str]
) -> str:
    """The whole document.

    Args:
        title: the title of the page.
        grouping: the runs.
        comparison: the comparison of their settings.
        command_line: the command that makes this page again.
        reports: the address of each run's report by the name of the run, relative to the page; of those that have one.
    """

    def link(run: RunResult) -> str:
        return reports.get(run.name, "")

    sections = {
        "settings": ("Settings", _settings_section(grouping, command_line)),
        "differences": ("Differences", _differences_section(comparison, command_line)),
        "charts": ("Charts", _charts_section(grouping, link, command_line)),
        "runs": ("Runs", _runs_section(grouping, link, command_line)),
        "curves": ("Learning curves", _curves_section(grouping, link, command_line)),
        "provenance": ("How each was made", _provenance_section(grouping, command_line)),
    }
    present = {key: (name, part) for key, (name, part) in sections.items() if part is not None}
    states: dict[str, int] = {}
    for run in grouping.runs:
        states[run.status.state.value] = states.get(run.status.state.value, 0) + 1
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    subtitle = f"{counted(len(grouping.runs), 'run')} ({told}), {counted(len(grouping.settings), 'setting')}"
    contents = {key: name for key, (name, _) in present.items()}
    return page(title, subtitle, [part for _, part in present.values()], contents)


def _settings_section(grouping: Grouping, command_line: str) -> Html:
    short = short_keys(grouping.by)
    has_data = any(setting.data for setting in grouping.settings)
    keys = [*(short[key] for key in grouping.by), *(["evaluation"] if has_data else [])] or ["setting"]
    rows: list[Row] = []
    for setting in grouping.settings:
        own = [_setting_cell(text, setting.shown[key]) for key, text in setting.values.items()]
        own += [_setting_cell(setting.data)] if has_data else []
        row: Row = [*(own or [_setting_cell(setting.label)]), value_cell(len(setting.results), 0)]
        for name in grouping.metrics:
            metric = setting.metric(name)
            row.append(Cell(mean_text(metric), metric.mean))
        rows.append(row)
    notes = [caption(note) for note in grouping.notes]
    how = caption(
        f"Mean ± sample standard deviation over the finished runs of a setting, of their last evaluation. {UNITS} "
        "Click a column heading to sort."
    )
    headers = [*keys, "runs", *grouping.metrics]
    return section(
        "settings", "Settings", table(headers, rows, "settings-table", "many"), *notes, how, *_again(command_line)
    )


def _setting_cell(text: str, shown: str | None = None) -> Cell:
    number = number_in(canonical(text))
    return Cell(shown or text, left=True) if number is None else Cell(shown or text, number)


def _again(command_line: str) -> list[Html]:
    return [caption("To compute these values again:"), command(command_line)]


def _differences_section(comparison: Comparison, command_line: str) -> Html | None:
    notes = [caption(note) for note in comparison.notes]
    if comparison.reference is None or not comparison.differences:
        return section("differences", "Differences", *notes) if notes else None
    rows: list[Row] = []
    for row in comparison.differences:
        digits = digits_of(row.metric)
        interval = Cell(format_interval(row.low, row.high, digits))
        values = [value_cell(value, digits) for value in (row.difference, row.reference, row.value)]
        p_values = [value_cell(row.p, 4), value_cell(row.p_holm, 4)]
        rows.append([row.setting.label, Cell(row.metric, left=True), values[0], interval, *p_values, *values[1:]])
    headers = ["setting", "metric", "difference", "95% interval", "p", "p (Holm)", "reference", "value"]
    about = caption(
        f"Compared with {comparison.reference.label}: value of the setting less that of the reference. {UNITS}"
    )
    return section(
        "differences", "Differences", about, table(headers, rows, "differences-table"), *notes, *_again(command_line)
    )


def _charts_section(grouping: Grouping, link: Link, command_line: str) -> Html | None:
    charts = [chart for name in grouping.metrics[:_CHARTED] for chart in sweep_charts(grouping, name, link)]
    parts = [element("div", {"class": "charts"}, *charts)] if charts else []
    parallel = parallel_chart(grouping, grouping.metrics[0], link) if grouping.metrics else None
    if parallel is not None:
        parts.append(element("div", {"class": "wide"}, parallel))
        parts.append(
            caption(
                element("b", None, "Parallel coordinates. "),
                f"Each line is a finished run, from the value of each key to its {grouping.metrics[0]} at the right; brighter lines are better.",
            )
        )
    return section("charts", "Charts", *parts, *_again(command_line)) if parts else None


def _runs_section(grouping: Grouping, link: Link, command_line: str) -> Html:
    keys = list(grouping.differing)
    short, texts = short_keys(keys), shown_values(grouping.runs, keys)
    rows: list[Row] = []
    for run in grouping.runs:
        row: Row = [Cell(run.name, href=link(run))]
        row += [_setting_cell(text, texts[key][text]) for key in keys for text in [run.settings.get(key, "")]]
        row += [
            value_cell(run.metrics[name], digits_of(name)) if name in run.metrics else "" for name in grouping.metrics
        ]
        row += [Cell(run.status.state.value, left=True), Cell(run.progress, run.status.iteration)]
        rows.append([*row, Cell(run.problem, prose=True) if run.problem else ""])
    headers = ["run", *(short[key] for key in keys), *grouping.metrics, "state", "iteration", "not counted"]
    if not any(run.problem for run in grouping.runs):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    linked = sum(bool(link(run)) for run in grouping.runs)
    about = "A run's name links to its report. " if linked else ""
    if linked < sum(run.counts_as_result for run in grouping.runs):
        about += "Reports of all runs, with curves and the frames in which each failed, are written with --reports. "
    how = caption(
        f"{about}Metrics of each run's last evaluation (metrics.json beside its predictions, which tools/evaluate.py computes); only keys "
        f"in which runs differ. {UNITS}"
    )
    return section("runs", "Runs", table(headers, rows, "runs-table", "many"), how, *_again(command_line))


def _curves_section(grouping: Grouping, link: Link, command_line: str) -> Html | None:
    charts, not_shown = curve_charts(grouping, grouping.metrics[:_CHARTED], link)
    if not charts:
        return None
    styles = setting_styles(grouping.settings)
    named = [(s.label, styles[s.number][0]) for s in grouping.settings[:_MOST_IN_LEGEND]]
    if len(grouping.settings) > _MOST_IN_LEGEND:
        not_shown += f" The first {_MOST_IN_LEGEND} of {len(grouping.settings)} settings are named."
    how = caption(f"Read from metrics.json in each run's folder; point at a line for its run. {not_shown}".strip())
    parts = [legend(named), element("div", {"class": "charts"}, *charts), how]
    return section("curves", "Learning curves", *parts, *_again(command_line))


def _provenance_section(grouping: Grouping, command_line: str) -> Html:
    names = {"weights": "SHA-256 of weights and config", "config": "SHA-256 of config", "data": "SHA-256 of data"}
    rows: list[Row] = []
    for run in grouping.runs:
        facts = provenance(run)
        hashes = [Cell(facts[key][:12], left=True) for key in names]
        commit = Cell(facts["commit"][:12], left=True)
        rows.append([run.name, Cell(str(run.run.path), left=True), *hashes, commit, Cell(run.identity[:16], left=True)])
    headers = ["run", "folder", *names.values(), "commit", "identity"]
    how = caption(
        "The beginnings of hashes, as recorded by the evaluations (record.json) and trainings (attempts/*/record.json); runs.csv has them "
        "whole. An identity is the hash of all values of a config that can change a run's results."
    )
    metrics = ["python", "tools/evaluate.py", "--predictions", "RUN", "--output-dir", "OUT"]
    again = [caption("To compute all metrics of a run again from its predictions:"), command(shlex.join(metrics))]
    parts: Sequence[Html] = [table(headers, rows, "provenance-table", "hashes"), how, *again]
    return section("provenance", "How each was made", *parts, caption("This page was made by:"), command(command_line))
