#!/usr/bin/env python
"""What the training loop costs: CPU microseconds a step over a bare loop, for a small linear model.

    pip install -e .[bench]
    python benchmarks/engine.py [--steps 2000] [--repeats 5]

The bare loop is forward, zero_grad, backward and the optimizer's step. Each engine makes the same steps, with what it does by
default and what its users write:

- ultravid with the hooks of `configs_py/common/train.py`, but for the evaluation: timer, schedule, time breakdown, console, JSON
  and TensorBoard every 20 iterations, the final checkpoint, signals, watchdog; and without any hook. Either way it seeds each
  step, records the losses, and reads the norm of the gradients, so that a nan never reaches the optimizer.
- detectron2's `SimpleTrainer` with the hooks of its `DefaultTrainer`: timer, schedule, the same three writers every 20 iterations,
  checkpoint. It is not on PyPI: the row is there if it is installed, from its repository.
- Lightning Fabric: `setup`, `fabric.backward`, and the loss by `fabric.log` every 20 steps to a CSV file and TensorBoard. It
  computes no norm, does not check for nan, and schedules no rate.
- Lightning: a module that logs its loss, every 20 steps to a CSV file, and saves the last checkpoint.
- accelerate: its prepared model and optimizer, and `accelerator.backward`; it logs nothing.
- MMEngine: a Runner with its default hooks, which logs every 20 iterations and saves the last checkpoint.

Those that are not installed are left out. The systems take turns; the table has the medians, and the range of what a system adds.
"""

import argparse
import gc
import importlib.util
import logging
import operator
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.param_scheduler import ConstantParamScheduler
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
from ultravid.solver import LRMultiplier

LOG_PERIOD = 20


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.layer(x).pow(2).mean()}


class Data:
    """The same batch without end."""

    def __iter__(self) -> Iterator[Tensor]:
        batch = torch.randn(4, 8)
        while True:
            yield batch


def make() -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Model()
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


def bare(steps: int, folder: Path) -> None:
    del folder
    model, optimizer = make()
    data = iter(Data())
    for _ in range(steps):
        loss = sum(model(next(data)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ours(steps: int, folder: Path, kind: type[SimpleTrainer] = SimpleTrainer, **kwargs: Any) -> None:
    model, optimizer = make()
    checkpointer = DetectionCheckpointer(model, folder, background=True)
    scheduler = LRMultiplier(optimizer, ConstantParamScheduler(1.0), steps)
    named = {
        "progress": hooks.ProgressBar(),
        "timer": hooks.IterationTimer(),
        "lr": hooks.LRScheduler(optimizer, scheduler),
        "ledger": hooks.TimeBreakdown(LOG_PERIOD),
        "writer": hooks.PeriodicWriter(default_writers(str(folder), steps), LOG_PERIOD),
        "checkpoint": hooks.PeriodicCheckpointer(checkpointer, period=0),
        "stop": hooks.StopOnSignal(checkpointer),
        "hang": hooks.Watchdog(),
    }
    kind(model, Data(), optimizer, hooks=named, checkpointer=checkpointer, max_iter=steps, seed=0, **kwargs).train()


def ours_amp(steps: int, folder: Path) -> None:
    ours(steps, folder, AMPTrainer, enabled=False)


def ours_without_hooks(steps: int, folder: Path) -> None:
    del folder
    model, optimizer = make()
    SimpleTrainer(model, Data(), optimizer, max_iter=steps, seed=0).train()


def with_detectron2(steps: int, folder: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer as Checkpointer
    from detectron2.engine import SimpleTrainer as Trainer
    from detectron2.engine import default_writers as writers_of
    from detectron2.engine import hooks as d2
    from detectron2.solver import LRMultiplier as Multiplier

    model, optimizer = make()
    trainer = Trainer(model, Data(), optimizer)
    checkpointer = Checkpointer(model, str(folder))
    scheduler = Multiplier(optimizer, ConstantParamScheduler(1.0), steps)
    trainer.register_hooks(
        [
            d2.IterationTimer(),
            d2.LRScheduler(optimizer, scheduler),
            d2.PeriodicCheckpointer(checkpointer, steps),
            d2.PeriodicWriter(writers_of(str(folder), steps), LOG_PERIOD),
        ]
    )
    trainer.train(0, steps)


def with_fabric(steps: int, folder: Path) -> None:
    from lightning.fabric import Fabric
    from lightning.fabric.loggers import CSVLogger, TensorBoardLogger

    fabric = Fabric(accelerator="cpu", devices=1, loggers=[CSVLogger(folder), TensorBoardLogger(folder)])
    model, optimizer = fabric.setup(*make())
    data = iter(Data())
    for step in range(steps):
        loss = sum(model(next(data)).values())
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        if (step + 1) % LOG_PERIOD == 0:
            fabric.log("loss", loss, step)


def with_accelerate(steps: int, folder: Path) -> None:
    from accelerate import Accelerator

    del folder
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(*make())
    data = iter(Data())
    for _ in range(steps):
        loss = sum(model(next(data)).values())
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()


def with_lightning(steps: int, folder: Path) -> None:
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.optimizer = make()

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            del batch_idx
            loss = sum(self.model(batch).values())
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return self.optimizer

    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=LOG_PERIOD,
    )
    trainer.fit(Module(), Data())


def with_mmengine(steps: int, folder: Path) -> None:
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from torch.utils.data import DataLoader

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def forward(self, inputs: Tensor, mode: str = "loss") -> dict[str, Tensor]:
            del mode
            return self.model(inputs)

    batch = {"inputs": torch.randn(4, 8)}  # BaseModel passes a batch that is a dict on by keywords
    runner = Runner(
        model=Wrapped(),
        work_dir=str(folder),
        train_dataloader=DataLoader([batch] * steps, batch_size=1, collate_fn=operator.itemgetter(0)),
        train_cfg={"by_epoch": False, "max_iters": steps},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-3}},
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": LOG_PERIOD},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": steps},
        },
        log_level="ERROR",
        experiment_name=folder.name,
    )
    runner.train()


