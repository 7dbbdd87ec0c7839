"""Hooks: what a run does beside its steps. Their ``order`` says when, see `HookBase`."""

from __future__ import annotations

import datetime
import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as TorchLRScheduler

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine.averaging import EMA
from ultravid.engine.profiling import AutogradProfiler, TorchMemoryStats, TorchProfiler
from ultravid.engine.progress import ProgressBar
from ultravid.engine.run_record import RunRecord
from ultravid.engine.time_breakdown import TimeBreakdown
from ultravid.engine.train_loop import HookBase, TrainerBase
from ultravid.engine.watchdog import Watchdog
from ultravid.evaluation import flatten_results_dict
from ultravid.solver import LRMultiplier
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.events import EventStorage, EventWriter

__all__ = [
    "EMA",
    "AutogradProfiler",
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "HookBase",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
    "ProgressBar",
    "RunRecord",
    "StopOnSignal",
    "TimeBreakdown",
    "TorchMemoryStats",
    "TorchProfiler",
    "Watchdog",
]

logger = logging.getLogger(__name__)


class CallbackHook(HookBase):
    """A hook made of functions, each called with the trainer."""

    def __init__(
        self,
        *,
        before_train: Callable[[TrainerBase], None] | None = None,
        after_train: Callable[[TrainerBase], None] | None = None,
        before_step: Callable[[TrainerBase], None] | None = None,
        after_step: Callable[[TrainerBase], None] | None = None,
    ) -> None:
        self._before_train = before_train
        self._after_train = after_train
        self._before_step = before_step
        self._after_step = after_step

    def before_train(self) -> None:
        """See `HookBase`."""
        if self._before_train:
            self._before_train(self.trainer)

    def after_train(self) -> None:
        """See `HookBase`."""
        if self._after_train:
            self._after_train(self.trainer)

    def before_step(self) -> None:
        """See `HookBase`."""
        if self._before_step:
            self._before_step(self.trainer)

    def after_step(self) -> None:
        """See `HookBase`."""
        if self._after_step:
            self._after_step(self.trainer)


class IterationTimer(HookBase):
    """Puts the seconds of each step into the storage as ``time``, and sums up at the end.

    Args:
        warmup_iter: first iterations that the sum leaves out.
    """

    order: ClassVar[int] = 10

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step_start = self._train_start = time.perf_counter()
        self._total = 0.0

    def before_train(self) -> None:
        """See `HookBase`."""
        self._train_start = time.perf_counter()

    def before_step(self) -> None:
        """See `HookBase`."""
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        """See `HookBase`."""
        seconds = time.perf_counter() - self._step_start
        self.trainer.storage.put_scalar("time", seconds)
        if self.trainer.iter - self.trainer.start_iter >= self._warmup_iter:
            self._total += seconds

    def after_train(self) -> None:
        """See `HookBase`."""
        timed = self.trainer.iter - self.trainer.start_iter - self._warmup_iter
        if timed <= 0:
            return
        whole = time.perf_counter() - self._train_start
        logger.info(
            "%d iterations in %s (%.4f s each); %s with hooks and evaluation.",
            timed,
            datetime.timedelta(seconds=int(self._total)),
            self._total / timed,
            datetime.timedelta(seconds=int(whole)),
        )


