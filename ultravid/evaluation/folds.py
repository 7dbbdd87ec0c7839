"""Figures over the folds of a cross-validation.

The mean and the standard deviation are those of the folds' figures; the deviation is the sample's (divided by n - 1, n
folds). They are undefined as soon as a figure is undefined in one fold: it is not missing by chance, but where a model is
bad (a recall that it does not reach), and a mean of the others would be too good. That mean stands beside, named so.
Pooled figures are those of all folds' detections taken together, by falling score, as if one model had made them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ultravid.evaluation.metrics import TRAINING_METRICS
from ultravid.evaluation.report.html_page import Cell, caption, command, page, paragraph, section, table, value_cell
from ultravid.evaluation.tables import format_columns, format_value

__all__ = ["FoldMetric", "FoldResult", "FoldTable", "fold_csv", "fold_html", "fold_json", "fold_latex", "fold_text"]

_NAN = float("nan")


@dataclass(frozen=True)
class FoldResult:
    """What a fold's model reached on its held-out videos.

    Attributes:
        fold: number.
        figures: by name; nan where undefined.
        reasons: why, for those that are.
        counts: videos, frames and the like, by name.
    """

    fold: int
    figures: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FoldMetric:
    """A figure over the folds; see the module.

    Attributes:
        name: of the figure.
        values: by fold.
    """

    name: str
    values: Mapping[int, float]

    @property
    def defined(self) -> list[float]:
        """The values that are."""
        return [value for value in self.values.values() if not math.isnan(value)]

    @property
    def mean(self) -> float:
        """Over all folds; nan where one has none."""
        return self.mean_of_defined if len(self.defined) == len(self.values) else _NAN

    @property
    def std(self) -> float:
        """The sample's, over all folds; nan where one has none, or for a single fold."""
        return self.std_of_defined if len(self.defined) == len(self.values) else _NAN

    @property
    def mean_of_defined(self) -> float:
        """Over the folds that have it."""
        return float(np.mean(self.defined)) if self.defined else _NAN

    @property
    def std_of_defined(self) -> float:
        """The sample's, over the folds that have it; nan for fewer than two."""
        return float(np.std(self.defined, ddof=1)) if len(self.defined) > 1 else _NAN


@dataclass(frozen=True)
class FoldTable:
    """Everything that is told of a cross-validation.

    Attributes:
        results: of the folds that are finished.
        missing: folds that were asked for and are not finished.
        pooled: figures of all folds' detections together; None where they can't be had.
        not_pooled: why, where they can't.
        shown: figures of the terminal's and LaTeX's tables.
    """

    results: Sequence[FoldResult]
    missing: Sequence[int] = ()
    pooled: Mapping[str, float] | None = None
    not_pooled: str = ""
    shown: Sequence[str] = TRAINING_METRICS

    @property
    def figures(self) -> list[FoldMetric]:
        """All figures, in the order of the first fold; a fold that lacks one has it undefined."""
        names = dict.fromkeys(name for result in self.results for name in result.figures)
        return [FoldMetric(n, {r.fold: r.figures.get(n, _NAN) for r in self.results}) for n in names]

    def pooled_value(self, name: str) -> float:
        """Nan where there is none."""
        return (self.pooled or {}).get(name, _NAN)

    def notes(self, names: Sequence[str] | None = None) -> list[str]:
        """What a reader must know beside the numbers, a sentence each."""
        number = len(self.results)
        folds = ", ".join(str(r.fold) for r in self.results)
        notes = [
            f"Mean and sample standard deviation (n - 1) over n = {number} fold{'s' if number > 1 else ''} ({folds})."
        ]
        if self.missing:
            lacking = ", ".join(map(str, self.missing))
            notes.append(f"Not all that were asked for: {lacking} {'is' if len(self.missing) == 1 else 'are'} missing.")
        if number == 1:
            notes.append("A single fold has no standard deviation.")
        chosen = [f for f in self.figures if names is None or f.name in names]
        notes += _undefined_notes(chosen, self.results)
        notes.append(
            "Pooled: all folds' detections by falling score, as if one model had made them."
            if self.pooled is not None
            else f"No pooled figures: {self.not_pooled}."
        )
        return notes


def _undefined_notes(figures: Sequence[FoldMetric], results: Sequence[FoldResult]) -> list[str]:
    """A sentence for all figures that are undefined in the same folds for the same reasons."""
    by_reason: dict[str, list[FoldMetric]] = {}
    for figure in figures:
        lacking = [r for r in results if math.isnan(figure.values[r.fold])]
        if lacking:
            said = (f"fold {r.fold}, {r.reasons.get(figure.name, 'its file does not say why')}" for r in lacking)
            where = f"undefined in {len(lacking)} of {len(results)} folds ({'; '.join(said)})"
            by_reason.setdefault(where, []).append(figure)
    return [f"{', '.join(f.name for f in group)}: {where}{_of_the_rest(group)}." for where, group in by_reason.items()]


def _of_the_rest(figures: Sequence[FoldMetric]) -> str:
    """Means of figures over the folds that have them; empty where none has."""
    number = len(figures[0].defined)
    if not number:
        return ""
    spread = (f" (std {f.std_of_defined:.2f})" if number > 1 else "" for f in figures)
    means = (f"{f.name} {f.mean_of_defined:.2f}{s}" for f, s in zip(figures, spread, strict=True))
    return f"; mean of the other {number}: {', '.join(means)}"


