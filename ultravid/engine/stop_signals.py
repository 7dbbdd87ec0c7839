"""The signals that ask a run to stop, and their handling in its processes.

- SIGTERM: ``kill``, Slurm's end of a job, torchrun. SIGINT: Ctrl-C. SIGHUP: a terminal that was closed; under ``nohup`` it is
  ignored, and stays so.
- SIGUSR1 and SIGUSR2: what schedulers send before a time limit, if they are asked to. SIGXCPU: a limit of CPU time.

SIGQUIT (Ctrl and backslash) is left alone: it ends a process at once that does not react to anything else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ultravid.utils.errors import StoppedBySignal
from ultravid.utils.tool import EXIT_STOPPED

__all__ = ["STOP_SIGNALS", "StopSignals", "blocked_signals", "installed_signals"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class StopSignals:
    """Handlers of `STOP_SIGNALS`. A signal ends the process at once, unless something postpones that.

    At once means by `StoppedBySignal` with `EXIT_STOPPED`, or `KeyboardInterrupt` for SIGINT: what is open is closed, and there is no
    traceback. A signal that has a handler of someone else's is left to that.

    Attributes:
        received: the first signal; None if there was none.
        interrupts: number of SIGINTs.
        left: the signals that are left to another handler, with what that is called.
        postponed_by: is called with each signal instead of ending the process; None ends it.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.interrupts = 0
        self.left: dict[int, str] = {}
        self.postponed_by: Callable[[int], None] | None = None
        self._owner = os.getpid()
        self._old: dict[int, Any] = {}

    def install(self) -> None:
        """Install the handlers.

        Raises:
            ValueError: this is not the main thread, which is where Python handles signals.
        """
        caught = _caught_signals()
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler is signal.SIG_IGN and number not in (signal.SIGTERM, signal.SIGINT):
                continue
            if callable(handler) and handler is not signal.default_int_handler:
                self.left[number] = getattr(handler, "__qualname__", None) or type(handler).__qualname__
            elif handler is None or (handler is signal.SIG_DFL and number in caught):
                self.left[number] = "a handler that Python's signal module does not know (faulthandler sets one)"
            else:
                self._old[number] = signal.signal(number, self._receive)
        _installed.append(self)

    def remove(self) -> None:
        """Restore the handlers that were there before; one that was installed since then stays."""
        if self in _installed:
            _installed.remove(self)
        for number, handler in self._old.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, handler)

    def taken(self) -> dict[int, str]:
        """The signals that are left to other handlers, those that were installed since `install` too."""
        own = self._receive
        since = {n: h for n in self._old if (h := signal.getsignal(n)) != own}
        return {**self.left, **{n: getattr(h, "__qualname__", None) or str(h) for n, h in since.items()}}

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """A block in which the signals end the process without Python: it waits in code that lets no handler run."""
        own = [number for number in self._old if signal.getsignal(number) == self._receive]
        for number in own:
            signal.signal(number, signal.SIG_DFL)
        try:
            yield
        finally:
            for number in own:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_closed_terminal()
        if os.getpid() != self._owner:
            _act_as_forked(number, frame)
            return
        self.interrupts += number == signal.SIGINT
        self.received = self.received or number
        if self.postponed_by is not None:
            self.postponed_by(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise StoppedBySignal(EXIT_STOPPED)


_installed: list[StopSignals] = []


def installed_signals() -> StopSignals | None:
    """The handlers that this process has installed last; None without any."""
    return next((signals for signals in reversed(_installed) if signals._owner == os.getpid()), None)


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """A block in which `STOP_SIGNALS` wait, also in the processes that are started in it, until these unblock them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _act_as_forked(number: int, frame: FrameType | None) -> None:
    """What a forked process does that has inherited the handlers: a worker of a loader, which the run itself will end.

    A scheduler signals every process of a job.
    """
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    elif number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _leave_closed_terminal() -> None:
    """Let what is still printed go nowhere, if the terminal was closed: each write to it is an error."""
    for number in (1, 2):
        with contextlib.suppress(OSError):  # none, or out of file descriptors
            # A closed terminal is still a character device, but no longer a terminal.
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


def _caught_signals() -> set[int]:
    """The signals for which this process has a handler, of Python or not; empty where that is not known."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    mask = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")), 0)
    return {number for number in STOP_SIGNALS if mask >> (number - 1) & 1}
