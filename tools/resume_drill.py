#!/usr/bin/env python
"""Kill runs many times, resume them each time, and compare them with runs that were not interrupted.

    python tools/resume_drill.py [--kills 20] [--workers 0,1,2,3] [--ranks 1,2] [--seed 0] [--work-dir DIR] [key=value ...]

For each number of ranks two runs train the same small model on synthetic videos, with mixed precision, two batches a step and
averaged weights; transforms and a hook draw from Python's, numpy's and torch's global generators. One is not interrupted, and loads
its data in the process that trains. The other is killed by SIGKILL at random moments, or while it writes a checkpoint, or stopped by
SIGTERM, and resumed each time, with each number of loader workers in turn. Every row of metrics.json and every tensor of the last
checkpoint must be equal, bit for bit. Exit codes: 0 equal, 1 different.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ultravid.datasets.phantom import write_phantom_dataset
from ultravid.utils.errors import UserError
from ultravid.utils.processes import is_running
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.text import counted
from ultravid.utils.tool import EXIT_STOPPED, ToolParser, run_tool

LAUNCHER = Path(__file__).resolve().with_name("lazyconfig_train.py")
PARTS = """
import dataclasses
import random

import numpy as np
import torch
from torchvision.transforms import v2

from ultravid.engine import HookBase


class DrawingTransform:
    def __init__(self):
        self.jitter = v2.ColorJitter(brightness=0.3, contrast=0.3)

    def __call__(self, clip, rng):
        frames = self.jitter(clip.frames)
        frames = frames.roll(int(np.random.randint(-3, 4)), dims=-2)
        return dataclasses.replace(clip, frames=255 - frames if random.random() < 0.3 else frames)


class DrawingHook(HookBase):
    def put(self, name):
        drawn = random.gauss(0, 1) + np.random.randn() + float(torch.randn(()))
        self.trainer.storage.put_scalar(name, drawn)

    def before_step(self):
        self.put("drawn/before_step")

    def after_backward(self):
        self.put("drawn/after_backward")

    def after_step(self):
        self.put("drawn/after_step")
"""
CONFIG = """
from ultravid.config import LazyCall as L
from ultravid.config import get_config, ref

from drill_parts import DrawingHook, DrawingTransform

