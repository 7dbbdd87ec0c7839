#!/usr/bin/env python
"""Cost of training data: frames per CPU second of a worker, beside only decoding the same files; and memory.

    python benchmarks/data.py [--data ROOT] [--size 512] [--clips 12] [--repeats 5] [--memory-clips 10000]

Without --data it makes phantom videos. Each row is the median of the repeats with the lowest and highest:

- bare decoding: `read_image` of the files of the same clips, in one thread.
- decoding to clips: a worker's part if augmentation runs on the training device (``dataloader.train.device``).
- flips: the recipe of configs_py/common/data/phantom.py.
- CVA-BUS: the recipe of configs_py/common/data/cva_bus.py (resize to 900,000 px times U(0.3, 1.5) a side, colour, flip).
- augmentation of ultrasound: crop, gamma, depth gain, speckle, flip, at the size of the files.

CPU seconds are those of the worker's process, in user and kernel mode, so that other load on the machine matters little; its
start is not counted. Beside them are the frames that arrive in this process per second of wall time. Memory: resident sets
of this process and its worker, after the first 500 of --memory-clips, half-way and at the end; 128 px, flips.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.table import Table

from ultravid.data import (
    ClipLoader,
    CropToRegion,
    RandomColor,
    RandomDepthGain,
    RandomFlip,
    RandomGamma,
    RandomSpeckle,
    RandomTimeFlip,
    ResizeToArea,
    StridedFrameSampler,
    Video,
    build_video_train_loader,
    load_cva_bus,
)
from ultravid.datasets.image_io import read_image
from ultravid.datasets.phantom import write_phantom_dataset

WARM_UP = 4  # clips before a measurement: the worker has started
Seconds = tuple[float, float]
"""(CPU seconds, seconds of wall time)."""
RECIPES: dict[str, list[Any]] = {
    "decoding to clips": [],
    "flips": [RandomFlip(), RandomTimeFlip()],
    "CVA-BUS": [ResizeToArea(area=900_000, factor=(0.3, 1.5)), RandomColor(), RandomFlip()],
    "augmentation of ultrasound": [CropToRegion(), RandomGamma(), RandomDepthGain(), RandomSpeckle(), RandomFlip()],
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a dataset in CVA-BUS's layout")
    parser.add_argument("--size", type=int, default=512, help="side of the phantom, px")
    parser.add_argument("--clips", type=int, default=20, help="clips per measurement, of 16 frames each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-clips", type=int, default=10_000, help="0: memory is not measured")
    return parser.parse_args(argv)


def make_phantom(folder: Path, size: int) -> list[Video]:
    list(write_phantom_dataset(folder, 10, 48, size, seed=0, test_fraction=0.2, num_workers=2))
    return load_cva_bus(root=folder)


def make_loader(videos: Sequence[Video], transforms: Sequence[Any], num_workers: int = 1) -> ClipLoader:
    return build_video_train_loader(
        videos=videos,
        frame_sampler=StridedFrameSampler(num_frames=16, stride=2),
        transforms=transforms,
        total_batch_size=1,
        seed=0,
        num_workers=num_workers,
    )


def seconds_per_clip(loader: ClipLoader, num_clips: int) -> Seconds:
    """Seconds per clip of the worker, which continues while clips are taken from it."""
    others = children()
    clips = loader.iterate_from(0)
    for _ in range(WARM_UP):
        next(clips)
    (worker,) = children() - others
    began, start = cpu_seconds(worker), time.perf_counter()
    for _ in range(num_clips):
        next(clips)
    end, wall = cpu_seconds(worker), time.perf_counter() - start
    return (end - began) / num_clips, wall / num_clips


def cpu_seconds(pid: str) -> float:
    """CPU seconds of a process's threads so far, in user and kernel mode."""
    tasks = Path("/proc", pid, "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def seconds_of_decoding(loader: ClipLoader, num_clips: int) -> Seconds:
    """Seconds per clip of decoding the files of the clips that `seconds_per_clip` counts."""
    by_id = {video.video_id: video for video in loader.dataset.videos}
    paths = []
    for (clip,), _ in zip(loader.iterate_from(WARM_UP), range(num_clips), strict=False):
        paths += [by_id[v].frames[i].path for v, i in zip(clip.video_ids, clip.frame_indices, strict=True)]
    began, start = time.process_time(), time.perf_counter()
    for path in paths:
        read_image(path)
    return (time.process_time() - began) / num_clips, (time.perf_counter() - start) / num_clips


def resident_mb() -> float:
    """Resident memory of this process and its children."""
    total = 0
    for pid in ("self", *children()):
        lines = Path("/proc", pid, "status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return total / 1024


def measure(videos: Sequence[Video], args: argparse.Namespace) -> dict[str, list[Seconds]]:
    """Seconds per clip of each row; the rows are measured in turn."""
    loaders = {name: make_loader(videos, transforms) for name, transforms in RECIPES.items()}
    bare = make_loader(videos, [], num_workers=0)
    rows: dict[str, list[Seconds]] = {"bare decoding": [], **{name: [] for name in RECIPES}}
    for _ in range(args.repeats):
        rows["bare decoding"].append(seconds_of_decoding(bare, args.clips))
        for name, loader in loaders.items():
            rows[name].append(seconds_per_clip(loader, args.clips))
    return rows


def print_rates(rows: dict[str, list[Seconds]], console: Console) -> None:
    table = Table(title="Frames per CPU second of one worker", title_justify="left")
    for column in ("path", "median", "lowest", "highest", "share of bare decoding", "per wall second"):
        table.add_column(column, justify="left" if column == "path" else "right")
    decoding = statistics.median(cpu for cpu, _ in rows["bare decoding"])
    for name, seconds in rows.items():
        cpu = [c for c, _ in seconds]
        median = statistics.median(cpu)
        rates = [16 / s for s in (median, max(cpu), min(cpu))]
        clock = 16 / statistics.median(wall for _, wall in seconds)
        table.add_row(name, *(f"{rate:,.0f}" for rate in rates), f"{decoding / median:.2f}", f"{clock:,.0f}")
    console.print(table)


def print_memory(videos: Sequence[Video], num_clips: int, console: Console) -> None:
    clips = make_loader(videos, RECIPES["flips"]).iterate_from(0)
    seen = []
    for n in range(1, num_clips + 1):
        next(clips)
        if n in (min(500, num_clips), num_clips // 2, num_clips):
            seen.append((n, resident_mb()))
    measured = ", ".join(f"{mb:,.1f} MB after {n:,} clips" for n, mb in seen)
    console.print(f"Memory of this process and one worker: {measured}")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        videos = load_cva_bus(root=args.data) if args.data else make_phantom(Path(folder, "rate"), args.size)
        first = videos[0].frames[0]
        console.print(f"{len(videos)} videos, {first.width}x{first.height} px, clips of 16 frames")
        print_rates(measure(videos, args), console)
        if args.memory_clips:
            print_memory(make_phantom(Path(folder, "memory"), 128), args.memory_clips, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
