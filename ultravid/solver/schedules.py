"""Learning rates as functions of the iteration only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ultravid.utils.limits import Hint, Limits, Positive, Share

__all__ = ["IterationMultiplier", "LRMultiplier", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A warm-up before another schedule.

    Args:
        scheduler: what comes after the warm-up; a function from progress in [0, 1] to a factor, as all schedules of fvcore.
        warmup_factor: factor at the start, relative to the schedule's first value.
        warmup_length: share of the training that is warm-up, in [0, 1].
        warmup_method: "linear" or "constant".
        rescale_interval: squeeze the whole schedule into the rest of the training, instead of covering its beginning.

    Raises:
        ValueError: an unknown method, or a length outside [0, 1].
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: Annotated[float, Limits(ge=0)],
        warmup_length: Share,
        warmup_method: Literal["linear", "constant"] = "linear",
        rescale_interval: bool = False,
    ) -> None:
        if not 0 <= warmup_length <= 1:
            raise ValueError(f"warmup_length={warmup_length} is not a share of the training, from 0 to 1.")
        start = warmup_factor * scheduler(0.0)
        end = scheduler(0.0) if rescale_interval else scheduler(min(warmup_length, 1.0 - 1e-9))
        if warmup_method == "linear":
            warmup: ParamScheduler = LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"warmup_method={warmup_method!r} is neither 'linear' nor 'constant'.")
        self._only: ParamScheduler | None = scheduler if warmup_length == 0 else warmup if warmup_length == 1 else None
        scaling = ["rescaled", "rescaled" if rescale_interval else "fixed"]
        super().__init__([warmup, scheduler], [warmup_length, 1 - warmup_length], scaling)

    def __call__(self, where: float) -> float:
        """The factor of the learning rate at ``where``, iteration / max_iter in [0, 1]."""
        return float(self._only(where) if self._only is not None else super().__call__(where))


class IterationMultiplier(ParamScheduler):
    """A schedule that a function of the iteration defines.

    In a config::

        lr_multiplier = L(IterationMultiplier)(function=my_factor, max_iter=ref("train.max_iter"))

    fvcore's own schedules are functions of the progress in [0, 1], so a bare function would be ambiguous.

    Args:
        function: from the iteration, from 0 to ``max_iter``, to the factor of the learning rate; a function at the top of a
            module or of the config file, so that it can be saved by its name.
        max_iter: number of iterations.

    Raises:
        ValueError: the function returns no finite number at the first or the last iteration.
    """

    def __init__(self, function: Callable[[int], float], max_iter: Positive) -> None:
        self._function = function
        self._max_iter = max_iter
        for iteration in {0, max_iter - 1}:
            self._factor(iteration)

    def __call__(self, where: float) -> float:
        """The factor of the learning rate at ``where``, iteration / max_iter in [0, 1]."""
        return self._factor(round(where * self._max_iter))

    def _factor(self, iteration: int) -> float:
        factor = self._function(iteration)
        if not isinstance(factor, int | float) or not math.isfinite(factor):
            name = getattr(self._function, "__qualname__", repr(self._function))
            raise ValueError(f"{name}({iteration}) is {factor!r}, not a factor of the learning rate.")
        return float(factor)


_OTHER_MULTIPLIERS = "A function of the iteration is given as ultravid.solver.IterationMultiplier(function=..., max_iter=${train.max_iter})"


class LRMultiplier(LRScheduler):
    """Learning rate = base learning rate of the group times a schedule's factor at iteration / max_iter.

    Args:
        optimizer: the current learning rates of its groups are the base ones.
        multiplier: the schedule.
        max_iter: number of iterations.
        last_iter: the last iteration that was done, as torch's ``last_epoch``; -1 before the first.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        multiplier: Annotated[ParamScheduler, Hint(_OTHER_MULTIPLIERS, of_functions=True)],
        max_iter: Positive,
        last_iter: int = -1,
    ) -> None:
        if not isinstance(multiplier, ParamScheduler):
            kind = type(multiplier).__name__
            is_function = callable(multiplier) and not isinstance(multiplier, type)
            raise TypeError(
                f"multiplier must be one of fvcore's ParamScheduler, got {kind}.{f' {_OTHER_MULTIPLIERS}.' if is_function else ''}"
            )
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """The iteration; the config has everything else."""
        return {"last_epoch": self.last_epoch}

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the groups at the current iteration."""
        done, length = max(0, min(self.last_epoch, self._max_iter)), max(1, self._max_iter)
        if done < length:
            factor = self._multiplier(done / length)
        else:
            try:
                factor = self._multiplier(1.0)
            except Exception:
                # After the last step torch asks once more, at a progress of 1, for which not every schedule has a value:
                # fvcore's constant one raises a RuntimeError, those of steps an IndexError.
                factor = self._multiplier((length - 1) / length)
        return [float(base) * factor for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Go to the next iteration; torch's own ``step`` takes several times as long.

        Args:
            epoch: the iteration to go to; None is the next one.
        """
        self.set_iteration(self.last_epoch + 1 if epoch is None else epoch)

    def set_iteration(self, iteration: int) -> None:
        """Set the rates of ``iteration``, as when a run is resumed."""
        self.last_epoch = iteration
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr
