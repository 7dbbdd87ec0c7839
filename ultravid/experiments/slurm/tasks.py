"""The states of jobs that were submitted to Slurm, from their folders first and then from the queue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ultravid.experiments.plan import PlannedJob
from ultravid.experiments.slurm.queue import QueuedTask, SlurmQueue
from ultravid.experiments.slurm.submissions import Submission, Submissions
from ultravid.experiments.status import JobState, JobStatus, status_of
from ultravid.utils.run_folder import RunFolder

__all__ = ["SubmittedJob", "num_starts", "read_queue", "settle_submissions", "status_in_queue", "submitted_jobs"]


@dataclass(frozen=True)
class SubmittedJob:
    """A job in the array in which it was submitted last.

    Attributes:
        submission: the array.
        index: the index of its task.
        task: what the queue says of it; None if it does not hold it.
    """

    submission: Submission
    index: int
    task: QueuedTask | None = None

    @property
    def id(self) -> str:
        """How Slurm names it."""
        return f"{self.submission.job_id or self.submission.name}_{self.index}"

    @property
    def is_in_queue(self) -> bool:
        """Whether it waits or runs."""
        return self.task is not None and not self.task.has_ended


def settle_submissions(submissions: Submissions, queue: SlurmQueue) -> list[Submission]:
    """Find out what became of arrays that a command was about to submit when it was killed.

    Returns:
        those that Slurm does have.

    Raises:
        SlurmUnreachableError: the controller does not answer.
    """
    if all(submission.job_id is not None for submission in submissions.read()):
        return []
    found = []
    with submissions.submitting():  # waits for an sbatch that outlived its command
        for submission in submissions.read():
            if submission.job_id is None:
                new = submissions.set_job_id(submission, queue.find(submission.name) or "")
                found += [new] if new.job_id else []
    return found


def submitted_jobs(submissions: Submissions, tasks: Iterable[QueuedTask] = ()) -> dict[int, SubmittedJob]:
    """The jobs that were submitted, by number."""
    found = {(task.job_id, task.index): task for task in tasks}
    jobs = {}
    for submission in submissions.read():
        for index, number in enumerate(submission.numbers):
            if submission.job_id != "":
                jobs[number] = SubmittedJob(submission, index, found.get((submission.job_id or "", index)))
    return jobs


def read_queue(submissions: Submissions, queue: SlurmQueue, jobs: Sequence[PlannedJob]) -> dict[int, SubmittedJob]:
    """What the queue says of jobs, by number; those that were never submitted are missing.

    Raises:
        SlurmUnreachableError: the controller does not answer.
    """
    wanted = {job.number for job in jobs}
    submitted = submitted_jobs(submissions)
    names = {each.submission.name for number, each in submitted.items() if number in wanted}
    tasks = queue.tasks(names) if names else []
    return {number: job for number, job in submitted_jobs(submissions, tasks).items() if number in wanted}


def status_in_queue(job: PlannedJob, submitted: SubmittedJob | None) -> JobStatus:
    """The status of a job.

    Args:
        job: the job.
        submitted: what the queue says of it; None if it was not submitted.
    """
    in_queue = submitted is not None and submitted.is_in_queue
    status = status_of(job.run, is_queued=in_queue)
    if submitted is None or status.state in (JobState.FINISHED, JobState.RUNNING):
        return status
    task = submitted.task
    if in_queue and task is not None and task.is_at_work:
        return replace(status, state=JobState.RUNNING)  # its process reads the data, or is about to leave
    was_cancelled = job.number in submitted.submission.cancelled or (task is not None and task.state == "CANCELLED")
    if was_cancelled and status.state in (JobState.WAITING, JobState.DIED):
        return replace(status, state=JobState.STOPPED, error="")
    return status


def num_starts(run: RunFolder, task_id: str) -> int:
    """How often a task has started a job, if nothing else has started it since; else 0."""
    try:
        starts: list[Mapping[str, object]] = json.loads(run.job_record.read_text(encoding="utf-8"))["starts"]
        ids = [start.get("slurm_id") for start in starts]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return 0
    return ids.count(task_id) if ids and ids[-1] == task_id else 0
