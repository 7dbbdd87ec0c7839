"""The learning rate of each iteration."""

from __future__ import annotations

import logging
import math
import re
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as TorchLRScheduler
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from ultravid.engine.hooks.checkpointing import BestCheckpointer
from ultravid.engine.hooks.evaluation import EvalHook
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.solver import LRMultiplier
from ultravid.solver.saved_optimizer import hyperparameters
from ultravid.solver.saved_schedule import (
    HORIZONS,
    configuration,
    is_changed,
    parts_of,
    plain_state,
    restore,
    restore_plateau,
    set_rates,
    step_again,
)
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.limits import Positive

__all__ = ["LRScheduler"]

logger = logging.getLogger(__name__)

_HIGHER_IS_BETTER = re.compile(
    r"(?:^|[^a-z])(?:m?ap\d*|acc\w*|recall|precision|sensitivity|r@[\d.]+|pr\d+|iou|auc|f1)$", re.IGNORECASE
)
_LOWER_IS_BETTER = re.compile(r"loss|error|(?:^|[^a-z])fp\d*$", re.IGNORECASE)


class LRScheduler(HookBase):
    """Steps a learning-rate scheduler of torch and records the rate that each iteration used.

    The scheduler is stepped after each iteration, or with ``period`` after each of so many. torch's ``ReduceLROnPlateau`` is
    stepped after each evaluation instead, with its ``metric``.

    A resumed run continues where the checkpoint was. If the scheduler or a rate has changed since, the run continues with the rate
    that the new scheduler has after the same number of iterations; ``ReduceLROnPlateau`` keeps its state and its reductions.

    Args:
        optimizer: the rate of its largest parameter group is recorded as ``lr``; None takes the trainer's optimizer.
        scheduler: None takes the trainer's ``scheduler``. `LRMultiplier` is a function of the iteration and keeps no state.
        metric: name of the metric of the evaluation that ``ReduceLROnPlateau`` gets, as "AP50"; None for all others.
        period: iterations between two steps of the scheduler, for one that counts epochs.

    Raises:
        UserError: ``ReduceLROnPlateau`` without a metric, or another scheduler with one.
    """

    order: ClassVar[int] = HookOrder.SCHEDULE

    def __init__(
        self,
        optimizer: Optimizer | None = None,
        scheduler: TorchLRScheduler | None = None,
        metric: str | None = None,
        period: Positive = 1,
    ) -> None:
        if period < 1:
            raise ValueError(f"period={period} must be at least 1.")
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._metric = metric
        self._period = period
        self._configured: dict[str, Any] | None = None
        self._groups: list[dict[str, Any]] | None = None
        self._used_evaluation = -1
        self._saved_value: float | None = None
        if scheduler is not None:
            _check_metric(scheduler, metric)
            if isinstance(scheduler, LRMultiplier) and period != 1:
                raise ValueError(f"period={period} is for schedulers of torch; LRMultiplier counts iterations.")
            self._groups = hyperparameters(scheduler.optimizer)
            self._configured = configuration(scheduler)

    @property
    def scheduler(self) -> TorchLRScheduler:
        """The scheduler.

        Raises:
            AttributeError: none was given, and the trainer has none.
        """
        trainer: Any = self.trainer
        return self._scheduler or trainer.scheduler

    def before_train(self) -> None:
        """Set the rate of the iteration that the run starts with.

        Raises:
            UserError: the scheduler ends before the run does, or nothing evaluates the metric that it needs.
        """
        self.trainer.storage.reserve(["lr"], "the learning rate")
        trainer: Any = self.trainer
        self._optimizer = self._optimizer or trainer.optimizer
        sizes = [sum(p.numel() for p in group["params"]) for group in self._optimizer.param_groups]
        self._largest_group = sizes.index(max(sizes))
        scheduler = self.scheduler
        _check_metric(scheduler, self._metric)
        if isinstance(scheduler, LRMultiplier):
            scheduler.set_iteration(self.trainer.start_iter)
            return
        self._configured = self._configured or configuration(scheduler)
        if self._metric is None:
            self._check_length(scheduler)
        else:
            self._check_evaluation(self._metric, scheduler)

    def before_step(self) -> None:
        """Step `ReduceLROnPlateau` with the metric of an evaluation that has been made since the last iteration."""
        if self._metric is None:
            return
        value, self._saved_value = self._saved_value, None
        if self.trainer.evaluated_at > self._used_evaluation:
            value = comm.all_gather(self._newest_value())[0]  # the main process alone has the metrics
            self._used_evaluation = self.trainer.evaluated_at
            if value is None:
                known = ", ".join(n for n in self.trainer.storage.latest() if "time" not in n and "loss" not in n)
                logger.warning("LRScheduler: the evaluation returned no %r, but %s.", self._metric, known)
        if value is None:
            return
        if math.isnan(value):
            logger.warning("LRScheduler: %s is nan, so the learning rate stays as it is.", self._metric)
            return
        self.scheduler.step(value)  # type: ignore[arg-type]  # of ReduceLROnPlateau, see _check_metric

    def after_step(self) -> None:
        """Record the rate that the iteration used, then step the scheduler."""
        assert self._optimizer is not None
        lr = self._optimizer.param_groups[self._largest_group]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        if self._metric is None and (self._period == 1 or (self.trainer.iter + 1) % self._period == 0):
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state, as it is and as it was built, and a metric that it has not been given yet."""
        scheduler = self.scheduler
        if isinstance(scheduler, LRMultiplier):
            return scheduler.state_dict()
        self._configured = self._configured or configuration(scheduler)
        state = {**plain_state(scheduler), "configured": {**self._configured, "period": self._period}}
        if self._metric is not None:
            value = self._saved_value
            if self.trainer.evaluated_at > self._used_evaluation:
                value = self._newest_value()
            state["evaluation"] = {"metric": self._metric, "value": value}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scheduler and the rate that it had set; the state of an `LRMultiplier` follows from the iteration."""
        scheduler = self.scheduler
        if isinstance(scheduler, LRMultiplier):
            return
        self._configured = self._configured or configuration(scheduler)
        state = dict(state)
        configured = state.pop("configured", None)
        evaluation = state.pop("evaluation", {})
        same_metric = evaluation.get("metric") == self._metric
        if same_metric:
            self._saved_value = evaluation.get("value")
        same_period = (configured or {}).get("period", 1) == self._period
        if same_metric and same_period and not is_changed(scheduler, state, configured):
            restore(scheduler, state)
            return
        if isinstance(scheduler, ReduceLROnPlateau):
            was_one = (configured or {}).get("class", [""])[0] == type(scheduler).__name__
            if was_one and configured is not None:
                restore_plateau(scheduler, state, configured, same_metric=same_metric)
            else:
                set_rates(scheduler, scheduler.get_last_lr())
        else:
            step_again(scheduler, self._groups or self._fresh_groups(), (self.trainer.iter + 1) // self._period)
        logger.info(
            "%s has changed since the checkpoint; the learning rate of iteration %d is %s.",
            type(scheduler).__name__,
            self.trainer.iter + 1,
            ", ".join(f"{float(lr):.4g}" for lr in scheduler.get_last_lr()[:5]),
        )

    def _fresh_groups(self) -> list[dict[str, Any]]:
        """What is known of the groups of a trainer's own scheduler when it was built."""
        scheduler = self.scheduler
        rates, bases = scheduler.get_last_lr(), getattr(scheduler, "base_lrs", scheduler.get_last_lr())
        return [{"lr": lr, "initial_lr": base} for lr, base in zip(rates, bases, strict=True)]

    def _newest_value(self) -> float | None:
        """The metric of the newest evaluation; None in all processes but the main one, and if it has none of that name."""
        assert self._metric is not None
        value, iteration = self.trainer.storage.latest().get(self._metric, (0.0, -1))
        return value if iteration == self.trainer.evaluated_at else None

    def _check_length(self, scheduler: TorchLRScheduler) -> None:
        """Report a scheduler that is made for fewer steps than the run has."""
        max_iter = self.trainer.max_iter
        for part, num_steps in parts_of(scheduler, max_iter // self._period):
            attribute, what = next((HORIZONS[kind] for kind in HORIZONS if isinstance(part, kind)), ("", ""))
            if not attribute or getattr(part, attribute) >= num_steps:
                continue
            unit = "iterations" if self._period == 1 else f"periods of {self._period} iterations"
            message = (
                f"{type(part).__name__} is made for {attribute}={getattr(part, attribute)} steps, but makes {num_steps} "
                f"in this run (max_iter={max_iter}, counted in {unit}); after that its rate {what}. Set {attribute} to "
                f"{num_steps}, or if it counts epochs, period of hooks.LRScheduler to the iterations of an epoch."
            )
            if isinstance(part, OneCycleLR):  # which would raise after the last of its steps
                raise UserError(message)
            logger.warning(message)

    def _check_evaluation(self, metric: str, scheduler: TorchLRScheduler) -> None:
        """Check that the run evaluates, and that the metric is better where the scheduler believes so."""
        mode = getattr(scheduler, "mode", "")
        hooks = self.trainer.named_hooks
        evaluations = [hook for hook in hooks.values() if isinstance(hook, EvalHook)]
        if evaluations and not any(0 < hook.period < self.trainer.max_iter for hook in evaluations):
            raise UserError(
                f"ReduceLROnPlateau gets {metric!r} after each evaluation, but the run is evaluated only at its end: give "
                "an eval_period (train.eval_period) that is shorter than the run."
            )
        for name, hook in hooks.items():
            if isinstance(hook, BestCheckpointer) and hook.val_metric == metric and hook.mode != mode:
                raise UserError(
                    f"ReduceLROnPlateau has mode={mode!r} for {metric!r}, but the hook {name!r} has mode={hook.mode!r}: "
                    f"one of them is wrong. 'max' is for metrics whose highest value is the best, such as AP50."
                )
        wrong = {"min": _HIGHER_IS_BETTER, "max": _LOWER_IS_BETTER}.get(mode)
        if wrong is not None and wrong.search(metric):
            logger.warning(
                "ReduceLROnPlateau has mode=%r for the metric %r: is its %s value the best?",
                mode,
                metric,
                "lowest" if mode == "min" else "highest",
            )


def _check_metric(scheduler: TorchLRScheduler, metric: str | None) -> None:
    is_plateau = isinstance(scheduler, ReduceLROnPlateau)
    if is_plateau and metric is None:
        raise UserError(
            "ReduceLROnPlateau needs a metric of the evaluation: set metric of hooks.LRScheduler (trainer.hooks.lr.metric=AP50), "
            "and mode of the scheduler, 'max' or 'min'."
        )
    if metric is not None and not is_plateau:
        raise UserError(f"metric={metric!r} is for ReduceLROnPlateau; {type(scheduler).__name__} takes none.")