_data, _train = get_config("common/data/phantom.py"), get_config("common/train.py")
data, dataloader = _data.data, _data.dataloader
dataloader.train.transforms.append(L(DrawingTransform)())
dataloader.train.device_transforms = [L(DrawingTransform)()]
dataloader.train.device = ref("train.device")
dataloader.train.frame_sampler.num_frames = 3
model = get_config("common/models/basicdet_small.py").model
train, prepared_model, checkpointer, trainer = _train.train, _train.prepared_model, _train.checkpointer, _train.trainer
trainer.hooks.draws = L(DrawingHook)()
trainer.accumulation.num_batches = 2
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedules.py").cosine
"""
TIMES = ("time", "data_time")
# What happens in turn.
KILLS = (
    (signal.SIGKILL, "at any time"),
    (signal.SIGTERM, "in training"),
    (signal.SIGKILL, "in training"),
    (signal.SIGKILL, "while it writes"),
)
LONGEST_WAIT_S = 120


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills in all (20); every fourth is a SIGTERM")
    parser.add_argument("--workers", type=numbers, default=[0, 1, 2, 3], help="numbers of loader workers (0,1,2,3)")
    parser.add_argument("--ranks", type=numbers, default=[1, 2], help="numbers of processes of a run (1,2)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the moments, and which kind of kill comes first (0)"
    )
    parser.add_argument("--iterations", type=int, default=40, help="iterations of each run (40)")
    parser.add_argument("--work-dir", type=Path, help="folder that keeps the runs (default: a temporary one)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_args(argv)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@dataclass(frozen=True)
class Kill:
    """How an attempt of a run ends.

    Attributes:
        sent: the signal.
        moment: when it is sent, see `KILLS`.
        workers: loader workers of the attempt.
    """

    sent: signal.Signals
    moment: str
    workers: int


@dataclass
class Interrupted:
    """A run that is killed again and again.

    Attributes:
        run: its folder.
        ranks: number of its processes.
        iterations: of the whole run.
        kills: what happens to it.
        opts: overrides of the config.
        draw: of the moments.
        start_s: seconds that a start takes, until the first row is written.
        landed: how many kills hit the run before its end, by signal.
    """

    run: RunFolder
    ranks: int
    iterations: int
    kills: Sequence[Kill]
    opts: Sequence[str]
    draw: random.Random
    start_s: float
    landed: Counter[str] = field(default_factory=Counter)

    def attempts(self) -> Iterator[str]:
        """Train with interruptions, then to the end; yields a line on each interruption."""
        for number, kill in enumerate(self.kills):
            process = self.start(kill.workers)
            self.wait_for(process, kill.moment, len(self.kills) - number)
            code = self.end(process, kill.sent)
            self.landed[kill.sent.name] += code != 0
            shown = f"{counted(self.ranks, 'rank')}, {counted_or_none(kill.workers, 'worker')}: {kill.sent.name} {kill.moment}"
            yield f"{shown}: exit code {code}, {self.rows_done()} rows so far"
            if code == 0:
                return
        process = self.start(self.kills[-1].workers if self.kills else 0)
        if process.wait() != 0:
            raise UserError(f"The last attempt ended with {process.returncode}; its log is {log_of(self.run)}.")

    def start(self, workers: int) -> subprocess.Popen[bytes]:
        overrides = [*self.opts, f"dataloader.train.num_workers={workers}"]
        return start(command(self.run, self.iterations, self.ranks, overrides), log_of(self.run))

    def rows_done(self) -> int:
        """Number of rows that are written."""
        return self.run.metrics.read_bytes().count(b"\n") if self.run.metrics.is_file() else 0

    def wait_for(self, process: subprocess.Popen[bytes], moment: str, kills_left: int) -> None:
        """Return at the moment at which the run is to be killed, or when it has ended."""
        begin = time.time()
        if moment == "at any time":
            wait_until(process, begin + self.draw.uniform(0.0, 1.5 * self.start_s), lambda: False)
            return
        deadline = begin + LONGEST_WAIT_S
        wait_until(process, deadline, lambda: last_row_time(self.run) > begin)
        if moment == "in training":
            share = (self.iterations - self.rows_done()) // (kills_left + 1)
            target = self.rows_done() + self.draw.randint(0, max(1, share))
            wait_until(process, deadline, lambda: self.rows_done() >= target)
            wait_until(process, time.time() + self.draw.uniform(0.0, 0.2), lambda: False)
        else:
            wait_until(process, deadline, lambda: any(self.run.path.glob(".model*.tmp")), step_s=0.0005)

    def end(self, process: subprocess.Popen[bytes], sent: signal.Signals) -> int:
        """Send the signal, wait until no process of the run is left, and return the launcher's exit code."""
        if sent == signal.SIGKILL and self.ranks > 1:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sent)  # all processes, as a scheduler or a power failure ends them
            record = self.run.newest_record()
            if record is not None and is_running(int(record["pid"]), record["process_started"]):
                with contextlib.suppress(ProcessLookupError):  # of another session, as some launchers start it
                    os.kill(int(record["pid"]), sent)
        else:
            process.send_signal(sent)
        code = process.wait()
        wait_until(process, time.time() + LONGEST_WAIT_S, lambda: not self.is_alive(), ended=False)
        # Of several ranks, one may be ended by SIGTERM before it listens for it, which the launcher reports.
        expected = {signal.SIGTERM: (EXIT_STOPPED, -sent, 256 - sent, 0), signal.SIGKILL: (-sent, 0)}[sent]
        if code not in expected:
            raise UserError(f"An attempt ended with {code} instead of by {sent.name}; its log is {log_of(self.run)}.")
        return code

    def is_alive(self) -> bool:
        """Whether the main process of the newest attempt is still there."""
        record = self.run.newest_record()
        return record is not None and is_running(int(record["pid"]), None)


def command(run: RunFolder, iterations: int, ranks: int, overrides: Sequence[str]) -> list[str]:
    folder = run.path.parent
    return [
        *(
            sys.executable,
            str(LAUNCHER),
            "--config-file",
            str(folder / "drill.py"),
            "--resume",
            "--num-gpus",
            str(ranks),
        ),
        *(f"data.root={folder / 'phantom'}", f"train.output_dir={run}", f"train.max_iter={iterations}"),
        *("train.log_period=1", "train.eval_period=15", "train.checkpointer.period=2", "train.amp.enabled=true"),
        "trainer.hooks.ema=common/hooks.py:EMA",
        *overrides,
    ]


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def wait_until(
    process: subprocess.Popen[bytes],
    deadline: float,
    condition: Callable[[], bool],
    *,
    ended: bool = True,
    step_s: float = 0.01,
) -> None:
    """Return when the condition holds, at the deadline, or, with ``ended``, when the process has ended."""
    while time.time() < deadline and not condition() and not (ended and process.poll() is not None):
        time.sleep(step_s)


