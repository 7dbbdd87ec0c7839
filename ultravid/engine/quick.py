"""``--quick``, a trial run: a few iterations, a few test videos and every hook show within a minute whether a run would work.

`shorten_config` makes the config of the quick run from that of the whole run, before anything is built; `quick_run` builds it
twice, the second time to resume, and reports what the whole run would take. Both know the keys that the launcher knows, and
nothing of models or data.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import resource
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch

from ultravid.config import Builder, ConfigError, Node
from ultravid.config.instantiate import as_user_error
from ultravid.config.references import owner_of
from ultravid.config.tree import Container, raw_children, value_at, walk
from ultravid.data.shortened import ShortLoader, shortened
from ultravid.engine.failures import training_failures
from ultravid.engine.train_loop import HookBase
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.file_io import is_local, remove_path
from ultravid.utils.run_folder import RunFolder

__all__ = ["QuickPlan", "quick_run", "shorten_config"]

logger = logging.getLogger(__name__)

STEPS = 3  # of each of the two parts, before and after the interruption
NUM_VIDEOS = 2
NUM_FRAMES = 16  # of each video
MAX_SECONDS = 15.0  # of the first part: a slow machine does fewer steps
_PERIOD = re.compile(r"(.+_)?(period|every|interval)")
_WRITTEN = re.compile(r"(output|save|log|dump|out|result)_?(dir|folder|path|file)|json_file|csv_file")
_FROM_EARLIER_LOOKS = (
    *("model_*", "last_checkpoint", "best_checkpoint", "manifest.json", "metrics.json*", "events.out.tfevents.*"),
    *("attempts", "inference*", "earlier_run_*", "earlier_events_*", "step_dumps", "config.yaml.*"),
)


@dataclass(frozen=True)
class QuickPlan:
    """What a quick run does, and what it has to know of the whole run.

    Attributes:
        name: the name of the config, for the report.
        output_dir: the output folder of the whole run.
        max_iter: ``max_iter`` of the whole run.
        num_iters: ``num_iters`` of the quick run.
        periods: the periods of the hooks that act every so often in the whole run, by name.
        work: how much more such a hook does each time in the whole run, by name; 1 for those that are missing.
        evaluating: names of the hooks that evaluate.
        num_kept: checkpoints that the whole run keeps.
    """

    name: str
    output_dir: str
    max_iter: int
    num_iters: int
    periods: Mapping[str, int]
    work: Mapping[str, float]
    evaluating: frozenset[str]
    num_kept: int


def shorten_config(cfg: Node, name: str) -> QuickPlan:
    """Make a config that of its quick run, in place.

    The trainer makes a few iterations, at the learning rates with which the whole run begins; hooks that act every so often act
    twice; everything is written to ``<train.output_dir>/quick``.

    Args:
        cfg: the config, checked.
        name: the name of its file.

    Raises:
        UserError: ``trainer`` has no ``max_iter`` or no ``hooks``, or another run is in the folder of the quick one.
    """
    trainer, output_dir = cfg.trainer, str(cfg.train.output_dir)
    if not isinstance(trainer.get("hooks"), Node) or not isinstance(trainer.get("max_iter"), int):
        raise UserError("--quick needs trainer.max_iter, and trainer.hooks by name: it makes them few and frequent.")
    max_iter = int(trainer.max_iter)
    num_iters = min(2 * STEPS, max_iter)
    step = max(1, num_iters // 2)
    periods: dict[str, int] = {}
    work: dict[str, float] = {}
    num_kept = 1  # the final one
    hooks = {n: node for n, node in trainer.hooks.items() if isinstance(node, Node) and "_target_" in node}
    for hook, node in hooks.items():
        for key in [k for k, _ in raw_children(node)]:
            value = node[key]
            if type(value) is int and isinstance(key, str) and _PERIOD.fullmatch(key):
                periods[hook] = value
        if "max_to_keep" in node:
            kept = node["max_to_keep"]
            num_kept += kept if isinstance(kept, int) else max_iter // max(1, periods.get(hook, 0) or max_iter)
        if type(node.get("num_iter")) is int and node["num_iter"] > step:
            work[hook] = node["num_iter"] / step
            node["num_iter"] = step
    for node in hooks.values():  # now that all are read: they may refer to one value
        for key in [k for k, _ in raw_children(node)]:
            if isinstance(key, str) and _PERIOD.fullmatch(key) and type(node[key]) is int and node[key] > step:
                owner: Any = owner_of(node, key)
                owner[0][owner[1]] = step
        if type(node.get("max_iter")) is int:
            node["max_iter"] = num_iters
    evaluating = frozenset(h for h in periods if _mentions(hooks[h], "dataloader.test"))
    trainer["max_iter"] = num_iters
    quick_dir = str(RunFolder(output_dir).quick)
    _check_no_run_in(RunFolder(quick_dir))
    _move_outputs(cfg, output_dir, quick_dir)
    cfg.train.output_dir = quick_dir
    return QuickPlan(name, output_dir, max_iter, num_iters, periods, work, evaluating, num_kept)


def _check_no_run_in(folder: RunFolder) -> None:
    """Refuse to remove what is no earlier look; a look may have ended before its report was begun, with its config alone."""
    removed = (path for pattern in _FROM_EARLIER_LOOKS[:-1] for path in folder.path.glob(pattern))
    if next(removed, None) is not None and not folder.quick_report.is_file():
        raise UserError(
            f"--quick would write to {folder}, which holds a run that --quick did not make. Give another folder: train.output_dir=..."
        )


def _mentions(node: Container, key: str) -> bool:
    texts = (value for each in walk(node) for _, value in raw_children(each) if isinstance(value, str))
    return any(f"${{{key}" in text for text in texts)


def _move_outputs(cfg: Node, output_dir: str, quick_dir: str) -> None:
    """Move what is written under the output folder by a path that is spelled out, not referred to."""
    container: Any
    for container in walk(cfg):
        for key, value in raw_children(container):
            if isinstance(value, str) and isinstance(key, str) and _WRITTEN.fullmatch(key) and is_local(value):
                place = Path(os.path.abspath(value))  # one folder may be spelled in several ways
                if place.is_relative_to(os.path.abspath(output_dir)):
                    container[key] = str(Path(quick_dir) / place.relative_to(os.path.abspath(output_dir)))


def quick_run(cfg: Node, plan: QuickPlan) -> None:
    """Train, evaluate, stop, resume and finish, and print the report in the main process.

    Args:
        cfg: the config from `shorten_config`; `default_setup` was called with it.
        plan: the plan from `shorten_config`.

    Raises:
        UserError: the run would fail because of its config or its data; any other error passes through.
    """
    folder, run = RunFolder(cfg.train.output_dir), RunFolder(plan.output_dir)
    if comm.is_main_process():
        _remove_earlier_look(folder)
        folder.quick_report.write_text("This trial run has not ended.\n", encoding="utf-8")
    comm.synchronize()
    before = _files_of(run)
    heard = _Warnings()
    logging.getLogger("ultravid").addHandler(heard)
    measured = _Measured()
    start = time.perf_counter()
    try:
        loaders = _first_part(cfg, plan, measured)
        gc.collect()  # the first model's memory
        if plan.num_iters > 1 and measured.stopped_at is not None:
            _second_part(cfg, loaders, measured)
    finally:
        logging.getLogger("ultravid").removeHandler(heard)
    if comm.is_main_process():
        touched = sorted(path for path, state in _files_of(run).items() if before.get(path) != state)
        report = _report(plan, measured, heard.messages, time.perf_counter() - start, touched)
        folder.quick_report.write_text(report, encoding="utf-8")
        print(report, end="")  # noqa: T201


def _first_part(cfg: Node, plan: QuickPlan, measured: _Measured) -> dict[str, Any]:
    """Up to the interruption; returns the loaders, which the second part uses too."""
    builder = Builder(cfg)
    with as_user_error():
        loaders = {"dataloader.test": shortened(builder.build("dataloader.test"), NUM_VIDEOS, NUM_FRAMES)}
        _provide(builder, loaders)
        trainer = builder.build("trainer")
    if not (hasattr(trainer, "register_hooks") and hasattr(trainer, "checkpointer")):
        raise UserError(f"--quick needs a trainer of ultravid; trainer is {type(trainer).__name__}, without hooks.")
    loaders["dataloader.train"] = getattr(trainer, "data_loader", None)
    measured.loaders = list(_short_loaders(loaders["dataloader.test"]))
    measured.hooks = list(trainer.named_hooks)
    step = plan.num_iters // 2
    trainer.register_hooks({"quick": _QuickLook(measured, step if trainer.checkpointer is not None else 0)})
    try:
        with training_failures(trainer):
            trainer.resume_or_load(False)
            trainer.train()
    except StopTraining:
        if measured.stopped_at is None:  # another hook's
            raise
    measured.add(trainer)
    return loaders


def _second_part(cfg: Node, loaders: dict[str, Any], measured: _Measured) -> None:
    comm.synchronize()
    builder = Builder(cfg)
    _provide(builder, loaders)
    with as_user_error():
        trainer = builder.build("trainer")
    trainer.register_hooks({"quick": _QuickLook(measured, 0)})
    assert measured.stopped_at is not None
    with training_failures(trainer):
        trainer.resume_or_load(True)
        if trainer.start_iter != measured.stopped_at + 1:
            raise UserError(
                f"The run stopped after iteration {measured.stopped_at}, but resumed at {trainer.start_iter}."
            )
        trainer.train()
    measured.resumed_at = trainer.start_iter
    measured.add(trainer)


def _provide(builder: Builder, loaders: Mapping[str, Any]) -> None:
    for key, loader in loaders.items():
        try:
            described = value_at(builder.cfg, key)
        except ConfigError:
            continue
        if isinstance(described, Container) and loader is not None:
            builder.provide(key, loader)


def _short_loaders(value: Any) -> Iterator[ShortLoader]:
    for each in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(each, ShortLoader):
            yield each


def _files_of(run: RunFolder) -> dict[str, tuple[int, int]]:
    """When each file of a run's own folder was written, and its size; none if another process is at work there."""
    if not run.path.is_dir() or run.holder() is not None:
        return {}
    found = {}
    for folder, folders, names in os.walk(run.path):
        if Path(folder) == run.path:
            folders[:] = [name for name in folders if name != run.quick.name]
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(path)
                found[os.path.relpath(path, run.path)] = (stat.st_mtime_ns, stat.st_size)
    return found


