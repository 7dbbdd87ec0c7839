"""The HTML report of one run or several: what was run, how good it is, where it fails.

Everything is computed from the runs' predictions, never copied from metrics that were saved before. If all runs have the
same videos, the later ones are compared with the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from ultravid.evaluation.metrics import count_metrics, count_text
from ultravid.evaluation.report.classes_section import classes_section
from ultravid.evaluation.report.curves_section import curves_section, scores_section
from ultravid.evaluation.report.failures_section import false_positives_section, missed_section
from ultravid.evaluation.report.html_page import page
from ultravid.evaluation.report.metrics_section import (
    all_metrics_section,
    differences_section,
    metrics_section,
    strata_section,
)
from ultravid.evaluation.report.report_run import ReportRun
from ultravid.evaluation.report.runs_section import runs_section
from ultravid.evaluation.report.stills_section import stills_section
from ultravid.evaluation.report.timelines_section import timelines_section

__all__ = ["report_page"]

_NAMED = 4  # runs in the title


def report_page(runs: Sequence[ReportRun], not_compared: str = "") -> str:
    """The whole HTML document.

    Args:
        runs: the first result of `load_report_runs`.
        not_compared: its second result, why the runs can't be compared; empty if they can.
    """
    sections = {
        "metrics": ("Metrics", metrics_section(runs)),
        "differences": ("Differences", differences_section(runs, not_compared) if len(runs) > 1 else None),
        "curves": ("Curves", curves_section(runs)),
        "classes": ("Classes", classes_section(runs)),
        "scores": ("Scores", scores_section(runs)),
        "strata": ("Strata", strata_section(runs)),
        "false-positives": ("False positives", false_positives_section(runs)),
        "missed": ("Missed lesions", missed_section(runs)),
        "stills": ("Stills", stills_section(runs)),
        "timelines": ("Timelines", timelines_section(runs)),
        "all-metrics": ("All metrics", all_metrics_section(runs)),
        "runs": ("Runs", runs_section(runs)),
    }
    present = {key: (name, part) for key, (name, part) in sections.items() if part is not None}
    counts = count_metrics(runs[0].videos)
    sizes = count_text(counts)
    contents = {key: name for key, (name, _) in present.items()}
    names = [run.name for run in runs]
    more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
    title = f"Report: {', '.join(names[:_NAMED] if more else names)}{more}"
    return page(title, f"{runs[0].name}: {sizes}", [part for _, part in present.values()], contents)
