"""A report on a run that makes no progress: which process hangs, and where."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from typing import Annotated, ClassVar

from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.utils import comm
from ultravid.utils.limits import Limits

__all__ = ["Watchdog"]

logger = logging.getLogger(__name__)


class Watchdog(HookBase):
    """Logs the stack of a process that has finished no iteration for a long time; the run continues.

    Each process watches itself, so that the logs together show which process waits for which.

    Args:
        timeout_s: seconds without a finished iteration; take more than the longest evaluation.
    """

    order: ClassVar[int] = HookOrder.WATCHDOG

    def __init__(self, timeout_s: Annotated[float, Limits(gt=0)] = 1800.0) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s={timeout_s} must be above 0.")
        self._timeout = timeout_s
        self._last = time.monotonic()
        self._done = threading.Event()

    def before_train(self) -> None:
        """Start to watch this thread."""
        self._last = time.monotonic()
        self._done.clear()
        watched = threading.get_ident()
        threading.Thread(target=self._watch, args=(watched,), name="watchdog", daemon=True).start()

    def after_step(self) -> None:
        """Note that an iteration has finished."""
        self._last = time.monotonic()

    def after_train(self) -> None:
        """Stop watching."""
        self._done.set()

    def _watch(self, thread: int) -> None:
        reported = None
        while not self._done.wait(min(self._timeout / 4, 10.0)):
            still = time.monotonic() - self._last
            if still < self._timeout or reported == self._last:
                continue
            reported = self._last
            frame = sys._current_frames().get(thread)
            place = "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"
            logger.error(
                "Rank %d of %d has finished no iteration for %.0f s, since iteration %d. Its stack:\n%s",
                comm.get_rank(),
                comm.get_world_size(),
                still,
                self.trainer.iter,
                place,
            )
