#!/usr/bin/env python
"""Kill a run many times, resume it each time, and compare it with a run that was not interrupted.

    python tools/resume_drill.py [--kills 20] [--seed 0] [--work-dir DIR] [key=value ...]

Two runs train the same small model on synthetic videos, with mixed precision, two batches a step and averaged weights. One is
not interrupted. The other is killed by SIGKILL at random moments (every third time while it writes a checkpoint), stopped once by
SIGTERM, and resumed each time with another number of loader workers. Every row of metrics.json and every tensor of the last
checkpoint must be equal, bit for bit. Exit codes: 0 equal, 1 different.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ultravid.datasets.phantom import write_phantom_dataset
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import EXIT_STOPPED, ToolParser, run_tool

LAUNCHER = Path(__file__).resolve().with_name("lazyconfig_train.py")
CONFIG = """
from ultravid.config import get_config

_data, _train = get_config("common/data/phantom.py"), get_config("common/train.py")
data, dataloader = _data.data, _data.dataloader
model = get_config("common/models/basicdet_small.py").model
train, prepared_model, checkpointer, trainer = _train.train, _train.prepared_model, _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedules.py").cosine
"""
TIMES = ("time", "data_time")
MOMENTS = ("at any time", "in training", "while it writes")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (0)")
    parser.add_argument("--iterations", type=int, default=40, help="iterations of the run (40)")
    parser.add_argument("--work-dir", type=Path, help="folder that keeps the runs (default: a temporary one)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_args(argv)


def command(run: RunFolder, iterations: int, overrides: Sequence[str]) -> list[str]:
    folder = run.path.parent
    return [
        *(sys.executable, str(LAUNCHER), "--config-file", str(folder / "drill.py"), "--resume"),
        *(f"data.root={folder / 'phantom'}", f"train.output_dir={run}", f"train.max_iter={iterations}"),
        *("train.log_period=1", "train.eval_period=15", "train.checkpointer.period=2"),
        *("train.amp.enabled=true", "trainer.accumulation.num_batches=2", "trainer.hooks.ema=common/hooks.py:EMA"),
        "dataloader.train.frame_sampler.num_frames=3",
        *overrides,
    ]


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)


def last_row_time(run: RunFolder) -> float:
    """When the run last wrote a row; 0 if it has written none."""
    return run.metrics.stat().st_mtime if run.metrics.is_file() else 0.0


def wait_for(process: subprocess.Popen[bytes], kind: str, run: RunFolder, draw: random.Random) -> None:
    """Return at the moment at which a run is to be killed, or when it has ended."""
    begin = time.time()
    deadline = begin + 120
    if kind == "at any time":
        process_end = begin + draw.uniform(0.0, 8.0)
        while process.poll() is None and time.time() < process_end:
            time.sleep(0.01)
        return
    while process.poll() is None and last_row_time(run) < begin and time.time() < deadline:
        time.sleep(0.01)
    if kind == "in training":
        time.sleep(draw.uniform(0.0, 2.0))
        return
    while process.poll() is None and time.time() < deadline:
        if any(run.path.glob(".*.tmp")):
            return
        time.sleep(0.0005)


def log_of(run: RunFolder) -> Path:
    return run.path.with_suffix(".txt")


def interrupted_run(args: argparse.Namespace, run: RunFolder) -> Iterator[str]:
    """Train with interruptions; yields a line on each."""
    draw = random.Random(args.seed)
    log = log_of(run)
    signals = [signal.SIGKILL] * args.kills
    signals.insert(draw.randrange(len(signals) + 1), signal.SIGTERM)
    for number, sent in enumerate(signals):
        workers = draw.randrange(3)
        overrides = [*args.opts, f"dataloader.train.num_workers={workers}"]
        process = start(command(run, args.iterations, overrides), log)
        kind = "in training" if sent == signal.SIGTERM else MOMENTS[number % 3]
        wait_for(process, kind, run, draw)
        process.send_signal(sent)
        code = process.wait()
        expected = (EXIT_STOPPED, -signal.SIGTERM) if sent == signal.SIGTERM else (-signal.SIGKILL,)
        if code not in (*expected, 0):
            raise UserError(f"An attempt ended with {code} instead of by {sent.name}; its log is {log}.")
        done = len(run.metrics.read_text(encoding="utf-8").splitlines()) if run.metrics.is_file() else 0
        yield f"{number + 1:3d} {sent.name} {kind}, {workers} workers: exit code {code}, {done} rows so far"
    process = start(command(run, args.iterations, args.opts), log)
    if process.wait() != 0:
        raise UserError(f"The last attempt ended with {process.returncode}; its log is {log}.")


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
    whole, cut = RunFolder(folder / "whole"), RunFolder(folder / "cut")
    if any(path.exists() for path in (folder / "phantom", whole.path, cut.path)):
        raise UserError(f"{folder} holds an earlier drill; name an empty folder.")
    (folder / "drill.py").write_text(CONFIG, encoding="utf-8")
    list(write_phantom_dataset(folder / "phantom", 8, 12, 64, seed=3, test_fraction=0.25, num_workers=2))
    overrides = [*args.opts, "dataloader.train.num_workers=0"]
    process = start(command(whole, args.iterations, overrides), log_of(whole))
    if process.wait() != 0:
        raise UserError(f"The uninterrupted run ended with {process.returncode}:\n{log_of(whole).read_text()}")
    for line in interrupted_run(args, cut):
        print(line, flush=True)
    found = compare(whole, cut)
    print(f"{len(rows_of(whole))} rows and the final state compared: {len(found)} differences")
    print("\n".join(found[:20]))
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
