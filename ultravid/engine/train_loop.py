"""The training loop: a trainer, its hooks, and the order in which they are called."""

from __future__ import annotations

import logging
import math
import operator
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine.sharding import unsharded
from ultravid.engine.step_dump import StepDump, describe_batch
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.events import EventStorage, get_event_storage
from ultravid.utils.seed import generator_states, restore_generators, seed_step

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)

_MOST_OVERFLOWS = 40  # from any scale a float32 holds down to one at which a finite loss no longer overflows
_EVERY_STEP = ("before_step", "after_backward", "after_step")


class HookBase:
    """What is done beside the steps of a trainer.

    A trainer calls its hooks in this order::

        hook.before_train()
        for iteration in range(start_iter, max_iter):
            hook.before_step()
            trainer.run_step()  # in it, after backward and before the optimizer's step: hook.after_backward()
            hook.after_step()
        hook.after_train()

    In each method ``self.trainer`` tells about the run: ``iter``, ``start_iter``, ``max_iter``, ``storage``.

    Attributes:
        order: hooks given by name run by rising order; within one order as they are given.
    """

    trainer: TrainerBase
    order: ClassVar[int] = 50

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last one, or after an error: ``trainer.iter == trainer.max_iter`` tells that training went through."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """After the gradients are there."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What a run that is taken up again needs to know; plain data and tensors alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""


