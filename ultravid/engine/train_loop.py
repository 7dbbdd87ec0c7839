"""The training loop: a trainer, its hooks, and the order in which they are called."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.events import EventStorage, get_event_storage
from ultravid.utils.seed import seed_step

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)


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
    """

    def __init__(self) -> None:
        self._hooks: dict[str, HookBase] = {}
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.stopped = False
        self.storage = EventStorage(0)

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
            unique = name
            number = 2
            while unique in self._hooks:
                unique, number = f"{name}_{number}", number + 1
            self._hooks[unique] = hook

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """Run from ``start_iter`` up to, and without, ``max_iter``; None takes the trainer's own."""
        self.start_iter = self.iter = self.start_iter if start_iter is None else start_iter
        self.max_iter = self.max_iter if max_iter is None else max_iter
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        failure: BaseException | None = None
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
                self.stopped = True
                failure = stop
                raise
            except BaseException as error:
                logger.exception("Training failed in iteration %d", self.iter)
                failure = error
                raise
            finally:
                self._after_train(failure)

    def _after_train(self, failure: BaseException | None) -> None:
        """`after_train`, whose own error must not hide the one that ended the run."""
        try:
            self.after_train()
        except Exception:
            if failure is None:
                raise
            logger.exception("A hook failed in after_train, after the error above")

    def before_train(self) -> None:
        """Call the hooks."""
        for hook in self._hooks.values():
            hook.before_train()

    def after_train(self) -> None:
        """Call the hooks."""
        self.storage.iter = self.iter
        for hook in self._hooks.values():
            hook.after_train()

    def before_step(self) -> None:
        """Call the hooks."""
        self.storage.iter = self.iter
        for hook in self._hooks.values():
            hook.before_step()

    def after_backward(self) -> None:
        """Call the hooks."""
        for hook in self._hooks.values():
            hook.after_backward()

    def after_step(self) -> None:
        """Call the hooks."""
        for hook in self._hooks.values():
            hook.after_step()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration and the state of each hook that has one, by the hook's name."""
        hooks = {name: hook.state_dict() for name, hook in self._hooks.items()}
        return {
            "iteration": self.iter,
            "hooks": {name: state for name, state in hooks.items() if state},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave; the state of a hook that is no longer there is left with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            if name in self._hooks:
                self._hooks[name].load_state_dict(state)
            else:
                logger.warning(
                    "The checkpoint holds the state of a hook %r, which this run does not have.",
                    name,
                )


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one loader; a step is load, forward, backward, step.

    Args:
        model: in training it takes what the loader gives and returns a loss, or a dict of losses that are summed.
        data_loader: batches; one that ends is begun again. With ``iterate_from(iteration)`` it begins where the run begins.
        optimizer: made from the model's parameters.
        gather_metric_period: iterations between looks at the losses, each of which waits for the device.
        zero_grad_before_forward: clear gradients before the forward pass instead of before the backward pass.
        hooks: by name or as a list.
        checkpointer: where `resume_or_load` looks; the trainer's own state is saved with it.
        init_checkpoint: weights to start from; "" starts from scratch.
        max_iter: number of iterations.
        seed: with it, what the model draws in a step is a function of (seed, iteration, rank).
        clip_grad: called with the parameters that have a gradient, before the optimizer's step, as
            `torch.nn.utils.clip_grad_norm_` with its limit bound.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        *,
        hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None] = (),
        checkpointer: DetectionCheckpointer | None = None,
        init_checkpoint: str = "",
        max_iter: int = 0,
        seed: int | None = None,
        clip_grad: Callable[[list[Tensor]], Any] | None = None,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.checkpointer = checkpointer
        self.init_checkpoint = init_checkpoint
        self.max_iter = max_iter
        self.seed = seed
        self.clip_grad = clip_grad
        self._data_loader_iter: Iterator[Any] | None = None
        if checkpointer is not None:
            checkpointer.add_checkpointable("trainer", self)
        self.register_hooks(hooks)

    def resume_or_load(self, resume: bool = False) -> None:
        """Go on from the newest checkpoint if asked to and there is one, else load the initial weights.

        Raises:
            CheckpointError: a checkpoint can't be read or doesn't fit.
        """
        if self.checkpointer is None:
            raise ValueError("This trainer has no checkpointer to resume or load from.")
        resumed = resume and self.checkpointer.has_checkpoint()
        rest = self.checkpointer.resume_or_load(self.init_checkpoint, resume=resume)
        if resumed:
            self.start_iter = rest["iteration"] + 1
            if self.start_iter > self.max_iter:
                raise UserError(f"The run is at iteration {self.start_iter} already, past max_iter={self.max_iter}.")
            logger.info("Going on at iteration %d.", self.start_iter)
        else:
            self.checkpointer.set_earlier_run_aside()

    def run_step(self) -> None:
        """One step; its losses and the time it waited for data go to the storage.

        Raises:
            FloatingPointError: a loss is not finite; the message names the iteration and the samples.
        """
        assert self.model.training, "the model is in evaluation mode"
        start = time.perf_counter()
        data = self._next_batch()
        data_time = time.perf_counter() - start
        if self.seed is not None:
            seed_step(self.seed, self.iter, comm.get_rank())
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        try:
            losses = self.compute_losses(data)
        except FloatingPointError as error:
            raise FloatingPointError(f"Iteration {self.iter}: {error}; samples: {_describe(data)}") from error
        total = cast(Tensor, sum(losses.values()))
        if self.iter % self.gather_metric_period == 0:
            self.write_metrics(losses, total, data, data_time)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.backward_and_step(total)

    def compute_losses(self, data: Any) -> dict[str, Tensor]:
        """The model's losses by name."""
        losses = self.model(data)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def backward_and_step(self, total: Tensor) -> None:
        """Gradients, clipping, the optimizer's step."""
        total.backward()
        self.after_backward()
        self.clip_gradients()
        self.optimizer.step()

    def clip_gradients(self) -> None:
        """Apply ``clip_grad``."""
        if self.clip_grad is not None:
            groups = self.optimizer.param_groups
            self.clip_grad([p for group in groups for p in group["params"] if p.grad is not None])

    def write_metrics(self, losses: dict[str, Tensor], total: Tensor, data: Any, data_time: float) -> None:
        """Put the losses (means over processes) and this process's wait for data into the storage."""
        metrics = {name: value.detach().float() for name, value in losses.items()}
        metrics["total_loss"] = total.detach().float()
        names = list(metrics)
        stacked = torch.stack([metrics[n] for n in names])
        if comm.get_world_size() > 1:  # every process sees the same numbers, and stops at the same nan
            torch.distributed.all_reduce(stacked)
            stacked /= comm.get_world_size()
        values = stacked.tolist()  # the one read of the device
        storage = get_event_storage()
        for name, value in zip(names, values, strict=True):
            storage.put_scalar(name, value)
        storage.put_scalar("data_time", data_time)
        if not all(map(_is_finite, values)):
            shown = ", ".join(f"{n}={v:.4g}" for n, v in zip(names, values, strict=True))
            raise FloatingPointError(
                f"Loss is not finite in iteration {self.iter}: {shown}; samples: {_describe(data)}"
            )

    def _next_batch(self) -> Any:
        """The loader's next batch; a loader that ends is begun again."""
        try:
            return next(self._iterator())
        except StopIteration:
            self._data_loader_iter = iter(self.data_loader)
        try:
            return next(self._data_loader_iter)
        except StopIteration:
            raise UserError("The training loader gives no batch.") from None

    def _iterator(self) -> Iterator[Any]:
        if self._data_loader_iter is None:
            iterate_from = getattr(self.data_loader, "iterate_from", None)
            self._data_loader_iter = iterate_from(self.iter) if iterate_from is not None else iter(self.data_loader)
        return self._data_loader_iter

    def state_dict(self) -> dict[str, Any]:
        """As `TrainerBase`, with the optimizer."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` with automatic mixed precision.

    Args:
        model: see `SimpleTrainer`.
        data_loader: see `SimpleTrainer`.
        optimizer: see `SimpleTrainer`.
        gather_metric_period: see `SimpleTrainer`.
        zero_grad_before_forward: see `SimpleTrainer`.
        grad_scaler: scales the loss; None makes one, which acts with float16 alone.
        enabled: off, it is a `SimpleTrainer`: the config's ``train.amp.enabled``.
        precision: dtype of autocast; with float16 the loss is scaled (Micikevicius et al., ICLR 2018).
        hooks: see `SimpleTrainer`, as all that follow.
        checkpointer: see `SimpleTrainer`.
        init_checkpoint: see `SimpleTrainer`.
        max_iter: see `SimpleTrainer`.
        seed: see `SimpleTrainer`.
        clip_grad: see `SimpleTrainer`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        *,
        enabled: bool = True,
        precision: torch.dtype | str = "bfloat16",
        hooks: Mapping[str, HookBase | None] | Sequence[HookBase | None] = (),
        checkpointer: DetectionCheckpointer | None = None,
        init_checkpoint: str = "",
        max_iter: int = 0,
        seed: int | None = None,
        clip_grad: Callable[[list[Tensor]], Any] | None = None,
    ) -> None:
        dtype = getattr(torch, precision, None) if isinstance(precision, str) else precision
        if dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"precision={precision!r} is neither float16 nor bfloat16.")
        device = next(model.parameters()).device
        self.autocast = torch.autocast(device.type, dtype=dtype, enabled=enabled)
        self.grad_scaler = grad_scaler or torch.amp.GradScaler(device.type, enabled=enabled and dtype == torch.float16)
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            hooks=hooks,
            checkpointer=checkpointer,
            init_checkpoint=init_checkpoint,
            max_iter=max_iter,
            seed=seed,
            clip_grad=clip_grad,
        )

    def compute_losses(self, data: Any) -> dict[str, Tensor]:
        """The model's losses by name, under autocast."""
        with self.autocast:
            return super().compute_losses(data)

    def backward_and_step(self, total: Tensor) -> None:
        """As `SimpleTrainer`, on the scaled loss; gradients are unscaled before anyone looks at them."""
        self.grad_scaler.scale(total).backward()
        self.grad_scaler.unscale_(self.optimizer)
        self.after_backward()
        self.clip_gradients()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """As `SimpleTrainer`, with the scaler."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict.get("grad_scaler", {}))


def _is_finite(value: float) -> bool:
    return value - value == 0


def _describe(data: Any) -> str:
    """The samples of a batch, as far as they say who they are."""
    rows = data if isinstance(data, list | tuple) else [data]
    named = [f"{r.video_ids[0]} frames {r.frame_indices}" for r in rows if hasattr(r, "video_ids")]
    return "; ".join(named) or type(data).__name__