class LRScheduler(HookBase):
    """Steps a learning-rate scheduler of torch after each iteration and records the rate that the iteration used.

    Args:
        optimizer: its largest group's rate is recorded as ``lr``; None takes the trainer's.
        scheduler: None takes the trainer's. `LRMultiplier` is a function of the iteration and keeps no state.
    """

    order: ClassVar[int] = 20

    def __init__(self, optimizer: Optimizer | None = None, scheduler: TorchLRScheduler | None = None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> TorchLRScheduler:
        """The scheduler."""
        trainer: Any = self.trainer
        return self._scheduler or trainer.scheduler

    def before_train(self) -> None:
        """The rate of the iteration that the run begins with."""
        trainer: Any = self.trainer
        self._optimizer = self._optimizer or trainer.optimizer
        sizes = [sum(p.numel() for p in group["params"]) for group in self._optimizer.param_groups]
        self._largest_group = sizes.index(max(sizes))
        if isinstance(self.scheduler, LRMultiplier):
            self.scheduler.set_iteration(self.trainer.start_iter)

    def after_step(self) -> None:
        """See `HookBase`."""
        assert self._optimizer is not None
        lr = self._optimizer.param_groups[self._largest_group]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The scheduler's; that of `LRMultiplier` follows from the iteration."""
        if not isinstance(self.scheduler, LRMultiplier):
            self.scheduler.load_state_dict(state)


class EvalHook(HookBase):
    """Evaluates once a while and at the end of a training that went through.

    Args:
        eval_period: iterations between evaluations; 0 evaluates at the end alone.
        eval_function: takes nothing, gives a (nested) dict of figures; they go to the storage under their names.
        eval_after_train: whether to evaluate at the end.
    """

    order: ClassVar[int] = 60

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ) -> None:
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        with self.trainer.evaluation_weights():
            results = self._func()
        if results:
            for name, value in flatten_results_dict(results).items():
                try:
                    self.trainer.storage.put_scalar(name, float(value), smoothing_hint=False)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"EvalHook wants numbers, got {name!r}: {value!r}.") from error
        self.trainer.storage.write_now = True
        comm.synchronize()  # evaluation takes ranks unequally long

    def after_step(self) -> None:
        """See `HookBase`."""
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        """See `HookBase`: not after an error, however late it came."""
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()


class BestCheckpointer(HookBase):
    """Saves the model when a figure of the evaluation is among the best so far.

    ``best_checkpoint`` names the best file; it is not the one to resume from. The best values are kept in the run's
    checkpoints.

    Args:
        eval_period: that of `EvalHook`.
        checkpointer: saves.
        val_metric: name of the figure, as "AP50".
        mode: "max" or "min".
        file_prefix: name of the file.
        max_to_keep: so many of the best are kept; more than one have their iteration in their name,
            ``<file_prefix>_0000399.pth``. Of equal values the first is the better.
    """

    order: ClassVar[int] = 70

    def __init__(
        self,
        eval_period: int,
        checkpointer: DetectionCheckpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
        max_to_keep: int = 1,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r} is neither 'max' nor 'min'.")
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep={max_to_keep} must be at least 1.")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._sign = 1.0 if mode == "max" else -1.0
        self._file_prefix = file_prefix
        self._max_to_keep = max_to_keep
        self._kept: list[tuple[float, int, str]] = []  # value, iteration and file, best first

    @property
    def best_metric(self) -> float | None:
        """The best value so far."""
        return self._kept[0][0] if self._kept else None

    @property
    def best_iter(self) -> int | None:
        """The iteration that it was found at."""
        return self._kept[0][1] if self._kept else None

    def _check(self) -> None:
        # The main process alone has the figures; all must decide alike, for all may have to save.
        found = comm.all_gather(self.trainer.storage.latest().get(self._val_metric))[0]
        if found is None:
            if comm.is_main_process():
                known = ", ".join(n for n in self.trainer.storage.latest() if "time" not in n and "loss" not in n)
                logger.warning("BestCheckpointer: the evaluation gave no %r; there are %s.", self._val_metric, known)
            return
        value, iteration = found
        if math.isnan(value) or iteration != self.trainer.iter:  # a figure of other weights than these
            return
        name = self._file_prefix if self._max_to_keep == 1 else f"{self._file_prefix}_{iteration:07d}"
        entry = (value, iteration, name)
        others = [kept for kept in self._kept if kept[1] != iteration]  # an iteration that is evaluated again
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

    def after_step(self) -> None:
        """See `HookBase`."""
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        """See `HookBase`."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._check()

    def state_dict(self) -> dict[str, Any]:
        """The best value and its iteration, and which files are kept."""
        return {"best_metric": self.best_metric, "best_iter": self.best_iter, "kept": [list(k) for k in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `HookBase`."""
        self._kept = [(value, iteration, name) for value, iteration, name in state["kept"]]