class TrainerBase:
    """A loop with hooks; what a step is, a subclass says in `run_step`.

    Attributes:
        iter: the current iteration, from 0.
        start_iter: where this attempt began.
        max_iter: where it ends.
        storage: what is measured.
        stopped: the run was ended early by `StopTraining`; it can be taken up as if nothing had happened.
        failure: what ended the run early, None where it went through; for `HookBase.after_train`.
        evaluation_weights: gives a block in which the model has the weights to evaluate it with; a hook that averages
            weights puts its own here.
        seconds: what each part of the steps and each hook took so far, in seconds of this process's clock.
        checkpointer: where `resume_or_load` looks, None without one.
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
        self.storage = EventStorage(0)
        self.seconds: dict[str, float] = defaultdict(float)
        self._calls: dict[str, list[tuple[str, Callable[[], None]]]] = {phase: [] for phase in _EVERY_STEP}

    def register_hooks(self, hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None]) -> None:
        """Add hooks: a list in its order, or a dict by name, sorted by the hooks' ``order``; None entries are skipped."""
        if isinstance(hooks, Mapping):
            named = sorted(((n, h) for n, h in hooks.items() if h is not None), key=lambda pair: pair[1].order)
        else:
            named = [(type(h).__name__, h) for h in hooks if h is not None]
        for name, hook in named:
            assert isinstance(hook, HookBase), f"{name} is a {type(hook).__name__}, not a HookBase"
            # A hook and its trainer know each other; only one of the two may keep the other alive.
            hook.trainer = weakref.proxy(self)
            self._name(hook, name)
            self._hooks.append(hook)

    @property
    def named_hooks(self) -> dict[str, HookBase]:
        """The hooks by name; one of a list has its class's, a second of a name ``<name>_2``."""
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
        """Go on from the newest checkpoint if asked to and there is one, else load the initial weights.

        Raises:
            CheckpointError: a checkpoint can't be read or doesn't fit.
            UserError: the run is past ``max_iter`` already.
        """
        if self.checkpointer is None:
            raise ValueError("This trainer has no checkpointer to resume or load from.")
        self.checkpointer.remove_leftovers()
        resumed = resume and self.checkpointer.has_checkpoint()
        rest = self.checkpointer.resume_or_load(self.init_checkpoint, resume=resume)
        comm.synchronize()  # before the main process moves what the others may still read
        if not resumed:
            self.checkpointer.archive_previous_run()
            return
        self.start_iter = rest.get("iteration", self.iter) + 1
        if 0 < self.max_iter < self.start_iter:
            raise UserError(f"The run is at iteration {self.start_iter} already, past max_iter={self.max_iter}.")
        logger.info("Going on at iteration %d.", self.start_iter)

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """Run from ``start_iter`` up to, and without, ``max_iter``; None takes the trainer's own."""
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
                # So that after_train can tell a run that went through.
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
                self._after_train()

    def _after_train(self) -> None:
        """`after_train`, whose own error must not hide the one that ended the run."""
        ended_by = self.failure
        try:
            self.after_train()
        except Exception:
            if ended_by is None:
                raise
            logger.exception("A hook failed in after_train, after the error above")

    def before_train(self) -> None:
        """Call the hooks."""
        for hook in self.named_hooks.values():
            hook.before_train()

    def after_train(self) -> None:
        """Call the hooks, all of them: one that fails must not leave the others' files open. The first error is raised."""
        self.storage.iter = self.iter
        first: Exception | None = None
        for name, hook in self.named_hooks.items():
            start = time.perf_counter()
            try:
                hook.after_train()
            except Exception as error:
                if first is not None:
                    logger.exception("Hook %r failed in after_train, after the error above", name)
                first = first or error
                self.failure = self.failure or error
            self.seconds[f"hooks/{name}"] += time.perf_counter() - start
        if first is not None:
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
        start = time.perf_counter()
        for name, call in self._calls[phase]:
            call()
            end = time.perf_counter()
            self.seconds[name] += end - start
            start = end

    def _hook_methods(self, phase: str) -> list[tuple[str, Callable[[], None]]]:
        """The hooks' methods of one name; those that do nothing, which are most, are left out."""
        return [
            (f"hooks/{name}", getattr(hook, phase))
            for name, hook in self.named_hooks.items()
            if phase in vars(hook) or getattr(type(hook), phase) is not getattr(HookBase, phase)
        ]

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration and the state of each hook that has one, by the hook's name."""
        hooks = {name: hook.state_dict() for name, hook in self.named_hooks.items()}
        return {
            "iteration": self.iter,
            "hooks": {name: state for name, state in hooks.items() if state},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave; the state of a hook that is no longer there is left with a warning."""
        self.iter = state_dict["iteration"]
        hooks = self.named_hooks
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logger.warning(
                    "The checkpoint holds the state of a hook %r, which this run does not have.",
                    name,
                )


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one loader; a step is load, forward, backward, step.

    A gradient that is not finite never reaches the optimizer. The norm of the gradients is looked at before each step; under
    DDP it is the same on every rank, so all stop, or skip, together. It is the one read of the device that a step makes:
    losses stay there until a writer looks at them.

    Args:
        model: in training it takes what the loader gives and returns a loss, or a dict of losses that are summed.
        data_loader: batches; one that ends is begun again. With ``iterate_from(batch)`` it begins where the run begins.
        optimizer: made from the model's parameters.
        gather_metric_period: iterations between records of the losses.
        async_write_metrics: taken for the sake of detectron2's signature: no metric is ever waited for.
        zero_grad_before_forward: clear gradients before the forward pass instead of before the backward pass.
        hooks: by name or as a list.
        checkpointer: where `resume_or_load` looks; the trainer's own state is saved with it.
        init_checkpoint: weights to start from; "" starts from scratch.
        max_iter: number of iterations.
        seed: with it, what the model draws in a step is a function of (seed, iteration, rank).
        clip_grad: called with the parameters that have a gradient, before the optimizer's step, as
            `torch.nn.utils.clip_grad_norm_` with its limit bound.
        accumulate: batches whose mean gradient makes one step.
        skip_nonfinite: so many steps in a row may be left out because their gradient is not finite; one more ends the run. The
            model's buffers are then as before the step.
        dump_dir: a step that ends the run because a number is not finite is kept in its folder ``capsules``, for
            ``tools/replay.py``; None keeps nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
        *,
        hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None] = (),
        checkpointer: DetectionCheckpointer | None = None,
        init_checkpoint: str = "",
        max_iter: int = 0,
        seed: int | None = None,
        clip_grad: Callable[[list[Tensor]], Any] | None = None,
        accumulate: int = 1,
        skip_nonfinite: int = 0,
        dump_dir: str | Path | None = None,
    ) -> None:
        del async_write_metrics
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"accumulate={accumulate} must be at least 1.")
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.checkpointer, self.init_checkpoint = checkpointer, init_checkpoint
        self.max_iter = max_iter
        self.seed = seed
        self.clip_grad = clip_grad
        self.accumulate = accumulate
        self.skip_nonfinite = skip_nonfinite
        self.dump_dir = dump_dir
        self.num_samples = 0  # that this process has taken from the loader
        self._num_skipped = 0  # in a row
        self._buffers_before: list[Tensor] = []
        self._clipper_gives_norm = False
        self._data_loader_iter_obj: Iterator[Any] | None = None
        self._configured = self._hyperparameters()
        self.evaluation_weights = lambda: unsharded(model)
        if checkpointer is not None:
            checkpointer.add_checkpointable("trainer", self)
        self.register_hooks(hooks)

    @property
    def step_skipped(self) -> bool:
        """Whether the last step was not made, because a number was not finite."""
        return self._num_skipped > 0

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """As `TrainerBase`; the data begin where the run begins."""
        self._data_loader_iter_obj = None
        super().train(start_iter, max_iter)

    def after_train(self) -> None:
        """Call the hooks; what they saved stands when this returns."""
        try:
            super().after_train()
        finally:
            if self.checkpointer is not None:
                self.checkpointer.wait()

    def run_step(self) -> None:
        """One step; its losses and the time it waited for data go to the storage.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the message names the iteration and the samples.
        """
        assert self.model.training, "the model is in evaluation mode"
        data_before = self.seconds["data"]
        losses: dict[str, Tensor] = {}
        batches = []
        for part in range(self.accumulate):
            start = time.perf_counter()
            batches.append(self._next_batch())
            loaded = time.perf_counter()
            self.seconds["data"] += loaded - start
            if part == 0:
                self._begin_step()
            with self._synchronized(part == self.accumulate - 1):
                found = self._losses_of(batches)
                if found is None:
                    return
                # sum() would begin with 0 + loss: one more node of the graph.
                total = found["total_loss"] = reduce(operator.add, found.values())
                if part == 0 and not self.zero_grad_before_forward:
                    self.optimizer.zero_grad()
                computed = time.perf_counter()
                self.seconds["forward"] += computed - loaded
                self.backward(total / self.accumulate if self.accumulate > 1 else total)
                self.seconds["backward"] += time.perf_counter() - computed
            for name, value in found.items():
                losses[name] = losses[name] + value.detach() if name in losses else value.detach()
        if self.accumulate > 1:
            losses = {name: value / self.accumulate for name, value in losses.items()}
        start = time.perf_counter()
        norm = self.finish_gradients()
        if self._is_finite(norm, losses, batches):
            self.optimizer_step()
        self.seconds["optimizer"] += time.perf_counter() - start
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_metrics({**losses, "grad_norm": norm}, self.seconds["data"] - data_before)

    def _begin_step(self) -> None:
        if self.seed is not None:
            seed_step(self.seed, self.iter, comm.get_rank())
        if self.skip_nonfinite:
            self._buffers_before = [buffer.clone() for buffer in self.model.buffers()]
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        """DDP shares gradients in the last backward pass of a step alone."""
        no_sync = None if last else getattr(self.model, "no_sync", None)
        return nullcontext() if no_sync is None else no_sync()

    def _losses_of(self, batches: list[Any]) -> dict[str, Tensor] | None:
        """The losses of the last of a step's batches; None where the model's own check fails and the step may be left out."""
        try:
            losses = dict(self.compute_losses(batches[-1]))
            if not losses:
                raise ValueError("The model gave no loss.")
            return losses
        except FloatingPointError as error:
            # Of several processes this one alone knows: it ends, and with it the group.
            if comm.get_world_size() == 1 and self._num_skipped < self.skip_nonfinite:
                self._leave_out(f"iteration {self.iter}: {error}")
                return None
            kept = self._keep_capsule(batches, {})
            samples = describe_batch(batches[-1])
            raise FloatingPointError(f"Iteration {self.iter}: {error}; samples: {samples}{kept}") from error

    def compute_losses(self, data: Any) -> dict[str, Tensor]:
        """The model's losses by name."""
        losses = self.model(data)
        return {"loss": losses} if isinstance(losses, Tensor) else losses

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients; one that is not finite makes all of them so, for it is the gradients that are looked at."""
        loss.backward(_one_if_finite(loss))

    def finish_gradients(self) -> Tensor:
        """Let the hooks see the gradients, clip them, and give their norm (before clipping, where the clipper tells it)."""
        self.after_backward()
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        # After clipping by value an infinite gradient would look finite.
        norm = None if self._clipper_gives_norm else _total_norm([cast(Tensor, p.grad) for p in parameters])
        clipped = self.clip_grad(parameters) if self.clip_grad is not None else None
        if isinstance(clipped, Tensor) and clipped.dim() == 0:
            self._clipper_gives_norm, norm = True, clipped
        assert norm is not None
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of shards (FSDP2)

    def optimizer_step(self) -> None:
        """Move the weights."""
        self.optimizer.step()

    def _is_finite(self, norm: Tensor, losses: dict[str, Tensor], batches: list[Any]) -> bool:
        """Whether the step may be made; see ``skip_nonfinite``."""
        if math.isfinite(norm.item()):
            self._num_skipped = 0
            return True
        shown = ", ".join(f"{name}={value.item():.4g}" for name, value in losses.items())
        message = f"iteration {self.iter}: {shown}, norm of the gradients {norm.item():.4g}"
        if self._num_skipped < self._may_skip(losses):
            self._leave_out(message)
            return False
        what = "Gradient" if _all_finite(losses) else "Loss"
        kept = self._keep_capsule(batches, losses)
        samples = "; ".join(map(describe_batch, batches))
        raise FloatingPointError(f"{what} is not finite in {message}; samples: {samples}{kept}")

    def _leave_out(self, message: str) -> None:
        self._num_skipped += 1
        logger.warning("Left out the step of %s", message)
        for buffer, before in zip(self.model.buffers(), self._buffers_before, strict=False):
            buffer.copy_(before)

    def _may_skip(self, losses: dict[str, Tensor]) -> int:
        """How many steps in a row may be left out, where this one's losses are these."""
        del losses
        return self.skip_nonfinite

    def _keep_capsule(self, batches: list[Any], losses: dict[str, Tensor]) -> str:
        """Write what `tools/replay.py` needs, and say where."""
        if self.dump_dir is None:
            return ""
        step = StepDump(
            iteration=self.iter,
            seed=self.seed,
            rank=comm.get_rank(),
            batches=batches,
            samples=[describe_batch(batch) for batch in batches],
            losses={name: value.item() for name, value in losses.items()},
            model=comm.unwrapped(self.model).state_dict(),
            autocast=self._autocast_dtype(),
        )
        return step.write(self.dump_dir)

    def _autocast_dtype(self) -> str | None:
        """What the forward pass runs in, None: the weights' own type."""
        return None

    def write_metrics(self, losses: dict[str, Tensor], data_time: float) -> None:
        """Put the losses (means over processes) and this process's wait for data into the storage."""
        if comm.get_world_size() > 1:
            losses = dict(sorted(losses.items()))  # each process may have met them in an order of its own
        stacked = torch.stack([value.float() for value in losses.values()])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(stacked)
            stacked /= comm.get_world_size()
        storage = get_event_storage()
        storage.put_scalars_later(tuple(losses), stacked)
        storage.put_scalar("data_time", data_time)

    def _next_batch(self) -> Any:
        """The loader's next batch; a loader that ends is begun again."""
        try:
            batch = next(self._data_loader_iter)
        except StopIteration:
            self._data_loader_iter_obj = iter(self.data_loader)
            try:
                batch = next(self._data_loader_iter_obj)
            except StopIteration:
                raise UserError("The training loader gives no batch.") from None
        self.num_samples += len(batch) if isinstance(batch, Sized) else 1
        return batch

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        if self._data_loader_iter_obj is None:
            iterate_from = getattr(self.data_loader, "iterate_from", None)
            first = self.iter * self.accumulate
            if first > 0 and iterate_from is None:
                logger.warning(
                    "The loader has no iterate_from(batch), so the run that is taken up sees its data from the beginning again."
                )
            self._data_loader_iter_obj = iterate_from(first) if iterate_from is not None else iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable[Any]]) -> None:
        """Let go of the loader, and take the one that a function makes."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def state_dict(self) -> dict[str, Any]:
        """As `TrainerBase`, with the optimizer and the hyperparameters that its config gave it."""
        own = {"optimizer": self.optimizer.state_dict(), "configured": self._configured}
        if comm.get_world_size() == 1:
            own["generators"] = generator_states(torch_too=self.seed is None)
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave; a hyperparameter that the config gives another value now has the new one."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if comm.get_world_size() == 1:
            restore_generators(state_dict.get("generators", {}))
        configured = state_dict.get("configured", self._configured)
        for group, now, before in zip(self.optimizer.param_groups, self._configured, configured, strict=True):
            group.update({name: value for name, value in now.items() if before.get(name) != value})

    def _hyperparameters(self) -> list[dict[str, Any]]:
        """Of each group of the optimizer."""
        return [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` with automatic mixed precision.

    Args:
        model: see `SimpleTrainer`.
        data_loader: see `SimpleTrainer`.
        optimizer: see `SimpleTrainer`.
        gather_metric_period: see `SimpleTrainer`.
        zero_grad_before_forward: see `SimpleTrainer`.
        grad_scaler: scales the loss; None makes one, which acts with float16 alone.
        precision: dtype of autocast; with float16 the loss is scaled (Micikevicius et al., ICLR 2018). None takes float16 on
            CUDA or where a scaler is given, as detectron2, and bfloat16 on the CPU.
        log_grad_scaler: record the scale as ``grad_scaler``.
        async_write_metrics: see `SimpleTrainer`.
        enabled: off, it is a `SimpleTrainer`: the config's ``train.amp.enabled``.
        hooks: see `SimpleTrainer`, as all that follow.
        checkpointer: see `SimpleTrainer`.
        init_checkpoint: see `SimpleTrainer`.
        max_iter: see `SimpleTrainer`.
        seed: see `SimpleTrainer`.
        clip_grad: see `SimpleTrainer`.
        accumulate: see `SimpleTrainer`.
        skip_nonfinite: see `SimpleTrainer`. With float16, a gradient that overflows at finite losses is no fault: the step is
            left out and the scale halved, up to 40 times in a row.
        dump_dir: see `SimpleTrainer`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype | str | None = None,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
        *,
        enabled: bool = True,
        hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None] = (),
        checkpointer: DetectionCheckpointer | None = None,
        init_checkpoint: str = "",
        max_iter: int = 0,
        seed: int | None = None,
        clip_grad: Callable[[list[Tensor]], Any] | None = None,
        accumulate: int = 1,
        skip_nonfinite: int = 0,
        dump_dir: str | Path | None = None,
    ) -> None:
        device = next(model.parameters()).device
        if precision is None:
            precision = torch.float16 if device.type == "cuda" or grad_scaler is not None else torch.bfloat16
        dtype = getattr(torch, precision, None) if isinstance(precision, str) else precision
        if dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"precision={precision!r} is neither float16 nor bfloat16.")
        if dtype == torch.float16 and any(hasattr(p, "full_tensor") for p in model.parameters()):
            raise ValueError("precision='float16' can't be used on shards (FSDP2), take 'bfloat16'.")
        self.autocast = torch.autocast(device.type, dtype=dtype, enabled=enabled)
        self.log_grad_scaler = log_grad_scaler
        self.grad_scaler = grad_scaler or torch.amp.GradScaler(device.type, enabled=enabled and dtype == torch.float16)
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
            hooks=hooks,
            checkpointer=checkpointer,
            init_checkpoint=init_checkpoint,
            max_iter=max_iter,
            seed=seed,
            clip_grad=clip_grad,
            accumulate=accumulate,
            skip_nonfinite=skip_nonfinite,
            dump_dir=dump_dir,
        )

    def compute_losses(self, data: Any) -> dict[str, Tensor]:
        """The model's losses by name, under autocast."""
        with self.autocast:
            return super().compute_losses(data)

    def backward(self, loss: Tensor) -> None:
        """As `SimpleTrainer`, of the scaled loss."""
        self.grad_scaler.scale(loss).backward(_one_if_finite(loss))

    def finish_gradients(self) -> Tensor:
        """As `SimpleTrainer`; gradients are unscaled before anyone looks at them."""
        self.grad_scaler.unscale_(self.optimizer)
        return super().finish_gradients()

    def _is_finite(self, norm: Tensor, losses: dict[str, Tensor], batches: list[Any]) -> bool:
        # Halves or raises the scale by what `unscale_` found, without a read. Not `scaler.step`: it would read the device a
        # second time to learn what the norm says.
        if any(p.grad is not None for group in self.optimizer.param_groups for p in group["params"]):
            self.grad_scaler.update()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("grad_scaler", self.grad_scaler.get_scale(), smoothing_hint=False)
        return super()._is_finite(norm, losses, batches)

    def _may_skip(self, losses: dict[str, Tensor]) -> int:
        overflow = self.grad_scaler.is_enabled() and comm.all_agree(_all_finite(losses))
        return max(super()._may_skip(losses), _MOST_OVERFLOWS if overflow else 0)

    def _autocast_dtype(self) -> str | None:
        return str(self.autocast.fast_dtype).removeprefix("torch.") if self.autocast._enabled else None

    def state_dict(self) -> dict[str, Any]:
        """As `SimpleTrainer`, with the scaler."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        super().load_state_dict(state_dict)
        if state := state_dict.get("grad_scaler"):  # empty where the run had none before
            self.grad_scaler.load_state_dict(state)


def _one_if_finite(loss: Tensor) -> Tensor:
    """1, or nan where the loss is not finite: what a backward pass begins with."""
    return loss.detach() * 0 + 1


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """`torch.nn.utils.get_total_norm` of dense gradients on one device, at half its cost."""
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def _all_finite(losses: dict[str, Tensor]) -> bool:
    return all(math.isfinite(value.item()) for value in losses.values())
