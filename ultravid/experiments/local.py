"""Run commands as processes on this machine: several at a time, each with a log, all stopped cleanly by a signal."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ultravid.experiments.job_processes import ChildProcess, JobProcess, wait_for_an_end
from ultravid.utils.errors import StoppedBySignal, UserError
from ultravid.utils.tool import EXIT_STOPPED

__all__ = [
    "GPU_VARIABLE",
    "Job",
    "JobListener",
    "JobResults",
    "describe_exit",
    "gpu_slots",
    "run_jobs",
    "stopped_by_signals",
]

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"

_TICK_S = 0.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_MEANT_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_MOST_SIGNALS = 100


@dataclass(frozen=True)
class Job:
    """A command and the log of its output.

    Attributes:
        name: unique among the jobs.
        command: program and arguments.
        log: the file to which the command, its standard output and its standard error are appended.
    """

    name: str
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class JobResults:
    """How jobs ended.

    Attributes:
        exit_codes: by job name, in `subprocess`'s convention (negative: killed by a signal); without jobs that never started.
        stopped: a signal arrived before all jobs were done.
    """

    exit_codes: dict[str, int]
    stopped: bool


class JobListener:
    """Is called when jobs start and end; the methods here do nothing. Derive from it and override those that you need."""

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        """A job is about to start in a slot, whose environment variables ``slot`` has."""

    def launched(self, job: Job, pid: int) -> None:
        """The process of a job that was about to start exists; ``pid`` is its id."""

    def adopted(self, job: Job, process: JobProcess) -> None:
        """A process that this one has not started is at work on a job; it is waited for."""

    def ended(self, job: Job, exit_code: int) -> None:
        """A job has ended; ``exit_code`` is that of its process, negative for the signal that killed it."""

    def restarting(self, job: Job, number: int, of: int) -> None:
        """A job that was killed starts again, for the ``number``-th time of at most ``of``."""

    def paused(self, job: Job) -> None:
        """A job that was running waits again, as in the queue of a scheduler."""

    def waiting(self) -> None:
        """Nothing happened for a moment; called some times a second while jobs run."""

    def stopping(self, running: int) -> None:
        """A signal arrived while ``running`` jobs were running."""

    def killing(self, running: int) -> None:
        """A second Ctrl-C kills the jobs that are still running."""

    def left(self, job: Job) -> None:
        """Jobs are stopped, but the process of ``job`` was not started here, so it goes on."""

    def halting(self, error: Exception, running: int) -> None:
        """No further job starts because of an error; ``running`` jobs go on to their end, then it is raised."""


def run_jobs(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    listener: JobListener | None = None,
    restarts: int = 0,
    at_work: Callable[[Job], JobProcess | None] = lambda _: None,
) -> JobResults:
    """Run jobs in order, as many at a time as there are slots; a job that fails does not stop the others.

    After a signal (SIGTERM, SIGINT, SIGHUP unless it is ignored as under nohup, SIGUSR1, SIGUSR2, SIGXCPU) no further job starts;
    running jobs get SIGTERM and are waited for. A second SIGINT kills them. Each job has a process group of its own, so that a
    terminal's Ctrl-C reaches them through this process alone; if this process is killed they go on. Call it in the main thread
    only, which is where Python handles signals.

    Args:
        jobs: what to run.
        slots: environment variables for the job that occupies the slot, added to those of this process.
        listener: is called when jobs start and end.
        restarts: how often a job that a signal of others killed is started again, ahead of those that wait. SIGTERM, SIGINT and
            SIGHUP are meant to stop it: after them it is not.
        at_work: the process that is at work on a job already, if there is one: it is waited for in place of starting another.

    Raises:
        Exception: what a listener raised, or what kept a job from starting (a full disk), after the running jobs have ended.
    """
    return _Runner(jobs, slots, listener or JobListener(), restarts, at_work).run()


@dataclass
class _Running:
    job: Job
    slot: Mapping[str, str] | None  # None: it occupies none
    process: JobProcess
    was_asked: bool = False


@dataclass
class _Runner:
    jobs: Sequence[Job]
    slots: Sequence[Mapping[str, str]]
    listener: JobListener
    restarts: int
    at_work: Callable[[Job], JobProcess | None]
    exit_codes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting, self._free = deque(self.jobs), list(self.slots)
        self._running: dict[str, _Running] = {}
        self._restarted: Counter[str] = Counter()
        self._failure: Exception | None = None
        self._left = False

    def run(self) -> JobResults:
        with _recorded_signals() as (received, wakeup):
            with self._halting():
                self._adopt_all()
            while self._running or (self._waiting and not received and self._failure is None):
                if received:
                    self._stop(at_once=len(received) > 1 and received[-1] == signal.SIGINT)
                else:
                    self._start()
                with self._halting():
                    self.listener.waiting()
                if not received or all(one.was_asked for one in self._running.values()):
                    wait_for_an_end([one.process for one in self._running.values()], wakeup, _TICK_S)
                self._collect(may_restart=not received)
            unfinished = bool(self._waiting or self._left or any(self.exit_codes.values()))
            if self._failure is not None:
                raise self._failure
            return JobResults(self.exit_codes, stopped=bool(received) and unfinished)

    @contextlib.contextmanager
    def _halting(self) -> Iterator[None]:
        """What goes wrong in the block keeps further jobs from starting, and must not orphan those that run."""
        try:
            yield
        except Exception as error:
            if self._failure is None:
                self._failure = error
                with contextlib.suppress(Exception):
                    self.listener.halting(error, len(self._running))

    def _adopt_all(self) -> None:
        """Wait for the processes of all jobs that are at work, before the first one starts: they occupy slots."""
        self._waiting = deque(job for job in self.jobs if not self._adopt(job))

    def _adopt(self, job: Job) -> bool:
        """Whether a process is at work on a job; then it is waited for."""
        process = self.at_work(job)
        if process is None:
            return False
        same = [slot for slot in self._free if slot.get(GPU_VARIABLE) == process.gpu] if process.is_ours else []
        if same:
            self._free.remove(same[0])
        self._running[job.name] = _Running(job, same[0] if same else None, process)
        self.listener.adopted(job, process)
        return True

    def _start(self) -> None:
        """Start the next job in each free slot."""
        while self._waiting and self._free and self._failure is None:
            with self._halting():
                job = self._waiting[0]
                if self._adopt(job):
                    self._waiting.popleft()
                    continue
                self.listener.started(job, self._free[0])
                process = ChildProcess(_popen(job, self._free[0]))
                self._running[job.name] = _Running(job, self._free.pop(0), process)
                self._waiting.popleft()
                self.listener.launched(job, process.pid or 0)

    def _stop(self, at_once: bool) -> None:
        """Ask each process to stop, once, or kill it; one that is not ours is left alone."""
        for name, one in list(self._running.items()):
            if not one.process.is_ours:
                del self._running[name]
                self._left = True
                with self._halting():
                    self.listener.left(one.job)
        asked = [one for one in self._running.values() if one.was_asked]
        with self._halting():
            if self._running and not asked:
                self.listener.stopping(len(self._running))
            elif at_once and self._running:
                self.listener.killing(len(self._running))
        for one in self._running.values():
            if at_once:
                one.process.kill()
            elif not one.was_asked:
                one.process.stop()
            one.was_asked = True

    def _collect(self, may_restart: bool) -> None:
        """Free the slots of jobs that have ended; what was killed waits again."""
        for name, one in list(self._running.items()):
            code = one.process.poll()
            if code is None:
                continue
            one.process.close()
            del self._running[name]
            if one.slot is not None:
                self._free.append(one.slot)
            with self._halting():
                if code > 0 and may_restart and self._adopt(one.job):  # it was refused, as another is at work
                    continue
                self.exit_codes[name] = code
                self.listener.ended(one.job, code)
                if may_restart and code < 0 and -code not in _MEANT_TO_STOP and self._restarted[name] < self.restarts:
                    self._restarted[name] += 1
                    self._waiting.appendleft(one.job)
                    self.listener.restarting(one.job, self._restarted[name], self.restarts)


def _popen(job: Job, slot: Mapping[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab", buffering=0) as log:  # what a full disk does not take would be written again on closing
        try:
            log.write(f"$ {shlex.join(job.command)}\n".encode(errors="surrogateescape"))
        except OSError as error:  # a full disk; the error does not say of which file
            error.filename = str(job.log)
            raise
        try:
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **slot},
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"{job.name} can't be started: {job.command[0]}: {error.strerror}.") from error


@contextlib.contextmanager
def _recorded_signals() -> Iterator[tuple[list[int], int]]:
    """Record the signals that arrive in the block; the loop passes them on, so that no process can start in between.

    Yields:
        the signals so far, and a file that becomes readable when one arrives.
    """
    received: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        del frame
        if len(received) < _MOST_SIGNALS:
            received.append(number)

    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    old = {number: signal.signal(number, record) for number in _stop_signals()}
    old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield received, reader
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """A block that a signal ends as `run_jobs` ends, before and after jobs run: with `EXIT_STOPPED`, and locks are released."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise StoppedBySignal(EXIT_STOPPED)

    old = {number: signal.signal(number, stop) for number in _stop_signals() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _stop_signals() -> list[signal.Signals]:
    """The signals that stop, without those that are ignored, as under nohup."""
    always = (signal.SIGTERM, signal.SIGINT)
    return [number for number in _STOP_SIGNALS if number in always or signal.getsignal(number) is not signal.SIG_IGN]


def gpu_slots(text: str | None) -> list[Mapping[str, str]]:
    """Slots for `run_jobs`: one for each GPU of a list such as ``"0,1,2"``; None gives one slot that sets nothing.

    Several slots share the CPU's cores, unless ``OMP_NUM_THREADS`` is set.

    Args:
        text: numbers of GPUs with commas between them.

    Raises:
        UserError: a GPU is repeated or empty.
    """
    if text is None:
        return [{}]
    gpus = [gpu.strip() for gpu in text.split(",")]
    if not all(gpus) or len(set(gpus)) < len(gpus):
        raise UserError(f"--gpus {text}: name each GPU once, as 0,1,2.")
    threads = max(1, (os.cpu_count() or 1) // len(gpus))
    shared = {} if len(gpus) == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    return [{GPU_VARIABLE: gpu, **shared} for gpu in gpus]


def describe_exit(code: int) -> str:
    """An exit code in words.

    Args:
        code: the code of `subprocess.Popen.returncode`; below 0, the number of the signal that ended the process.
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"
