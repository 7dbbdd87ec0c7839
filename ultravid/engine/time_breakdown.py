"""Where a run's time goes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import ClassVar

from tabulate import tabulate

from ultravid.engine.train_loop import HookBase
from ultravid.utils import comm

__all__ = ["TimeBreakdown"]

logger = logging.getLogger(__name__)


class TimeBreakdown(HookBase):
    """Records what each part of the steps and each hook takes, and lists it at the end.

    ``time/data``, ``time/forward``, ``time/backward``, ``time/optimizer`` and ``time/hooks/<name>`` (the evaluation and the
    checkpoints are hooks) are seconds an iteration, ``time/clips_per_second`` counts the samples of all processes; each is
    over the iterations since the last record. The clock is the host's: on CUDA a kernel counts where the host waits for it,
    which is the optimizer's part, for there the norm of the gradients is read.

    Args:
        period: iterations from one record to the next; that of the writers.
    """

    order: ClassVar[int] = 75  # before the writers

    def __init__(self, period: int = 20) -> None:
        if period < 1:
            raise ValueError(f"period={period} must be at least 1.")
        self._period = period
        self._begin = time.perf_counter()

    def before_train(self) -> None:
        """See `HookBase`."""
        self._begin = self._since = time.perf_counter()
        self._iter = self.trainer.iter - 1
        self._recorded: Counter[str] = Counter()
        self._samples = self._num_samples()

    def _num_samples(self) -> int:
        return self.trainer.num_samples * comm.get_world_size()

    def after_step(self) -> None:
        """See `HookBase`."""
        if (self.trainer.iter + 1) % self._period:
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
        """List the whole run's parts in the log."""
        whole = time.perf_counter() - self._begin
        parts = sorted(self.trainer.seconds.items(), key=lambda part: -part[1])
        rows = [(name, f"{seconds:.2f}", f"{100 * seconds / whole:.1f}") for name, seconds in parts]
        rest = whole - sum(self.trainer.seconds.values())
        rows.append(("the rest", f"{rest:.2f}", f"{100 * rest / whole:.1f}"))
        table = tabulate(rows, headers=("part", "s", "%"), disable_numparse=True, colalign=("left", "right", "right"))
        logger.info("Where the time went, %.1f s in all:\n%s", whole, table)
