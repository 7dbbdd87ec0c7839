"""Averaged weights, which are often better than the last weights, and steadier from one evaluation to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.checkpoint.checkpointer import AVERAGED
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.utils.limits import Limits

__all__ = ["EMA"]


class EMA(HookBase):
    """Exponential moving average of the parameters (Polyak and Juditsky, SIAM J. Control Optim. 1992; the decay as in Adam).

    After step n, counted from 1, ``average = d * average + (1 - d) * parameter`` with ``d = decay``, or with ``warmup`` the
    smaller of ``decay`` and ``(1 + n) / (10 + n)``, so that the random weights of the start are soon forgotten. A step that the
    trainer skipped does not count. Buffers (the statistics of batch norm) are averages already and are taken as they are.

    Evaluations use the averaged weights. Each checkpoint holds them as ``averaged_model`` beside ``model``, from which training
    continues; what loads a checkpoint to evaluate it, or to start from it, takes the averaged weights.

    Args:
        model: the plain module.
        checkpointer: saves the averaged weights too.
        decay: share of the old average that is kept in each step.
        warmup: see above.
    """

    order: ClassVar[int] = HookOrder.AVERAGING

    def __init__(
        self,
        model: nn.Module,
        checkpointer: DetectionCheckpointer,
        decay: Annotated[float, Limits(ge=0, lt=1)] = 0.999,
        warmup: bool = True,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be at least 0 and below 1.")
        self._model = model
        self._decay = decay
        self._warmup = warmup
        self._num_updates = 0
        self._average: dict[str, Tensor] = {}
        checkpointer.add_checkpointable(AVERAGED, _AveragedModel(self))

    def before_train(self) -> None:
        """Start from the model's weights, unless the run was resumed with an average."""
        self._begin()
        gathered = self.trainer.evaluation_weights

        @contextmanager
        def averaged_and_gathered() -> Iterator[None]:
            with self.applied(), gathered():
                yield

        self.trainer.evaluation_weights = averaged_and_gathered
        self.trainer.evaluates_average = True

    def _begin(self) -> None:
        for name, value in self._parameters():
            self._average.setdefault(name, value.detach().clone())

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the average, unless the step was skipped."""
        if self.trainer.step_skipped:
            return
        self._num_updates += 1
        n = self._num_updates
        decay = min(self._decay, (1 + n) / (10 + n)) if self._warmup else self._decay
        names, values = zip(*self._parameters(), strict=True)
        torch._foreach_lerp_([self._average[name] for name in names], list(values), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averaged weights."""
        own = {name: value.detach().clone() for name, value in self._parameters()}
        self._put_in(self._average)
        try:
            yield
        finally:
            self._put_in(own)

    @torch.no_grad()
    def _put_in(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The number of updates; the averaged weights have their own entry in the checkpoint."""
        return {"num_updates": self._num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of updates from ``state``, what `state_dict` returned."""
        self._num_updates = state["num_updates"]

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All parameters that can be averaged; a frozen one is its own average, and a hook may unfreeze it."""
        return [(name, value) for name, value in self._model.named_parameters() if value.is_floating_point()]


class _AveragedModel:
    """The model's state dict with averaged parameters, as a checkpoint holds it."""

    def __init__(self, hook: EMA) -> None:
        self._hook = hook

    def state_dict(self) -> dict[str, Any]:
        self._hook._begin()
        named = {id(value): name for name, value in self._hook._parameters()}
        model = self._hook._model
        every_name = model.named_parameters(remove_duplicate=False)  # of tied weights too
        averaged = {n: self._hook._average[named[id(v)]] for n, v in every_name if id(v) in named}
        return {**model.state_dict(), **averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parameters = dict(self._hook._parameters())
        lacking = sorted(parameters.keys() - state.keys())
        if lacking:
            raise KeyError(f"there is no average of {lacking[0]!r}")
        self._hook._average = {name: state[name].to(value.device).clone() for name, value in parameters.items()}
