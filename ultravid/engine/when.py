"""The order of hooks in an iteration, and the iterations in which they are due."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

__all__ = ["Every", "HookOrder"]


class HookOrder(IntEnum):
    """The places of hooks: in each iteration, hooks that are given by name are called by rising order.

    A hook of your own may use any integer. With the default it sees the averaged weights of the iteration, and what it records
    is written in the same iteration.
    """

    PROGRESS = 1
    """`ProgressBar`: its ``after_train`` comes first, so that one that fails leaves no bar on the terminal."""
    PROFILER = 5
    """`AutogradProfiler`: what the other hooks do after a step is not part of its profile."""
    TIMER = 10
    """`IterationTimer`."""
    SCHEDULE = 20
    """`LRScheduler`."""
    AVERAGING = 30
    """`EMA`: before the evaluation, which uses the averaged weights."""
    DEFAULT = 50
    """Every hook that sets no order."""
    PRECISE_BN = 55
    """`PreciseBN`: before the evaluation, which uses its statistics."""
    EVALUATION = 60
    """`EvalHook`."""
    BEST_CHECKPOINT = 70
    """`BestCheckpointer`: after the evaluation, whose metric it reads."""
    TIME_BREAKDOWN = 75
    """`TimeBreakdown`: before the writers, which write what it records."""
    WRITER = 80
    """`PeriodicWriter`: after everything that records."""
    CHECKPOINT = 90
    """`PeriodicCheckpointer`: after all hooks whose state it saves."""
    STOP = 95
    """`StopOnSignal`: when everything that belongs to the iteration is done."""
    RECORD = 98
    """`RunRecord`: its ``after_train`` records how the run ended when the hooks before it have ended."""
    WATCHDOG = 99
    """`Watchdog`: it watches until the other hooks have ended."""


class _HasIterations(Protocol):
    @property
    def iter(self) -> int: ...

    @property
    def max_iter(self) -> int: ...


@dataclass(frozen=True)
class Every:
    """Every ``period`` iterations: with 20, after iterations 19, 39, 59, ..., wherever this attempt of the run started.

    Attributes:
        period: number of iterations; with 0 the period alone makes nothing due.
        last: the last iteration of a run is always due (True), never due, because the caller acts when training has ended
            (False), or counted like every other (None).
    """

    period: int
    last: bool | None = None

    def is_due(self, trainer: _HasIterations) -> bool:
        """Whether the trainer's current iteration is due."""
        done = trainer.iter + 1
        if self.last is not None and done == trainer.max_iter:
            return self.last
        return self.period > 0 and done % self.period == 0
