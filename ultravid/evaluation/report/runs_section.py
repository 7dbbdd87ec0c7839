"""Report section: which runs are shown, and how each was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ultravid.evaluation.report.html_page import Html, caption, command, element, section
from ultravid.evaluation.report.report_run import MOST_COLUMNS, ReportRun
from ultravid.evaluation.run_facts import run_facts

__all__ = ["runs_section"]


def runs_section(runs: Sequence[ReportRun]) -> Html:
    """A table of facts, a column per run; of many runs a table each, to unfold. Hashes come last."""
    facts = [run_facts(run.path) for run in runs]
    if len(runs) <= MOST_COLUMNS:
        tables = [_facts_table([run.name for run in runs], facts)]
    else:
        tables = [
            element("details", None, element("summary", None, run.name), _facts_table([run.name], [known]))
            for run, known in zip(runs, facts, strict=True)
        ]
    return section(
        "runs",
        "Runs",
        *tables,
        caption(
            "Read from the record of the evaluation (record.json beside the predictions), from that of the training that made "
            "the weights (attempts/*/record.json), from the saved config and from the manifest of the predictions. Two runs have "
            "equal hashes if their configs, weights or data are equal. This report was made by:"
        ),
        command(runs[0].options.command),
    )


def _facts_table(names: Sequence[str], facts: Sequence[Mapping[str, str]]) -> Html:
    keys = list(dict.fromkeys(key for known in facts for key in known))
    keys.sort(key=lambda key: any("SHA-256" in known.get(key, "") for known in facts))
    head = element("tr", None, *(element("th", {"scope": "col"}, name) for name in ("", *names)))
    rows = [
        element(
            "tr",
            None,
            element("th", {"scope": "row"}, key),
            *(element("td", None, known.get(key, "unknown")) for known in facts),
        )
        for key in keys
    ]
    body = element("thead", None, head), element("tbody", None, *rows)
    return element("div", {"class": "wide"}, element("table", {"class": "facts"}, *body))
