"""Evaluation while a model trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from ultravid.config import ConfigError, LazyConfig
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder
from ultravid.evaluation import flatten_results_dict
from ultravid.evaluation.recording import EvaluatedRun, TrainedWeights, evaluating
from ultravid.utils import comm
from ultravid.utils.limits import NotNegative
from ultravid.utils.run_folder import RunFolder

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
        self._run: EvaluatedRun | None = None

    @property
    def period(self) -> int:
        """Iterations between evaluations; 0 evaluates at the end alone."""
        return self._every.period

    def _do_eval(self) -> None:
        with self.trainer.evaluation_weights(), self._described() as run:
            results = self._func()
        self.trainer.evaluation_identity = "".join(run.identities) if run is not None else ""
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

    @contextmanager
    def _described(self) -> Iterator[EvaluatedRun | None]:
        """What the evaluation's record says of the run; nothing for a trainer without a checkpointer, whose folder is not known."""
        trainer = self.trainer
        folder = getattr(getattr(trainer, "checkpointer", None), "save_dir", "")
        if not str(folder):
            yield None
            return
        if self._run is None:
            self._run = _run_in(RunFolder(folder))
        last = min(trainer.iter, trainer.max_iter - 1)  # in after_train `iter` is one past the last iteration
        weights = TrainedWeights(last, averaged=trainer.evaluates_average)
        model = comm.unwrapped(trainer.model) if hasattr(trainer, "model") else None
        with evaluating(replace(self._run, weights=weights, model=model, identities=[], recorded=[])) as run:
            yield run

    def after_step(self) -> None:
        """Evaluate if it is due; the last iteration is left to `after_train`."""
        if self._every.is_due(self.trainer):
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate at the end of a training that reached ``max_iter``; not after an error, however late it came."""
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()


def _run_in(folder: RunFolder) -> EvaluatedRun:
    """The run in a folder, in the main process with the config of the attempt that this process is."""
    if not comm.is_main_process():
        return EvaluatedRun(folder)
    attempts = folder.list_attempts()
    is_recorded = bool(attempts) and (attempts[-1].read_record() or {}).get("pid") == os.getpid()
    file = attempts[-1].config if is_recorded and attempts[-1].config.is_file() else None
    saved = file or folder.config
    try:
        return EvaluatedRun(folder, LazyConfig.load(saved) if saved.is_file() else None, file)
    except ConfigError:  # as a program may leave it there that writes its own
        return EvaluatedRun(folder)
