"""Report section: which runs are shown, and how each was made."""

from __future__ import annotations

from collections.abc import Sequence

from ultravid.evaluation.report.html_page import Html, caption, command, element, section
from ultravid.evaluation.report.report_run import ReportRun
from ultravid.evaluation.run_facts import run_facts

__all__ = ["runs_section"]


def runs_section(runs: Sequence[ReportRun]) -> Html:
    """A table of facts, a column per run."""
    facts = [run_facts(run.path) for run in runs]
    names = list(dict.fromkeys(name for known in facts for name in known))
    head = element("tr", None, *(element("th", {"scope": "col"}, name) for name in ("", *(r.name for r in runs))))
    rows = [
        element(
            "tr",
            None,
            element("th", {"scope": "row"}, name),
            *(element("td", None, known.get(name, "unknown")) for known in facts),
        )
        for name in names
    ]
    body = element("thead", None, head), element("tbody", None, *rows)
    return section(
        "runs",
        "Runs",
        element("div", {"class": "wide"}, element("table", {"class": "facts"}, *body)),
        caption(
            "Read from the record of the evaluation (record.json beside the predictions), from that of the training that made "
            "the weights (attempts/*/record.json), from the saved config and from the manifest of the predictions. Two runs have "
            "equal hashes if their configs, weights or data are equal. This report was made by:"
        ),
        command(runs[0].options.command),
    )
