"""Where the time and the memory of some iterations go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from ultravid.engine.train_loop import HookBase, TrainerBase
from ultravid.utils import comm

__all__ = ["AutogradProfiler", "TorchMemoryStats", "TorchProfiler"]

logger = logging.getLogger(__name__)


class AutogradProfiler(HookBase):
    """Profiles the operators of some iterations into Chrome traces, ``profiler-trace-iter<iteration>.json``.

    `TorchProfiler` knows more; this one is the plain table of operators and their times. In each process but the main one the name ends
    in ``-rank<r>``.

    Args:
        enable_predicate: called with the trainer before each iteration: profile it?
        output_dir: takes the traces.
        use_cuda: time the kernels too, where there is a CUDA device.
    """

    order: ClassVar[int] = 5  # after_step before the other hooks': evaluation and checkpoints are not the step's

    def __init__(
        self, enable_predicate: Callable[[TrainerBase], bool], output_dir: str | Path, *, use_cuda: bool = True
    ) -> None:
        self._enable_predicate = enable_predicate
        self._output_dir = Path(output_dir)
        self._device = "cuda" if use_cuda and torch.cuda.is_available() else None
        self._profiler: torch.autograd.profiler.profile | None = None

    def before_step(self) -> None:
        """See `HookBase`."""
        if self._enable_predicate(self.trainer):
            self._profiler = torch.autograd.profiler.profile(use_device=self._device)
            self._profiler.__enter__()

    def after_step(self) -> None:
        """See `HookBase`."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        rank = comm.get_rank()
        name = f"profiler-trace-iter{self.trainer.iter}{f'-rank{rank}' if rank else ''}.json"
        self._output_dir.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._output_dir / name))

    def after_train(self) -> None:
        """End a profile that an error in its step left open."""
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self._profiler = None


class TorchMemoryStats(HookBase):
    """Logs the CUDA memory that was in use and reserved, and its peaks.

    Args:
        period: iterations from one look to the next.
        max_runs: number of looks.
    """

    def __init__(self, period: int = 20, max_runs: int = 10) -> None:
        self._period = period
        self._runs_left = max_runs

    def after_step(self) -> None:
        """See `HookBase`."""
        if self._runs_left == 0 or not torch.cuda.is_available() or (self.trainer.iter + 1) % self._period:
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
        enable_predicate: called with the trainer before each iteration: profile it?
        output_dir: a folder ``log`` in it takes the traces.
        activities: see `torch.profiler.profile`; None takes CPU, and CUDA where there is one.
        save_tensorboard: write for TensorBoard's plug-in; else a Chrome trace.
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
        """See `HookBase`."""
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
        """See `HookBase`."""
        if self._profiler is None:
            return
        self._profiler.__exit__(None, None, None)
        if not self._save_tensorboard:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"iter{self.trainer.iter}_rank{comm.get_rank()}.trace.json"
            self._profiler.export_chrome_trace(str(self._folder / name))
        self._profiler = None
