"""The training loop: a trainer, its hooks, and the order in which they are called."""

from __future__ import annotations

import logging
import operator
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.checkpoint.snapshot import check_plain_data
from ultravid.data.class_checks import check_num_classes, check_organs
from ultravid.engine.data_position import DataPosition
from ultravid.engine.hook_checks import (
    HookChecks,
    names_in_short,
    synchronized_parameters,
    waits_for_all,
    without_gradient,
)
from ultravid.engine.model_output import checked_losses, total_of, warn_about_losses
from ultravid.engine.sharding import unsharded
from ultravid.engine.steps import Accumulation, FullPrecision, MixedPrecision, NonfinitePolicy, Precision, Step
from ultravid.engine.when import Every, HookOrder
from ultravid.solver.saved_optimizer import hyperparameters, load_optimizer, saved_optimizer
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.events import EventStorage, get_event_storage
from ultravid.utils.folder_lock import reacquire_folder, release_folder
from ultravid.utils.limits import Accepts, NotNegative, Positive
from ultravid.utils.seed import (
    generator_states,
    restore_generators,
    seed_iteration,
    seed_step,
    seeded_generators,
)

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)

_TRAINER = "the trainer"  # `EventStorage.source`
_EVERY_STEP = ("before_step", "after_backward", "after_step")


