"""Report section on classes: average precision of each, and which class is found for which."""

from __future__ import annotations

from collections.abc import Sequence

from ultravid.evaluation.class_metrics import classes_of, confusion_rows
from ultravid.evaluation.report.html_page import Html, Row, caption, element, section, table, value_cell
from ultravid.evaluation.report.report_run import ReportRun

__all__ = ["classes_section"]

_KINDS = ("AP50", "AP75", "mAP")


def classes_section(runs: Sequence[ReportRun]) -> Html | None:
    """The metrics per class and the confusion of each run whose lesions are of several classes; None if no run has them."""
    parts: list[Html] = []
    for run in runs:
        names = classes_of(run.videos)
        if not names:
            continue
        rows: list[Row] = [[n, *(value_cell(run.metrics[f"class/{n}/{kind}"]) for kind in _KINDS)] for n in names]
        rows.append(["mean", *(value_cell(run.metrics[f"class_mean/{kind}"]) for kind in _KINDS)])
        confusion = table(["lesion boxes of", *names, "missed"], [list(r) for r in confusion_rows(names, run.metrics)])
        parts += [element("h3", None, run.name), table(["class", *_KINDS], rows), confusion]
    if not parts:
        return None
    how = caption(
        "Average precision of each class, whose detections hit lesions of that class only; all other metrics of this page are "
        "class-agnostic. Below, lesion boxes by the class of the highest-scoring detection that finds them, at the score threshold "
        "of recall 0.8 and IoU 0.5; the last row counts detections that reach no lesion."
    )
    return section("classes", "Classes", how, *parts)
