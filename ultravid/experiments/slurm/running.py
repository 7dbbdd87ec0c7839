"""Runs the jobs of a plan on Slurm: submits them as arrays, waits for them, and submits killed ones again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ultravid.experiments.local import Job, JobListener
from ultravid.experiments.plan import ExperimentFolder, PlannedJob
from ultravid.experiments.running import jobs_to_run
from ultravid.experiments.slurm.options import SlurmOptions
from ultravid.experiments.slurm.queue import (
    QueuedTask,
    SlurmFullError,
    SlurmQueue,
    SlurmRefusalError,
    SlurmUnreachableError,
)
from ultravid.experiments.slurm.script import command_line_of, job_script
from ultravid.experiments.slurm.submissions import Submission, Submissions, new_name
from ultravid.experiments.slurm.tasks import (
    SubmittedJob,
    num_starts,
    read_queue,
    settle_submissions,
    status_in_queue,
)
from ultravid.experiments.status import JobState, JobStatus, note_end
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted
from ultravid.utils.tool import EXIT_STOPPED

__all__ = ["Arrays", "SlurmLauncher", "first_script", "refuse_queued", "statuses_with_queue"]

_T = TypeVar("_T")

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _SLOWER = 1.0, 15.0, 1.3
_FULL_S = 60.0  # between tries to submit jobs that were beyond a limit
_FILE_SERVER_S = 60.0  # so long a file server may show a folder as it was
_ENDED_BY_SLURM = ("BOOT_FAIL", "LAUNCH_FAILED", "NODE_FAIL", "PREEMPTED", "REVOKED")


@dataclass(frozen=True)
class Arrays:
    """How jobs are divided into arrays.

    Attributes:
        jobs: the jobs of each array.
        at_once: the most tasks that run at a time in each; None is no limit.
        is_chained: whether each array waits for the end of the one before, as there are more of them than jobs may run at a time.
    """

    jobs: tuple[tuple[PlannedJob, ...], ...]
    at_once: tuple[int | None, ...]
    is_chained: bool = False

    @classmethod
    def of(cls, jobs: Sequence[PlannedJob], most: int, at_once: int | None) -> Arrays:
        """Divide jobs.

        Args:
            jobs: in order.
            most: tasks of an array.
            at_once: the most jobs that run at a time; it is divided among the arrays.
        """
        count = -(-len(jobs) // most)
        chunks = tuple(tuple(jobs[i * most : (i + 1) * most]) for i in range(count))
        if at_once is None:
            return cls(chunks, (None,) * count)
        if at_once < count:
            return cls(chunks, (at_once,) * count, is_chained=True)
        return cls(chunks, tuple(at_once // count + (i < at_once % count) for i in range(count)))


@dataclass
class _Waiting:
    """What a waiting command knows of the jobs that it waits for, by number."""

    open: set[int]
    started: set[int] = field(default_factory=set)
    requeued: Counter[tuple[int, str]] = field(default_factory=Counter)
    restarts: Counter[int] = field(default_factory=Counter)
    ended_at: dict[int, float] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    obstacles: dict[int, str] = field(default_factory=dict)


class SlurmLauncher:
    """Submits jobs and waits for them.

    Args:
        folder: the folder of the experiment.
        config_file: the config file of all jobs.
        options: what each job asks of Slurm.
        queue: Slurm.
        say: prints a line for the user.
        restarts: how often a job that was killed is submitted again.
        further: options of the launcher.
        python: the interpreter of the launcher.

    Attributes:
        held: jobs that Slurm would not take yet, as there is a limit of those that may be submitted at a time.
    """

    def __init__(
        self,
        folder: ExperimentFolder,
        config_file: str,
        options: SlurmOptions,
        queue: SlurmQueue,
        say: Callable[[str], None],
        *,
        restarts: int = 3,
        further: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self._folder, self._config_file, self._options, self._queue = folder, config_file, options, queue
        self._say, self._listener = say, JobListener()
        self._restarts, self._further, self._python = restarts, tuple(further), python
        self._submissions = Submissions(folder.slurm)
        self._answers = True
        self.held: list[PlannedJob] = []
        self._is_full, self._try_again_at = False, 0.0

    def read(self, jobs: Sequence[PlannedJob]) -> tuple[dict[int, SubmittedJob], dict[int, JobStatus]]:
        """What the queue says of jobs and their statuses, by number; waits until Slurm answers.

        Arrays of a command that was killed while it submitted them are looked for in the queue first.
        """
        while True:
            with self._patience():
                for submission in settle_submissions(self._submissions, self._queue):
                    self._say(f"Found array {submission.job_id} in Slurm's queue, which an earlier command submitted.")
                submitted = read_queue(self._submissions, self._queue, jobs)
                return submitted, {job.number: status_in_queue(job, submitted.get(job.number)) for job in jobs}

    def narrate(self, say: Callable[[str], None], listener: JobListener | None = None) -> None:
        """Replace the function that prints, and the listener.

        Args:
            say: prints a line for the user.
            listener: is called when jobs start and end.
        """
        self._say, self._listener = say, listener or JobListener()

    def submit(self, jobs: Sequence[PlannedJob]) -> list[str]:
        """Submit jobs; those beyond Slurm's limit of submitted jobs are `held`, and submitted by `wait` as others end.

        Args:
            jobs: none of them is in the queue.

        Returns:
            the ids of the arrays.

        Raises:
            UserError: Slurm refuses them; those of earlier arrays are in the queue.
        """
        if not jobs:
            return []
        most = self._asked(self._queue.max_array_size)
        arrays = Arrays.of(jobs, most, self._options.at_once)
        before = self.ids_in_queue(jobs) if self._options.at_once is not None else []
        submitted: list[str] = []
        left = deque(zip(arrays.jobs, arrays.at_once, strict=True))
        is_chained = arrays.is_chained
        while left:
            chunk, at_once = left.popleft()
            after = [*before, *(submitted[-1:] if is_chained else [])]
            try:
                submission = self._submit(chunk, at_once, after)
            except SlurmFullError as error:
                if len(chunk) > 1:  # fewer may fit
                    half, is_chained = len(chunk) // 2, is_chained or at_once is not None
                    left.extendleft([(chunk[half:], at_once), (chunk[:half], at_once)])
                    continue
                self._hold([job for each, _ in [(chunk, at_once), *left] for job in each], error)
                break
            except SlurmRefusalError as error:
                queued = (
                    f" {counted(len(submitted), 'array')} before it went into the queue: {' '.join(submitted)}."
                    if submitted
                    else ""
                )
                raise UserError(f"Slurm refuses the jobs: {error}.{queued}") from error
            assert submission.job_id
            submitted.append(submission.job_id)
            self._say(f"Submitted {counted(len(chunk), 'job')} as array {submission.job_id}: {submission.script}")
        return submitted

    def _hold(self, jobs: Sequence[PlannedJob], error: SlurmFullError) -> None:
        """Keep jobs that Slurm would not take for later; that is said once."""
        if not self._is_full:
            self._say(
                f"Slurm takes no more jobs for now: {counted(len(jobs), 'job')} can be submitted when others have ended. ({error})"
            )
        self.held, self._is_full = [*self.held, *jobs], True
        self._try_again_at = time.monotonic() + _FULL_S

    def _submit_held(self, freed: int) -> None:
        """Submit held jobs again: as many as have ended, and all after a while, as jobs of others count too."""
        if not self.held or (not freed and time.monotonic() < self._try_again_at):
            return
        count = freed or len(self.held)
        jobs, rest = self.held[:count], self.held[count:]
        self.held = list(rest)
        self.submit(jobs)
        self.held.sort(key=lambda job: job.number)
        self._is_full = bool(self.held)

    def ids_in_queue(self, jobs: Sequence[PlannedJob] = ()) -> list[str]:
        """The ids of this experiment's arrays that wait or run.

        Args:
            jobs: these are passed over.
        """
        passed_over = {job.number for job in jobs}
        names = {s.name for s in self._submissions.read() if s.job_id and not passed_over.issuperset(s.numbers)}
        tasks = self._asked(lambda: self._queue.tasks(names)) if names else []
        return sorted({task.job_id for task in tasks if not task.has_ended}, key=int)

    def wait(self, jobs: Sequence[PlannedJob]) -> bool:
        """Wait until none of the jobs is in the queue; those that were killed are submitted again.

        Args:
            jobs: the jobs of the command that are in the queue.

        Returns:
            whether some were stopped: by someone's ``scancel``, or because this command was interrupted, which leaves the queue as
            it is.
        """
        by_number = {job.number: job for job in jobs}
        waiting = _Waiting(set(by_number))
        try:
            with _interrupted_by_sigterm():
                self._wait(by_number, waiting)
        except KeyboardInterrupt:
            self._leave([by_number[number] for number in sorted(waiting.open)])
            return True
        return bool(waiting.stopped)

    # Submitting

    def _submit(self, jobs: Sequence[PlannedJob], at_once: int | None, after: Sequence[str]) -> Submission:
        """Submit an array; if Slurm does not answer, wait, and submit it again if it is not in the queue."""
        number = self._submissions.next_folder().name
        name = new_name(self._folder.path, number)
        script = job_script(
            *(self._submissions.next_folder(), name, len(jobs), self._options, at_once, Path.cwd(), sys.executable)
        )
        lines = [command_line_of(job, self._config_file, self._python, self._options, *self._further) for job in jobs]
        options = [f"--dependency=afterany:{':'.join(after)}"] if after else []
        with self._submissions.submitting() as lock:
            submission = self._submissions.add(name, jobs, self._options.nodes, script, lines)
            while True:
                try:
                    job_id = self._queue.submit(submission.script, options, [lock], self._options.replaced_variables())
                except SlurmUnreachableError as error:
                    self._lost(error)
                    time.sleep(_SHORTEST_PAUSE_S)
                    found = self._asked(lambda: self._queue.find(name))
                    if found is None:
                        continue
                    job_id = found
                except SlurmRefusalError:
                    self._submissions.remove(submission)
                    raise
                return self._submissions.set_job_id(submission, job_id)

    # Waiting

    def _wait(self, jobs: Mapping[int, PlannedJob], waiting: _Waiting) -> None:
        pause = _SHORTEST_PAUSE_S
        while waiting.open:
            held = {job.number for job in self.held}
            still = [jobs[number] for number in sorted(waiting.open - held)]
            submitted, statuses = self.read(still)
            self._report_obstacles(submitted, waiting)
            again = [
                job for job in still if self._follow(job, submitted.get(job.number), statuses[job.number], waiting)
            ]
            if again:
                self.submit(again)
            ended = len(held) + len(still) - len(waiting.open)
            self._submit_held(ended)
            is_news = bool(again) or ended > 0
            pause = _SHORTEST_PAUSE_S if is_news else min(pause * _SLOWER, _LONGEST_PAUSE_S)
            if waiting.open:
                self._rest(pause)

    def _report_obstacles(self, submitted: Mapping[int, SubmittedJob], waiting: _Waiting) -> None:
        """Say why jobs can't start, once for each reason that is new to some of them."""
        new: dict[str, list[tuple[int, QueuedTask]]] = {}
        for number, job in sorted(submitted.items()):
            task = job.task
            obstacle = "" if task is None else task.obstacle
            if task is not None and obstacle and obstacle != waiting.obstacles.get(number):
                new.setdefault(obstacle, []).append((number, task))
            waiting.obstacles[number] = obstacle
        for found in new.values():
            numbers = ", ".join(str(number) for number, _ in found[:10])
            more = f" and {len(found) - 10} more" if len(found) > 10 else ""
            jobs = "job" if len(found) == 1 else "jobs"
            self._say(f"{jobs} {numbers}{more} can't start yet; Slurm's reason: {found[0][1].obstacle_text}")

    def _follow(self, job: PlannedJob, submitted: SubmittedJob | None, status: JobStatus, waiting: _Waiting) -> bool:
        """Report what has become of a job; whether it is to be submitted again."""
        number, command = job.number, Job(job.label, (), job.run.terminal)
        if submitted is None:
            waiting.open.discard(number)
            return False
        starts = num_starts(job.run, submitted.id)
        self._report_requeue(job, submitted, starts - (status.state is not JobState.QUEUED), waiting)
        if submitted.is_in_queue and status.state is not JobState.FINISHED:
            waiting.ended_at.pop(number, None)
            if status.state is JobState.QUEUED:
                if number in waiting.started:
                    self._listener.paused(command)
                waiting.started.discard(number)
            elif number not in waiting.started:
                waiting.started.add(number)
                self._listener.started(command, {})
            return False
        has_news = starts > 0
        if not self._is_settled(number, status, submitted, has_news, waiting):
            return False
        waiting.open.discard(number)
        waiting.started.discard(number)
        if status.state is JobState.FINISHED or (has_news and status.state is JobState.FAILED):
            self._listener.ended(command, 0 if status.state is JobState.FINISHED else 1)
            return False
        word = submitted.task.state if submitted.task is not None else ""
        if number in submitted.submission.cancelled or word == "CANCELLED" or (not word and not has_news):
            self._submissions.set_cancelled(submitted.submission, number)
            waiting.stopped.add(number)
            self._listener.paused(command)
            self._say(f"job {job.number}: {submitted.id} was cancelled in Slurm's queue; the same command resumes it")
            return False
        if not has_news and word not in _ENDED_BY_SLURM:
            self._note_failed_start(job, submitted)
            self._listener.ended(command, 1)
            return False
        if (
            status.state is JobState.STOPPED
            and not word
            and not submitted.submission.requeue_failure(submitted.index).exists()
        ):
            waiting.stopped.add(number)
            self._listener.ended(command, EXIT_STOPPED)
            return False
        self._listener.paused(command)
        return self._is_restarted(job, submitted, status, word, waiting)

    def _report_requeue(self, job: PlannedJob, submitted: SubmittedJob, number: int, waiting: _Waiting) -> None:
        """Report that a job was requeued, once for each time."""
        key = (job.number, submitted.id)
        if number > waiting.requeued[key]:
            waiting.requeued[key] = number
            times = "" if number == 1 else f" ({number} times so far)"
            self._say(f"job {job.number}: {submitted.id} was interrupted and requeued{times}")

    def _is_restarted(
        self, job: PlannedJob, submitted: SubmittedJob, status: JobStatus, word: str, waiting: _Waiting
    ) -> bool:
        what = status.error or ("stopped, and could not be requeued" if status.state is JobState.STOPPED else "ended")
        text = f"job {job.number}: {submitted.id}: {what}{f' ({word} in Slurm)' if word and word != 'FAILED' else ''}"
        if waiting.restarts[job.number] >= self._restarts:
            self._say(
                f"{text}; it was submitted {waiting.restarts[job.number] + 1} times, so it is not submitted again"
            )
            if status.state is JobState.STOPPED:
                waiting.stopped.add(job.number)
            return False
        waiting.restarts[job.number] += 1
        waiting.open.add(job.number)
        self._say(f"{text}; submitted again, {waiting.restarts[job.number]} of at most {self._restarts} times")
        return True

    def _is_settled(
        self, number: int, status: JobStatus, submitted: SubmittedJob, has_news: bool, waiting: _Waiting
    ) -> bool:
        """Whether what a job's folder says is its last word, now that the queue says that it has ended.

        A file server may show the folder as it was, and the lock of a process that was killed on another machine is dead after a
        minute only.
        """
        if status.state is JobState.FINISHED:
            return True
        first_seen = waiting.ended_at.setdefault(number, time.monotonic())
        seconds = time.monotonic() - first_seen
        if status.state is JobState.RUNNING and has_news:
            return seconds > 2 * _FILE_SERVER_S
        is_complete = submitted.task is not None and submitted.task.state == "COMPLETED"
        return seconds > (_FILE_SERVER_S if is_complete else 0.5)

    def _note_failed_start(self, job: PlannedJob, submitted: SubmittedJob) -> None:
        """Note in a job's folder that its script ended before the job began, with what it said."""
        job.run.path.mkdir(parents=True, exist_ok=True)
        output = submitted.submission.output(submitted.index)
        with job.run.terminal.open("ab") as file:
            file.write(f"$ {submitted.submission.script}, task {submitted.index}\n".encode())
            if output.is_file():
                with output.open("rb") as source:
                    shutil.copyfileobj(source, file)
        note_end(job.run, 1)

    def _leave(self, jobs: Sequence[PlannedJob]) -> None:
        queued = [job for job in jobs if job not in self.held]
        ids = sorted({s.job_id for s in self._newest(queued).values() if s.job_id}, key=int)
        held = f"; {counted(len(self.held), 'job')} not submitted yet" if self.held else ""
        cancel = f"; to cancel: scancel {' '.join(ids)}" if ids else ""
        self._say(
            f"\nLeft {counted(len(queued), 'job')} in Slurm's queue{held}. To go on waiting, run the same command; "
            f"to look, add --status{cancel}"
        )

    def _newest(self, jobs: Sequence[PlannedJob]) -> dict[int, Submission]:
        numbers = {job.number for job in jobs}
        return {number: s for number, s in self._submissions.newest_of_jobs().items() if number in numbers}

    # Patience

    def _asked(self, question: Callable[[], _T]) -> _T:
        """The answer to a question; waits until Slurm answers."""
        while True:
            with self._patience():
                return question()

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        """A block that asks Slurm. If it does not answer, that is said, and after a pause the block is left without an error."""
        try:
            yield
        except SlurmUnreachableError as error:
            self._lost(error)
            self._rest(_LONGEST_PAUSE_S / 3)
        else:
            self._found()

    def _lost(self, error: SlurmUnreachableError) -> None:
        if self._answers:
            self._say(f"Slurm does not answer: {error}. Running jobs go on; waiting until it does.")
        self._answers = False

    def _found(self) -> None:
        if not self._answers:
            self._say("Slurm answers again.")
        self._answers = True

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._listener.waiting()
            time.sleep(min(left, 0.25))


