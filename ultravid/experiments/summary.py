"""The jobs of an experiment as tables: their states while they run, and a row a job with its metrics."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from ultravid.evaluation.tables import format_columns, format_value
from ultravid.experiments.plan import ExperimentFolder, PlannedJob
from ultravid.experiments.status import JobStatus
from ultravid.utils.file_io import replace_file

__all__ = ["differing_keys", "status_table", "summary_csv", "write_summary"]

_SHOWN_METRICS = ("AP50", "Pr80", "FP80")


def differing_keys(jobs: Sequence[PlannedJob]) -> list[str]:
    """The settings that are not the same in all jobs, in order of their first appearance."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def status_table(jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus]) -> str:
    """A row a job: number, what differs, state, how far it got, and its main metrics."""
    keys = differing_keys(jobs)
    metrics = [name for name in _SHOWN_METRICS if any(name in statuses[job.number].metrics for job in jobs)]
    rows = []
    for job in jobs:
        status = statuses[job.number]
        values = [
            format_value(status.metrics.get(name, math.nan)) if name in status.metrics else "" for name in metrics
        ]
        rows.append(
            [
                str(job.number),
                *(job.settings.get(key, "") for key in keys),
                status.state.value,
                _progress(status),
                *values,
            ]
        )
    return format_columns(["job", *map(_short, keys), "state", "iteration", *metrics], rows, left=len(keys) + 2)


def summary_csv(jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus]) -> str:
    """A row a job as CSV: number, each swept key, each metric; all digits."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.settings))
    metrics = list(dict.fromkeys(name for job in jobs for name in statuses[job.number].metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", *keys, *metrics])
    for job in jobs:
        values = statuses[job.number].metrics
        writer.writerow(
            [job.number, *(job.settings.get(key, "") for key in keys), *(_cell(values.get(name)) for name in metrics)]
        )
    return text.getvalue()


def write_summary(folder: ExperimentFolder, jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus]) -> None:
    """Write ``summary.csv`` as a whole."""
    with replace_file(folder.summary) as file:
        file.write(summary_csv(jobs, statuses).encode())


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _short(key: str) -> str:
    """The end of a key, as a column's header."""
    return key.rpartition(".")[2]


def _progress(status: JobStatus) -> str:
    if status.iteration is None:
        return ""
    done = status.iteration + 1 if status.max_iter is None else min(status.iteration + 1, status.max_iter)
    return f"{done}/{status.max_iter}" if status.max_iter is not None else str(done)
