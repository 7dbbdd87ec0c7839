"""Profiles of some iterations: time and memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from ultravid.engine.train_loop import HookBase, TrainerBase
from ultravid.engine.when import Every, HookOrder
from ultravid.utils import comm
from ultravid.utils.limits import NotNegative

__all__ = ["AutogradProfiler", "TorchMemoryStats", "TorchProfiler"]

logger = logging.getLogger(__name__)


class AutogradProfiler(HookBase):
    """Profiles the operators of some iterations into Chrome traces, ``profiler-trace-iter<iteration>.json``.

    It records operators and their times alone; `TorchProfiler` records shapes and memory too. In each process but the main one
    the file's name ends in ``-rank<r>``.

    Args:
        enable_predicate: called with the trainer before each iteration; True profiles it.
        output_dir: folder of the traces.
        use_cuda: time the kernels too, if there is a CUDA device.
    """

    order: ClassVar[int] = HookOrder.PROFILER

    def __init__(
        self, enable_predicate: Callable[[TrainerBase], bool], output_dir: str | Path, *, use_cuda: bool = True
    ) -> None:
        self._enable_predicate = enable_predicate
        self._output_dir = Path(output_dir)
        self._device = "cuda" if use_cuda and torch.cuda.is_available() else None
        self._profiler: torch.autograd.profiler.profile | None = None

    def before_step(self) -> None:
        """Start the profile of an iteration."""
        if self._enable_predicate(self.trainer):
            self._profiler = torch.autograd.profiler.profile(use_device=self._device)
            self._profiler.__enter__()

    def after_step(self) -> None:
        """Write the profile of the iteration."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        rank = comm.get_rank()
        name = f"profiler-trace-iter{self.trainer.iter}{f'-rank{rank}' if rank else ''}.json"
        self._output_dir.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._output_dir / name))

    def after_train(self) -> None:
        """End a profile whose step failed."""
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self._profiler = None


class TorchMemoryStats(HookBase):
    """Logs the CUDA memory that is in use and reserved, and the peaks since the last time.

    Args:
        period: iterations from one time to the next.
        max_runs: number of times.
    """

    def __init__(self, period: NotNegative = 20, max_runs: NotNegative = 10) -> None:
        self._every = Every(period)
        self._runs_left = max_runs

    def after_step(self) -> None:
        """Log the memory if it is due."""
        if self._runs_left == 0 or not torch.cuda.is_available() or not self._every.is_due(self.trainer):
            return
        self._runs_left -= 1
        readings = {
            "in use": torch.cuda.memory_allocated(),
            "peak in use": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "peak reserved": torch.cuda.max_memory_reserved(),
        }
        logger.info("CUDA memory: %s", ", ".join(f"{name} {value / 2**20:.0f} MiB" for name, value in readings.items()))
        torch.cuda.reset_peak_memory_stats()


class TorchProfiler(HookBase):
    """Profiles some iterations with torch's profiler, for TensorBoard or chrome://tracing.

    Args:
        enable_predicate: called with the trainer before each iteration; True profiles it.
        output_dir: the traces go to its folder ``log``.
        activities: see `torch.profiler.profile`; None takes CPU, and CUDA if there is a device.
        save_tensorboard: write for TensorBoard's plug-in, else a Chrome trace.
    """

    def __init__(
        self,
        enable_predicate: Callable[[TrainerBase], bool],
        output_dir: str | Path,
        *,
        activities: Sequence[Any] | None = None,
        save_tensorboard: bool = True,
    ) -> None:
        self._enable = enable_predicate
        self._folder = Path(output_dir) / "log"
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler: torch.profiler.profile | None = None

    def before_step(self) -> None:
        """Start the profile of an iteration."""
        if not self._enable(self.trainer):
            return
        handler = None
        if self._save_tensorboard:
            name = f"iter{self.trainer.iter}_rank{comm.get_rank()}"
            handler = torch.profiler.tensorboard_trace_handler(str(self._folder), worker_name=name)
        self._profiler = torch.profiler.profile(
            activities=self._activities, on_trace_ready=handler, record_shapes=True, profile_memory=True
        )
        self._profiler.__enter__()

    def after_step(self) -> None:
        """Write the profile of the iteration."""
        if self._profiler is None:
            return
        self._profiler.__exit__(None, None, None)
        if not self._save_tensorboard:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"iter{self.trainer.iter}_rank{comm.get_rank()}.trace.json"
            self._profiler.export_chrome_trace(str(self._folder / name))
        self._profiler = None