def last_row_time(run: RunFolder) -> float:
    """When the run last wrote a row; 0 if it has written none."""
    return run.metrics.stat().st_mtime if run.metrics.is_file() else 0.0


def counted_or_none(number: int, noun: str) -> str:
    return counted(number, noun) if number else f"no {noun}s"


def log_of(run: RunFolder) -> Path:
    return run.path.with_suffix(".txt")


def planned_kills(args: argparse.Namespace) -> list[list[Kill]]:
    """The kills of the run of each number of ranks: signals, moments and numbers of workers in turn."""
    plans: list[list[Kill]] = [[] for _ in args.ranks]
    for number in range(args.kills):
        turn, place = divmod(number, len(args.ranks))
        workers = args.workers[
            (turn + turn // len(KILLS)) % len(args.workers)
        ]  # each kind with other numbers in each round
        plans[place].append(Kill(*KILLS[(args.seed + turn) % len(KILLS)], workers))
    return plans


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Where two checkpoints differ in any bit, apart from their configs, which name different folders and numbers of workers."""
    if place == "/trainer/hooks/record/config":
        return
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if not torch.equal(a, b):
            yield place
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from differences(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from differences(left, right, f"{place}/{i}")
    elif a != b:
        yield place


def compare(whole: RunFolder, cut: RunFolder) -> list[str]:
    """What the two runs differ in."""
    rows = [rows_of(run) for run in (whole, cut)]
    found = [f"row {i}: {a} and {b}" for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b]
    if len(rows[0]) != len(rows[1]):
        found.append(f"{len(rows[0])} and {len(rows[1])} rows")
    states = [torch.load(run.checkpoint("model_final"), weights_only=True) for run in (whole, cut)]
    return [*found, *(f"model_final.pth{place}" for place in differences(*states))]


def drill(args: argparse.Namespace, folder: Path) -> int:
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name an empty folder.")
    (folder / "drill.py").write_text(CONFIG, encoding="utf-8")
    (folder / "drill_parts.py").write_text(PARTS, encoding="utf-8")
    list(write_phantom_dataset(folder / "phantom", 8, 12, 64, seed=3, test_fraction=0.25, num_workers=2))
    landed: Counter[str] = Counter()
    found = []
    for ranks, kills in zip(args.ranks, planned_kills(args), strict=True):
        whole, cut = (RunFolder(folder / f"{name}_{ranks}") for name in ("whole", "cut"))
        overrides = [*args.opts, "dataloader.train.num_workers=0"]
        begin = time.time()
        process = start(command(whole, args.iterations, ranks, overrides), log_of(whole))
        wait_until(process, begin + LONGEST_WAIT_S, whole.metrics.is_file)
        start_s = time.time() - begin
        if process.wait() != 0:
            raise UserError(f"The uninterrupted run ended with {process.returncode}:\n{log_of(whole).read_text()}")
        draw = random.Random(args.seed + ranks)
        interrupted = Interrupted(cut, ranks, args.iterations, kills, args.opts, draw, start_s)
        for line in interrupted.attempts():
            print(line, flush=True)
        landed += interrupted.landed
        differing = compare(whole, cut)
        compared = f"{counted(ranks, 'rank')}: {len(rows_of(whole))} rows and the final state compared"
        print(f"{compared}: {counted_or_none(len(differing), 'difference')}", flush=True)
        found += differing
    print("\n".join(found[:20]), end="\n" if found else "")
    kinds = " and ".join(f"{count} {name}" for name, count in landed.items()) or "no signal"
    print(
        f"{kinds} in runs of {args.ranks} ranks with {args.workers} workers: {counted_or_none(len(found), 'difference')}"
    )
    return 1 if found else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.work_dir is not None:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        return drill(args, args.work_dir)
    with tempfile.TemporaryDirectory() as folder:
        return drill(args, Path(folder))


if __name__ == "__main__":
    sys.exit(run_tool(main))