def _remove_earlier_look(folder: RunFolder) -> None:
    for pattern in _FROM_EARLIER_LOOKS:
        for path in folder.path.glob(pattern):
            remove_path(path)


@dataclass
class _Measured:
    """What the parts of a quick run took."""

    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    num_iters: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    loaders: list[ShortLoader] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    stopped_at: int | None = None
    resumed_at: int | None = None
    checkpoint_bytes: int = 0

    def add(self, trainer: Any) -> None:
        """Take over a trainer's clocks and the size of its checkpoints."""
        for name, seconds in trainer.seconds.items():
            self.seconds[name] += seconds
        if trainer.checkpointer is not None:
            found = RunFolder(trainer.checkpointer.save_dir).checkpoints()
            self.checkpoint_bytes = max((_num_bytes(path) for path in found), default=0)


def _num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


class _QuickLook(HookBase):
    """Times the steps, and stops the first part."""

    order: ClassVar[int] = 1000

    def __init__(self, measured: _Measured, stop_after: int) -> None:
        self._measured = measured
        self._stop_after = stop_after
        self._begin = time.perf_counter()
        self._before: dict[str, float] = {}

    def before_step(self) -> None:
        self._before = dict(self.trainer.seconds)

    def after_step(self) -> None:
        trainer, measured = self.trainer, self._measured
        spent = {n: s - self._before.get(n, 0.0) for n, s in trainer.seconds.items() if not n.startswith("hooks/")}
        done = trainer.iter - trainer.start_iter + 1
        measured.num_iters += 1
        if done > 1 or not measured.steps:  # the first step of a process starts workers and compiles kernels
            if done == 2 and len(measured.steps) == 1:
                measured.steps, measured.waits = [], []
            measured.steps.append(sum(spent.values()))
            measured.waits.append(spent.get("data", 0.0))
        is_last = trainer.iter + 1 >= trainer.max_iter
        if self._stop_after and not is_last and self._must_stop(done):
            name = f"model_{trainer.iter:07d}"
            assert trainer.checkpointer is not None
            trainer.checkpointer.save(name, iteration=trainer.iter)
            trainer.checkpointer.wait(always_raise=True)
            measured.stopped_at = trainer.iter
            raise StopTraining("the trial run resumes from here")

    def _must_stop(self, done: int) -> bool:
        late = done >= self._stop_after or time.perf_counter() - self._begin > MAX_SECONDS
        return any(comm.all_gather(late))


