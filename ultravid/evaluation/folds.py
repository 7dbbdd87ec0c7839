"""Metrics over the folds of a cross-validation, and tables of them.

Mean and standard deviation are taken over the folds' metrics; the standard deviation is that of a sample (divided by n - 1
for n folds). Both are undefined if the metric is undefined in one fold: a metric is not undefined at random but when a model
is bad (it does not reach a recall), so the mean of the other folds would be too good. That mean is given separately as
``mean_of_defined``. Pooled metrics are computed from the detections of all folds together, as if one model had made them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ultravid.datasets.patients import num_patients, patient_identities
from ultravid.evaluation.bootstrap import ENOUGH_PATIENTS, notes_on_unknown_patients
from ultravid.evaluation.metrics import TRAINING_METRICS, assumed_rate_text
from ultravid.evaluation.report.html_page import Cell, caption, command, page, paragraph, section, table, value_cell
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.tables import format_columns, format_value
from ultravid.utils.text import counted, latex_text

__all__ = [
    "FoldMetric",
    "FoldResult",
    "FoldTable",
    "fold_csv",
    "fold_html",
    "fold_json",
    "fold_latex",
    "fold_text",
    "notes_on_patients",
]

_NAN = float("nan")


@dataclass(frozen=True)
class FoldResult:
    """The metrics of a fold's model on its held-out videos.

    Attributes:
        fold: number of the fold.
        metrics: metrics by name; nan if undefined.
        reasons: why a metric is undefined, by name.
        counts: number of videos, frames and the like, by name.
        evaluated: the record of the evaluation (`ultravid.evaluation.records`); None if there is none.
        trained: the record of the attempt that trained the model; None if it is not known.
    """

    fold: int
    metrics: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    evaluated: Mapping[str, Any] | None = None
    trained: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class FoldMetric:
    """A metric over the folds.

    Attributes:
        name: name of the metric.
        values: its value by fold; nan if undefined.
    """

    name: str
    values: Mapping[int, float]

    @property
    def defined(self) -> list[float]:
        """The values that are not nan."""
        return [value for value in self.values.values() if not math.isnan(value)]

    @property
    def mean(self) -> float:
        """Mean over all folds; nan if the metric is undefined in one of them."""
        return self.mean_of_defined if len(self.defined) == len(self.values) else _NAN

    @property
    def std(self) -> float:
        """Sample standard deviation over all folds; nan if the metric is undefined in one of them, or for a single fold."""
        return self.std_of_defined if len(self.defined) == len(self.values) else _NAN

    @property
    def mean_of_defined(self) -> float:
        """Mean over the folds in which the metric is defined."""
        return float(np.mean(self.defined)) if self.defined else _NAN

    @property
    def std_of_defined(self) -> float:
        """Sample standard deviation over the folds in which the metric is defined; nan for fewer than two."""
        return float(np.std(self.defined, ddof=1)) if len(self.defined) > 1 else _NAN


@dataclass(frozen=True)
class FoldTable:
    """The results of a cross-validation.

    Attributes:
        results: results of the finished folds.
        missing: folds that were requested but are not finished.
        pooled: metrics of the detections of all folds together; None if they can't be computed.
        not_pooled: why they can't be computed; empty if they can.
        shown: metrics shown in the tables for the terminal and LaTeX.
        patient_notes: what a reader must know of the patients who are held out: one sentence each.
    """

    results: Sequence[FoldResult]
    missing: Sequence[int] = ()
    pooled: Mapping[str, float] | None = None
    not_pooled: str = ""
    shown: Sequence[str] = TRAINING_METRICS
    patient_notes: Sequence[str] = ()

    @property
    def metrics(self) -> list[FoldMetric]:
        """All metrics, in the order of the first fold; nan in a fold that does not have it."""
        names = dict.fromkeys(name for result in self.results for name in result.metrics)
        return [FoldMetric(n, {r.fold: r.metrics.get(n, _NAN) for r in self.results}) for n in names]

    def pooled_value(self, name: str) -> float:
        """The pooled value of a metric; nan if there is none."""
        return (self.pooled or {}).get(name, _NAN)

    def notes(self, names: Sequence[str] | None = None) -> list[str]:
        """What a reader must know to read the table: one sentence each.

        Args:
            names: metrics in the table, of which undefined ones are explained; None: all.
        """
        number = len(self.results)
        folds = ", ".join(str(r.fold) for r in self.results)
        notes = [
            f"Mean and sample standard deviation (n - 1) over n = {number} fold{'s' if number > 1 else ''} ({folds})."
        ]
        if self.missing:
            folds_missing = ", ".join(map(str, self.missing))
            notes.append(
                f"Not all requested folds: {folds_missing} {'is' if len(self.missing) == 1 else 'are'} missing."
            )
        if number == 1:
            notes.append("A single fold has no standard deviation.")
        chosen = [f for f in self.metrics if names is None or f.name in names]
        notes += _undefined_notes(chosen, self.results)
        notes.append(
            "Pooled: computed from the detections of all folds together, as if one model had made them."
            if self.pooled is not None
            else f"No pooled metrics: {self.not_pooled}."
        )
        counts = [
            sum(int(result.counts.get(f"count/{name}", 0)) for result in self.results)
            for name in ("videos_of_assumed_rate", "videos", "stills")
        ]
        values = {metric.name: metric.mean_of_defined for metric in chosen}
        assumed = assumed_rate_text(values, counts[0], counts[1] - counts[2])
        notes += [assumed] if assumed else []
        return [*notes, *self.patient_notes, *_notes_on_records(self.results)]


def notes_on_patients(videos: Mapping[int, Sequence[MatchedVideo]]) -> list[str]:
    """What a reader must know of the patients of each fold's held-out videos: one sentence each."""
    every = [video for of_fold in videos.values() for video in of_fold]
    counts = {fold: num_patients(of_fold) for fold, of_fold in videos.items()}
    notes = [
        f"Held out: {counted(num_patients(every), 'patient')} ({', '.join(f'fold {f}: {n}' for f, n in counts.items())})."
    ]
    few = [str(fold) for fold, number in counts.items() if number < ENOUGH_PATIENTS]
    if few:
        notes.append(
            f"Fewer than {ENOUGH_PATIENTS} patients in fold {', '.join(few)}: its metrics say little about other patients."
        )
    folds_of: dict[tuple[str, bool], list[int]] = {}
    for identity, fold in zip(patient_identities(every), (f for f, vs in videos.items() for _ in vs), strict=True):
        folds_of.setdefault(identity, []).append(fold)
    shared = [(name, set(folds)) for (name, _), folds in folds_of.items() if len(set(folds)) > 1]
    if shared:
        name, folds = shared[0]
        more = f" ({len(shared)} such patients)" if len(shared) > 1 else ""
        notes.append(
            f"Patient {name!r} is held out in folds {', '.join(map(str, sorted(folds)))}{more}: a model was tested on "
            "a patient it was trained on."
        )
    return notes + notes_on_unknown_patients(every)


