"""The finished jobs of an experiment as a table: one row per job with its settings and metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from ultravid.experiments.plan import ExperimentFolder, PlannedJob
from ultravid.experiments.status import JobStatus
from ultravid.utils.file_io import replace_file

__all__ = ["summary_csv", "write_summary"]


def summary_csv(jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus]) -> str:
    """A row a job as CSV: number, each swept key, each metric; all digits."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.values))
    metrics = list(dict.fromkeys(name for job in jobs for name in statuses[job.number].metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", *keys, *metrics])
    for job in jobs:
        values = statuses[job.number].metrics
        writer.writerow(
            [job.number, *(job.values.get(key, "") for key in keys), *(_cell(values.get(name)) for name in metrics)]
        )
    return text.getvalue()


def write_summary(folder: ExperimentFolder, jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus]) -> None:
    """Write ``summary.csv`` as a whole."""
    with replace_file(folder.summary) as file:
        file.write(summary_csv(jobs, statuses).encode())


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
