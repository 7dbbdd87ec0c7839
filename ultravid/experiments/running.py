"""Runs the unfinished jobs of a plan on this machine, one process each, and restarts those that were killed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence

from ultravid.experiments.job_processes import AdoptedProcess, EndedProcess, JobProcess, OthersProcess
from ultravid.experiments.local import GPU_VARIABLE, Job, JobListener, JobResults, run_jobs
from ultravid.experiments.plan import PlannedJob
from ultravid.experiments.status import (
    JobState,
    JobStatus,
    note_end,
    note_process,
    note_start,
    started_process,
    status_of,
)
from ultravid.utils.processes import machine_id
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.tool import EXIT_STOPPED

__all__ = ["jobs_to_run", "process_at_work", "run_locally"]


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
    running: Sequence[PlannedJob] = (),
) -> JobResults:
    """Run jobs as processes of this machine, as many at a time as there are slots.

    A job at which a process is at work already is not started: that process is waited for. One that an earlier command on this
    machine has started, which was killed since, occupies a slot and is stopped with the others.

    Args:
        jobs: what to run, in order.
        config_file: the config file of all of them.
        slots: environment variables of each slot, as of `ultravid.experiments.local.run_jobs`.
        listener: is called when jobs start and end.
        restarts: how often a job that was killed is resumed.
        options: further options of the launcher.
        running: jobs that were seen at work; one that has finished or failed since then is not started.
    """
    wanted = sorted([*jobs, *running], key=lambda job: job.number) if running else jobs
    by_label = {job.label: job for job in wanted}
    seen = {job.label for job in running}

    def at_work(job: Job) -> JobProcess | None:
        run = by_label[job.name].run
        if (process := process_at_work(run)) is not None or job.name not in seen:
            return process
        seen.discard(job.name)
        code = {JobState.FINISHED: 0, JobState.FAILED: 1}.get(status_of(run).state)
        return None if code is None else EndedProcess(code)

    commands = [Job(job.label, job.command(config_file, sys.executable, *options), job.run.terminal) for job in wanted]
    return run_jobs(commands, slots, _Notes(by_label, listener or JobListener()), restarts, at_work)


def process_at_work(run: RunFolder) -> JobProcess | None:
    """The process that is at work in a job's folder, if it is not a child of this one; None if there is none."""
    if (ours := started_process(run)) is not None:
        gpu = ours.slot.get(GPU_VARIABLE)
        return AdoptedProcess(ours.pid, ours.started, lambda: _outcome(run, ours.pid, ours.started), gpu)
    if (holder := run.holder(exact=True)) is not None:
        pid, started = holder.facts.get("pid"), holder.facts.get("process_started")
        return OthersProcess(run, lambda: _outcome(run, pid, started))
    return None


def _outcome(run: RunFolder, pid: int | None, started: int | None) -> int:
    """The exit code of a process that has ended, from what it wrote into its run's folder; a kill if it wrote no end."""
    state, record = run.state(), run.newest_record() or {}
    if state is RunState.FINISHED:
        return 0
    if (record.get("pid"), record.get("process_started")) != (pid, started) or not isinstance(record.get("end"), dict):
        return -signal.SIGKILL
    return EXIT_STOPPED if state is RunState.STOPPED else 1


class _Notes(JobListener):
    """Notes the starts and ends of jobs in their folders, and passes them on."""

    def __init__(self, jobs: Mapping[str, PlannedJob], listener: JobListener) -> None:
        self._jobs, self._listener = jobs, listener
        self._adopted: dict[str, JobProcess] = {}

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        self._adopted.pop(job.name, None)
        note_start(self._jobs[job.name].run, **machine_id(), slot=dict(slot))
        self._listener.started(job, slot)

    def launched(self, job: Job, pid: int) -> None:
        note_process(self._jobs[job.name].run, pid)
        self._listener.launched(job, pid)

    def adopted(self, job: Job, process: JobProcess) -> None:
        self._adopted[job.name] = process
        if not isinstance(process, EndedProcess):
            self._listener.adopted(job, process)

    def ended(self, job: Job, exit_code: int) -> None:
        adopted = self._adopted.pop(job.name, None)
        if adopted is None or (adopted.is_ours and exit_code >= 0):  # how an adopted one was killed is not known
            note_end(self._jobs[job.name].run, exit_code)
        self._listener.ended(job, exit_code)

    def restarting(self, job: Job, number: int, of: int) -> None:
        self._listener.restarting(job, number, of)

    def waiting(self) -> None:
        self._listener.waiting()

    def stopping(self, running: int) -> None:
        self._listener.stopping(running)

    def killing(self, running: int) -> None:
        self._listener.killing(running)

    def left(self, job: Job) -> None:
        self._adopted.pop(job.name, None)
        self._listener.left(job)

    def halting(self, error: Exception, running: int) -> None:
        self._listener.halting(error, running)
