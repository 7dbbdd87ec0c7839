"""Stopping a run so that it can be resumed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from typing import Annotated, ClassVar

import torch

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine.stop_signals import StopSignals, installed_signals
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining
from ultravid.utils.limits import Limits

__all__ = ["StopOnSignal"]

logger = logging.getLogger(__name__)


class StopOnSignal(HookBase):
    """Stops the run on a signal or when its time is over: it finishes the current iteration, saves a checkpoint and stops.

    The signals are SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU (`ultravid.engine.stop_signals`). All processes of a run
    stop after the same iteration. A second SIGINT ends the process at once. A signal during the evaluation at the end of the training
    does not stop the run, which then finishes the evaluation.

    Args:
        checkpointer: saves the checkpoint.
        file_prefix: the file's name starts with it.
        wall_time_s: seconds that the training may take; None sets no limit. Use the time limit of the scheduler minus the longest
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
        self._signals: StopSignals | None = None
        self._has_installed = False

    def before_train(self) -> None:
        """Postpone what a signal does; install handlers if `launch` has not."""
        self._signals = installed_signals()
        if self._signals is None:
            self._signals = StopSignals()
            try:
                self._signals.install()
            except ValueError:
                logger.warning("Training runs outside of the main thread: a signal will not save a checkpoint.")
                self._signals = None
                return
            self._has_installed = True
        self._signals.postponed_by = self._receive
        # One that came while an earlier training of this process was stopping: it stops this one too.
        self._received = self._signals.received
        for number, handler in self._signals.taken().items():
            name = signal.Signals(number).name
            logger.warning("%s keeps its handler, %s, which does not save a checkpoint.", name, handler)

    def _receive(self, number: int) -> None:
        assert self._signals is not None
        if self._signals.interrupts > 1:
            raise KeyboardInterrupt
        if self._received is not None:
            return
        self._received = number
        if comm.is_main_process():
            what = "finishing this iteration, then saving a checkpoint and stopping"
            if self.trainer.iter >= self.trainer.max_iter:
                what = "training is done; finishing the last evaluation"
            # Not through the log, which may be writing a line at this moment.
            with contextlib.suppress(OSError):  # nobody reads it
                os.write(2, f"{signal.Signals(number).name}: {what}.\n".encode())

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
            why = "its time limit is over"
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
        """Leave signals to what handled them before. If the run is stopping, further ones change nothing until the process ends."""
        if self._signals is None:
            return
        if self._has_installed:
            self._signals.remove()
        if self._has_installed or (self._received is None and not self.trainer.stopped):
            self._signals.postponed_by = None
        else:
            self._signals.postponed_by = _is_stopping
        self._has_installed = False


def _is_stopping(number: int) -> None:
    """What a signal does to a run that is stopping already: torchrun and schedulers send several."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
