"""The processes of a run on one machine: starting them, passing signals on, and reporting how they ended as one error."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

from torch.multiprocessing.spawn import start_processes

from ultravid.engine.rendezvous import lost_peer
from ultravid.engine.stop_signals import STOP_SIGNALS, blocked_signals, installed_signals
from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.tool import EXIT_INTERRUPTED, EXIT_STOPPED, EXIT_USER_ERROR

__all__ = ["run_in_processes"]

_GRACE_S = 30.0
"""How long the others may take to end when one process has failed."""


def run_in_processes(first_rank: int, count: int, main: Callable[[int, Any], None], payload: bytes) -> None:
    """Call ``main(rank, content)`` in new processes, and wait until they have ended.

    Args:
        first_rank: the rank of the first one.
        count: number of processes.
        main: a function at the top of a module.
        payload: the content's pickle.

    Raises:
        UserError: one of them raised it.
        FloatingPointError: likewise.
        SystemExit: one of them failed otherwise, which was printed; or the run was stopped.
    """
    reports = multiprocessing.get_context("spawn").SimpleQueue()
    children = _Children(first_rank, reports)
    with _forwarded_signals(children):
        with blocked_signals():  # a process that is still importing modules would answer Ctrl-C with a traceback
            context = start_processes(
                _child,
                args=(reports, first_rank, count, main, payload),
                nprocs=count,
                join=False,
                start_method="spawn",
            )
        children.started(context.processes)
        children.wait()
    children.raise_failure()


@dataclass(frozen=True)
class _Report:
    """How a process ended, in its own words.

    Attributes:
        rank: the rank of the process.
        kind: "user" (a `UserError`), "number" (a `FloatingPointError`), "stopped" (a checkpoint was saved), "left" (before that),
            "interrupted", "exit" or "error".
        text: the error; of "error" with its traceback.
        is_consequence: whether the end of another process caused it.
        code: the exit code.
    """

    rank: int
    kind: str
    text: str = ""
    is_consequence: bool = False
    code: int = 1


class _Children:
    """The processes of this machine, as the process sees them that has started them."""

    def __init__(self, first_rank: int, reports: SimpleQueue[_Report]) -> None:
        self._first_rank = first_rank
        self._queue = reports
        self._reports: list[_Report] = []
        self._processes: list[Any] = []
        self._codes: dict[int, int] = {}
        self._killed: set[int] = set()
        self._waiting: list[int] = []

    def started(self, processes: Sequence[Any]) -> None:
        """Take the processes; signals that came while they were started are sent now."""
        self._processes = list(processes)
        for number in self._waiting:
            self.send(number)

    def send(self, number: int) -> None:
        """Send a signal to all that are alive."""
        if not self._processes:
            self._waiting.append(number)
        for index, process in enumerate(self._processes):
            if self._first_rank + index not in self._codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def wait(self) -> None:
        """Wait for all of them. When one has ended otherwise than well, the others are asked to stop, and killed if they hang."""
        kill_at: float | None = None
        is_ending = False
        while alive := self._alive():
            timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic())
            sentinels = [process.sentinel for process in alive.values()]
            multiprocessing.connection.wait([*sentinels, self._queue._reader], timeout)  # type: ignore[attr-defined]
            self._read_reports()
            failed = any(code != 0 for code in self._codes.values())
            for rank, process in alive.items():
                if process.exitcode is not None:
                    self._codes[rank] = process.exitcode
                    failed = failed or process.exitcode != 0
            if failed and not is_ending:
                is_ending = True
                self.send(signal.SIGTERM)
            # One that saves a checkpoint may take its time: the others have left before it, in order.
            if failed and kill_at is None and any(report.kind != "stopped" for report in self._endings()):
                kill_at = time.monotonic() + _GRACE_S
            if kill_at is not None and time.monotonic() >= kill_at:
                self._killed |= set(self._alive())
                self.send(signal.SIGKILL)
                kill_at = time.monotonic() + _GRACE_S
        self._read_reports()

    def _alive(self) -> dict[int, Any]:
        ranks = {self._first_rank + index: process for index, process in enumerate(self._processes)}
        return {rank: process for rank, process in ranks.items() if rank not in self._codes}

    def _read_reports(self) -> None:
        while not self._queue.empty():
            self._reports.append(self._queue.get())

    def _endings(self) -> list[_Report]:
        """How each process ended that did not end well: what it reported, else what its exit code says; the earliest first."""
        reported = {report.rank for report in self._reports}
        silent = [
            _Report(rank, _kind_of(code), code=code)
            for rank, code in self._codes.items()
            if code != 0 and rank not in reported and rank not in self._killed
        ]
        return [*self._reports, *silent]

    def raise_failure(self) -> None:
        """Raise what ended the run, if it did not end well: the cause, not what the other processes met as a consequence."""
        endings = self._endings()
        if not endings:
            return
        order = ("user", "number", "error", "exit", "interrupted", "stopped", "left")
        cause = min(endings, key=lambda ending: (ending.is_consequence, order.index(ending.kind)))
        signals = installed_signals()
        if cause.kind == "user":
            raise UserError(cause.text)
        if cause.kind == "number":
            raise FloatingPointError(cause.text)
        if cause.kind == "left":
            interrupted = -cause.code == signal.SIGINT or (signals is not None and signals.received == signal.SIGINT)
            raise SystemExit(EXIT_INTERRUPTED if interrupted else EXIT_STOPPED)
        if cause.kind == "error":
            sys.stderr.write(f"Rank {cause.rank} failed:\n{cause.text}\n")
        elif cause.kind == "exit" and cause.code < 0:
            sys.stderr.write(f"error: {_killed_by(cause.rank, -cause.code)}\n")
            raise SystemExit(1)
        raise SystemExit(cause.code)


def _kind_of(code: int) -> str:
    """The kind of an exit code of a process that left no report."""
    if code == EXIT_STOPPED or -code in STOP_SIGNALS:
        return "left"
    return "interrupted" if code == EXIT_INTERRUPTED else "exit"


def _killed_by(rank: int, number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    why = ""
    if number == signal.SIGKILL:
        why = " A user may have killed it, or the kernel because it used too much memory ('dmesg' or the scheduler's log says so)."
    return f"Rank {rank} was killed by {name}, so the run ended.{why} --resume continues from the newest checkpoint."


@contextlib.contextmanager
def _forwarded_signals(children: _Children) -> Iterator[None]:
    """Forward the signals that ask a run to stop, while this process waits for the others.

    Ctrl-C in a terminal sends SIGINT to the processes as well, and a second SIGINT ends them at once. So the first one is
    forwarded as SIGTERM, which may arrive twice, and the second one is sent twice, because it may be the first they receive.
    """
    signals = installed_signals()
    if signals is None:  # not in the main thread
        yield
        return

    def forward(number: int) -> None:
        if number != signal.SIGINT or signals.interrupts == 1:
            children.send(signal.SIGTERM if number == signal.SIGINT else number)
        elif signals.interrupts == 2:
            children.send(signal.SIGINT)
            time.sleep(0.05)  # else the two signals would be delivered as one
            children.send(signal.SIGINT)
        else:
            children.send(signal.SIGKILL)

    signals.postponed_by = forward
    try:
        yield
    finally:
        signals.postponed_by = None


def _child(
    local_rank: int,
    reports: SimpleQueue[_Report],
    first_rank: int,
    count: int,
    main: Callable[[int, Any], None],
    payload: bytes,
) -> None:
    """What a new process does; it ends here."""
    rank = first_rank + local_rank
    os.environ["LOCAL_RANK"] = str(local_rank)
    os.environ["LOCAL_WORLD_SIZE"] = str(count)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` handles it: no traceback
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    report = _outcome(rank, main, payload)
    if report is not None:
        reports.put(report)
    # Everything is written. A normal exit beside gloo's threads sometimes ends in "terminate called without an active
    # exception", which would turn a finished run into a failed one.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if report is None else report.code)


def _outcome(rank: int, main: Callable[[int, Any], None], payload: bytes) -> _Report | None:
    """Call ``main``; how it ended, None if it ended well."""
    try:
        try:
            content = pickle.loads(payload)
        except Exception as error:
            raise UserError(
                f"The run can't be started in a new process, because this can't be read there: {type(error).__name__}: {error}"
            ) from error
        main(rank, content)
    except UserError as error:
        text = "\n  ".join([str(error), *getattr(error, "__notes__", ())])
        return _Report(rank, "user", text, lost_peer(error), EXIT_USER_ERROR)
    except FloatingPointError as error:
        return _Report(rank, "number", str(error))
    except StopTraining:
        return _Report(rank, "stopped", code=EXIT_STOPPED)
    except KeyboardInterrupt:
        return _Report(rank, "interrupted", code=EXIT_INTERRUPTED)
    except SystemExit as end:
        if end.code in (None, 0):
            return None
        code = end.code if isinstance(end.code, int) else 1
        if code != end.code:
            sys.stderr.write(f"{end.code}\n")
        return _Report(rank, "left" if code == EXIT_STOPPED else "exit", code=code)
    except BaseException as error:
        return _Report(rank, "error", traceback.format_exc(), lost_peer(error))
    return None
