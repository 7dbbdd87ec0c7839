"""Evaluation while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder
from ultravid.evaluation import flatten_results_dict
from ultravid.utils import comm
from ultravid.utils.limits import NotNegative

__all__ = ["EvalHook"]


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations, and at the end of a training that reached ``max_iter``.

    Args:
        eval_period: iterations between evaluations; 0 evaluates at the end alone.
        eval_function: takes nothing and returns a (nested) dict of metrics; they go to the storage under their names.
        eval_after_train: whether to evaluate at the end.
    """

    order: ClassVar[int] = HookOrder.EVALUATION

    def __init__(
        self,
        eval_period: NotNegative,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ) -> None:
        self._every = Every(eval_period, last=False)
        self._func = eval_function
        self._eval_after_train = eval_after_train

    @property
    def period(self) -> int:
        """Iterations between evaluations; 0 evaluates at the end alone."""
        return self._every.period

    def _do_eval(self) -> None:
        with self.trainer.evaluation_weights():
            results = self._func()
        if results:
            for name, value in flatten_results_dict(results).items():
                try:
                    self.trainer.storage.put_scalar(name, float(value), smoothing_hint=False)
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"The evaluation returned {name!r}: {value!r}; EvalHook records numbers alone."
                    ) from error
        self.trainer.storage.write_now = True
        self.trainer.evaluated_at = self.trainer.iter
        comm.synchronize()  # evaluation takes ranks unequally long

    def after_step(self) -> None:
        """Evaluate if it is due; the last iteration is left to `after_train`."""
        if self._every.is_due(self.trainer):
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate at the end of a training that reached ``max_iter``; not after an error, however late it came."""
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
