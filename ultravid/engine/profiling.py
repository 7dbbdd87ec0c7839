"""Profiling by `torch.autograd.profiler`, which other tools than TensorBoard read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch

from ultravid.engine.train_loop import HookBase, TrainerBase
from ultravid.utils import comm

__all__ = ["AutogradProfiler"]


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
