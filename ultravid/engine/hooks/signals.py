"""Stopping a run so that it can be resumed."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType
from typing import Annotated, Any, ClassVar

import torch

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining
from ultravid.utils.limits import Limits

__all__ = ["StopOnSignal"]

logger = logging.getLogger(__name__)


class StopOnSignal(HookBase):
    """On SIGTERM or SIGINT, or when its time is up, lets the run end the current iteration, save a checkpoint and stop.

    All processes of a run stop after the same iteration. A second SIGINT ends the process at once.

    Args:
        checkpointer: saves the checkpoint.
        file_prefix: the file's name starts with it.
        wall_time_s: seconds that the training may take; None sets no limit. Take what a scheduler grants, less the longest
            evaluation and a minute.
    """

    order: ClassVar[int] = HookOrder.STOP

    def __init__(
        self,
        checkpointer: DetectionCheckpointer,
        file_prefix: str = "model",
        wall_time_s: Annotated[float, Limits(gt=0)] | None = None,
    ) -> None:
        self._checkpointer = checkpointer
        self._file_prefix = file_prefix
        self._deadline = None if wall_time_s is None else time.monotonic() + wall_time_s
        self._received: int | None = None
        self._interrupts = 0
        self._old: dict[int, Any] = {}

    def before_train(self) -> None:
        """Install the handlers of the signals."""
        try:
            self._old = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread, where signals arrive
            logger.warning("Training runs outside of the main thread: a signal will not save a checkpoint.")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self._received is None and comm.is_main_process():
            # Not through the log, which may be writing a line at this moment.
            message = (
                f"{signal.Signals(number).name}: finishing this iteration, then saving a checkpoint and stopping.\n"
            )
            os.write(2, message.encode())
        self._received = number

    def after_step(self) -> None:
        """Save a checkpoint and stop, if a process has received a signal or its time is up."""
        if not self._any_rank_must_stop() or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        iteration = self.trainer.iter
        self._checkpointer.save(f"{self._file_prefix}_{iteration:07d}", iteration=iteration)
        self._checkpointer.wait(always_raise=True)
        why = "another process must stop"
        if self._received is not None:
            why = signal.Signals(self._received).name
        elif self._must_stop():
            why = "its time is up"
        raise StopTraining(f"{why}; a checkpoint was saved, continue with --resume")

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
        """Restore the handlers that were there before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
