"""Run commands as processes on this machine: several at a time, each with a log, all stopped cleanly by a signal."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ultravid.utils.errors import UserError

__all__ = ["Job", "JobListener", "JobResults", "describe_exit", "gpu_slots", "run_jobs"]

_POLL_S = 0.1


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
    """Is called when jobs start and end; the methods here do nothing."""

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        """A job is about to start in a slot."""

    def ended(self, job: Job, exit_code: int) -> None:
        """A job has ended."""

    def waiting(self) -> None:
        """Nothing happened for a moment; called some times a second while jobs run."""

    def stopping(self, running: int) -> None:
        """A signal arrived while ``running`` jobs were running."""


def run_jobs(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    listener: JobListener | None = None,
    restarts: int = 0,
) -> JobResults:
    """Run jobs in order, as many at a time as there are slots; a job that fails does not stop the others.

    After SIGTERM or SIGINT no further job starts; running jobs get SIGTERM and are waited for. A second SIGINT kills them. Call
    it in the main thread only, which is where Python handles signals.

    Args:
        jobs: what to run.
        slots: environment variables for the job that occupies the slot, added to those of this process.
        listener: is called when jobs start and end.
        restarts: how often a job that a signal of others killed is started again, ahead of those that wait.
    """
    listener = listener or JobListener()
    restarted: Counter[str] = Counter()
    waiting, free = deque(jobs), list(slots)
    running: dict[str, _Running] = {}
    exit_codes: dict[str, int] = {}
    with _recorded_signals() as received:
        while running or (waiting and not received):
            while waiting and free and not received:
                job, slot = waiting.popleft(), free.pop(0)
                listener.started(job, slot)
                running[job.name] = _Running(job, slot, _started(job, slot))
            if received and running:
                if not any(r.was_signalled for r in running.values()):
                    listener.stopping(len(running))
                _signal(running.values(), at_once=len(received) > 1 and received[-1] == signal.SIGINT)
            listener.waiting()
            time.sleep(_POLL_S)
            for name, ended in [(n, r) for n, r in running.items() if r.process.poll() is not None]:
                del running[name]
                free.append(ended.slot)
                exit_codes[name] = ended.process.returncode
                listener.ended(ended.job, ended.process.returncode)
                if ended.process.returncode < 0 and not received and restarted[name] < restarts:
                    restarted[name] += 1
                    waiting.appendleft(ended.job)
        return JobResults(exit_codes, stopped=bool(received) and bool(waiting or any(exit_codes.values())))


@dataclass
class _Running:
    job: Job
    slot: Mapping[str, str]
    process: subprocess.Popen[bytes]
    was_signalled: bool = False


def _signal(running: Iterable[_Running], at_once: bool) -> None:
    """Ask each process to stop, once, or kill it."""
    for one in running:
        if at_once:
            one.process.kill()
        elif not one.was_signalled:
            one.process.terminate()
        one.was_signalled = True


def _started(job: Job, slot: Mapping[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        log.write(f"$ {shlex.join(job.command)}\n".encode())
        log.flush()
        environment = {**os.environ, **slot}
        return subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


@contextlib.contextmanager
def _recorded_signals() -> Iterator[list[int]]:
    """Record the signals that arrive in the block; the loop passes them on, so that no process can start in between."""
    received: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    old = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def gpu_slots(text: str | None) -> list[Mapping[str, str]]:
    """Slots for `run_jobs`: one for each GPU of a list such as ``"0,1,2"``; None gives one slot that sets nothing.

    Several slots share the CPU's cores, unless ``OMP_NUM_THREADS`` is set.

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
    return [{"CUDA_VISIBLE_DEVICES": gpu, **shared} for gpu in gpus]


def describe_exit(code: int) -> str:
    """An exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
