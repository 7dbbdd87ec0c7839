#!/usr/bin/env python
"""How long training waits for a checkpoint: written at once beside written by a thread.

    python benchmarks/checkpoint.py [--megabytes 200] [--repeats 7] [--folder DIR]

The state is a model's weights with AdamW's two moments, so a third of it is weights. "torch.save" is that call alone, to a
file that is neither flushed to disk nor hashed. The ways take turns; between two saves the thread is waited for, as between
two checkpoints of a run. The first save in the background allocates its memory and is reported separately.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ultravid.checkpoint import DetectionCheckpointer


def make(megabytes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of layers of 1 MB each, and an optimizer that has made a step."""
    side = 512
    model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(max(1, megabytes // 3))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    args = parser.parse_args(argv)
    model, optimizer = make(args.megabytes)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        at_once = DetectionCheckpointer(model, folder / "at_once", optimizer=optimizer)
        behind = DetectionCheckpointer(model, folder / "behind", background=True, optimizer=optimizer)
        behind.save_dir.mkdir()

        def bare() -> None:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "bare.pth")

        ways: dict[str, Callable[[], object]] = {
            "torch.save": bare,
            "at once": lambda: at_once.save("model"),
            "in the background": lambda: behind.save("model"),
        }
        first = timed(ways["in the background"])
        behind.wait()
        blocked: dict[str, list[float]] = {way: [] for way in ways}
        until_written = []
        for _ in range(args.repeats):
            for way, save in ways.items():
                start = time.perf_counter()
                blocked[way].append(timed(save))
                behind.wait()
                if way == "in the background":
                    until_written.append(1000 * (time.perf_counter() - start))
        size = (behind.save_dir / "model.pth").stat().st_size / 1e6
    table = Table(title=f"A checkpoint of {size:.0f} MB: milliseconds that training waits, of {args.repeats} saves")
    for column in ("", "median", "least", "most", "of 'at once'"):
        table.add_column(column, justify="right" if column else "left")
    base = statistics.median(blocked["at once"])
    for way, times in blocked.items():
        middle = statistics.median(times)
        table.add_row(way, f"{middle:.0f}", f"{min(times):.0f}", f"{max(times):.0f}", f"{middle / base:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"In the background: the first save blocked {first:.0f} ms, files were written after {statistics.median(until_written):.0f} ms."
    )
    return 0


def timed(save: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    save()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
