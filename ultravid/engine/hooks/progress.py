"""A progress bar at the bottom of the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, ClassVar

from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.utils import comm
from ultravid.utils.limits import Limits
from ultravid.utils.logger import TerminalHandler, terminal_handler

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["ProgressBar"]


class ProgressBar(HookBase):
    """Shows iteration, rate, remaining time and loss on the terminal's last line; the log scrolls above it.

    It is drawn by the main process, if the log goes to a terminal. The loss is the last that a writer read: the bar itself
    never waits for the device.

    Args:
        min_interval_s: seconds between two refreshes.
        loss: name of the scalar that is shown.
    """

    order: ClassVar[int] = HookOrder.PROGRESS

    def __init__(self, min_interval_s: Annotated[float, Limits(ge=0)] = 0.2, loss: str = "total_loss") -> None:
        self._min_interval_s = min_interval_s
        self._loss = loss
        self._next_refresh = float("inf")
        self._progress: Progress | None = None
        self._handler: TerminalHandler | None = None

    def before_train(self) -> None:
        """Draw the bar, if there is a terminal, and let the log write above it."""
        handler = terminal_handler()
        if not comm.is_main_process() or handler is None or not handler.stream.isatty():
            return
        from rich.console import Console

        console = Console(file=handler.stream)
        if console.is_dumb_terminal:
            return
        self._handler, self._progress = handler, _new_progress(console)
        start, total = self.trainer.start_iter, self.trainer.max_iter
        self._progress.add_task("training", total=total, completed=start, rate="", loss="")
        self._progress.start()
        handler.console = console
        self._next_refresh = time.perf_counter()

    def after_step(self) -> None:
        """Refresh, if ``min_interval_s`` has passed."""
        if time.perf_counter() >= self._next_refresh:
            with contextlib.suppress(OSError):  # the terminal was closed; the signal for that stops the run in order
                self._refresh(self.trainer.iter + 1)

    def _refresh(self, completed: int) -> None:
        assert self._progress is not None
        (task,) = self._progress.tasks
        # Rich computes the rate over the last 30 s, so that the remaining time follows a change of pace.
        speed = task.speed
        latest = self.trainer.storage.latest(wait=False).get(self._loss)
        self._progress.update(
            task.id,
            completed=completed,
            rate="" if speed is None else f"{speed:.1f} it/s" if speed >= 1 else f"{1 / speed:.1f} s/it",
            loss="" if latest is None else f"{self._loss} {latest[0]:.4g}",
        )
        self._progress.refresh()
        self._next_refresh = time.perf_counter() + self._min_interval_s

    def after_train(self) -> None:
        """Leave the last state on the terminal and restore it, after an error or Ctrl-C too."""
        self._next_refresh = float("inf")
        if self._progress is None:
            return
        try:
            with contextlib.suppress(OSError):
                self._refresh(self.trainer.iter)
        finally:
            with contextlib.suppress(OSError):
                self._progress.stop()
            assert self._handler is not None
            self._handler.console = self._handler = self._progress = None


def _new_progress(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=console,
        auto_refresh=False,  # rich's own thread would refresh while the loader forks its workers
        redirect_stderr=sys.stderr.isatty(),  # else what was redirected to a file would be printed here
    )
