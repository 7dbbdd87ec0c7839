"""Tables of many runs: one row per setting and one row per run, for the terminal, as CSV, as LaTeX and as plain data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ultravid.evaluation.folds import FoldMetric
from ultravid.evaluation.records import EvaluationRecord
from ultravid.evaluation.tables import digits_of, format_columns, format_interval, format_value
from ultravid.experiments.grouping import Grouping, short_keys, shown_values
from ultravid.experiments.paired import Comparison
from ultravid.experiments.run_results import RunResult
from ultravid.utils.text import latex_text, visible

__all__ = [
    "UNITS",
    "differences_csv",
    "fit_columns",
    "mean_text",
    "provenance",
    "runs_csv",
    "settings_csv",
    "settings_latex",
    "summary_json",
    "summary_text",
]

UNITS = (
    "In percent; FP in false-positive sequences per minute, FP/image in false-positive detections per image, lower is better. "
    "-: undefined."
)
_LEAST_WIDTH, _WIDEST_VALUE = 40, 24
_SHOWN = 8  # characters of an identity


@dataclass(frozen=True)
class Column:
    """A column of a table for the terminal.

    Attributes:
        header: its name.
        cells: its text in each row.
        is_text: whether it is aligned to the left.
        weight: columns of a higher one are left out first if the table is too wide; 0: never.
    """

    header: str
    cells: Sequence[str]
    is_text: bool = False
    weight: int = 0


def fit_columns(columns: Sequence[Column], width: int) -> tuple[str, list[str]]:
    """A table that is at most so wide, as far as that is possible.

    Columns that are left out first are those of the highest weight, among these the last; then the longest texts are cut.

    Returns:
        the table, and the names of the columns that were left out.
    """
    kept, left_out = list(columns), list[str]()
    while _width(kept) > width and any(column.weight for column in kept):
        heaviest = max(column.weight for column in kept)
        place = max(at for at, column in enumerate(kept) if column.weight == heaviest)
        left_out.insert(0, kept.pop(place).header)
    limit = max((len(text) for column in kept for text in [column.header, *column.cells]), default=0)
    while _width(kept, limit) > width and limit > 6:
        limit -= 1
    first = [column for column in kept if column.is_text]
    ordered = [*first, *(column for column in kept if not column.is_text)]
    rows = [[_cut(cell, limit) for cell in row] for row in zip(*(column.cells for column in ordered), strict=True)]
    return format_columns([_cut(column.header, limit) for column in ordered], rows, left=len(first)), left_out


def _width(columns: Sequence[Column], limit: int = 1000) -> int:
    return 1 + sum(3 + min(limit, max(map(len, [column.header, *column.cells]))) for column in columns)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def mean_text(metric: FoldMetric) -> str:
    """Mean and standard deviation as text; of a single run the value alone."""
    digits = digits_of(metric.name)
    if math.isnan(metric.mean):
        return "-"
    return format_value(metric.mean, digits) + (
        "" if math.isnan(metric.std) else f" ± {format_value(metric.std, digits)}"
    )


def summary_text(grouping: Grouping, comparison: Comparison, width: int) -> str:
    """The tables of settings, differences and runs, with notes, for a terminal of this width."""
    parts = ["Settings (mean ± standard deviation, n - 1)", *_settings_table(grouping, width)]
    if comparison.reference is not None and comparison.differences:
        parts += ["", f"Differences from {comparison.reference.label}", *_differences_table(comparison, width)]
    parts += ["", "Runs", *_runs_table(grouping, width), "", UNITS, *grouping.notes, *comparison.notes]
    return "\n".join(visible_lines(parts))


def visible_lines(parts: Sequence[str]) -> list[str]:
    """The lines without what a terminal would obey."""
    return [visible(line) for part in parts for line in part.split("\n")]


def _value_columns(keys: Sequence[str], rows: Sequence[Mapping[str, str]]) -> list[Column]:
    short = short_keys(keys)
    return [Column(short[key], [_cut(row.get(key, ""), _WIDEST_VALUE) for row in rows], is_text=True) for key in keys]


def _settings_table(grouping: Grouping, width: int) -> list[str]:
    settings = grouping.settings
    columns = _value_columns(grouping.by, [setting.shown for setting in settings])
    if any(setting.data for setting in settings):
        columns.append(Column("evaluation", [setting.data for setting in settings], is_text=True))
    if not columns:
        columns.append(Column("setting", [setting.label for setting in settings], is_text=True))
    counts = [f"{len(s.results)}" + (f" of {len(s.runs)}" if len(s.runs) > len(s.results) else "") for s in settings]
    columns.append(Column("runs", counts))
    for place, name in enumerate(grouping.metrics):
        columns.append(Column(name, [mean_text(setting.metric(name)) for setting in settings], weight=place))
    return _table(columns, width)


def _table(columns: Sequence[Column], width: int) -> list[str]:
    text, left_out = fit_columns(columns, max(width, _LEAST_WIDTH))
    return [text, *([f"(too narrow for {', '.join(left_out)}; choose with --metrics)"] if left_out else [])]


def _differences_table(comparison: Comparison, width: int) -> list[str]:
    rows = comparison.differences
    columns = [
        Column("setting", [row.setting.label for row in rows], is_text=True),
        Column("metric", [row.metric for row in rows], is_text=True),
        Column("difference", [format_value(row.difference, digits_of(row.metric)) for row in rows]),
        Column("95% interval", [format_interval(row.low, row.high, digits_of(row.metric)) for row in rows]),
        Column("p", [format_value(row.p, 4) for row in rows], weight=1),
        Column("p (Holm)", [format_value(row.p_holm, 4) for row in rows]),
        Column("reference", [format_value(row.reference, digits_of(row.metric)) for row in rows], weight=3),
        Column("value", [format_value(row.value, digits_of(row.metric)) for row in rows], weight=2),
    ]
    return _table(columns, width)


def _runs_table(grouping: Grouping, width: int) -> list[str]:
    runs = grouping.runs
    columns = [Column("run", [run.name for run in runs], is_text=True)]
    texts = shown_values(runs, grouping.differing)
    shown = [{key: texts[key][run.settings.get(key, "")] for key in grouping.differing} for run in runs]
    columns += _value_columns(grouping.differing, shown)
    columns.append(Column("state", [run.status.state.value for run in runs], is_text=True))
    for place, name in enumerate(grouping.metrics):
        cells = [_run_value(run, name) for run in runs]
        columns.append(Column(name, cells, weight=place))
    columns.append(Column("iteration", [run.progress for run in runs], weight=20))
    if any(run.identity for run in runs):
        columns.append(Column("identity", [run.identity[:_SHOWN] for run in runs], weight=21))
    return _table(columns, width)


def _run_value(run: RunResult, name: str) -> str:
    """A run's metric; in brackets if it is not that of its end."""
    if name not in run.metrics:
        return ""
    text = format_value(run.metrics[name], digits_of(name))
    return text if run.counts_as_result else f"({text})"


