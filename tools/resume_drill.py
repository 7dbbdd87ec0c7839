#!/usr/bin/env python
"""Kill a run again and again, take it up each time, and compare it with one that was left alone.

    python tools/resume_drill.py [--kills 20] [--seed 0] [--work-dir DIR] [key=value ...]

A small run on made-up videos, with mixed precision, two batches a step and averaged weights, is made twice: once in one
piece; once killed by SIGKILL at random moments (every third one while a checkpoint is being written) and once stopped by
SIGTERM, with --resume and another number of loader workers after each. Every row of metrics.json and every tensor of the
last checkpoint must be equal, bit for bit. Exit codes: 0 equal, 1 not.
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
from ultravid.utils.tool import EXIT_STOPPED, run_tool

ROOT = Path(__file__).resolve().parents[1]
TIMES = ("time", "data_time")
KINDS = ("from the start", "in training", "while it writes")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often SIGKILL comes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--iterations", type=int, default=40, help="of the run")
    parser.add_argument("--work-dir", type=Path, help="keeps the runs (default: a folder that is removed)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the run's config")
    return parser.parse_args(argv)


def command(data: Path, output_dir: Path, iterations: int, overrides: Sequence[str]) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "tools/lazyconfig_train.py")),
        *("--config-file", str(ROOT / "projects/basicdet/configs/phantom.py"), "--resume"),
        *(f"data.root={data}", f"train.output_dir={output_dir}", f"train.max_iter={iterations}"),
        *("train.log_period=1", "train.eval_period=15", "train.checkpointer.period=2"),
        *("train.amp.enabled=true", "trainer.accumulation.num_batches=2", "trainer.hooks.ema=common/hooks.py:EMA"),
        "dataloader.train.frame_sampler.num_frames=3",
        *overrides,
    ]


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)


def newest(output_dir: Path) -> float:
    """When the run last wrote a row."""
    rows = output_dir / "metrics.json"
    return rows.stat().st_mtime if rows.is_file() else 0.0


def wait_for(process: subprocess.Popen[bytes], kind: str, output_dir: Path, draw: random.Random) -> None:
    """Return at the moment at which a run is to be killed, or when it has ended."""
    begin = time.time()
    deadline = begin + 120
    if kind == "from the start":
        process_end = begin + draw.uniform(0.0, 8.0)
        while process.poll() is None and time.time() < process_end:
            time.sleep(0.01)
        return
    while process.poll() is None and newest(output_dir) < begin and time.time() < deadline:
        time.sleep(0.01)
    if kind == "in training":
        time.sleep(draw.uniform(0.0, 2.0))
        return
    while process.poll() is None and time.time() < deadline:
        if any(output_dir.glob(".*.tmp")):
            return
        time.sleep(0.0005)


def interrupted_run(args: argparse.Namespace, data: Path, output_dir: Path) -> Iterator[str]:
    """Make the run in pieces, and say of each how it ended."""
    draw = random.Random(args.seed)
    log = output_dir.with_suffix(".txt")
    signals = [signal.SIGKILL] * args.kills
    signals.insert(draw.randrange(len(signals) + 1), signal.SIGTERM)
    for number, sent in enumerate(signals):
        workers = draw.randrange(3)
        overrides = [*args.opts, f"dataloader.train.num_workers={workers}"]
        process = start(command(data, output_dir, args.iterations, overrides), log)
        kind = "in training" if sent == signal.SIGTERM else KINDS[number % 3]
        wait_for(process, kind, output_dir, draw)
        process.send_signal(sent)
        code = process.wait()
        expected = (EXIT_STOPPED, -signal.SIGTERM) if sent == signal.SIGTERM else (-signal.SIGKILL,)
        if code not in (*expected, 0):
            raise UserError(f"An attempt ended with {code} instead of by {sent.name}; its log is {log}.")
        rows = output_dir / "metrics.json"
        done = len(rows.read_text().splitlines()) if rows.is_file() else 0
        yield f"{number + 1:3d} {sent.name} {kind}, {workers} workers: exit code {code}, {done} rows so far"
    process = start(command(data, output_dir, args.iterations, args.opts), log)
    if process.wait() != 0:
        raise UserError(f"The last attempt ended with {process.returncode}; its log is {log}.")


def rows_of(output_dir: Path) -> list[dict[str, Any]]:
    lines = (output_dir / "metrics.json").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Where two checkpoints are not the same bits; their configs differ in the folder and the loader's workers."""
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


def compare(whole: Path, cut: Path) -> list[str]:
    """What the two runs differ in."""
    rows = [rows_of(folder) for folder in (whole, cut)]
    found = [f"row {i}: {a} and {b}" for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b]
    if len(rows[0]) != len(rows[1]):
        found.append(f"{len(rows[0])} and {len(rows[1])} rows")
    states = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, cut)]
    return [*found, *(f"model_final.pth{place}" for place in differences(*states))]


def drill(args: argparse.Namespace, folder: Path) -> int:
    data, whole, cut = folder / "phantom", folder / "whole", folder / "cut"
    if any(path.exists() for path in (data, whole, cut)):
        raise UserError(f"{folder} holds an earlier drill; name an empty folder.")
    list(write_phantom_dataset(data, 8, 12, 64, seed=3, test_fraction=0.25, num_workers=2))
    overrides = [*args.opts, "dataloader.train.num_workers=0"]
    process = start(command(data, whole, args.iterations, overrides), whole.with_suffix(".txt"))
    if process.wait() != 0:
        raise UserError(
            f"The run in one piece ended with {process.returncode}:\n{whole.with_suffix('.txt').read_text()}"
        )
    for line in interrupted_run(args, data, cut):
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
