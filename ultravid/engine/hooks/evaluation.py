"""Evaluation while a model trains."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from ultravid.config import ConfigError, LazyConfig
from ultravid.data.class_checks import check_evaluated_classes
from ultravid.data.leak_checks import warn_of_shared_patients
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder
from ultravid.evaluation import DatasetEvaluator, DatasetEvaluators, scalar_metrics
from ultravid.evaluation.evaluated_run import EvaluatedRun, TrainedWeights, evaluating
from ultravid.evaluation.tables import format_results
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.limits import NotNegative
from ultravid.utils.run_folder import RunFolder

__all__ = ["EvalHook"]

logger = logging.getLogger(__name__)


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations, and at the end of a training that reached ``max_iter``.

    Args:
        eval_period: iterations between evaluations; 0 evaluates only at the end.
        eval_function: takes nothing and returns a (nested) dict of metrics, whose names are joined by "/", as in "bbox/AP". They
            go to the log and to the storage. None is an undefined metric; what is no number is left out with a warning.
        eval_after_train: whether to evaluate at the end.
        prefix: put before the metrics' names: "val" makes "val/AP50". Of two hooks whose metrics have the same names, one needs it.
            If their evaluators don't declare the names, the hook that is the second to evaluate takes its own name, with a warning.

    Attributes:
        metric_names: names of the metrics: those that the evaluators declare (`DatasetEvaluator.metric_names`), after an
            evaluation those that it returned; None if they are not known yet.
        evaluated: whether this attempt of the run has evaluated.
        identity: a hash of what its last evaluation depended on besides the weights; "" if it is not known.
    """

    order: ClassVar[int] = HookOrder.EVALUATION
    evaluates: ClassVar[bool] = True

    def __init__(
        self,
        eval_period: NotNegative,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
        prefix: str = "",
    ) -> None:
        self._every = Every(eval_period, last=False)
        self._func = eval_function
        self._eval_after_train = eval_after_train
        self._run: EvaluatedRun | None = None
        self._prefix = prefix.rstrip("/")
        self._own_name = ""  # the hook's, if it became the prefix
        declared = _declared_names(getattr(eval_function, "keywords", {}).get("evaluator"))
        self._declared = None if declared is None else tuple(self._prefixed(name) for name, _ in declared)
        self._logged = frozenset(self._prefixed(name) for name, is_logged in declared or () if is_logged)
        self.metric_names = self._declared
        self.evaluated = False
        self.identity = ""

    def before_train(self) -> None:
        """Let nothing else record scalars of the metrics' names.

        Raises:
            UserError: another hook evaluates metrics of these names, or the data have other classes than those of the training.
        """
        self.evaluated = False
        evaluated = getattr(self._func, "keywords", {}).get("data_loader")
        trained = getattr(self.trainer, "data_loader", None)
        check_evaluated_classes(trained, evaluated)
        warn_of_shared_patients(trained, evaluated)
        if (clash := self._clash(self._declared or ())) is not None:
            other, metric = clash
            raise UserError(
                f"The hooks {self._name!r} and {other!r} both record a metric {metric!r} of their evaluations. Give one of them a "
                f"prefix: +trainer.hooks.{other}.prefix={other} or, in code, EvalHook(..., prefix={other!r})."
            )
        self.trainer.storage.reserve(self.metric_names or (), "a metric of the evaluation")

    @property
    def period(self) -> int:
        """Iterations between evaluations; 0 evaluates only at the end."""
        return self._every.period

    def _prefixed(self, metric: str) -> str:
        prefix = self._own_name or self._prefix
        return f"{prefix}/{metric}" if prefix else metric

    @property
    def _name(self) -> str:
        return next(name for name, hook in self.trainer.named_hooks.items() if hook is self)

    def _clash(self, metrics: Iterable[str]) -> tuple[str, str] | None:
        """Another hook with an evaluation of its own that records one of the metrics, and which; None if there is none."""
        for name, hook in self.trainer.named_hooks.items():
            if isinstance(hook, EvalHook) and hook is not self and hook._func != self._func:
                for metric in metrics:
                    if metric in (hook.metric_names or ()):
                        return name, metric
        return None

    def _do_eval(self) -> None:
        with self.trainer.evaluation_weights(), self._described() as run:
            results = self._func()
        self.identity = self.trainer.evaluation_identity = "".join(run.identities) if run is not None else ""
        names: tuple[str, ...] = ()
        failure = ""
        try:
            names = self._record(results)
        except UserError as error:  # all processes end with it, none waits for the others
            failure = str(error)
        self.trainer.storage.write_now = True
        self.trainer.evaluated_at = self.trainer.iter
        everyone = comm.all_gather((failure, names))  # also waits: evaluation takes ranks unequally long
        if failures := [message for message, _ in everyone if message]:
            raise UserError(failures[0])
        self.metric_names, self.evaluated = everyone[0][1], True

    def _record(self, results: Mapping[str, Any] | None) -> tuple[str, ...]:
        """Record and log the metrics; their names."""
        found = {} if results is None else scalar_metrics(results)
        if not self._own_name and (clash := self._clash(map(self._prefixed, found))) is not None:
            self._own_name = self._name
            logger.warning(
                "The hooks %r and %r both record a metric %r of their evaluations. Those of %r are recorded as %r; its "
                "argument prefix gives another name.",
                *(clash[0], self._name, clash[1], self._name, f"{self._name}/..."),
            )
        metrics = {self._prefixed(name): value for name, value in found.items()}
        storage = self.trainer.storage
        storage.reserve(metrics, "a metric of the evaluation")
        for name, value in metrics.items():
            storage.put_scalar(name, value, smoothing_hint=False)
        if rest := {name: value for name, value in metrics.items() if name not in self._logged}:
            logger.info("Metrics after iteration %d:\n%s", self.trainer.iter, format_results(rest))
        if not metrics and comm.is_main_process():
            logger.warning("The evaluation after iteration %d returned no metric.", self.trainer.iter)
        return tuple(metrics)

    def state_dict(self) -> dict[str, Any]:
        """The prefix that the hook chose itself, as a resumed run may evaluate in another order."""
        return {"own_name": self._own_name} if self._own_name else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the prefix from ``state``, what `state_dict` returned, unless the hook has been given one now."""
        self._own_name = "" if self._prefix else state.get("own_name", "")

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


def _declared_names(evaluator: Any) -> list[tuple[str, bool]] | None:
    """The names of the metrics of an ``evaluator`` of `inference_on_dataset` or `inference_on_datasets`, if all declare them.

    Each with whether the evaluator logs it.
    """
    if isinstance(evaluator, Mapping):
        found = {key: _declared_names(of_set) for key, of_set in evaluator.items()}
        return (
            None
            if None in found.values()
            else [(f"{key}/{name}", is_logged) for key, known in found.items() for name, is_logged in known or ()]
        )
    names: list[tuple[str, bool]] = []
    for one in evaluator if isinstance(evaluator, Sequence) else [evaluator]:
        for part in one.flat() if isinstance(one, DatasetEvaluators) else [one]:
            if not isinstance(part, DatasetEvaluator) or part.metric_names is None:
                return None
            names += [(name, part.logs_metrics) for name in part.metric_names]
    return names