SYSTEMS: dict[str, tuple[Callable[[int, Path], None], str]] = {
    "ultravid SimpleTrainer, default hooks": (ours, "ultravid"),
    "ultravid AMPTrainer off, default hooks": (ours_amp, "ultravid"),
    "ultravid SimpleTrainer, no hook": (ours_without_hooks, "ultravid"),
    "detectron2 SimpleTrainer, default hooks": (with_detectron2, "detectron2"),
    "Lightning Fabric": (with_fabric, "lightning"),
    "Lightning": (with_lightning, "lightning"),
    "accelerate": (with_accelerate, "accelerate"),
    "MMEngine": (with_mmengine, "mmengine"),
}


def cpu_us_a_step(run: Callable[[int, Path], None], steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()
        start = time.process_time()
        run(steps, Path(folder))
        return 1e6 * (time.process_time() - start) / steps


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(argv)


def measure(steps: int, repeats: int) -> dict[str, list[float]]:
    """CPU microseconds a step of each system that is installed, by repetition; the bare loop is the first."""
    chosen = {n: run for n, (run, module) in SYSTEMS.items() if importlib.util.find_spec(module) is not None}
    runs = {"bare loop": bare, **chosen}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        cpu_us_a_step(run, min(steps, 100))  # imports, and what is made once
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(cpu_us_a_step(run, steps))
    return times


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = measure(args.steps, args.repeats)
    finally:
        logging.disable(logging.NOTSET)
    table = Table(title=f"CPU us a step, median of {args.repeats} runs of {args.steps} steps")
    for column in ("", "us", "over the bare loop", "from - to", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    base = statistics.median(times["bare loop"])
    for name, values in times.items():
        us = statistics.median(values)
        added = [value - bare_us for value, bare_us in zip(values, times["bare loop"], strict=True)]
        spread = f"{min(added):.0f} - {max(added):.0f}"
        table.add_row(name, f"{us:.0f}", f"{us - base:.0f}", spread, f"{us / base:.2f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