def _shown(folds: FoldTable) -> list[FoldMetric]:
    by_name = {figure.name: figure for figure in folds.figures}
    return [by_name[name] for name in folds.shown if name in by_name]


def fold_text(folds: FoldTable) -> str:
    """A table for the terminal, and its notes."""
    headers = ["figure", "mean", "std", "pooled", *(f"fold {r.fold}" for r in folds.results)]
    rows = []
    for figure in _shown(folds):
        values = [figure.mean, figure.std, folds.pooled_value(figure.name), *figure.values.values()]
        rows.append([figure.name, *map(format_value, values)])
    notes = ["Percent; FP: false-positive sequences a minute. -: undefined.", *folds.notes(folds.shown)]
    return format_columns(headers, rows, left=1) + "\n" + "\n".join(notes)


def fold_csv(folds: FoldTable) -> str:
    """All figures, a row each, all digits; an empty field where undefined."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["figure", "mean", "std", "num_folds", "num_defined", "mean_of_defined", "std_of_defined", "pooled"]
    writer.writerow([*columns, *(f"fold_{r.fold}" for r in folds.results)])
    for f in folds.figures:
        sums = [f.mean, f.std, len(f.values), len(f.defined), f.mean_of_defined, f.std_of_defined]
        writer.writerow([f.name, *map(_csv_value, [*sums, folds.pooled_value(f.name), *f.values.values()])])
    return buffer.getvalue()


def _csv_value(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def fold_latex(folds: FoldTable) -> str:
    """A table for a paper, of the package booktabs; its notes are comments."""
    figures = _shown(folds)

    def row(name: str, values: Sequence[float]) -> str:
        cells = ["--" if math.isnan(value) else f"{value:.2f}" for value in values]
        return " & ".join([name, *cells]) + r" \\"

    lines = [f"% {note}" for note in folds.notes(folds.shown)]
    lines += ["% \\usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * len(figures)}}}", r"\toprule"]
    lines += [" & ".join(["", *(_latex_text(f.name) for f in figures)]) + r" \\", r"\midrule"]
    lines += [row(f"Fold {r.fold}", [f.values[r.fold] for f in figures]) for r in folds.results]
    lines += [r"\midrule", row("Mean", [f.mean for f in figures])]
    lines.append(row("Standard deviation", [f.std for f in figures]))
    if folds.pooled is not None:
        lines.append(row("Pooled", [folds.pooled_value(f.name) for f in figures]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def fold_json(folds: FoldTable) -> dict[str, Any]:
    """All figures as plain data; nan where undefined (`ultravid.utils.file_io.dump_json` makes it null)."""
    figures = folds.figures
    return {
        "folds": {str(r.fold): {**r.figures, **r.counts} for r in folds.results},
        "missing_folds": list(folds.missing),
        "mean": {f.name: f.mean for f in figures},
        "std": {f.name: f.std for f in figures},
        "std_kind": "sample, n - 1",
        "num_folds": len(folds.results),
        "num_defined": {f.name: len(f.defined) for f in figures},
        "mean_of_defined": {f.name: f.mean_of_defined for f in figures},
        "std_of_defined": {f.name: f.std_of_defined for f in figures},
        "undefined": {str(r.fold): dict(r.reasons) for r in folds.results if r.reasons},
        "pooled": None if folds.pooled is None else dict(folds.pooled),
        "not_pooled": folds.not_pooled or None,
    }


def fold_html(folds: FoldTable, title: str, command_line: str) -> str:
    """A self-contained page: the table, all figures, and how it was made."""
    headers = ["figure", "mean", "std", "folds", "pooled", *(f"fold {r.fold}" for r in folds.results)]

    def rows(figures: Sequence[FoldMetric]) -> list[list[Cell | str]]:
        return [
            [
                f.name,
                *(value_cell(v) for v in (f.mean, f.std)),
                Cell(f"{len(f.defined)} of {len(f.values)}", len(f.defined)),
                *(value_cell(v) for v in (folds.pooled_value(f.name), *f.values.values())),
            ]
            for f in figures
        ]

    names = list(dict.fromkeys(name for r in folds.results for name in r.counts))
    counts: list[list[Cell | str]] = [
        [f"fold {r.fold}", *(value_cell(r.counts.get(n, _NAN), 0) for n in names)] for r in folds.results
    ]
    units = caption(
        "Percent; FP: false-positive sequences a minute; delay_s: seconds; legacy: shares in 0..1. A dash is undefined. "
        "What each figure is stands in ultravid/evaluation/metrics.py. A click on a heading sorts."
    )
    sections = [
        section("figures", "Figures", table(headers, rows(_shown(folds)), "folds"), units),
        section("notes", "How they were computed", *map(paragraph, folds.notes()), command(command_line)),
        section("held-out", "What was held out", table(["", *(n.removeprefix("count/") for n in names)], counts)),
        section("all", "All figures", table(headers, rows(folds.figures), "all-figures")),
    ]
    contents = {"figures": "Figures", "notes": "How", "held-out": "Held out", "all": "All figures"}
    return page(title, f"{len(folds.results)} folds", sections, contents)
