"""The learning rate of each iteration."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as TorchLRScheduler

from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.solver import LRMultiplier

__all__ = ["LRScheduler"]


class LRScheduler(HookBase):
    """Steps a learning-rate scheduler of torch after each iteration and records the rate that the iteration used.

    Args:
        optimizer: the rate of its largest parameter group is recorded as ``lr``; None takes the trainer's optimizer.
        scheduler: None takes the trainer's ``scheduler``. `LRMultiplier` is a function of the iteration and keeps no state.
    """

    order: ClassVar[int] = HookOrder.SCHEDULE

    def __init__(self, optimizer: Optimizer | None = None, scheduler: TorchLRScheduler | None = None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> TorchLRScheduler:
        """The scheduler.

        Raises:
            AttributeError: none was given, and the trainer has none.
        """
        trainer: Any = self.trainer
        return self._scheduler or trainer.scheduler

    def before_train(self) -> None:
        """Set the rate of the iteration that the run starts with."""
        trainer: Any = self.trainer
        self._optimizer = self._optimizer or trainer.optimizer
        sizes = [sum(p.numel() for p in group["params"]) for group in self._optimizer.param_groups]
        self._largest_group = sizes.index(max(sizes))
        if isinstance(self.scheduler, LRMultiplier):
            self.scheduler.set_iteration(self.trainer.start_iter)

    def after_step(self) -> None:
        """Record the rate that the iteration used, then step the scheduler."""
        assert self._optimizer is not None
        lr = self._optimizer.param_groups[self._largest_group]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scheduler and the rate that it had set; the state of an `LRMultiplier` follows from the iteration."""
        if isinstance(self.scheduler, LRMultiplier):
            return
        self.scheduler.load_state_dict(state)
        # torch's schedulers compute the next rate from the current one, so a newly configured rate must not take its place.
        for group, lr in zip(self.scheduler.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr
