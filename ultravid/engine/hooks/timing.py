"""Measures how long iterations and their parts take."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from typing import ClassVar

from tabulate import tabulate

from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder
from ultravid.utils import comm
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["IterationTimer", "TimeBreakdown"]

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Records the seconds of each iteration as ``time``, and logs their mean at the end.

    Args:
        warmup_iter: number of first iterations that the mean leaves out.
    """

    order: ClassVar[int] = HookOrder.TIMER

    def __init__(self, warmup_iter: NotNegative = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step_start = self._train_start = time.perf_counter()
        self._total = 0.0

    def before_train(self) -> None:
        """Start the clock of the training."""
        self.trainer.storage.reserve(["time"], "the seconds of an iteration")
        self._train_start = time.perf_counter()

    def before_step(self) -> None:
        """Start the clock of the iteration."""
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        """Record the iteration's seconds."""
        seconds = time.perf_counter() - self._step_start
        self.trainer.storage.put_scalar("time", seconds)
        if self.trainer.iter - self.trainer.start_iter >= self._warmup_iter:
            self._total += seconds

    def after_train(self) -> None:
        """Log the mean of the iterations and the time of the whole training."""
        timed = self.trainer.iter - self.trainer.start_iter - self._warmup_iter
        if timed <= 0:
            return
        whole = time.perf_counter() - self._train_start
        logger.info(
            "%d iterations in %s (%.4f s each); the training took %s in total.",
            timed,
            datetime.timedelta(seconds=int(self._total)),
            self._total / timed,
            datetime.timedelta(seconds=int(whole)),
        )


class TimeBreakdown(HookBase):
    """Records how long each part of a step and each hook takes, and logs a table at the end.

    ``time/data``, ``time/forward``, ``time/backward``, ``time/optimizer`` and ``time/hooks/<name>`` (evaluation and checkpoints
    are hooks) are seconds per iteration, ``time/clips_per_second`` counts the samples of all processes; each is a mean over
    the iterations since the last record. The clock is the host's: on CUDA a kernel counts where the host waits for it, which
    is the optimizer's part, because the norm of the gradients is read there.

    Args:
        period: iterations from one record to the next; take the period of the writers.
    """

    order: ClassVar[int] = HookOrder.TIME_BREAKDOWN

    def __init__(self, period: Positive = 20) -> None:
        if period < 1:
            raise ValueError(f"period={period} must be at least 1.")
        self._every = Every(period)
        self._begin = time.perf_counter()

    def before_train(self) -> None:
        """Start the clocks."""
        self.trainer.storage.reserve(["time/"], "the breakdown of the time")
        self._begin = self._since = time.perf_counter()
        self._iter = self.trainer.iter - 1
        self._recorded: Counter[str] = Counter()
        self._samples = self._num_samples()

    def _num_samples(self) -> int:
        return self.trainer.num_samples * comm.get_world_size()

    def after_step(self) -> None:
        """Record the means since the last record, if it is due."""
        if not self._every.is_due(self.trainer):
            return
        storage, iterations = self.trainer.storage, self.trainer.iter - self._iter
        for name, seconds in self.trainer.seconds.items():
            storage.put_scalar(f"time/{name}", (seconds - self._recorded[name]) / iterations, smoothing_hint=False)
        now, samples = time.perf_counter(), self._num_samples()
        rate = (samples - self._samples) / (now - self._since)
        storage.put_scalar("time/clips_per_second", rate, smoothing_hint=False)
        self._iter, self._since, self._samples = self.trainer.iter, now, samples
        self._recorded = Counter(self.trainer.seconds)

    def after_train(self) -> None:
        """Log the table of the whole run."""
        whole = time.perf_counter() - self._begin
        parts = sorted(self.trainer.seconds.items(), key=lambda part: -part[1])
        rows = [(name, f"{seconds:.2f}", f"{100 * seconds / whole:.1f}") for name, seconds in parts]
        rest = whole - sum(self.trainer.seconds.values())
        rows.append(("the rest", f"{rest:.2f}", f"{100 * rest / whole:.1f}"))
        table = tabulate(rows, headers=("part", "s", "%"), disable_numparse=True, colalign=("left", "right", "right"))
        logger.info("Where the time went, %.1f s in total:\n%s", whole, table)
