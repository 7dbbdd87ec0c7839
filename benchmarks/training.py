#!/usr/bin/env python
"""What a training step costs: seconds of forward, backward and AdamW for one clip, of every published model, and of its plain form.

    python benchmarks/training.py [--models NAME ...] [--size 512] [--depth 34] [--frames 16] [--threads 2] [--turns 5] [--checkpointing]
    python benchmarks/training.py --models BasicDet --profile

The clip has one box in each frame. The plain form runs the same model with the operations of `benchmarks.plain`, as the published code trains
it. What is saved on a CPU: large 3x3 convolutions and their two gradients by Winograd's filtering, frozen batch norm within the
convolutions, RoIAlign as products of matrices, images that are averaged once for all flows, geometry that is computed once for all layers and
not kept. The forms take turns; a ratio is the median over the turns. ``cpu`` is processor time, which other processes disturb less.
``--profile`` prints torch's profile of one step by operator instead.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import contextlib
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

# Run as a file, only its own folder would be on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plain import plain_operations, published_model
from ultravid.modeling.published import PUBLISHED_MODELS
from ultravid.structures import Boxes, Clip, Instances
from ultravid.utils.events import EventStorage
from ultravid.utils.memory import keep_freed_memory

PARTS = ("forward", "backward", "optimizer")


def make_clip(frames: int, size: int) -> Clip:
    """Noise, with a box in each frame."""
    draw = torch.Generator().manual_seed(0)
    images = (torch.rand(frames, 3, size, size, generator=draw) * 255).to(torch.uint8)
    side = size / 4
    instances = [
        Instances(
            (size, size),
            gt_boxes=Boxes(torch.tensor([[side + t, side, 2 * side + t, 2 * side]])),
            gt_classes=torch.zeros(1, dtype=torch.int64),
            gt_ids=torch.zeros(1, dtype=torch.int64),
        )
        for t in range(frames)
    ]
    return Clip(images, instances, ["v"] * frames, list(range(frames)), organ="breast")


class Training:
    """A model in training and its optimizer."""

    def __init__(self, name: str, depth: int, plain: bool, checkpointing: bool) -> None:
        self.model = published_model(name, depth).train()
        self.model.gradient_checkpointing = checkpointing
        self.optimizer = torch.optim.AdamW((p for p in self.model.parameters() if p.requires_grad), lr=1e-5)
        self.is_plain = plain
        self.times: list[list[tuple[float, float]]] = []

    def step(self, clip: Clip) -> None:
        """One step; keeps wall and CPU seconds of its parts."""
        clock = [(time.perf_counter(), time.process_time())]
        with plain_operations() if self.is_plain else contextlib.nullcontext(), EventStorage(0):
            loss = sum(self.model([clip]).values())
            clock.append((time.perf_counter(), time.process_time()))
            loss.backward()
        clock.append((time.perf_counter(), time.process_time()))
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.append((time.perf_counter(), time.process_time()))
        self.times.append([(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(clock)])

    def totals(self, which: int) -> list[float]:
        """Wall (0) or CPU (1) seconds of each step."""
        return [sum(part[which] for part in step) for step in self.times]

    def row(self, plain: "Training") -> list[str]:
        """Columns of the table."""
        wall = self.totals(0)
        parts = [statistics.median(step[i][0] for step in self.times) for i in range(len(PARTS))]
        numbers = [statistics.median(wall), min(wall), max(wall), *parts, statistics.median(self.totals(1))]
        ratios = [
            statistics.median(p / own for p, own in zip(plain.totals(w), self.totals(w), strict=True)) for w in (0, 1)
        ]
        return [f"{n:.2f}" for n in (*numbers, *ratios)]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED_MODELS), choices=list(PUBLISHED_MODELS))
    parser.add_argument("--size", type=int, default=512, help="side of the square frames in pixels")
    parser.add_argument("--depth", type=int, default=34, choices=(18, 34))
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="compute the backbone's activations twice")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args(argv)


def profile(name: str, args: argparse.Namespace) -> str:
    """The operators of one step by their own CPU time."""
    training, clip = Training(name, args.depth, False, args.checkpointing), make_clip(args.frames, args.size)
    training.step(clip)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        training.step(clip)
    return str(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    console = Console(width=None if sys.stdout.isatty() else 140)
    if args.profile:
        for name in args.models:
            console.print(profile(name, args), soft_wrap=True)
        return 0
    title = f"s a step, {args.frames} frames of {args.size} px, ResNet-{args.depth}, {args.threads} threads"
    table = Table(title=title)
    for column in ("model", "form", "median", "best", "worst", *PARTS, "cpu", "ratio", "ratio of cpu"):
        table.add_column(column, justify="left" if column in ("model", "form") else "right")
    clip = make_clip(args.frames, args.size)
    for name in args.models:
        forms = {
            form: Training(name, args.depth, form == "plain", args.checkpointing and form == "ours")
            for form in ("plain", "ours")
        }
        for turn in range(args.turns + 1):
            for form in forms.values():
                form.step(clip)
                if turn == 0:
                    form.times.clear()
        for form_name, form in forms.items():
            row = form.row(forms["plain"])
            table.add_row(name, form_name, *row)
            console.print(name, form_name, *row)
    console.print(table)
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
