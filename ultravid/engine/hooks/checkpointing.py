"""Checkpoints: periodic ones, one at the end, and the best ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config.errors import did_you_mean
from ultravid.engine.hooks.evaluation import EvalHook
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import archive_file
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["BestCheckpointer", "PeriodicCheckpointer"]

logger = logging.getLogger(__name__)

_DID_YOU_MEAN = " Did you mean"  # as `did_you_mean` begins


class _FvcoreCheckpointer:
    """fvcore's `Checkpointer`, as code written for detectron2 makes it, with the methods that the hooks call.

    It writes in this process and names each file as the last checkpoint, the best one too.
    """

    suffix: ClassVar[str] = ".pth"

    def __init__(self, checkpointer: Any) -> None:
        self._checkpointer = checkpointer
        self.save_dir = Path(checkpointer.save_dir)

    def save(self, name: str, *, remove: Iterable[Path] = (), **entries: Any) -> None:
        self._checkpointer.save(name, **{k: v for k, v in entries.items() if k not in ("tag_last", "tag_best")})
        for path in {*remove} - {self.save_dir / f"{name}{self.suffix}"}:
            path.unlink(missing_ok=True)

    def wait(self, *, always_raise: bool = False) -> None:
        """Nothing: `save` returns when the file is written."""

    def raise_failure(self) -> None:
        """Nothing: `save` raises its own errors."""

    def periodic_checkpoints(self, prefix: str = "model") -> list[Path]:
        found = self.save_dir.glob(f"{prefix}_*{self.suffix}")
        return sorted(path for path in found if path.stem.removeprefix(f"{prefix}_").isdecimal())


def _with_our_methods(checkpointer: DetectionCheckpointer | Any) -> DetectionCheckpointer | _FvcoreCheckpointer:
    return checkpointer if isinstance(checkpointer, DetectionCheckpointer) else _FvcoreCheckpointer(checkpointer)


class PeriodicCheckpointer(HookBase):
    """Saves ``model_<iteration>.pth`` every ``period`` iterations, and ``model_final.pth`` after the last iteration.

    ``model_0000099.pth`` holds the state after 100 steps.

    Args:
        checkpointer: saves the files; fvcore's `Checkpointer` will do.
        period: iterations between checkpoints; 0 saves only the final one.
        max_iter: number of iterations after which the final one is saved; None takes the trainer's.
        max_to_keep: number of periodic files that are kept, the newest; None keeps all.
        file_prefix: the files' names start with it.
    """

    order: ClassVar[int] = HookOrder.CHECKPOINT

    def __init__(
        self,
        checkpointer: DetectionCheckpointer,
        period: NotNegative,
        max_iter: Positive | None = None,
        max_to_keep: Positive | None = None,
        file_prefix: str = "model",
    ) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep={max_to_keep} must be at least 1.")
        self._checkpointer = _with_our_methods(checkpointer)
        self._every = Every(period)
        self._max_iter = max_iter
        self._max_to_keep = max_to_keep
        self._file_prefix = file_prefix

    def save_now(self) -> None:
        """Save the current iteration's checkpoint, whatever the period."""
        iteration = self.trainer.iter
        name = f"{self._file_prefix}_{iteration:07d}"
        old: list[Path] = []
        if self._max_to_keep is not None:
            self._checkpointer.wait()  # or the file before this one would not be counted
            # A file of this iteration is replaced: the run went back to an older checkpoint.
            files = [f for f in self._checkpointer.periodic_checkpoints(self._file_prefix) if f.stem != name]
            old = files[: max(0, len(files) + 1 - self._max_to_keep)]
        self._checkpointer.save(name, remove=old, iteration=iteration)

    def after_step(self) -> None:
        """Save the iteration if it is due, the final checkpoint after the last one."""
        self._checkpointer.raise_failure()
        if self.trainer.iter >= self._last_iter():
            self._save_final()
        elif self._every.is_due(self.trainer):
            self.save_now()

    def after_train(self) -> None:
        """Save the final checkpoint again: it holds what the last evaluation changed, as the best value so far.

        So too if a run is resumed after its last iteration, because it was killed in that evaluation.
        """
        if self.trainer.iter > self._last_iter() >= self.trainer.start_iter - 1:
            self._save_final()

    def _last_iter(self) -> int:
        return (self._max_iter if self._max_iter is not None else self.trainer.max_iter) - 1

    def _save_final(self) -> None:
        self._checkpointer.save(f"{self._file_prefix}_final", iteration=self._last_iter())
        self._checkpointer.wait(always_raise=True)


