"""detectron2's module path of the schedules, and its two older schedulers, for code that still uses them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ultravid.solver.schedules import LRMultiplier, WarmupParamScheduler
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["LRMultiplier", "WarmupCosineLR", "WarmupMultiStepLR", "WarmupParamScheduler"]


class _WarmupLR(LRScheduler):
    """Learning rate = base learning rate times a schedule times the warm-up's factor."""

    def __init__(
        self, optimizer: Optimizer, warmup_factor: float, warmup_iters: int, warmup_method: str, last_epoch: int
    ) -> None:
        if warmup_method not in ("linear", "constant"):
            raise ValueError(f"warmup_method={warmup_method!r} is neither 'linear' nor 'constant'.")
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the groups at the current iteration."""
        factor = self._schedule() * self._warmup()
        return [float(base) * factor for base in self.base_lrs]

    def _schedule(self) -> float:
        raise NotImplementedError

    def _warmup(self) -> float:
        if self.last_epoch >= self.warmup_iters:
            return 1.0
        done = self.last_epoch / self.warmup_iters if self.warmup_method == "linear" else 0.0
        return self.warmup_factor * (1 - done) + done


class WarmupMultiStepLR(_WarmupLR):
    """A factor that falls at some iterations.

    `WarmupParamScheduler` over fvcore's ``MultiStepParamScheduler`` is the newer form.

    Args:
        optimizer: the current learning rates of its groups are the base ones.
        milestones: rising iterations at which the rate is multiplied by ``gamma``.
        gamma: the factor.
        warmup_factor: factor at the first iteration.
        warmup_iters: iterations of the warm-up.
        warmup_method: "linear" or "constant".
        last_epoch: the last iteration that was done; -1 before the first.

    Raises:
        ValueError: the milestones don't rise, or the method is unknown.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: NotNegative = 1000,
        warmup_method: Literal["linear", "constant"] = "linear",
        last_epoch: int = -1,
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones={milestones} must rise.")
        self.milestones = list(milestones)
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _schedule(self) -> float:
        return float(self.gamma ** bisect_right(self.milestones, self.last_epoch))


class WarmupCosineLR(_WarmupLR):
    """Half a cosine to 0, multiplied by the warm-up.

    `WarmupParamScheduler` over fvcore's ``CosineParamScheduler`` is the newer form.

    Args:
        optimizer: the current learning rates of its groups are the base ones.
        max_iters: the iteration at which the rate is 0.
        warmup_factor: factor at the first iteration.
        warmup_iters: iterations of the warm-up.
        warmup_method: "linear" or "constant".
        last_epoch: the last iteration that was done; -1 before the first.

    Raises:
        ValueError: the method is unknown.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: Positive,
        warmup_factor: float = 0.001,
        warmup_iters: NotNegative = 1000,
        warmup_method: Literal["linear", "constant"] = "linear",
        last_epoch: int = -1,
    ) -> None:
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _schedule(self) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * self.last_epoch / self.max_iters))
