"""Commands run as processes of their own: so many at a time, each with a log, all stopped in order by a signal."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

__all__ = ["Job", "JobListener", "JobResults", "describe_exit", "run_jobs"]

_POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """A command and where what it prints goes.

    Attributes:
        name: unique among the jobs.
        command: program and arguments.
        log: is added to: the command, then its standard output and error.
    """

    name: str
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class JobResults:
    """How jobs ended.

    Attributes:
        exit_codes: by name, as `subprocess` has them; jobs that were not started are not among them.
        stopped: a signal ended it before all were through.
    """

    exit_codes: dict[str, int]
    stopped: bool


class JobListener:
    """Is told what happens to jobs; does nothing about it."""

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        """A job is about to start in a slot."""

    def ended(self, job: Job, exit_code: int) -> None:
        """A job has ended."""

    def stopping(self, running: int) -> None:
        """A signal came while so many jobs were at work."""


def run_jobs(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    listener: JobListener | None = None,
    inherited: Sequence[int] = (),
) -> JobResults:
    """Run jobs in order, as many at a time as there are slots; one that fails does not stop the others.

    After SIGTERM or SIGINT no further job starts; those at work get SIGTERM and are waited for. A second SIGINT kills them.
    For the main thread alone: that is where signals arrive.

    Args:
        jobs: what to run.
        slots: variables of the environment that a job gets beside those of this process, a slot to each that runs.
        listener: is told what happens.
        inherited: file descriptors that the processes keep open, as that of a lock.
    """
    listener = listener or JobListener()
    waiting, free = deque(jobs), list(slots)
    running: dict[str, _Running] = {}
    exit_codes: dict[str, int] = {}
    with _noted_signals() as received:
        while running or (waiting and not received):
            while waiting and free and not received:
                job, slot = waiting.popleft(), free.pop(0)
                listener.started(job, slot)
                running[job.name] = _Running(job, slot, _started(job, slot, inherited))
            if received and running:
                if not any(r.told for r in running.values()):
                    listener.stopping(len(running))
                _tell(running.values(), at_once=len(received) > 1 and received[-1] == signal.SIGINT)
            time.sleep(_POLL_S)
            for name, ended in [(n, r) for n, r in running.items() if r.process.poll() is not None]:
                del running[name]
                free.append(ended.slot)
                exit_codes[name] = ended.process.returncode
                listener.ended(ended.job, ended.process.returncode)
        return JobResults(exit_codes, stopped=bool(received) and bool(waiting or any(exit_codes.values())))


@dataclass
class _Running:
    job: Job
    slot: Mapping[str, str]
    process: subprocess.Popen[bytes]
    told: bool = False


def _tell(running: Iterable[_Running], at_once: bool) -> None:
    """Ask each process once to stop, or kill it."""
    for one in running:
        if at_once:
            one.process.kill()
        elif not one.told:
            one.process.terminate()
        one.told = True


def _started(job: Job, slot: Mapping[str, str], inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        log.write(f"$ {shlex.join(job.command)}\n".encode())
        log.flush()
        environment = {**os.environ, **slot}
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=inherited
        )


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """The signals that came in the block; the processes are told in the loop, so that none can start in between."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def describe_exit(code: int) -> str:
    """An exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
