"""Hooks, which act before and after the steps of a run. `ultravid.engine.HookBase` shows how to write one."""

from ultravid.engine.hooks.averaging import EMA
from ultravid.engine.hooks.callback import CallbackHook
from ultravid.engine.hooks.checkpointing import BestCheckpointer, PeriodicCheckpointer
from ultravid.engine.hooks.evaluation import EvalHook
from ultravid.engine.hooks.precise_bn import PreciseBN
from ultravid.engine.hooks.profiling import AutogradProfiler, TorchMemoryStats, TorchProfiler
from ultravid.engine.hooks.progress import ProgressBar
from ultravid.engine.hooks.schedule import LRScheduler
from ultravid.engine.hooks.signals import StopOnSignal
from ultravid.engine.hooks.timing import IterationTimer, TimeBreakdown
from ultravid.engine.hooks.watchdog import Watchdog
from ultravid.engine.hooks.writing import PeriodicWriter
from ultravid.engine.run_record import RunRecord
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder

__all__ = [
    "EMA",
    "AutogradProfiler",
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "Every",
    "HookBase",
    "HookOrder",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
    "ProgressBar",
    "RunRecord",
    "StopOnSignal",
    "TimeBreakdown",
    "TorchMemoryStats",
    "TorchProfiler",
    "Watchdog",
]
