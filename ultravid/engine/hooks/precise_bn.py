"""Statistics of batch norm from many batches."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder
from ultravid.utils.events import EventStorage
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["PreciseBN"]

logger = logging.getLogger(__name__)


class PreciseBN(HookBase):
    """Replaces the running statistics of batch norm by those of many batches at fixed weights (Wu and Johnson, 2021, sec. 3).

    Args:
        period: iterations from one time to the next, and it acts after the last iteration too; 0 acts only at the end. Give it
            the period of `EvalHook`, so that evaluations use these statistics.
        model: its batch norm layers are updated; those in evaluation mode are left alone.
        data_loader: its batches are what the model takes in training.
        num_iter: number of batches.
    """

    order: ClassVar[int] = HookOrder.PRECISE_BN

    def __init__(
        self, period: NotNegative, model: nn.Module, data_loader: Iterable[Any], num_iter: Positive = 200
    ) -> None:
        self._every = Every(period, last=True)
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter

    def after_step(self) -> None:
        """Compute the statistics if they are due, for averaged weights if there are any."""
        if self._every.is_due(self.trainer):
            with self.trainer.evaluation_weights():  # averaged weights have statistics of their own
                self.update_stats()

    def update_stats(self) -> None:
        """Compute the statistics; nothing else of the run changes, and nothing is recorded."""
        with warnings.catch_warnings():  # fvcore.nn compiles a loss by torch.jit.script, which is deprecated
            warnings.simplefilter("ignore", FutureWarning)
            from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
        was_training = self._model.training
        if not was_training:  # as a hook may leave it after the last iteration
            self._model.train()
        try:
            if not get_bn_modules(self._model):
                logger.warning("PreciseBN: the model has no batch norm in training mode.")
                return
            generator = torch.get_rng_state()
            with EventStorage(self.trainer.iter):  # what the model records here is not recorded for the run
                update_bn_stats(self._model, _endless(self._data_loader), self._num_iter)
            torch.set_rng_state(generator)
        finally:
            if not was_training:
                self._model.eval()


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches without end, the same ones each time; a loader that ends is iterated again."""
    if hasattr(loader, "iterate_from"):
        yield from loader.iterate_from(0)
    while True:
        yield from loader