class BestCheckpointer(HookBase):
    """Saves the model when a metric of the evaluation is among the best so far.

    The file ``best_checkpoint`` names the best one; a run is not resumed from it. The best values are kept in the run's
    checkpoints. A metric that does not exist ends the run: after the first iteration if it is close to the name of one that the
    evaluators declare (`DatasetEvaluator.metric_names`), after the first evaluation if it is close to the name of one that this
    returned, else after the second, for the model or a hook may record it; when the iteration's checkpoint is written.

    Args:
        eval_period: the period of `EvalHook`.
        checkpointer: saves the files; fvcore's `Checkpointer` will do.
        val_metric: name of the metric, as "AP50".
        mode: "max" or "min": which value of the metric is the best.
        file_prefix: name of the file.
        max_to_keep: number of files that are kept. If it is more than one, names hold the iteration,
            ``<file_prefix>_0000399.pth``. Of equal values the first is the better.
    """

    order: ClassVar[int] = HookOrder.BEST_CHECKPOINT

    def __init__(
        self,
        eval_period: NotNegative,
        checkpointer: DetectionCheckpointer,
        val_metric: str,
        mode: Literal["max", "min"] = "max",
        file_prefix: str = "model_best",
        max_to_keep: Positive = 1,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r} is neither 'max' nor 'min'.")
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep={max_to_keep} must be at least 1.")
        self._every = Every(eval_period, last=False)
        self._checkpointer = _with_our_methods(checkpointer)
        self.val_metric = val_metric
        self.mode = mode
        self._sign = 1.0 if mode == "max" else -1.0
        self._file_prefix = file_prefix
        self._max_to_keep = max_to_keep
        self._kept: list[tuple[float, int, str]] = []  # value, iteration and file, best first
        self._identity = ""  # of the evaluations that the values are from
        self._num_missed = 0
        self._has_warned = False  # of a value that is undefined
        self._failure = ""  # raised when the iteration's checkpoint is written

    @property
    def best_metric(self) -> float | None:
        """The best value so far."""
        return self._kept[0][0] if self._kept else None

    @property
    def best_iter(self) -> int | None:
        """The iteration of the best value."""
        return self._kept[0][1] if self._kept else None

    def _check(self) -> None:
        # The main process alone has the metrics; all must decide alike, for all may have to save.
        source = next((h for h in self._evaluations() if self.val_metric in (h.metric_names or ())), None)
        identity = self.trainer.evaluation_identity if source is None else source.identity
        latest = (self._latest(), self._unknown(), self._is_certain(), identity)
        found, unknown, certain, identity = comm.all_gather(latest)[0]
        if found is None:
            evaluations = self._evaluations()
            self._num_missed += all(hook.evaluated for hook in evaluations)
            # A hook of the user's, or the model, may record it in other iterations than this one.
            if evaluations and self._num_missed > (0 if certain else 1):
                self._failure = unknown
            elif comm.is_main_process():
                logger.warning("%s", unknown)
            return
        value, iteration = found
        if math.isnan(value) and not self._has_warned and comm.is_main_process():
            self._has_warned = True
            logger.warning(
                "BestCheckpointer: %s is undefined after iteration %d (the evaluation's log says why), so that evaluation is not "
                "among the best. If it stays undefined, no best checkpoint is saved: name another val_metric.",
                *(self.val_metric, iteration),
            )
        if math.isnan(value) or iteration != self.trainer.iter:  # a metric of other weights than these
            return
        self._forget_other_evaluations(identity)
        name = self._file_prefix if self._max_to_keep == 1 else f"{self._file_prefix}_{iteration:07d}"
        entry = (value, iteration, name)
        others = [kept for kept in self._kept if kept[1] != iteration]  # this iteration may be evaluated a second time
        ranked = sorted([*others, entry], key=lambda kept: -self._sign * kept[0])
        if entry not in ranked[: self._max_to_keep]:
            return
        self._kept, gone = ranked[: self._max_to_keep], ranked[self._max_to_keep :]
        self._checkpointer.save(
            name,
            tag_last=False,
            tag_best=self._kept[0] is entry,
            remove=[self._checkpointer.save_dir / f"{old}{self._checkpointer.suffix}" for _, _, old in gone],
            iteration=iteration,
        )

    def _forget_other_evaluations(self, identity: str) -> None:
        """Restart the search if the test data or the evaluator have changed since the best value: the two can't be compared.

        The files of the values so far are kept, under names that the next ones don't take.
        """
        before, self._identity = self._identity, identity or self._identity
        if not (self._kept and before and identity) or before == identity:
            return
        logger.warning(
            "BestCheckpointer: the best %s so far, %g at iteration %d, was measured on other data or by another evaluator. The "
            "search for the best restarts from here.",
            *(self.val_metric, self._kept[0][0], self._kept[0][1]),
        )
        for _, _, name in self._kept:
            path = self._checkpointer.save_dir / f"{name}{self._checkpointer.suffix}"
            if comm.is_main_process() and path.exists():
                self._checkpointer.wait()
                archive_file(path)
        self._kept = []

    def _latest(self) -> tuple[float, int] | None:
        return self.trainer.storage.latest().get(self.val_metric)

    def _evaluations(self) -> list[EvalHook]:
        return [hook for hook in self.trainer.named_hooks.values() if isinstance(hook, EvalHook)]

    def _is_certain(self) -> bool:
        """Whether a metric that was not recorded yet never will be: it is a misspelled one of the evaluation's, or training is over.

        The model, or a hook of the user's, may record one as rarely as it likes.
        """
        if any(hook.runs_users_code for hook in self.trainer.named_hooks.values()):
            return False
        is_misspelled = self._hint(self._names()).startswith(_DID_YOU_MEAN)
        return is_misspelled or self.trainer.iter >= self.trainer.max_iter

    def _names(self) -> list[str]:
        """The names of the evaluation's metrics, as far as they are known."""
        return [name for hook in self._evaluations() for name in hook.metric_names or ()]

    def _hint(self, names: list[str]) -> str:
        same_end = [n for n in names if n.rpartition("/")[2] == self.val_metric.rpartition("/")[2]]
        return f"{_DID_YOU_MEAN} {same_end[0]!r}?" if same_end else did_you_mean(self.val_metric, names)

    def _unknown(self) -> str:
        """The message that the metric does not exist."""
        names = self._names()
        name = next((name for name, hook in self.trainer.named_hooks.items() if hook is self), "best")
        hint = self._hint(names)
        known = f" The evaluation's metrics: {', '.join(names)}." if names else " The evaluation returns no metric."
        return (
            f"trainer.hooks.{name}.val_metric={self.val_metric!r} is not one of the metrics that this run records.{hint}"
            f"{known if hint.startswith(_DID_YOU_MEAN) or not names else ''} Without a best checkpoint: ~trainer.hooks.{name}"
        )

    def _check_declared(self) -> None:
        """After the first iteration, compare the metric with those that the evaluators declare and what was recorded."""
        evaluations = self._evaluations()
        if not evaluations or any(hook.metric_names is None for hook in evaluations):
            return
        found = self.val_metric in self._names() or self._latest() is not None
        if comm.all_gather(self._is_certain() and not found)[0]:
            raise UserError(self._unknown())

    def before_train(self) -> None:
        """Start to look for the metric."""
        self._num_missed, self._failure = 0, ""

    def before_step(self) -> None:
        """End the run if the iteration before had no such metric."""
        if self._failure:
            raise UserError(self._failure)

    def after_step(self) -> None:
        """Look for a new best value after an evaluation."""
        if self.trainer.iter == self.trainer.start_iter:
            self._check_declared()
        if self._every.is_due(self.trainer):
            self._check()

    def after_train(self) -> None:
        """Look for a new best value after the last evaluation, unless training ended early."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._check()
            if self._failure:
                raise UserError(self._failure)

    def state_dict(self) -> dict[str, Any]:
        """The best value and its iteration, of which metric on which data, and which files are kept."""
        kept = [list(k) for k in self._kept]
        judged = {"val_metric": self.val_metric, "mode": self.mode, "identity": self._identity}
        return {"best_metric": self.best_metric, "best_iter": self.best_iter, "kept": kept, **judged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the list of kept files from ``state``, what `state_dict` returned; the best value follows from it.

        If it is of another metric or mode, a warning is logged, and the search starts again.
        """
        before = (state.get("val_metric", self.val_metric), state.get("mode", self.mode))
        if before != (self.val_metric, self.mode):
            logger.warning(
                "BestCheckpointer: the best checkpoint so far has the %s %s. This run looks for the %s %s and restarts the search; "
                "the files so far stay.",
                *("highest" if before[1] == "max" else "lowest", before[0]),
                *("highest" if self.mode == "max" else "lowest", self.val_metric),
            )
            return
        self._kept = [(value, iteration, name) for value, iteration, name in state["kept"]]
        self._identity = state.get("identity", "")  # version 0.1 did not store it