# Files


def _written(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def runs_csv(grouping: Grouping) -> str:
    """A row a run: name, state, the keys that differ, all metrics and counts with all digits; at the end what made it."""
    runs, keys = grouping.runs, grouping.differing
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    counts = list(dict.fromkeys(name for run in runs for name in run.counts))
    header = ["run", "state", "iteration", "max_iter", "counted", *keys, *metrics, *counts]
    header += ["problem", "folder", "identity", "weights_sha256", "config_sha256", "data_sha256", "commit"]
    rows = []
    for run in runs:
        at = run.status.iteration
        begin = [run.name, run.status.state.value, "" if at is None else at + 1, run.status.max_iter or ""]
        values = [*(_cell(run.metrics.get(name)) for name in metrics), *(_cell(run.counts.get(n)) for n in counts)]
        settings = [run.settings.get(key, "") for key in keys]
        end = [run.problem, str(run.run.path), run.identity, *provenance(run).values()]
        rows.append([*begin, "yes" if run.counts_as_result else "no", *settings, *values, *end])
    return _written(header, rows)


def provenance(run: RunResult) -> dict[str, str]:
    """The hashes behind a run's metrics: of weights, config and data, and the commit that trained it; "" if not recorded."""
    record: EvaluationRecord | None = run.record
    content: Mapping[str, Any] = {} if record is None else record.content
    weights = {} if record is None else record.weights
    git = (run.run.newest_record() or {}).get("git") or {}
    commit = f"{git['commit']}{' with changes' if git.get('changed') else ''}" if git.get("commit") else ""
    return {
        "weights": str(weights.get("model_sha256") or weights.get("sha256") or ""),
        "config": str((content.get("config") or {}).get("sha256") or ""),
        "data": str((content.get("data") or {}).get("sha256") or ""),
        "commit": commit,
    }


def settings_csv(grouping: Grouping) -> str:
    """A row a setting and metric, with all digits."""
    header = [*grouping.by, "evaluation", "metric", "mean", "std", "num_runs", "num_defined"]
    header += ["mean_of_defined", "std_of_defined", "runs"]
    rows = []
    for setting in grouping.settings:
        names = list(dict.fromkeys(name for run in setting.results for name in run.metrics))
        for name in names:
            m = setting.metric(name)
            numbers = [_cell(m.mean), _cell(m.std), len(m.values), len(m.defined)]
            of_defined = [_cell(m.mean_of_defined), _cell(m.std_of_defined)]
            runs = " ".join(run.name for run in setting.results)
            rows.append([*setting.values.values(), setting.data, name, *numbers, *of_defined, runs])
    return _written(header, rows)


def differences_csv(grouping: Grouping, comparison: Comparison) -> str:
    """A row a setting and metric: how it differs from the reference, with all digits."""
    reference = comparison.reference.values if comparison.reference is not None else {}
    header = [*grouping.by, *(f"reference {key}" for key in grouping.by), "metric", "value", "reference"]
    header += ["difference", "low", "high", "p", "p_holm"]
    rows = [
        [
            *row.setting.values.values(),
            *(reference.get(key, "") for key in grouping.by),
            row.metric,
            *map(_cell, (row.value, row.reference, row.difference, row.low, row.high, row.p, row.p_holm)),
        ]
        for row in comparison.differences
    ]
    return _written(header, rows)


def settings_latex(grouping: Grouping, command: str) -> str:
    """A table of the settings for a paper, with the package booktabs; notes are comments."""
    short, metrics = short_keys(grouping.by), grouping.metrics
    headers = [*(short[key] for key in grouping.by), *(["evaluation"] if _has_data(grouping) else [])] or ["setting"]
    lines = [f"% {visible(note)}" for note in (f"Made by: {command}", UNITS, *grouping.notes)]
    lines += [
        "% \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(headers)}r{'r' * len(metrics)}}}",
        r"\toprule",
    ]
    lines += [" & ".join([*map(latex_text, headers), "runs", *map(latex_text, metrics)]) + r" \\", r"\midrule"]
    for setting in grouping.settings:
        own = [*setting.shown.values(), *([setting.data] if _has_data(grouping) else [])] or [setting.label]
        cells = [_latex_mean(setting.metric(name)) for name in metrics]
        lines.append(" & ".join([*map(latex_text, own), str(len(setting.results)), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _has_data(grouping: Grouping) -> bool:
    return any(setting.data for setting in grouping.settings)


def _latex_mean(metric: FoldMetric) -> str:
    text = mean_text(metric)
    return "--" if text == "-" else f"${text.replace('±', chr(92) + 'pm')}$"


def summary_json(grouping: Grouping, comparison: Comparison, command: str) -> dict[str, Any]:
    """Everything as plain data; nan if undefined (`ultravid.utils.file_io.dump_json` writes null)."""
    return {
        "command": command,
        "group_by": list(grouping.by),
        "averaged_over": list(grouping.over),
        "std_kind": "sample, n - 1",
        "settings": [
            {
                "values": dict(setting.values),
                "evaluation": setting.data or None,
                "runs": [run.name for run in setting.results],
                "not_counted": {run.name: run.problem for run in setting.runs if not run.counts_as_result},
                "metrics": {
                    name: {"mean": m.mean, "std": m.std, "num_runs": len(m.values), "num_defined": len(m.defined)}
                    for name in dict.fromkeys(name for run in setting.results for name in run.metrics)
                    for m in [setting.metric(name)]
                },
            }
            for setting in grouping.settings
        ],
        "reference": None if comparison.reference is None else dict(comparison.reference.values),
        "differences": [
            {
                "values": dict(row.setting.values),
                "metric": row.metric,
                **{
                    key: getattr(row, key) for key in ("value", "reference", "difference", "low", "high", "p", "p_holm")
                },
            }
            for row in comparison.differences
        ],
        "runs": [
            {
                "name": run.name,
                "folder": str(run.run.path),
                "state": run.status.state.value,
                "counted": run.counts_as_result,
                "problem": run.problem,
                "settings": {key: run.settings.get(key) for key in grouping.differing},
                "metrics": dict(run.metrics),
                "identity": run.identity,
                **{f"{key}_sha256" if key != "commit" else key: text for key, text in provenance(run).items()},
            }
            for run in grouping.runs
        ],
        "notes": [*grouping.notes, *comparison.notes],
    }