def _notes_on_records(results: Sequence[FoldResult]) -> list[str]:
    """What is not recorded of the folds' evaluations, and in what their records differ."""
    if not any(result.evaluated or result.trained for result in results):
        return []
    notes = []
    without = ", ".join(str(result.fold) for result in results if not result.evaluated)
    if without:
        notes.append(f"No record says which weights were evaluated in fold {without}.")
    for what, values in (
        ("Code of different commits trained the folds", {r.fold: _commit(r.trained) for r in results}),
        ("Code of different versions evaluated the folds", {r.fold: _version(r.evaluated) for r in results}),
    ):
        if len({value for value in values.values() if value}) > 1:
            each = (f"fold {fold} {value or 'unknown'}" for fold, value in values.items())
            notes.append(f"{what}: {', '.join(each)}.")
    return notes


def _commit(record: Mapping[str, Any] | None) -> str:
    git = (record or {}).get("git") or {}
    return f"{str(git['commit'])[:12]}{' with changes' if git.get('changed') else ''}" if git.get("commit") else ""


def _version(record: Mapping[str, Any] | None) -> str:
    versions = (record or {}).get("versions") or {}
    return f"ultravid {versions.get('ultravid')}, torch {versions.get('torch')}" if versions else ""


def _undefined_notes(metrics: Sequence[FoldMetric], results: Sequence[FoldResult]) -> list[str]:
    """One sentence for all metrics that are undefined in the same folds for the same reasons."""
    by_reason: dict[str, list[FoldMetric]] = {}
    for metric in metrics:
        without = [r for r in results if math.isnan(metric.values[r.fold])]
        if without:
            reasons = (f"fold {r.fold}, {r.reasons.get(metric.name, 'reason unknown')}" for r in without)
            text = f"undefined in {len(without)} of {len(results)} folds ({'; '.join(reasons)})"
            by_reason.setdefault(text, []).append(metric)
    return [
        f"{', '.join(m.name for m in group)}: {text}{_means_of_defined(group)}." for text, group in by_reason.items()
    ]


def _means_of_defined(metrics: Sequence[FoldMetric]) -> str:
    """The means over the folds in which the metrics are defined, as text; empty if there is no such fold."""
    number = len(metrics[0].defined)
    if not number:
        return ""
    spread = (f" (std {f.std_of_defined:.2f})" if number > 1 else "" for f in metrics)
    means = (f"{f.name} {f.mean_of_defined:.2f}{s}" for f, s in zip(metrics, spread, strict=True))
    return f"; mean of the other {number}: {', '.join(means)}"


def _shown(folds: FoldTable) -> list[FoldMetric]:
    by_name = {metric.name: metric for metric in folds.metrics}
    return [by_name[name] for name in folds.shown if name in by_name]


