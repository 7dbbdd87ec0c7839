"""The processes of jobs on this machine: children of this process, and those that an earlier command has started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from ultravid.utils.processes import is_running
from ultravid.utils.run_folder import RunFolder

__all__ = ["AdoptedProcess", "ChildProcess", "EndedProcess", "JobProcess", "OthersProcess", "wait_for_an_end"]

_POLL_S = 0.1
_LOOK_EVERY_S = 2.0  # at the lock of another process: on a file server each look is a request


class JobProcess(ABC):
    """A process that is at work in a job's folder.

    Attributes:
        pid: on this machine; None on another one.
        is_ours: it was started by a command of the experiment on this machine, so that it may be stopped.
        gpu: the GPU that it was given, as ``CUDA_VISIBLE_DEVICES`` has it; None if it was given none.
    """

    is_ours = True

    def __init__(self, pid: int | None, gpu: str | None = None) -> None:
        self.pid, self.gpu = pid, gpu
        self._pidfd = _open_pidfd(pid)

    @abstractmethod
    def poll(self) -> int | None:
        """The exit code in `subprocess`'s convention; None while it runs."""

    @property
    def can_be_waited_for(self) -> bool:
        """Whether `fileno` is a file that becomes readable when the process ends."""
        return self._pidfd is not None

    def fileno(self) -> int:
        """A file that becomes readable when the process ends."""
        assert self._pidfd is not None
        return self._pidfd

    def stop(self) -> None:
        """Ask it to save a checkpoint and end: SIGTERM to the process itself, as its workers would only fail of it."""
        with contextlib.suppress(OSError):  # it has ended
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            elif self.pid is not None and self.poll() is None:
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, with its workers."""
        with contextlib.suppress(OSError):
            if self.pid is not None and self.poll() is None:
                is_leader = os.getpgid(self.pid) == self.pid
                (os.killpg if is_leader else os.kill)(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release what it takes to wait for it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class ChildProcess(JobProcess):
    """A process that this one has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(process.pid)
        self._process = process

    def poll(self) -> int | None:
        """See `JobProcess`."""
        return self._process.poll()


class AdoptedProcess(JobProcess):
    """A process that a command of the experiment has started which is gone.

    Args:
        pid: on this machine.
        started: its start time, as of `ultravid.utils.processes.process_start_time`.
        outcome: gives the exit code after its end, as far as it is known: the system reports it to the parent alone.
        gpu: as of `JobProcess`.
    """

    def __init__(self, pid: int, started: int | None, outcome: Callable[[], int], gpu: str | None = None) -> None:
        super().__init__(pid, gpu)
        self._pid, self._started, self._outcome = pid, started, outcome

    def poll(self) -> int | None:
        """See `JobProcess`."""
        return None if is_running(self._pid, self._started) else self._outcome()


class OthersProcess(JobProcess):
    """A process that holds the lock of the job's folder and was not started by a command of the experiment on this machine.

    Args:
        run: the job's folder.
        outcome: as of `AdoptedProcess`.
    """

    is_ours = False

    def __init__(self, run: RunFolder, outcome: Callable[[], int]) -> None:
        super().__init__(None)
        self._run, self._outcome = run, outcome
        self._next_look = time.monotonic() + _LOOK_EVERY_S

    def poll(self) -> int | None:
        """See `JobProcess`."""
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        return None if self._run.holder(exact=True) is not None else self._outcome()


class EndedProcess(JobProcess):
    """A process that ended before anybody could wait for it.

    Args:
        exit_code: its exit code.
    """

    is_ours = False

    def __init__(self, exit_code: int) -> None:
        super().__init__(None)
        self._exit_code = exit_code

    def poll(self) -> int | None:
        """See `JobProcess`."""
        return self._exit_code


def wait_for_an_end(processes: Iterable[JobProcess], wakeup: int, timeout_s: float) -> None:
    """Return when a process ends, a byte arrives, or the time is up.

    Args:
        processes: to wait for.
        wakeup: a file that does not block; what it holds is read.
        timeout_s: at most so long; shorter if the operating system reports the end of one of them to nobody.
    """
    poller = select.poll()
    poller.register(wakeup, select.POLLIN)
    for process in processes:
        if process.can_be_waited_for:
            poller.register(process.fileno(), select.POLLIN)
        else:
            timeout_s = min(timeout_s, _POLL_S)
    poller.poll(timeout_s * 1000)
    with contextlib.suppress(BlockingIOError):
        os.read(wakeup, 4096)


def _open_pidfd(pid: int | None) -> int | None:
    if pid is None or not hasattr(os, "pidfd_open"):  # not on Linux
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, a sandbox, too many open files; or the process has ended
        return None