class _Warnings(logging.Handler):
    """The warnings of the log, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().split("\n")[0]
        if message not in self.messages:
            self.messages.append(message)


def _report(plan: QuickPlan, measured: _Measured, warnings: list[str], seconds: float, touched: Sequence[str]) -> str:
    step = statistics.median(measured.steps) if measured.steps else 0.0
    shares = [wait / whole for wait, whole in zip(measured.waits, measured.steps, strict=True) if whole > 0]
    waiting = statistics.median(shares) if shares else 0.0
    rest = (
        f", stopped after {measured.stopped_at + 1} and resumed"
        if measured.resumed_at and measured.stopped_at is not None
        else ""
    )
    untouched = "" if touched else "; no other file of the run's folder was changed"
    given = sum(loader.num_given for loader in measured.loaders)
    lines = [
        f"Trial run of {plan.name}: it works ({seconds:.0f} s).",
        f"  ran       {measured.num_iters} iterations{rest}; evaluations on {given} batches of test frames; hooks: "
        f"{', '.join(measured.hooks)}",
        f"  time      {step:.3g} s per iteration, {waiting:.0%} of it waiting for data",
        f"  whole run {_estimate(plan, measured, step)}",
        f"  memory    {_memory()}",
        f"  disk      {_disk(plan, measured)}",
        f"  files     {RunFolder(plan.output_dir).quick}{untouched}",
    ]
    if touched:
        more = f" and {len(touched) - 3} more files" if len(touched) > 3 else ""
        warnings = [
            *warnings,
            f"The trial run wrote to the folder of the run itself: {', '.join(touched[:3])}{more}. Only paths that refer to "
            'ref("train.output_dir") are moved to the folder of the trial run.',
        ]
    if waiting > 0.4:
        warnings = [*warnings, f"The steps wait for data {waiting:.0%} of their time: more workers may help."]
    free = _free_bytes(plan)
    if plan.num_kept * measured.checkpoint_bytes > free:
        warnings = [*warnings, "The disk is too full for the run's checkpoints."]
    lines += [f"  warning   {text}" for text in warnings]
    return "\n".join(lines) + "\n"


def _estimate(plan: QuickPlan, measured: _Measured, step: float) -> str:
    """How long the whole run would take, in parts."""
    training = plan.max_iter * step
    evaluations = max((_num_evaluations(plan, hook) for hook in plan.evaluating), default=0)
    each, is_known = 0.0, True
    for loader in measured.loaders:
        if loader.num_given:
            is_known = is_known and loader.num_all is not None
            each += (loader.num_all or loader.num_given) * loader.seconds / loader.num_given
    others = 0.0
    times = max(1, measured.num_iters // max(1, plan.num_iters // 2))
    for name in measured.hooks:
        spent = measured.seconds.get(f"hooks/{name}", 0.0)
        if name in plan.evaluating and measured.loaders:
            continue
        period = plan.periods.get(name)
        if period is None:
            others += spent / max(1, measured.num_iters) * plan.max_iter
        else:
            others += spent / times * (plan.max_iter // period if period else 1) * plan.work.get(name, 1.0)
    parts = [f"{plan.max_iter} iterations {_shown(training)}"]
    if evaluations:
        parts.append(
            f"{evaluations} evaluation{'s' if evaluations > 1 else ''} {_shown(evaluations * each)}{'' if is_known else ' or more'}"
        )
    parts.append(f"hooks {_shown(others)}")
    return f"about {_shown(training + evaluations * each + others)} here: {', '.join(parts)}"


def _num_evaluations(plan: QuickPlan, hook: str) -> int:
    period = plan.periods[hook]
    return (plan.max_iter - 1) // period + 1 if period else 1


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds >= 1 else "under 1 s"


def _memory() -> str:
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = f"{host / 2**30:.1f} GiB on the host"
    if not torch.cuda.is_available():
        return text
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    used = torch.cuda.max_memory_reserved()
    return f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB on the GPU, {text}"


def _free_bytes(plan: QuickPlan) -> int:
    return shutil.disk_usage(RunFolder(plan.output_dir).quick).free


def _disk(plan: QuickPlan, measured: _Measured) -> str:
    each = measured.checkpoint_bytes
    return (
        f"up to {plan.num_kept} checkpoints of {each / 2**20:.1f} MiB, {plan.num_kept * each / 2**30:.2f} GiB; "
        f"{_free_bytes(plan) / 2**30:.1f} GiB are free"
    )