class PeriodicWriter(HookBase):
    """Lets writers write once a while and at the end.

    Args:
        writers: by name or as a list; only the main process has them write.
        period: iterations between writes.
        on_error: a file that can't be written, as on a full disk, ends the run ("stop"), or costs one line in the log and the
            rows ("continue").
    """

    order: ClassVar[int] = 80

    def __init__(
        self,
        writers: Mapping[str, EventWriter] | Sequence[EventWriter],
        period: int = 20,
        *,
        on_error: str = "stop",
    ) -> None:
        if period < 1:
            raise ValueError(f"period={period} must be at least 1.")
        if on_error not in ("stop", "continue"):
            raise ValueError(f"on_error={on_error!r} is neither 'stop' nor 'continue'.")
        self._on_error = on_error
        self._last_write = -1
        self._unwritten: dict[str, list[Any]] = {}
        self._writers = list(writers.values()) if isinstance(writers, Mapping) else list(writers)
        for writer in self._writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"PeriodicWriter wants EventWriters, got {type(writer).__name__}.")
        self._period = period

    def before_train(self) -> None:
        """Drop what an earlier attempt wrote past the iteration that this one begins with."""
        first = min([self.trainer.start_iter, *(iteration for _, iteration, _ in self._unwritten.values())])
        if comm.is_main_process():
            for writer in self._writers:
                writer.rewind(first)
        self._last_write = first - 1
        for name, (value, iteration, hint) in self._unwritten.items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=hint, cur_iter=iteration)
        self._unwritten = {}

    def after_step(self) -> None:
        """See `HookBase`."""
        storage = self.trainer.storage
        due = (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1
        # An evaluation's figures don't wait: a run that stops before the next write would lose them.
        if comm.is_main_process() and (due or storage.write_now):
            self._write()
        if due or storage.write_now:
            self._last_write = self.trainer.iter
        storage.write_now = False

    def _write(self) -> None:
        for writer in self._writers:
            try:
                writer.write()
            except OSError as error:
                message = f"{type(writer).__name__} can't write: {error}."
                if self._on_error == "stop":
                    raise UserError(message) from error
                logger.error("%s The run goes on.", message)

    def state_dict(self) -> dict[str, Any]:
        """What was recorded since the last write, but for times: a run that is taken up writes it with its next rows."""
        hints = self.trainer.storage.smoothing_hints()
        latest = self.trainer.storage.latest().items()
        return {
            "unwritten": {
                name: [value, iteration, hints[name]]
                for name, (value, iteration) in latest
                if iteration > self._last_write and not name.startswith("time") and name != "data_time"
            }
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `HookBase`."""
        self._unwritten = state["unwritten"]

    def after_train(self) -> None:
        """Write what is left, but for a run that was stopped: an uninterrupted one would not have written it now."""
        if comm.is_main_process():
            if not self.trainer.stopped:
                self._write()
                self._last_write = self.trainer.iter
            for writer in self._writers:
                writer.close()


class PeriodicCheckpointer(HookBase):
    """Saves ``model_<iteration>.pth`` once a while, and ``model_final.pth`` after the last iteration.

    ``model_0000099.pth`` holds the state after 100 steps.

    Args:
        checkpointer: saves.
        period: iterations between checkpoints; 0 saves the final one alone.
        max_iter: after which iteration the final one is saved; None takes the trainer's.
        max_to_keep: of the periodic files the oldest go; None keeps all.
        file_prefix: begins the files' names.
    """

    order: ClassVar[int] = 90

    def __init__(
        self,
        checkpointer: DetectionCheckpointer,
        period: int,
        max_iter: int | None = None,
        max_to_keep: int | None = None,
        file_prefix: str = "model",
    ) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep={max_to_keep} must be at least 1.")
        self._checkpointer = checkpointer
        self._period = period
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
            # Not counting the one that is made anew after a fall back to an older.
            files = [f for f in self._checkpointer.periodic_checkpoints(self._file_prefix) if f.stem != name]
            old = files[: max(0, len(files) + 1 - self._max_to_keep)]
        self._checkpointer.save(name, remove=old, iteration=iteration)

    def after_step(self) -> None:
        """See `HookBase`."""
        self._checkpointer.raise_failure()
        if self.trainer.iter >= self._last_iter():
            self._save_final()
        elif self._period > 0 and (self.trainer.iter + 1) % self._period == 0:
            self.save_now()

    def after_train(self) -> None:
        """Save the final checkpoint again: it holds what the last evaluation changed, as the best value so far.

        Also where a run was taken up after its last iteration, because it had been killed in that evaluation.
        """
        if self.trainer.iter > self._last_iter() >= self.trainer.start_iter - 1:
            self._save_final()

    def _last_iter(self) -> int:
        return (self._max_iter if self._max_iter is not None else self.trainer.max_iter) - 1

    def _save_final(self) -> None:
        self._checkpointer.save(f"{self._file_prefix}_final", iteration=self._last_iter())
        self._checkpointer.wait(must_stand=True)


class StopOnSignal(HookBase):
    """On SIGTERM or SIGINT, or when its time is up, ends the current iteration, saves and leaves.

    All processes of a run stop after the same iteration. A second SIGINT leaves at once.

    Args:
        checkpointer: saves.
        file_prefix: begins the file's name.
        wall_time_s: seconds that the training may take; None does not count them. What a scheduler grants, less the longest
            evaluation and a minute.
    """

    order: ClassVar[int] = 95

    def __init__(
        self, checkpointer: DetectionCheckpointer, file_prefix: str = "model", wall_time_s: float | None = None
    ) -> None:
        self._checkpointer = checkpointer
        self._file_prefix = file_prefix
        self._deadline = None if wall_time_s is None else time.monotonic() + wall_time_s
        self._received: int | None = None
        self._interrupts = 0
        self._old: dict[int, Any] = {}

    def before_train(self) -> None:
        """Take over the signals."""
        try:
            self._old = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread, where signals arrive
            logger.warning("Training outside of the main thread: signals will not save a checkpoint.")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self._received is None and comm.is_main_process():
            # Not by the log, which may be writing a line at this moment.
            os.write(2, f"{signal.Signals(number).name}: ends this iteration, saves and leaves.\n".encode())
        self._received = number

    def after_step(self) -> None:
        """See `HookBase`."""
        if not self._any_rank_must_stop() or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        iteration = self.trainer.iter
        self._checkpointer.save(f"{self._file_prefix}_{iteration:07d}", iteration=iteration)
        self._checkpointer.wait(must_stand=True)
        why = "another process must stop"
        if self._received is not None:
            why = signal.Signals(self._received).name
        elif self._must_stop():
            why = "its time is up"
        raise StopTraining(f"{why}; a checkpoint was saved, go on with --resume")

    def _must_stop(self) -> bool:
        return self._received is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _any_rank_must_stop(self) -> bool:
        if comm.get_world_size() == 1:
            return self._must_stop()
        flag = torch.tensor(float(self._must_stop()))
        if torch.distributed.get_backend() == "nccl":
            flag = flag.cuda()
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def after_train(self) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)


class PreciseBN(HookBase):
    """Replaces the running statistics of batch norm by those of many batches at fixed weights (Wu and Johnson, 2021, sec. 3).

    Args:
        period: iterations from one time to the next; 0 does it at the end alone. That of `EvalHook`, so that what is
            evaluated has them.
        model: whose layers of batch norm; those in evaluation mode are left alone.
        data_loader: its batches are what the model takes in training.
        num_iter: batches to take.
    """

    order: ClassVar[int] = 55  # before the evaluation

    def __init__(self, period: int, model: nn.Module, data_loader: Iterable[Any], num_iter: int = 200) -> None:
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter

    def after_step(self) -> None:
        """See `HookBase`."""
        next_iter = self.trainer.iter + 1
        if next_iter == self.trainer.max_iter or (self._period > 0 and next_iter % self._period == 0):
            with self.trainer.evaluation_weights():  # averaged weights have statistics of their own
                self.update_stats()

    def update_stats(self) -> None:
        """Take the batches; nothing but the statistics changes, and nothing is recorded."""
        with (
            warnings.catch_warnings()
        ):  # fvcore.nn compiles a loss by torch.jit.script, which warns that it is deprecated
            warnings.simplefilter("ignore", FutureWarning)
            from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
        if not get_bn_modules(self._model):
            logger.warning("PreciseBN: the model has no batch norm in training mode.")
            return
        generator = torch.get_rng_state()
        with EventStorage(self.trainer.iter):  # what the model records here is not the run's
            update_bn_stats(self._model, _endless(self._data_loader), self._num_iter)
        torch.set_rng_state(generator)


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches without end; a loader that ends is begun again."""
    while True:
        yield from loader