def first_script(folder: ExperimentFolder, jobs: Sequence[PlannedJob], options: SlurmOptions) -> str:
    """The job script as it would be submitted first, for a look."""
    return job_script(
        *(Submissions(folder.slurm).next_folder(), f"{folder.path.name}-NUMBER", len(jobs), options, options.at_once),
        *(Path.cwd(), sys.executable),
    )


def refuse_queued(folder: ExperimentFolder, jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus]) -> None:
    """Refuse to start jobs on this machine that are in Slurm's queue.

    Args:
        folder: the folder of the experiment.
        jobs: all of its jobs.
        statuses: the states of the jobs by their numbers.

    Raises:
        UserError: some are, or Slurm can't be asked.
    """
    submissions = Submissions(folder.slurm)
    wanted = {job.number for job in jobs_to_run(jobs, statuses, retry_failed=True)}
    if not wanted.intersection(submissions.newest_of_jobs()):
        return
    try:
        queue = SlurmQueue()
        settle_submissions(submissions, queue)
        submitted = read_queue(submissions, queue, jobs)
    except (SlurmUnreachableError, UserError) as error:
        raise UserError(
            f"Jobs in {folder.path} were submitted to Slurm, which can't be asked whether it still has them: {error} If it has "
            f"not, remove {folder.slurm}."
        ) from error
    queued = sorted(number for number in submitted if submitted[number].is_in_queue)
    if queued:
        ids = sorted({submitted[number].submission.job_id or "" for number in queued})
        raise UserError(
            f"{counted(len(queued), 'job')} of {folder.path} {'is' if len(queued) == 1 else 'are'} in Slurm's queue. Continue with "
            f"--launcher slurm, or cancel them: scancel {' '.join(ids)}"
        )


def statuses_with_queue(
    folder: ExperimentFolder, jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus]
) -> tuple[dict[int, JobStatus], str]:
    """The statuses of jobs with what Slurm's queue says of them, for a look: nothing is written.

    Args:
        folder: the folder of the experiment.
        jobs: the jobs of the experiment.
        statuses: what the folders say.

    Returns:
        the statuses, and a warning; "" if there is nothing to warn of.
    """
    unfinished = [job for job in jobs if statuses[job.number].state is not JobState.FINISHED]
    if not unfinished:
        return dict(statuses), ""
    try:
        submitted = read_queue(Submissions(folder.slurm), SlurmQueue(), unfinished)
    except UserError:
        return dict(
            statuses
        ), "Slurm's commands are not on the PATH here: the states are read only from the folders of the jobs."
    except SlurmUnreachableError as error:
        return dict(
            statuses
        ), f"Slurm does not answer ({error}): the states are read only from the folders of the jobs."
    return {**statuses, **{job.number: status_in_queue(job, submitted.get(job.number)) for job in unfinished}}, ""


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """In the block SIGTERM interrupts as Ctrl-C does."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
