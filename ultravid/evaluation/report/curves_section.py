"""Report sections of charts: precision and recall, FROC, score histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ultravid.evaluation.image_metrics import stills_only
from ultravid.evaluation.lesion_metrics import FROC_RATES
from ultravid.evaluation.report.charts import COLOURS, DASHES, Axis, Series, bar_chart, line_chart
from ultravid.evaluation.report.curves import froc_curve, precision_recall_curve, score_histogram
from ultravid.evaluation.report.html_page import Html, caption, chart_figure, command, element, legend, section
from ultravid.evaluation.report.report_run import ReportRun, notes_of_runs
from ultravid.evaluation.report.strips import DETECTION
from ultravid.evaluation.report.timelines import FALSE_DETECTION

__all__ = ["curves_section", "scores_section"]

_FIFTHS = [i / 5 for i in range(6)]
_PER_MINUTE = "false-positive sequences per minute"
_LOWEST_RATE = 0.25  # false-positive sequences per minute, the left end of the FROC's axis
_LOWEST_OF_STILLS = 0.0625  # false positives per image


def curves_section(runs: Sequence[ReportRun]) -> Html:
    """Precision over recall, and the FROC: sensitivity over false-positive sequences per minute, of stills over those per image."""
    stills = all(stills_only(run.videos) for run in runs)
    what, least = ("false positives per image", _LOWEST_OF_STILLS) if stills else (_PER_MINUTE, _LOWEST_RATE)
    comparable = [run for run in runs if stills or not stills_only(run.videos)]
    styles = [(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]) for i in range(len(runs))]
    styled = list(zip(runs, styles, strict=True))
    precision = [Series(run.name, precision_recall_curve(run.pool), *style) for run, style in styled]
    found = [Series(run.name, froc_curve(run.videos), *style, steps=True) for run, style in styled if run in comparable]
    axes = Axis("recall", 0, 1, _FIFTHS), Axis("precision", 0, 1, _FIFTHS)
    charts = [
        chart_figure(
            "Precision and recall",
            line_chart("precision over recall", precision, *axes),
            "All detections of all frames by falling score, at IoU 0.5; a point at each true positive. AP50 is the area under "
            "the envelope of this curve.",
        ),
        chart_figure(
            "FROC",
            line_chart(
                "sensitivity over false positives",
                found,
                _rate_axis(found, what, least),
                Axis("lesions found", 0, 1, _FIFTHS),
            ),
            f"Fraction of lesions found in at least one frame over {what}, as the score threshold falls; rates below {least:g} are "
            f"drawn at {least:g}.",
        ),
    ]
    said = notes_of_runs(runs, lambda run: run.assumed_rate_note(f"lesion/FROC@{r:g}" for r in FROC_RATES))
    notes = [caption(f"In {names}, {note}") for names, note in said]
    names = legend([(run.name, colour) for run, (colour, _) in styled])
    again = caption("To draw these curves again:"), command(runs[0].options.command)
    return section("curves", "Curves", names, element("div", {"class": "charts"}, *charts), *notes, *again)


def _rate_axis(series: Sequence[Series], what: str, least: float) -> Axis:
    """A rate, from the least to the power of two (at least 8) that all points are below."""
    rates = [rate for line in series for rate, _ in line.points]
    most = 2.0 ** math.ceil(math.log2(max([8.0, *rates])))
    ticks = [least * 2**i for i in range(int(math.log2(most / least)) + 1)]
    ticks = ticks if len(ticks) < 10 else ticks[::2]
    return Axis(what, least, most, ticks, log=True)


def scores_section(runs: Sequence[ReportRun]) -> Html:
    """A histogram of the scores of each run, true and false positives apart."""
    charts = []
    for run in runs:
        histogram = score_histogram(run.pool)
        most = max(10, int(histogram.true_positives.max()), int(histogram.false_positives.max()))
        powers = range(math.ceil(math.log10(most)) + 1)
        counts = Axis("detections", 0.5, 10.0 ** powers[-1], [10.0**p for p in powers], log=True)
        groups = [
            ("true positives", histogram.true_positives.tolist(), DETECTION),
            ("false positives", histogram.false_positives.tolist(), FALSE_DETECTION),
        ]
        scores = Axis("score", 0, 1, _FIFTHS)
        chart = bar_chart(f"scores of {run.name}", groups, histogram.edges.tolist(), scores, counts)
        true, false = int(histogram.true_positives.sum()), int(histogram.false_positives.sum())
        charts.append(chart_figure(run.name, chart, f"{true} true and {false} false positives."))
    names = legend([("true positives", DETECTION), ("false positives", FALSE_DETECTION)])
    how = caption(
        "Number of detections by score, true and false positives at IoU 0.5 apart (a second detection of the same lesion is a "
        "false positive). The count axis is logarithmic, because there are many false positives of low score."
    )
    return section("scores", "Scores", names, element("div", {"class": "charts"}, *charts), how)
