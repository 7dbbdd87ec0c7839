"""Report sections of numbers: main metrics with intervals, differences between runs, strata, all metrics."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ultravid.evaluation.bootstrap import BOOTSTRAP_METRICS, paired_p_value, patient_notes, percentile_interval
from ultravid.evaluation.image_metrics import stills_note
from ultravid.evaluation.metrics import count_metrics, shown_metrics, stratum_metrics, why_undefined
from ultravid.evaluation.report.html_page import (
    Cell,
    Html,
    Row,
    caption,
    command,
    element,
    paragraph,
    section,
    table,
    value_cell,
)
from ultravid.evaluation.report.report_run import MOST_COLUMNS, ReportOptions, ReportRun, notes_of_runs, strata_fields
from ultravid.evaluation.run_facts import differing_settings, run_warnings
from ultravid.evaluation.tables import digits_of, format_interval, format_undefined

__all__ = ["all_metrics_section", "differences_section", "metrics_section", "strata_section"]

_NAN = float("nan")

_MEANINGS = {
    "AP50": "average precision: area under the precision envelope over recall at IoU 0.5, percent",
    "AP75": "the same at IoU 0.75",
    "mAP": "mean average precision over IoU 0.50, 0.55, ..., 0.95, percent",
    "Pr70": "precision at recall 0.7, percent",
    "Pr80": "precision at recall 0.8, percent",
    "Pr90": "precision at recall 0.9, percent",
    "FP70": "false-positive sequences per minute at the score threshold of recall 0.7; lower is better",
    "FP80": "false-positive sequences per minute at the score threshold of recall 0.8; lower is better",
    "FP90": "false-positive sequences per minute at the score threshold of recall 0.9; lower is better",
    "FP/image@R70": "false-positive detections per image at the score threshold of recall 0.7; lower is better",
    "FP/image@R80": "false-positive detections per image at the score threshold of recall 0.8; lower is better",
    "FP/image@R90": "false-positive detections per image at the score threshold of recall 0.9; lower is better",
    "R@16": "lesion boxes hit by at least one of the 16 highest-scoring detections of their frame, percent",
    "AR@16": "mean of R@16 over IoU 0.50, 0.55, ..., 0.95, percent",
    "lesion/sensitivity_any@R80": "lesions found in at least one frame at the score threshold of recall 0.8, percent",
    "lesion/sensitivity_half@R80": "lesions found in at least half of their frames at that threshold, percent",
}


def metrics_section(runs: Sequence[ReportRun]) -> Html:
    """The metrics that have confidence intervals."""
    options = runs[0].options
    tables = [_metrics_by_row(runs)] if len(runs) <= MOST_COLUMNS else _metrics_by_column(runs)
    notes = _undefined_notes(runs, BOOTSTRAP_METRICS)
    notes += [caption(f"{names}: {note}") for names, note in notes_of_runs(runs, _warnings)]
    notes += [caption(f"{names}: {note}") for names, note in notes_of_runs(runs, lambda run: stills_note(run.videos))]
    notes += _rate_notes(runs, BOOTSTRAP_METRICS)
    if options.num_draws:
        said = notes_of_runs(runs, lambda run: " ".join(patient_notes(run.videos)))
        notes += [caption(f"{names}: {note}") for names, note in said]
    how = "Computed over the frames of all videos pooled."
    if options.num_draws:
        how += (
            f" Intervals: 95% percentile bootstrap, {options.num_draws} draws of patients with replacement, each patient with "
            "all of his or her videos; a dash if the metric is undefined in more than 1 of 20 draws."
        )
    commands = [command(_evaluate_command(run)) for run in runs]
    again = caption("To compute these values again:"), *commands
    return section("metrics", "Metrics", *tables, *notes, caption(how), *again)


def _warnings(run: ReportRun) -> str:
    return " ".join(run_warnings(run.path))


def _metrics_by_row(runs: Sequence[ReportRun]) -> Html:
    """A row a metric: of each run its value and interval."""
    interval_header = ["95% interval"] if runs[0].options.num_draws else []
    headers = ["metric", *(text for run in runs for text in (run.name, *interval_header)), "meaning"]
    rows: list[Row] = []
    for name in BOOTSTRAP_METRICS:
        row: Row = [name]
        for run in runs:
            row.append(value_cell(run.metrics[name], digits_of(name)))
            row += [_interval_cell(run, name)] if run.draws else []
        rows.append([*row, Cell(_MEANINGS[name], prose=True)])
    return table(headers, rows, "main-metrics")


def _interval_cell(run: ReportRun, name: str) -> Cell:
    interval = percentile_interval(run.draws[name])
    return Cell(format_interval(interval.low, interval.high, digits_of(name)))


def _metrics_by_column(runs: Sequence[ReportRun]) -> list[Html]:
    """A row a run: its values; then the intervals of the main metrics; and what each metric means."""
    rows: list[Row] = [
        [run.name, *(value_cell(run.metrics[name], digits_of(name)) for name in BOOTSTRAP_METRICS)] for run in runs
    ]
    parts = [table(["run", *BOOTSTRAP_METRICS], rows, "main-metrics", "many")]
    shown = max((shown_metrics(run.videos) for run in runs), key=len)
    main = [name for name in shown if name in BOOTSTRAP_METRICS]
    if runs[0].options.num_draws:
        intervals: list[Row] = [[run.name, *(_interval_cell(run, name) for name in main)] for run in runs]
        parts += [caption("95% intervals:"), table(["run", *main], intervals, "main-intervals", "many")]
    meanings: list[Row] = [[name, Cell(_MEANINGS[name], prose=True)] for name in BOOTSTRAP_METRICS]
    what = element("summary", None, "What each metric means")
    return [*parts, element("details", None, what, table(["metric", "meaning"], meanings, "meanings"))]


def _rate_notes(runs: Sequence[ReportRun], names: Sequence[str] | None = None) -> list[Html]:
    """Which metrics rest on an assumed frame rate, of these metrics or of all."""
    said = notes_of_runs(runs, lambda run: run.assumed_rate_note(names))
    return [caption(f"In {of}, {note}") for of, note in said]


def _undefined_notes(runs: Sequence[ReportRun], names: Sequence[str] | None = None) -> list[Html]:
    """Why metrics are undefined, of these or of all."""

    def reasons(run: ReportRun) -> str:
        metrics = run.metrics if names is None else {name: run.metrics[name] for name in names}
        return format_undefined(why_undefined(metrics, run.videos))

    return [caption(f"Undefined in {of}: {why}.") for of, why in notes_of_runs(runs, reasons)]


def _evaluate_command(run: ReportRun) -> str:
    options = run.options
    parts = ["python", "tools/evaluate.py", "--predictions", str(run.path), "--output-dir", "OUT"]
    parts += _sources(options)
    parts += ["--bootstrap", str(options.num_draws), "--seed", str(options.seed)] if options.num_draws else []
    parts += ["--strata", ",".join(strata_fields([run]))]
    return shlex.join(parts)


def _sources(options: ReportOptions) -> list[str]:
    """The arguments that say where ground truth and patients are from."""
    given = ["--annotations", str(options.annotations)] if options.annotations else []
    return given + (["--patients", str(options.patients)] if isinstance(options.patients, str | Path) else [])


def differences_section(runs: Sequence[ReportRun], not_compared: str) -> Html | None:
    """Differences of the later runs from the first; None if the report has no intervals.

    Args:
        runs: at least two.
        not_compared: why the runs can't be compared, shown instead; empty if they can.
    """
    if not_compared:
        return section("differences", "Differences", paragraph(f"The runs are not compared. {not_compared}"))
    if not runs[0].draws:
        return None
    first = runs[0]
    parts: list[Html] = []
    for other in runs[1:]:
        parts.append(element("h3", None, f"{other.name} - {first.name}"))
        parts += [paragraph(text) for text in differing_settings(first.path, other.path)]
        headers = ["metric", first.name, other.name, "difference", "95% interval", "p"]
        parts.append(table(headers, _difference_rows(first, other)))
        parts.append(command(_compare_command(first, other)))
    how = caption(
        "Both runs are drawn with the same patients, and the difference is taken within each draw. An interval that excludes 0 "
        "means that the difference is more than the choice of patients explains; p is two-sided. This does not cover the "
        "variation between training seeds, and p is not corrected for testing many metrics."
    )
    said = [caption(" ".join(notes))] if (notes := patient_notes(first.videos)) else []
    return section("differences", "Differences", how, *said, *parts, *_rate_notes(runs, BOOTSTRAP_METRICS))


def _difference_rows(first: ReportRun, other: ReportRun) -> list[Row]:
    rows: list[Row] = []
    for name in BOOTSTRAP_METRICS:
        drawn = other.draws[name] - first.draws[name]
        interval = percentile_interval(drawn)
        digits = digits_of(name)
        low_high = Cell(format_interval(interval.low, interval.high, digits))
        values = first.metrics[name], other.metrics[name], other.metrics[name] - first.metrics[name]
        rows.append([name, *(value_cell(v, digits) for v in values), low_high, value_cell(paired_p_value(drawn), 4)])
    return rows


def _compare_command(first: ReportRun, other: ReportRun) -> str:
    options = first.options
    given = _sources(options)
    drawn_by = ["--bootstrap", str(options.num_draws), "--seed", str(options.seed)]
    return shlex.join(["python", "tools/compare.py", str(first.path), str(other.path), *given, *drawn_by])


def strata_section(runs: Sequence[ReportRun]) -> Html:
    """The training metrics of each stratum: device, organ, hospital, lesion size."""
    fields = strata_fields(runs)
    shown = max((shown_metrics(run.videos) for run in runs), key=len)
    headers = ["stratum", "run", "videos", "lesions", *shown]
    by_run = [stratum_metrics(run.videos, fields, shown) for run in runs]
    rows: list[Row] = []
    for name in dict.fromkeys(name for strata in by_run for name in strata):
        for run, strata in zip(runs, by_run, strict=True):
            if name in strata:
                values = dict(strata[name])
                counts = [value_cell(values.pop(key), 0) for key in ("videos", "lesions")]
                rows.append([name, run.name, *counts, *(value_cell(v) for v in values.values())])
    absent = [field for field in ("device", "organ") if field not in fields]
    missing = f" The metadata of no video give its {' or '.join(absent)}." if absent else ""
    how = caption(
        "Metrics over the videos that share a value. Each stratum is evaluated by itself, with its own score thresholds. Size "
        "is the median area of the video's lesion boxes: small up to 151 squared, large from 226 squared pixels, middle in "
        f"between.{missing}"
    )
    notes = _rate_notes(runs, shown)
    return section("strata", "Strata", table(headers, rows, "strata-table"), *notes, how)


def all_metrics_section(runs: Sequence[ReportRun]) -> Html:
    """Every metric and count of every run."""
    rows: list[Row] = [
        [name, *(value_cell(r.metrics.get(name, _NAN), 4 if name.startswith("legacy/") else 2) for r in runs)]
        for name in dict.fromkeys(name for run in runs for name in run.metrics)
    ]
    reasons = _undefined_notes(runs)
    how = caption(
        "In percent, except: FP in false-positive sequences per minute, FP/image in false-positive detections per image, delay_s "
        "in seconds, legacy as fractions in 0..1 as the published code of UltraDet computes them, every video as 30 frames per "
        "second without gaps. "
        "ultravid/evaluation/metrics.py defines each metric. Click a column heading to sort."
    )
    counts = {run.name: count_metrics(run.videos) for run in runs}
    names = dict.fromkeys(name for of_run in counts.values() for name in of_run)
    rows += [[name, *(value_cell(counts[r.name].get(name, 0), 0) for r in runs)] for name in names]
    headers = ["metric", *(run.name for run in runs)]
    return section(
        "all-metrics",
        "All metrics",
        how,
        *reasons,
        *_rate_notes(runs),
        table(headers, rows, "all-metrics-table", "many" if len(runs) > MOST_COLUMNS else ""),
    )
