#!/usr/bin/env python
"""What the training loop costs: CPU microseconds a step over a bare loop, for a small linear model.

    python benchmarks/engine.py [--steps 2000] [--repeats 5]

The bare loop is forward, zero_grad, backward and the optimizer's step. Each engine runs the same steps with what it does by
default: ultravid with timer, schedule, writers every 20 iterations (console, JSON, TensorBoard) and the signal hook;
Lightning, MMEngine and accelerate where they are installed. The systems take turns; the figure is the median.
"""

import argparse
import gc
import importlib.util
import logging
import statistics
import sys
import tempfile
import time
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


def with_trainer(kind: type[SimpleTrainer], steps: int, folder: Path, **kwargs: Any) -> None:
    model, optimizer = make()
    checkpointer = DetectionCheckpointer(model, folder)
    scheduler = LRMultiplier(optimizer, ConstantParamScheduler(1.0), steps)
    named = {
        "timer": hooks.IterationTimer(),
        "lr": hooks.LRScheduler(optimizer, scheduler),
        "writer": hooks.PeriodicWriter(default_writers(str(folder), steps), period=20),
        "stop": hooks.StopOnSignal(checkpointer),
    }
    kind(model, Data(), optimizer, hooks=named, max_iter=steps, seed=0, **kwargs).train()


def ours(steps: int, folder: Path) -> None:
    with_trainer(SimpleTrainer, steps, folder)


def ours_amp(steps: int, folder: Path) -> None:
    with_trainer(AMPTrainer, steps, folder, enabled=False)


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
        max_steps=steps, accelerator="cpu", default_root_dir=folder, enable_progress_bar=False, log_every_n_steps=20
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

        def forward(self, x: Tensor, mode: str = "loss") -> dict[str, Tensor]:
            del mode
            return self.model(x)

    batch = torch.randn(4, 8)
    runner = Runner(
        model=Wrapped(),
        work_dir=str(folder),
        train_dataloader=DataLoader([batch] * steps, batch_size=None),
        train_cfg={"by_epoch": False, "max_iters": steps},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-3}},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 20}},
        log_level="ERROR",
    )
    runner.train()


SYSTEMS: dict[str, tuple[Callable[[int, Path], None], str]] = {
    "ultravid SimpleTrainer": (ours, "ultravid"),
    "ultravid AMPTrainer, off": (ours_amp, "ultravid"),
    "accelerate": (with_accelerate, "accelerate"),
    "Lightning": (with_lightning, "lightning"),
    "MMEngine": (with_mmengine, "mmengine"),
}


def cpu_us_a_step(run: Callable[[int, Path], None], steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()
        start = time.process_time()
        run(steps, Path(folder))
        return 1e6 * (time.process_time() - start) / steps


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    chosen = {n: run for n, (run, module) in SYSTEMS.items() if importlib.util.find_spec(module) is not None}
    runs = {"bare loop": bare, **chosen}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        cpu_us_a_step(run, 100)  # imports, and what is made once
    for _ in range(args.repeats):
        for name, run in runs.items():
            times[name].append(cpu_us_a_step(run, args.steps))
    medians = {name: statistics.median(values) for name, values in times.items()}
    table = Table(title=f"CPU us a step, median of {args.repeats} runs of {args.steps} steps")
    for column in ("", "us", "over the bare loop", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, us in medians.items():
        base = medians["bare loop"]
        table.add_row(name, f"{us:.0f}", f"{us - base:.0f}", f"{us / base:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