class HookBase:
    """Base class of hooks, which act before and after the steps of a training. To write a hook, override the methods that you need.

    A trainer calls its hooks like this::

        hook.before_train()
        for trainer.iter in range(start_iter, max_iter):
            hook.before_step()
            trainer.run_step()  # calls hook.after_backward() between the backward pass and the optimizer's step
            hook.after_step()
        hook.after_train()

    A hook that logs the largest weight after every 100th iteration::

        class LogLargestWeight(HookBase):
            def __init__(self, period=100):
                self._every = Every(period)  # of ultravid.engine.hooks

            def after_step(self):
                if self._every.is_due(self.trainer):
                    largest = max(p.abs().max() for p in self.trainer.model.parameters())
                    self.trainer.storage.put_scalar("largest_weight", largest)

    To add it in a config, write ``trainer.hooks.largest = L(LogLargestWeight)()``; in code, ``trainer.register_hooks([...])``. The
    recorded values are written to the log files and TensorBoard with the losses.

    Attributes:
        trainer: the run: ``trainer.iter``, ``start_iter``, ``max_iter``, ``storage``, and with `SimpleTrainer` ``model`` and
            ``optimizer``. It is set when the hook is registered, so it is not there yet in ``__init__``.
        order: hooks that are given by name are called in ascending order of this number; equal numbers keep the given order. `HookOrder`
            names the numbers of ultravid's hooks; any integer is allowed.
        evaluates: whether the hook evaluates the model, so that an evaluator of the user may run in its calls.
    """

    trainer: TrainerBase
    order: ClassVar[int] = HookOrder.DEFAULT
    evaluates: ClassVar[bool] = False

    @property
    def runs_users_code(self) -> bool:
        """Whether its calls run code that is not ultravid's: its class is a user's, or it calls functions that it was given."""
        return not type(self).__module__.startswith("ultravid.")

    def before_train(self) -> None:
        """Called before the first iteration."""

    def after_train(self) -> None:
        """Called after the last iteration, and after an error; ``trainer.iter == trainer.max_iter`` if there was none."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_backward(self) -> None:
        """Called in each iteration when the gradients are computed, before they are clipped."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs: only plain data and tensors. It is saved in each checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; called when a run is resumed, before `before_train`.

        Args:
            state: what `state_dict` returned when the checkpoint was saved.
        """


class TrainerBase:
    """A training loop with hooks. A subclass defines a step in `run_step`; `SimpleTrainer` is the usual one.

    Attributes:
        iter: the current iteration, from 0.
        start_iter: the iteration that this attempt of the run started with.
        max_iter: the run ends before this iteration.
        storage: the metrics that were recorded.
        stopped: the run was ended early by `StopTraining`; it can be resumed as if it had not been interrupted.
        failure: what ended the run early, None if it reached ``max_iter``; for `HookBase.after_train`.
        evaluation_weights: returns a context in which the model has the weights to evaluate it with; a hook that averages
            weights replaces it.
        evaluates_average: whether those are averaged weights.
        evaluation_identity: a hash of what the last evaluation depended on besides the weights; "" if it is not known.
        seconds: how long each part of the steps and each hook took so far, by name, on the host's clock.
        num_samples: number of samples that this process has taken from the loader in this attempt; 0 if the trainer does not
            count them.
        evaluated_at: iteration of the newest evaluation of this attempt, in all processes; -1 before the first.
        checkpointer: used by `resume_or_load`; None without one.
        init_checkpoint: weights to start from; "" starts from scratch.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self._hook_names: dict[int, str] = {}
        self.checkpointer: DetectionCheckpointer | None = None
        self.init_checkpoint = ""
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.stopped = False
        self.failure: BaseException | None = None
        self.evaluation_weights: Callable[[], AbstractContextManager[None]] = nullcontext
        self.evaluates_average = False
        self.evaluation_identity = ""
        self.storage = EventStorage(0)
        self.seconds: dict[str, float] = defaultdict(float)
        self.num_samples = 0
        self.evaluated_at = -1
        self._calls: dict[str, list[tuple[str, Callable[[], None]]]] = {phase: [] for phase in _EVERY_STEP}

    @property
    def step_skipped(self) -> bool:
        """Whether the last step left the weights as they were; a trainer that skips steps overrides it."""
        return False

    def register_hooks(self, hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None]) -> None:
        """Add hooks: a list keeps its order, a dict by name is sorted by the hooks' ``order``; None entries are skipped."""
        if isinstance(hooks, Mapping):
            named = sorted(((n, h) for n, h in hooks.items() if h is not None), key=lambda pair: pair[1].order)
        else:
            named = [(type(h).__name__, h) for h in hooks if h is not None]
        for name, hook in named:
            assert isinstance(hook, HookBase), f"{name} is a {type(hook).__name__}, not a HookBase"
            # A hook and its trainer refer to each other; only one of the two may keep the other alive.
            hook.trainer = weakref.proxy(self)
            self._name(hook, name)
            self._hooks.append(hook)

    @property
    def named_hooks(self) -> dict[str, HookBase]:
        """The hooks by name. A hook of a list has the name of its class; a second one of a name is ``<name>_2``."""
        for hook in self._hooks:
            self._name(hook, type(hook).__name__)
        return {self._hook_names[id(hook)]: hook for hook in self._hooks}

    def _name(self, hook: HookBase, name: str) -> None:
        if id(hook) in self._hook_names:
            return
        unique, number = name, 2
        while unique in self._hook_names.values():
            unique, number = f"{name}_{number}", number + 1
        self._hook_names[id(hook)] = unique

    def resume_or_load(self, resume: bool = False) -> None:
        """With ``resume``, continue from the newest checkpoint if there is one; else load the initial weights.

        Raises:
            CheckpointError: a checkpoint can't be read or doesn't fit.
            UserError: the checkpoint is past ``max_iter``, or this trainer has no checkpointer.
        """
        if self.checkpointer is None:
            raise UserError(
                "This trainer has no checkpointer to resume or load from: give it one (trainer.checkpointer)."
            )
        self.checkpointer.remove_leftovers()
        resumed = resume and self.checkpointer.has_checkpoint()
        rest = self.checkpointer.resume_or_load(self.init_checkpoint, resume=resume)
        comm.synchronize()  # the main process moves files next that the others may still read
        if not resumed:
            self.checkpointer.archive_previous_run()
            return
        self.start_iter = rest.get("iteration", self.iter) + 1
        if 0 < self.max_iter < self.start_iter:
            raise UserError(f"The run is already at iteration {self.start_iter}, past max_iter={self.max_iter}.")
        logger.info("Resuming at iteration %d.", self.start_iter)

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """Train from ``start_iter`` up to, and without, ``max_iter``; None takes the trainer's attributes.

        At the end the lock on the checkpointer's folder is released, if `default_setup` took it in this process, because a process such as a
        notebook's goes on. A further training there takes it again.

        Raises:
            StopTraining: the run was asked to stop.
            LockedError: another process trains in the folder by now.
        """
        if self.checkpointer is not None:
            reacquire_folder(self.checkpointer.save_dir)
        self.start_iter = self.iter = self.start_iter if start_iter is None else start_iter
        self.max_iter = self.max_iter if max_iter is None else max_iter
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        self._calls = {phase: self._hook_methods(phase) for phase in _EVERY_STEP}
        self.stopped, self.failure = False, None
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(self.start_iter, self.max_iter):  # noqa: B020  # hooks read it
                    self.before_step()
                    self.run_step()
                    self.after_step()
                # By this after_train recognizes a run that reached its end.
                self.iter = self.max_iter
            except StopTraining as stop:
                logger.info("Stopped after iteration %d: %s", self.iter, stop)
                self.stopped, self.failure = True, stop
                raise
            except BaseException as error:
                logger.error("Training failed in iteration %d: %s: %s", self.iter, type(error).__name__, error)
                logger.debug("The traceback:", exc_info=True)
                self.failure = error
                raise
            finally:
                try:
                    self._after_train()
                finally:
                    if self.checkpointer is not None:
                        release_folder(self.checkpointer.save_dir)

    def _after_train(self) -> None:
        """Call `after_train`; its own error must not hide the one that ended the run."""
        ended_by = self.failure
        try:
            self.after_train()
        except Exception:
            if ended_by is None:
                logger.debug("The traceback:", exc_info=True)
                raise
            logger.exception("A hook failed in after_train, after the error above")

    def before_train(self) -> None:
        """Call the hooks."""
        for name, hook in self.named_hooks.items():
            self.storage.source = f"hooks/{name}"
            hook.before_train()
            self._after_before_train(name, hook)
        self.storage.source = ""

    def _after_before_train(self, name: str, hook: HookBase) -> None:
        """Called after `before_train` of each hook; a trainer that checks what hooks do overrides it."""

    def after_train(self) -> None:
        """Call all hooks, because one that fails must not leave the others' files open; then raise the first error."""
        self.storage.iter = self.iter
        failures: list[tuple[str, Exception]] = []
        for name, hook in self.named_hooks.items():
            start = time.perf_counter()
            self.storage.source = f"hooks/{name}"
            try:
                hook.after_train()
            except Exception as error:
                if failures:
                    logger.exception("Hook %r failed in after_train, after the error above", name)
                failures.append((name, error))
                self.failure = self.failure or error
            self.seconds[f"hooks/{name}"] += time.perf_counter() - start
        if failures:
            name, first = failures[0]  # the name is read by `ultravid.engine.failures`
            raise first

    def before_step(self) -> None:
        """Call the hooks."""
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self) -> None:
        """Call the hooks."""
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        """Call the hooks."""
        self._call_hooks("after_step")

    def _call_hooks(self, phase: str) -> None:
        calls = self._calls[phase]
        if not calls:
            return
        seconds, clock, storage = self.seconds, time.perf_counter, self.storage
        start = clock()
        for name, call in calls:
            storage.source = name
            call()
            end = clock()
            seconds[name] += end - start
            start = end
        storage.source = ""

    def _hook_methods(self, phase: str) -> list[tuple[str, Callable[[], None]]]:
        """The hooks' methods of one name, without those that do nothing, which are most."""
        return [
            (f"hooks/{name}", self._hook_call(name, hook, phase))
            for name, hook in self.named_hooks.items()
            if phase in vars(hook) or getattr(type(hook), phase) is not getattr(HookBase, phase)
        ]

    def _hook_call(self, name: str, hook: HookBase, phase: str) -> Callable[[], None]:
        """What is called of a hook at one place of each iteration; a trainer that checks what hooks do overrides it."""
        del name
        call: Callable[[], None] = getattr(hook, phase)
        return call

    def run_step(self) -> None:
        """Make one step; a subclass defines it."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The last iteration and the state of each hook that has one, by the hook's name."""
        hooks = {}
        for name, hook in self.named_hooks.items():  # the name is read by `ultravid.engine.failures`
            hooks[name] = hook.state_dict()
            try:
                check_plain_data(hooks[name], f"trainer/hooks/{name}")
            except TypeError as error:
                raise UserError(f"{error} state_dict() of the hook {name!r} may return only these.") from None
        return {
            # In after_train `iter` is max_iter, one past the last iteration.
            "iteration": min(self.iter, self.max_iter - 1) if self.max_iter else self.iter,
            "hooks": {name: state for name, state in hooks.items() if state},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the state of a hook that this run lacks is ignored with a warning."""
        self.iter = state_dict["iteration"]
        hooks = self.named_hooks
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logger.warning(
                    "The checkpoint has the state of a hook %r, which this run lacks; it is ignored.",
                    name,
                )


def _is_loader(value: Any) -> bool:
    """Whether a value of a config may yield batches: text and a dict of settings are iterable, but no loader."""
    return not isinstance(value, str | bytes | Mapping)


def _yields_batches(loader: Any) -> bool:
    """Whether a loader that was built can be iterated."""
    return _is_loader(loader) and any(hasattr(loader, name) for name in ("__iter__", "__getitem__", "iterate_from"))


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one loader; a step is load, forward, backward, step.

    A gradient that is not finite never reaches the optimizer: its norm is read before each step. That is the one read of the
    device that a step makes; losses stay there until a writer asks for them.

    Args:
        model: in training it takes a batch of the loader and returns a loss, or a dict of losses that are summed.
        data_loader: batches; it is iterated again when it ends. With a method ``iterate_from(batch)`` it starts at the batch
            that the run starts with.
        optimizer: the optimizer of the model's parameters.
        gather_metric_period: iterations between records of the losses.
        zero_grad_before_forward: clear gradients before the forward pass instead of before the backward pass.
        async_write_metrics: accepted because detectron2 has it, and ignored: recording a metric never waits for the device.
        precision: number format of the step; None is `FullPrecision`.
        accumulation: batches of a step; None is one batch.
        nonfinite: what happens when a gradient or a loss is not finite; None ends the run.
        clip_grad: called with the parameters that have a gradient, before the optimizer's step, as
            `torch.nn.utils.clip_grad_norm_` with its limit bound.
        hooks: by name or as a list.
        checkpointer: `resume_or_load` uses it, and it saves the trainer's own state too.
        init_checkpoint: weights to start from; "" starts from scratch.
        max_iter: number of iterations.
        seed: with it, what the model draws in a step is a function of (seed, iteration, rank), and so is what hooks, and a loader
            that loads in this process, draw from the global generators.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Annotated[Iterable[Any], Accepts(_is_loader, "an iterable of batches")],
        optimizer: Optimizer,
        gather_metric_period: NotNegative = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
        *,
        precision: Precision | None = None,
        accumulation: Accumulation | None = None,
        nonfinite: NonfinitePolicy | None = None,
        clip_grad: Callable[[list[Tensor]], Any] | None = None,
        hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None] = (),
        checkpointer: DetectionCheckpointer | None = None,
        init_checkpoint: str = "",
        max_iter: Positive = 0,
        seed: int | None = None,
    ) -> None:
        del async_write_metrics
        super().__init__()
        if not _yields_batches(data_loader):
            raise TypeError(f"data_loader is {data_loader!r}, not an iterable of batches.")
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        for name, part, example in (
            ("precision", precision, "MixedPrecision('float16')"),
            ("accumulation", accumulation, "Accumulation(2)"),
            ("nonfinite", nonfinite, "NonfinitePolicy(max_skipped=1)"),
        ):
            if isinstance(part, str | int | float | type):
                raise TypeError(f"{name} is {part!r}, not an object of ultravid.engine.steps, such as {example}.")
        self._gathers_metrics = Every(gather_metric_period)
        self.zero_grad_before_forward = zero_grad_before_forward
        self.precision = FullPrecision() if precision is None else precision
        self.precision.prepare(model)
        self.accumulation = Accumulation() if accumulation is None else accumulation
        self.nonfinite = NonfinitePolicy() if nonfinite is None else nonfinite
        self.clip_grad = clip_grad
        self.checkpointer, self.init_checkpoint = checkpointer, init_checkpoint
        self.max_iter = max_iter
        self.seed = seed
        self._clipper_gives_norm = False
        self._data_loader_iter_obj: Iterator[Any] | None = None
        self._position = DataPosition()
        self._recorded_names: tuple[str, ...] = ()
        self._configured = hyperparameters(optimizer)
        self._checks: HookChecks | None = None
        self._num_expected = 0  # parameters of the optimizer that should have a gradient
        self._synchronized = synchronized_parameters(model)
        self._has_users_hooks = False
        self._sums_to_compare: Tensor | None = None
        self.evaluation_weights = lambda: unsharded(model)
        if checkpointer is not None:
            checkpointer.add_checkpointable("trainer", self)
        self.register_hooks(hooks)

    @property
    def gather_metric_period(self) -> int:
        """Iterations between records of the losses."""
        return self._gathers_metrics.period

    @property
    def step_skipped(self) -> bool:
        """Whether the last step was skipped, because a number was not finite."""
        return self.nonfinite.num_skipped > 0

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """As `TrainerBase.train`; the loader starts with the batch of iteration ``start_iter``.

        Args:
            start_iter: the first iteration; None: the attribute ``start_iter``, which `resume_or_load` sets.
            max_iter: the iteration before which the training ends; None: the attribute ``max_iter``.

        Raises:
            StopTraining: the run was asked to stop.
            LockedError: another process trains in the folder by now.
        """
        self._data_loader_iter_obj = None
        self._position.num_batches = None
        self._recorded_names = ()
        super().train(start_iter, max_iter)

    def before_train(self) -> None:
        """Call the hooks, and check that what they leave can be trained."""
        check_num_classes(comm.unwrapped(self.model), self.data_loader)
        check_organs(comm.unwrapped(self.model), self.data_loader)
        self._checks = HookChecks(self.model, self.optimizer, self._synchronized)
        super().before_train()
        self._checks.begin(self._users_hooks())
        if self._synchronized is not None and waits_for_all(self.model):
            held = (p for group in self.optimizer.param_groups for p in group["params"])
            self._num_expected = sum(id(p) in self._synchronized for p in held)
        # One answer for all processes, which reduce the same tensors: a hook may be registered only in the main one.
        users_hooks = bool(self._users_hooks())
        self._has_users_hooks = users_hooks if self._synchronized is None else any(comm.all_gather(users_hooks))
        self._sums_to_compare = None

    def _users_hooks(self) -> list[str]:
        """The names of the hooks that run code of the user's."""
        return [name for name, hook in self.named_hooks.items() if hook.runs_users_code]

    def _after_before_train(self, name: str, hook: HookBase) -> None:
        if self._checks is not None and hook.runs_users_code:
            self._checks.after_hook(repr(name), self.model, self.optimizer, may_set=True)

    def _hook_call(self, name: str, hook: HookBase, phase: str) -> Callable[[], None]:
        call = super()._hook_call(name, hook, phase)
        always = hook.runs_users_code
        if not (always or hook.evaluates):
            return call

        def checked() -> None:
            call()
            if phase == "after_step" and self.iter + 1 >= self.max_iter:
                return  # no step follows that could go wrong
            if self._checks is not None and (always or self.evaluated_at == self.iter):
                self._checks.after_hook(repr(name), self.model, self.optimizer)

        return checked

    def after_step(self) -> None:
        """Compare the processes' weights if that is due, and call the hooks."""
        if self._synchronized is not None and self._checks is not None:
            if self.iter == self.max_iter - 1:
                self._compare_ranks()
            self._checks.compare_weights(self.iter, self.start_iter)
        super().after_step()

    def after_train(self) -> None:
        """Call the hooks; when this returns, what they saved is on disk."""
        try:
            super().after_train()
        finally:
            if self.checkpointer is not None:
                self.checkpointer.wait()

    def before_step(self) -> None:
        """Seed the global generators for hooks and loader, and call the hooks."""
        if self.seed is not None:
            seed_iteration(self.seed, self.iter, comm.get_rank())
        super().before_step()

    def run_step(self) -> None:
        """One step; its losses and the time that it waited for data go to the storage.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the message names the iteration and the samples.
        """
        if not self.model.training:
            raise UserError(f"The model is in evaluation mode in iteration {self.iter}: what called model.eval()?")
        step = Step(self.iter, self.seed, self.model, self.precision)
        data_before = self.seconds["data"]
        clock = _LapClock(self.seconds)
        parts = []
        for index in range(self.accumulation.num_batches):
            with self._apart_from_the_model(index):
                step.batches.append(self._next_batch())
            clock.lap("data")
            if index == 0:
                self._begin_step()
            with self.accumulation.synchronized(self.model, index):
                losses = self._forward(step)
                if losses is None:
                    return
                if index == 0 and not self.zero_grad_before_forward:
                    self._clear_gradients()
                clock.lap("forward")
                self.backward(self.accumulation.scaled(losses["total_loss"]))
            parts.append({name: value.detach() for name, value in losses.items()})
            clock.lap("backward")
        losses = self.accumulation.mean(parts)
        norm = self.finish_gradients()
        self.precision.after_norm(self.optimizer)
        allowed = self.nonfinite.allows_step(step, norm, losses)
        self._compare_ranks()  # at no cost: the norm was read, so the device has nothing left to do
        if allowed:
            self.optimizer_step()
        clock.lap("optimizer")
        if self._gathers_metrics.is_due(self):
            self.write_metrics({**losses, "grad_norm": norm}, self.seconds["data"] - data_before)

    def _apart_from_the_model(self, index: int) -> AbstractContextManager[None]:
        """A context in which a batch of the step is loaded; what a loader draws in this process changes nothing for the model."""
        if index == 0 or self.seed is None:  # `_begin_step` seeds after the first
            return nullcontext()
        return seeded_generators(self.seed, "batch", self.iter, index, comm.get_rank())

    def _begin_step(self) -> None:
        """What comes between the first batch of a step and the model."""
        if self.seed is not None:
            seed_step(self.seed, self.iter, comm.get_rank())
        self.nonfinite.before_forward(self.model)
        if self.zero_grad_before_forward:
            self._clear_gradients()

    def _clear_gradients(self) -> None:
        """`Optimizer.zero_grad`, without the profiler's label that costs more than the work."""
        if getattr(self.optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:  # one of its own
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _forward(self, step: Step) -> dict[str, Tensor] | None:
        """The losses of the step's last batch and their sum, ``total_loss``; None if the step is skipped."""
        try:
            with self.precision.autocast():
                losses = checked_losses(self.compute_losses(step.batches[-1]), self.model)
        except FloatingPointError as error:  # a check of the model's own
            self.nonfinite.on_model_error(step, error)
            return None
        losses["total_loss"] = total_of(losses, self.model)
        if self.iter == self.start_iter and len(step.batches) == 1:
            warn_about_losses(losses)
        return losses

    def compute_losses(self, data: Any) -> dict[str, Tensor]:
        """The model's losses by name; `run_step` calls it in the autocast context of the trainer's precision.

        Args:
            data: a batch of the loader.

        Returns:
            Scalar tensors by name, whose sum is minimised; a single tensor of the model is called ``loss``.
        """
        losses = self.model(data)
        return {"loss": losses} if isinstance(losses, Tensor) else losses  # anything else is refused by the caller

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, a scalar, to those of the parameters, scaled if the precision has a gradient scaler."""
        self.precision.backward(loss)

    def finish_gradients(self) -> Tensor:
        """Unscale the gradients, let the hooks see them, clip them, and return their norm.

        The norm is that before clipping, unless ``clip_grad`` returns a norm, which is then taken.
        """
        self.precision.unscale(self.optimizer)
        self.after_backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if len(parameters) < self._num_expected:
            self._check_unused()
        elif self._has_users_hooks:
            self._num_expected = len(parameters)
        norm = None
        if not self._clipper_gives_norm:  # before clipping: clipped by value, an infinite gradient would look finite
            norm = _total_norm([p.grad for p in parameters])
        if self.clip_grad is not None:
            clipped = self.clip_grad(parameters)
            if isinstance(clipped, Tensor) and clipped.dim() == 0:
                self._clipper_gives_norm, norm = True, clipped
        assert norm is not None
        return norm if type(norm) is Tensor else _unsharded_norm(norm)

    def _check_unused(self) -> None:
        """Find out why parameters of the optimizer have no gradient; DDP has not reduced the others' then, if it waits for all."""
        if self._has_users_hooks and self._checks is not None:
            self._checks.check_parameters()
        names = without_gradient(self.model, self._synchronized or frozenset())
        if names and waits_for_all(self.model):
            raise UserError(
                f"{len(names)} parameters got no gradient in iteration {self.iter}: {names_in_short(names)}. DDP waits for the "
                "gradient of each parameter: set train.ddp.find_unused_parameters=True, or freeze those that no loss depends on."
            )

    def optimizer_step(self) -> None:
        """Let the optimizer update the weights. Called after `finish_gradients`, if all gradients are finite."""
        self.optimizer.step()

    def write_metrics(self, losses: dict[str, Tensor], data_time: float) -> None:
        """Put the losses (means over processes) and this process's wait for data into the storage.

        Args:
            losses: scalar tensors by name, the same names in each process.
            data_time: seconds that this process waited for the batch.
        """
        world_size = comm.get_world_size()
        if world_size > 1:
            losses = dict(sorted(losses.items()))  # the order may differ between processes
        stacked = torch.stack([v if v.dtype is torch.float32 else v.float() for v in losses.values()])
        if self._synchronized is not None and self._has_users_hooks:
            stacked = self._compared(stacked)
        elif world_size > 1:
            torch.distributed.all_reduce(stacked)
        if world_size > 1:
            stacked /= world_size
        storage, names = get_event_storage(), tuple(losses)
        source, storage.source = storage.source, _TRAINER
        if names != self._recorded_names:
            storage.reserve([*names, "data_time"], "what the trainer records of each step")
            self._recorded_names = names
        storage.put_scalars_later(names, stacked)
        storage.put_scalar("data_time", data_time)
        storage.source = source

    def _compared(self, values: Tensor) -> Tensor:
        """The sums of some values over the processes, which add up in the same reduction what shows that they train the same."""
        assert self._checks is not None
        self._compare_ranks()  # those that a `run_step` of a subclass's own has left
        together = torch.cat([values, self._checks.fingerprint(values.device)])
        torch.distributed.all_reduce(together)
        self._sums_to_compare = together[len(values) :]
        return together[: len(values)]

    def _compare_ranks(self) -> None:
        """Read the sums that were added up last, if there are new ones, and end the run if the processes train different parameters."""
        if self._sums_to_compare is None or self._checks is None:
            return
        sums, self._sums_to_compare = self._sums_to_compare, None
        self._checks.compare_ranks(sums.tolist())

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "") -> None:
        """`write_metrics` under the name by which a ``run_step`` written for detectron2 calls it."""
        if self._gathers_metrics.is_due(self):
            losses = {f"{prefix}{name}": value.detach() for name, value in loss_dict.items()}
            self.write_metrics({**losses, f"{prefix}total_loss": reduce(operator.add, losses.values())}, data_time)

    def _next_batch(self) -> Any:
        """The loader's next batch; a loader that ends is iterated again."""
        try:
            batch = next(self._data_loader_iter)
        except StopIteration:
            self._data_loader_iter_obj = iter(self.data_loader)
            try:
                batch = next(self._data_loader_iter_obj)
            except StopIteration:
                raise UserError("The training loader is empty: it yields no batch.") from None
        assert self._position.num_batches is not None
        self._position.num_batches += 1
        self.num_samples += len(batch) if isinstance(batch, Sized) else 1
        return batch

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        if self._data_loader_iter_obj is None:
            iterate_from = getattr(self.data_loader, "iterate_from", None)
            first = self._position.begin(self.data_loader, self.iter, self.accumulation.num_batches)
            if first > 0 and iterate_from is None:
                logger.warning(
                    "The loader has no method iterate_from(batch), so the resumed run sees its data from the beginning again."
                )
            self._data_loader_iter_obj = iterate_from(first) if iterate_from is not None else iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable[Any]]) -> None:
        """Release the loader, then take the one that ``data_loader_builder`` returns."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def state_dict(self) -> dict[str, Any]:
        """As `TrainerBase`, with the state of the optimizer, its configured hyperparameters, and the state of the precision."""
        own = saved_optimizer(self.optimizer, comm.unwrapped(self.model), self._configured)
        if comm.get_world_size() == 1:
            own["generators"] = generator_states(torch_too=self.seed is None)
        own |= {"data_position": self._position.state_dict(), "num_skipped": self.nonfinite.num_skipped}
        return {**super().state_dict(), **own, **self.precision.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; a hyperparameter whose configured value has changed gets the new value."""
        load_optimizer(self.optimizer, comm.unwrapped(self.model), self._configured, state_dict)
        if comm.get_world_size() == 1:
            restore_generators(state_dict.get("generators", {}))
        self.precision.load_state_dict(state_dict)
        self.nonfinite.num_skipped = state_dict.get("num_skipped", 0)
        iteration = state_dict["iteration"]
        if "data_position" in state_dict:
            self._position.load_state_dict(state_dict["data_position"], iteration)
        else:
            states = state_dict.get("hooks", {}).values()
            config = next((state["config"] for state in states if "config" in state), "")
            self._position.load_config(config, iteration, self.accumulation.num_batches)
        super().load_state_dict(state_dict)  # after the optimizer: a scheduler's state has the learning rate


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` with `MixedPrecision`, under detectron2's signature.

    ``precision`` (the dtype, by default float16 on CUDA and bfloat16 on the CPU), ``grad_scaler``, ``log_grad_scaler`` and
    ``enabled`` are the arguments of `MixedPrecision`; all others are those of `SimpleTrainer`.

    Args:
        model: as of `SimpleTrainer`, like all arguments that this list does not explain.
        data_loader: batches.
        optimizer: of the model's parameters.
        gather_metric_period: iterations between records of the losses.
        zero_grad_before_forward: clear gradients before the forward pass instead of before the backward pass.
        grad_scaler: scales the loss; None makes one that is active only with float16.
        precision: the dtype of the forward pass; None takes float16 on CUDA or if a scaler is given, and bfloat16 on
            the CPU.
        log_grad_scaler: record the scale as ``grad_scaler``.
        async_write_metrics: accepted because detectron2 has it, and ignored.
        enabled: False is full precision.
        accumulation: batches of a step; None is one batch.
        nonfinite: what happens when a gradient or a loss is not finite; None ends the run.
        clip_grad: called with the parameters that have a gradient, before the optimizer's step.
        hooks: by name or as a list.
        checkpointer: saves and loads the model, and the trainer's own state too.
        init_checkpoint: weights to start from; "" starts from scratch.
        max_iter: number of iterations.
        seed: makes what the model draws in a step a function of (seed, iteration, rank).
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Annotated[Iterable[Any], Accepts(_is_loader, "an iterable of batches")],
        optimizer: Optimizer,
        gather_metric_period: NotNegative = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype | Literal["float16", "bfloat16"] | None = None,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
        *,
        enabled: bool = True,
        accumulation: Accumulation | None = None,
        nonfinite: NonfinitePolicy | None = None,
        clip_grad: Callable[[list[Tensor]], Any] | None = None,
        hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None] = (),
        checkpointer: DetectionCheckpointer | None = None,
        init_checkpoint: str = "",
        max_iter: Positive = 0,
        seed: int | None = None,
    ) -> None:
        self._mixed = MixedPrecision(precision, enabled, grad_scaler, log_grad_scaler)
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
            precision=self._mixed,
            accumulation=accumulation,
            nonfinite=nonfinite,
            clip_grad=clip_grad,
            hooks=hooks,
            checkpointer=checkpointer,
            init_checkpoint=init_checkpoint,
            max_iter=max_iter,
            seed=seed,
        )

    @property
    def grad_scaler(self) -> torch.amp.GradScaler:
        """The scaler of the loss; it is disabled unless the precision is float16."""
        return self._mixed.grad_scaler


class _LapClock:
    """Adds the seconds since the last lap to the entry of a name."""

    __slots__ = ("_last", "_seconds")

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] += now - self._last
        self._last = now


def _unsharded_norm(norm: Tensor) -> Tensor:
    """The norm over all shards of gradients (FSDP2)."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """`torch.nn.utils.get_total_norm` of dense gradients on one device, at half its cost."""
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
