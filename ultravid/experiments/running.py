"""Run the jobs of a plan on this machine: those that are not finished, a process each, and again those that were killed."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence

from ultravid.experiments.local import Job, JobListener, JobResults, run_jobs
from ultravid.experiments.plan import PlannedJob
from ultravid.experiments.status import JobState, JobStatus, note_end, note_start

__all__ = ["jobs_to_run", "run_locally"]


def jobs_to_run(
    jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus], *, retry_failed: bool = False
) -> list[PlannedJob]:
    """The jobs that a back end has to start: waiting ones, those that stopped or died, and failed ones if they are retried."""
    wanted = {JobState.WAITING, JobState.STOPPED, JobState.DIED, *([JobState.FAILED] if retry_failed else ())}
    return [job for job in jobs if statuses[job.number].state in wanted]


def run_locally(
    jobs: Sequence[PlannedJob],
    config_file: str,
    slots: Sequence[Mapping[str, str]],
    listener: JobListener | None = None,
    *,
    restarts: int = 3,
    options: Sequence[str] = (),
) -> JobResults:
    """Run jobs as processes of this machine, as many at a time as there are slots.

    Args:
        jobs: what to run, in order.
        config_file: of all of them.
        slots: environment variables of each slot, as of `ultravid.experiments.local.run_jobs`.
        listener: is called when jobs start and end.
        restarts: how often a job that was killed is resumed.
        options: further options of the launcher.
    """
    by_label = {job.label: job for job in jobs}
    commands = [Job(job.label, job.command(config_file, sys.executable, *options), job.run.terminal) for job in jobs]
    return run_jobs(commands, slots, _Notes(by_label, listener or JobListener()), restarts=restarts)


class _Notes(JobListener):
    """Notes the starts and ends of jobs in their folders, and passes them on."""

    def __init__(self, jobs: Mapping[str, PlannedJob], listener: JobListener) -> None:
        self._jobs, self._listener = jobs, listener

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        note_start(self._jobs[job.name].run, host=socket.gethostname(), slot=dict(slot))
        self._listener.started(job, slot)

    def ended(self, job: Job, exit_code: int) -> None:
        note_end(self._jobs[job.name].run, exit_code)
        self._listener.ended(job, exit_code)

    def waiting(self) -> None:
        self._listener.waiting()

    def stopping(self, running: int) -> None:
        self._listener.stopping(running)
