"""The parts of a trainer's step: its precision, the accumulated batches, and the policy for non-finite numbers.

`SimpleTrainer` calls these objects in a fixed order. To change one thing about a step, write a subclass that overrides one
method, and hand it to the trainer: ``SimpleTrainer(..., precision=MyPrecision())``.

Legend: ``P`` batches that one step accumulates.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ultravid.engine.step_dump import StepDump, describe_batch
from ultravid.utils import comm
from ultravid.utils.events import get_event_storage
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["Accumulation", "FullPrecision", "MixedPrecision", "NonfinitePolicy", "Precision", "Step"]

logger = logging.getLogger(__name__)

_NO_CONTEXT = nullcontext()
_MAX_OVERFLOWS = 40  # from the largest scale that a float32 holds to one at which a finite loss no longer overflows


class Precision:
    """The number format of the forward pass, and what it asks of the backward pass. This base class is full precision.

    A trainer calls the methods in this order::

        precision.prepare(model)                    # once
        with precision.autocast():                  # for each batch of a step
            losses = model(batch)
        precision.backward(loss)
        precision.unscale(optimizer)                # once a step, before anything reads the gradients
        precision.after_norm(optimizer)             # once their norm is computed, before the optimizer's step

    Attributes:
        autocast_dtype: name of the dtype that autocast uses, as "bfloat16"; None without autocast.
        max_overflows: number of steps in a row that may be skipped because a gradient overflows although the losses are
            finite.
    """

    autocast_dtype: str | None = None
    max_overflows: int = 0

    def prepare(self, model: nn.Module) -> None:
        """See the model that is trained, on its device, before the first step.

        Raises:
            ValueError: the model can't be trained in this precision.
        """

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the model computes its losses."""
        return _NO_CONTEXT

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` (a scalar). If it is not finite, all of them become nan, so that their norm shows it."""
        loss.backward(_one_if_finite(loss))

    def unscale(self, optimizer: Optimizer) -> None:
        """Give the gradients their true scale."""

    def after_norm(self, optimizer: Optimizer) -> None:
        """Adapt to what `unscale` found in the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Entries of the trainer's state in a checkpoint, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore this object from the trainer's state, which may come from a run in another precision."""


class FullPrecision(Precision):
    """The model computes in the dtype of its weights."""


class MixedPrecision(Precision):
    """Automatic mixed precision; with float16 the loss is scaled (Micikevicius et al., ICLR 2018).

    A float16 gradient that overflows at finite losses is no fault: the step is skipped and the scale halved, up to 40 times in
    a row.

    Args:
        dtype: "float16" or "bfloat16". None takes float16 on CUDA or if a scaler is given, as detectron2 does, and bfloat16 on
            the CPU.
        enabled: False is full precision.
        grad_scaler: scales the loss; None makes one that is active with float16 alone.
        log_grad_scaler: record the scale as ``grad_scaler``.
    """

    def __init__(
        self,
        dtype: torch.dtype | Literal["float16", "bfloat16"] | None = None,
        enabled: bool = True,
        grad_scaler: torch.amp.GradScaler | None = None,
        log_grad_scaler: bool = False,
    ) -> None:
        if dtype is None and grad_scaler is not None:
            dtype = torch.float16
        self.dtype: torch.dtype | None = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and self.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"precision={dtype!r} is neither float16 nor bfloat16.")
        self.enabled = enabled
        self.log_grad_scaler = log_grad_scaler
        self.grad_scaler = grad_scaler or torch.amp.GradScaler("cpu", enabled=False)
        self._needs_scaler = grad_scaler is None
        self._autocast: AbstractContextManager[Any] = _NO_CONTEXT

    def prepare(self, model: nn.Module) -> None:
        """Choose the dtype for the model's device, and create the scaler and the autocast context.

        Raises:
            ValueError: float16 is requested for a sharded model (FSDP2).
        """
        device = next(model.parameters()).device.type
        if self.dtype is None:
            self.dtype = torch.float16 if device == "cuda" else torch.bfloat16
        half = self.dtype == torch.float16
        if half and any(hasattr(p, "full_tensor") for p in model.parameters()):
            raise ValueError("precision='float16' can't be used on shards (FSDP2), take 'bfloat16'.")
        if self._needs_scaler:
            self.grad_scaler = torch.amp.GradScaler(device, enabled=self.enabled and half)
        self.max_overflows = _MAX_OVERFLOWS if self.grad_scaler.is_enabled() else 0
        if self.enabled:
            self._autocast = torch.autocast(device, dtype=self.dtype)
            self.autocast_dtype = str(self.dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast context; without effect if ``enabled`` is False."""
        return self._autocast

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the scaled loss."""
        self.grad_scaler.scale(loss).backward(_one_if_finite(loss))

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale of the loss."""
        self.grad_scaler.unscale_(optimizer)

    def after_norm(self, optimizer: Optimizer) -> None:
        """Halve or raise the scale by what `unscale` found, and record it if asked to.

        Instead of ``grad_scaler.step``, which would read the device a second time to learn what the norm says.
        """
        if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            self.grad_scaler.update()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("grad_scaler", self.grad_scaler.get_scale(), smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state."""
        return {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scale, unless the saved run had none; how it grows and shrinks is what the config says now."""
        if found := state.get("grad_scaler"):
            settings = ("growth_factor", "backoff_factor", "growth_interval")
            own = {name: value for name, value in self.grad_scaler.state_dict().items() if name in settings}
            self.grad_scaler.load_state_dict({**found, **own})


class Accumulation:
    """Several batches, whose mean gradient makes one step.

    Args:
        num_batches: number of batches, ``P``.
    """

    def __init__(self, num_batches: Positive = 1) -> None:
        if num_batches < 1:
            raise ValueError(f"num_batches={num_batches} must be at least 1.")
        self.num_batches = num_batches

    def synchronized(self, model: nn.Module, index: int) -> AbstractContextManager[Any]:
        """The context of the forward and backward pass of batch ``index`` of ``P``: DDP reduces gradients in the last alone."""
        no_sync = getattr(model, "no_sync", None) if index + 1 < self.num_batches else None
        return _NO_CONTEXT if no_sync is None else no_sync()

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss of one batch, scaled so that the gradients of all batches add up to their mean."""
        return loss / self.num_batches if self.num_batches > 1 else loss

    def mean(self, losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The mean of the batches' losses, ``P`` dicts; one that a batch lacks counts as 0 there."""
        total, *others = losses
        if self.num_batches == 1:
            return total
        for part in others:
            total = {**total, **{name: total[name] + value if name in total else value for name, value in part.items()}}
        return {name: value / self.num_batches for name, value in total.items()}


@dataclass(slots=True)
class Step:
    """The step that a trainer is making.

    Attributes:
        iteration: the iteration of the step.
        seed: the seed of the run; None if its steps are not seeded.
        model: the model, wrapped or not.
        precision: the trainer's.
        batches: those that were loaded so far, up to ``P``.
    """

    iteration: int
    seed: int | None
    model: nn.Module
    precision: Precision
    batches: list[Any] = field(default_factory=list)


class NonfinitePolicy:
    """The reaction to a gradient or a loss that is nan or infinite: the optimizer never gets it.

    The step is skipped, and the model's buffers (the statistics of batch norm) are restored; or the run ends with a
    `FloatingPointError`. Under DDP the norm of the gradients is the same on every rank, so that all skip, or end, together.

    Args:
        max_skipped: number of steps in a row that may be skipped; one more ends the run.
        dump_dir: a step that ends the run is written to its folder ``step_dumps``, for ``tools/replay.py``; None writes
            nothing.

    Attributes:
        num_skipped: number of steps in a row that were skipped, up to the last step.
    """

    def __init__(self, max_skipped: NotNegative = 0, dump_dir: str | Path | None = None) -> None:
        if max_skipped < 0:
            raise ValueError(f"max_skipped={max_skipped} must be at least 0.")
        self.max_skipped = max_skipped
        self.dump_dir = dump_dir
        self.num_skipped = 0
        self._buffers: list[Tensor] = []

    def before_forward(self, model: nn.Module) -> None:
        """Remember what a skipped step must not change; once a step."""
        if self.max_skipped:
            self._buffers = [buffer.clone() for buffer in model.buffers()]

    def on_model_error(self, step: Step, error: FloatingPointError) -> None:
        """Skip the step whose forward pass raised ``error``, or end the run.

        Of several processes this one alone knows of the error: it ends, and with it the group.

        Raises:
            FloatingPointError: the run ends; the message names the iteration and the samples.
        """
        if comm.get_world_size() == 1 and self.num_skipped < self.max_skipped:
            self.skip(step, f"iteration {step.iteration}: {error}")
            return
        kept = self.dump(step, {})
        samples = describe_batch(step.batches[-1])
        raise FloatingPointError(
            f"Iteration {step.iteration}: {str(error).rstrip('.')}; samples: {samples}{kept}"
        ) from error

    def allows_step(self, step: Step, norm: Tensor, losses: dict[str, Tensor]) -> bool:
        """Whether the optimizer may make the step; this reads ``norm`` from the device.

        Args:
            step: the step.
            norm: the norm of all gradients, a scalar; it is nan or infinite if any of them is, or a loss.
            losses: scalars by name.

        Raises:
            FloatingPointError: the run ends; the message names the iteration, the losses and the samples.
        """
        value = norm.item()
        if math.isfinite(value):
            self.num_skipped = 0
            return True
        shown = ", ".join(f"{name}={loss.item():.4g}" for name, loss in losses.items())
        message = f"iteration {step.iteration}: {shown}, norm of the gradients {value:.4g}"
        if self.num_skipped < self._limit(step, losses):
            self.skip(step, message)
            return False
        what = "Gradient" if _all_finite(losses) else "Loss"
        kept = self.dump(step, losses)
        samples = "; ".join(map(describe_batch, step.batches))
        raise FloatingPointError(f"{what} is not finite in {message}; samples: {samples}{kept}")

    def _limit(self, step: Step, losses: dict[str, Tensor]) -> int:
        """How many steps in a row may be skipped, given the losses of this one."""
        overflows = step.precision.max_overflows
        if overflows and comm.all_agree(_all_finite(losses)):
            return max(self.max_skipped, overflows)
        return self.max_skipped

    def skip(self, step: Step, message: str) -> None:
        """Count the step as skipped, and restore the model's buffers."""
        self.num_skipped += 1
        logger.warning("Skipped the step of %s", message)
        for buffer, before in zip(step.model.buffers(), self._buffers, strict=False):
            buffer.copy_(before)

    def dump(self, step: Step, losses: dict[str, Tensor]) -> str:
        """Write what ``tools/replay.py`` needs; the end of a message that says where, "" if nothing was written."""
        if self.dump_dir is None:
            return ""
        content = StepDump(
            iteration=step.iteration,
            seed=step.seed,
            rank=comm.get_rank(),
            batches=step.batches,
            samples=[describe_batch(batch) for batch in step.batches],
            losses={name: value.item() for name, value in losses.items()},
            model=comm.unwrapped(step.model).state_dict(),
            autocast=step.precision.autocast_dtype,
        )
        return content.write(self.dump_dir)


def _one_if_finite(loss: Tensor) -> Tensor:
    """1, or nan if the loss is not finite: what a backward pass starts with."""
    # 1 + 0 * loss in one operation
    return torch.add(_one(loss.dtype, loss.device), loss.detach(), alpha=0)


@functools.lru_cache(maxsize=16)
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones((), dtype=dtype, device=device)


def _all_finite(losses: dict[str, Tensor]) -> bool:
    return all(math.isfinite(value.item()) for value in losses.values())