def fold_text(folds: FoldTable) -> str:
    """A table of the shown metrics for the terminal, with its notes."""
    headers = ["metric", "mean", "std", "pooled", *(f"fold {r.fold}" for r in folds.results)]
    rows = []
    for metric in _shown(folds):
        values = [metric.mean, metric.std, folds.pooled_value(metric.name), *metric.values.values()]
        rows.append([metric.name, *map(format_value, values)])
    notes = [
        "In percent; FP in false-positive sequences per minute, FP/image in false-positive detections per image. -: undefined.",
        *folds.notes(folds.shown),
    ]
    return format_columns(headers, rows, left=1) + "\n" + "\n".join(notes)


def fold_csv(folds: FoldTable) -> str:
    """All metrics, one row each, with all digits; an empty field if undefined."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["metric", "mean", "std", "num_folds", "num_defined", "mean_of_defined", "std_of_defined", "pooled"]
    writer.writerow([*columns, *(f"fold_{r.fold}" for r in folds.results)])
    for f in folds.metrics:
        sums = [f.mean, f.std, len(f.values), len(f.defined), f.mean_of_defined, f.std_of_defined]
        writer.writerow([f.name, *map(_csv_value, [*sums, folds.pooled_value(f.name), *f.values.values()])])
    return buffer.getvalue()


def _csv_value(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def fold_latex(folds: FoldTable) -> str:
    """A table for a paper, with the package booktabs; its notes are comments."""
    metrics = _shown(folds)

    def row(name: str, values: Sequence[float]) -> str:
        cells = ["--" if math.isnan(value) else f"{value:.2f}" for value in values]
        return " & ".join([name, *cells]) + r" \\"

    lines = [f"% {note}" for note in folds.notes(folds.shown)]
    lines += ["% \\usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}", r"\toprule"]
    lines += [" & ".join(["", *(latex_text(f.name) for f in metrics)]) + r" \\", r"\midrule"]
    lines += [row(f"Fold {r.fold}", [f.values[r.fold] for f in metrics]) for r in folds.results]
    lines += [r"\midrule", row("Mean", [f.mean for f in metrics])]
    lines.append(row("Standard deviation", [f.std for f in metrics]))
    if folds.pooled is not None:
        lines.append(row("Pooled", [folds.pooled_value(f.name) for f in metrics]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def fold_json(folds: FoldTable) -> dict[str, Any]:
    """All metrics as plain data; nan if undefined (`ultravid.utils.file_io.dump_json` writes null)."""
    metrics = folds.metrics
    return {
        "folds": {str(r.fold): {**r.metrics, **r.counts} for r in folds.results},
        "missing_folds": list(folds.missing),
        "mean": {f.name: f.mean for f in metrics},
        "std": {f.name: f.std for f in metrics},
        "std_kind": "sample, n - 1",
        "num_folds": len(folds.results),
        "patient_notes": list(folds.patient_notes),
        "num_defined": {f.name: len(f.defined) for f in metrics},
        "mean_of_defined": {f.name: f.mean_of_defined for f in metrics},
        "std_of_defined": {f.name: f.std_of_defined for f in metrics},
        "undefined": {str(r.fold): dict(r.reasons) for r in folds.results if r.reasons},
        "evaluated": {str(r.fold): None if r.evaluated is None else dict(r.evaluated) for r in folds.results},
        "pooled": None if folds.pooled is None else dict(folds.pooled),
        "not_pooled": folds.not_pooled or None,
    }


def fold_html(folds: FoldTable, title: str, command_line: str) -> str:
    """A self-contained HTML page: the table, all metrics, and how they were computed."""
    headers = ["metric", "mean", "std", "folds", "pooled", *(f"fold {r.fold}" for r in folds.results)]

    def rows(metrics: Sequence[FoldMetric]) -> list[list[Cell | str]]:
        return [
            [
                f.name,
                *(value_cell(v) for v in (f.mean, f.std)),
                Cell(f"{len(f.defined)} of {len(f.values)}", len(f.defined)),
                *(value_cell(v) for v in (folds.pooled_value(f.name), *f.values.values())),
            ]
            for f in metrics
        ]

    names = list(dict.fromkeys(name for r in folds.results for name in r.counts))
    counts: list[list[Cell | str]] = [
        [f"fold {r.fold}", *(value_cell(r.counts.get(n, _NAN), 0) for n in names)] for r in folds.results
    ]
    units = caption(
        "In percent, except: FP in false-positive sequences per minute, FP/image in false-positive detections per image, delay_s in "
        "seconds, legacy as fractions in 0..1. A dash means undefined. ultravid/evaluation/metrics.py defines each metric. Click a column heading to sort."
    )
    sections = [
        section("metrics", "Metrics", table(headers, rows(_shown(folds)), "folds"), units),
        section("notes", "How they were computed", *map(paragraph, folds.notes()), command(command_line)),
        section("held-out", "Held-out videos", table(["", *(n.removeprefix("count/") for n in names)], counts)),
        section("all", "All metrics", table(headers, rows(folds.metrics), "all-metrics")),
    ]
    contents = {
        "metrics": "Metrics",
        "notes": "How they were computed",
        "held-out": "Held-out videos",
        "all": "All metrics",
    }
    return page(title, f"{len(folds.results)} folds", sections, contents)
