#!/usr/bin/env python
"""What a frame of a stream costs: milliseconds (p50, p95, worst) of every published model, and how many times the plain form takes.

    python -m benchmarks.inference [--models NAME ...] [--size 512] [--depth 34] [--threads 2] [--turns 5]
        [--forms eager bf16 compiled onnxruntime] [--json FILE]

The models are those of `ultravid.modeling.published`, with random weights. Each is run in these forms, in turns, on the same frames, as a
user runs it: one frame after another through a `VideoStream`, boxes scaled, tracks linked.

- ``plain``, the yardstick: what the published code computes, see `benchmarks.plain`.
- ``eager``: `prepare_for_inference` in float32.
- ``bf16``: the same with precision="bfloat16".
- ``compiled``: the same in float32, compiled to one graph for each phase, which takes minutes a model.
- ``onnxruntime``: an export to ONNX, run by onnxruntime (``pip install 'ultravid[onnx]'``) with as many threads, one graph for each phase.

A ratio is the median over the turns of the plain form's median divided by the form's. ``cpu`` is the same of the processor's time, which
other processes on the machine disturb less. ``same`` is the share of detections that the plain form has too, within 0.5 px and 0.005 in
score, over the frames until the windows are full: that the two compute one thing. Random weights make neighbours of many scores, so a few
detections differ; bf16 differs in most.

``--json FILE`` is written after each model, and keeps the rows of other models that it has already: a run that was interrupted is
continued with ``--models`` and the names that are missing. A model or a form that fails is a row with the reason.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

# Run as a file, only its own folder would be on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plain import plain_model, plain_operations, published_model
from ultravid.modeling import VideoDetector, VideoStream, prepare_for_inference
from ultravid.modeling.published import PUBLISHED_MODELS
from ultravid.structures import Instances
from ultravid.utils.whole_files import dump_json, write_whole

FRAMES_A_TURN = 8  # one of them is a key frame of UltraDet
WARM_UP_TURNS = 3  # the windows are full after two
COLUMNS = ("p50", "p95", "worst", "cpu", "ratio", "cpu_ratio", "same")
BOX_PX, SCORE = 0.5, 5e-3


def onnx_detector(model: VideoDetector, size: int) -> VideoDetector:
    from benchmarks.onnx_detector import OnnxDetector  # onnxruntime is an extra, which the other forms do without

    return OnnxDetector(model, (size, size), torch.get_num_threads())


FORMS: dict[str, Callable[[VideoDetector, int], VideoDetector]] = {
    "eager": lambda model, size: prepare_for_inference(model, (size, size)),
    "bf16": lambda model, size: prepare_for_inference(model, (size, size), precision="bfloat16"),
    "compiled": lambda model, size: prepare_for_inference(model, (size, size), compile=True),
    "onnxruntime": lambda model, size: onnx_detector(model, size),
}
"""From a model in evaluation mode and the side of its frames to what is measured beside the plain form."""


class Form:
    """A form of a model, the times of its frames, and what it detects in the first ones."""

    def __init__(self, model: VideoDetector, size: int, plain: bool = False) -> None:
        self.stream = VideoStream(model, (size, size))
        self.is_plain = plain
        self.turns: list[list[tuple[float, float]]] = []
        self.found: list[Instances] = []

    def run(self, frames: Sequence[Tensor]) -> None:
        """One turn."""
        times = []
        with plain_operations() if self.is_plain else contextlib.nullcontext():
            for frame in frames:
                wall, cpu = time.perf_counter(), time.process_time()
                found = self.stream(frame)
                times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
                self.found.append(found)
        self.turns.append(times)

    def warm_up(self, frames: Sequence[Tensor]) -> None:
        """Turns that do not count."""
        for _ in range(WARM_UP_TURNS):
            self.run(frames)
        self.turns.clear()

    def medians(self, which: int) -> list[float]:
        """Of each turn, wall (0) or CPU (1) milliseconds."""
        return [statistics.median(t[which] for t in turn) for turn in self.turns]

    def row(self, plain: "Form") -> dict[str, float]:
        """Values of the columns."""
        wall = [t[0] for turn in self.turns for t in turn]
        ratios = [
            statistics.median(p / own for p, own in zip(plain.medians(w), self.medians(w), strict=True)) for w in (0, 1)
        ]
        cpu = statistics.median(self.medians(1))
        numbers = (statistics.median(wall), float(np.quantile(wall, 0.95)), max(wall), cpu, *ratios, same(self, plain))
        return dict(zip(COLUMNS, numbers, strict=True))


def same(form: Form, plain: Form) -> float:
    """The share of detections, of both forms, that have a partner in the other one."""
    paired = total = 0
    for found, expected in zip(form.found, plain.found, strict=False):
        total += len(found) + len(expected)
        if len(found) and len(expected):
            boxes, other = found.pred_boxes.tensor.float(), expected.pred_boxes.tensor
            near = (boxes[:, None] - other).abs().amax(dim=-1) < BOX_PX
            near &= (found.scores.float()[:, None] - expected.scores).abs() < SCORE
            paired += int(near.any(dim=0).sum() + near.any(dim=1).sum())
    return paired / total if total else 1.0


def rows_of(name: str, frames: Sequence[Tensor], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The row of each form of a model, the plain one first; ``{"error": reason}`` for one that fails."""
    forms: dict[str, Form] = {}
    rows: dict[str, dict[str, Any]] = {}
    makers = {form: (lambda m=FORMS[form]: m(published_model(name, args.depth), args.size)) for form in args.forms}
    for form, make in {"plain": lambda: plain_model(name, args.depth), **makers}.items():
        rows[form] = {}
        with _reported(rows[form]):
            forms[form] = Form(make(), args.size, plain=form == "plain")
            forms[form].warm_up(frames)
    if "plain" in forms and not rows["plain"]:
        for _ in range(args.turns):
            for form in (f for f in forms if not rows[f]):
                with _reported(rows[form]):
                    forms[form].run(frames)
        for form in (f for f in forms if not rows[f]):
            rows[form] = forms[form].row(forms["plain"])
    return rows


@contextlib.contextmanager
def _reported(row: dict[str, Any]) -> Any:
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines()
        row["error"] = f"{type(error).__name__}: {lines[0] if lines else ''}"


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table as text."""
    if "error" in row:
        return [row["error"]]
    if not row:
        return ["not measured: there is no plain form beside it"]
    digits = (1, 1, 1, 1, 2, 2, 3)
    return [f"{row[column]:.{n}f}" for column, n in zip(COLUMNS, digits, strict=True)]


class Record:
    """The rows of all models, kept in a file if there is one."""

    def __init__(self, file: str | None, settings: dict[str, Any]) -> None:
        self.path = None if file is None else Path(file)
        self.settings = settings
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}
        if self.path is not None and self.path.exists():
            before = json.loads(self.path.read_text())
            if before["settings"] != settings:
                raise SystemExit(
                    f"{file} was measured with {before['settings']}, this run has {settings}: name another."
                )
            self.rows = before["rows"]

    def add(self, name: str, rows: dict[str, dict[str, Any]]) -> None:
        """The rows of a model, in place of those that it had."""
        self.rows[name] = {**self.rows.get(name, {}), **rows}
        if self.path is not None:
            with write_whole(self.path) as file:
                file.write(dump_json({"settings": self.settings, "rows": self.rows}, indent=1).encode())


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED_MODELS), choices=list(PUBLISHED_MODELS))
    parser.add_argument("--size", type=int, default=512, help="side of the square frames in pixels")
    parser.add_argument("--depth", type=int, default=34, choices=(18, 34))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--forms", nargs="+", default=["eager"], choices=list(FORMS))
    parser.add_argument("--json", metavar="FILE", help="keep the rows in this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("size", "depth", "threads", "turns")}
    record = Record(args.json, settings)
    draw = torch.Generator().manual_seed(0)
    frames = [torch.rand(3, args.size, args.size, generator=draw) * 255 for _ in range(FRAMES_A_TURN)]
    console = Console(width=None if sys.stdout.isatty() else 120)
    for name in args.models:
        rows = rows_of(name, frames, args)
        record.add(name, rows)
        for form, row in rows.items():
            console.print(name, form, *cells(row), soft_wrap=True)
    title = f"ms a frame, {args.size} px, ResNet-{args.depth}, {args.threads} threads, {args.turns} turns of {len(frames)} frames"
    table = Table(title=title)
    for column in ("model", "form", *COLUMNS):
        table.add_column(column, justify="left" if column in ("model", "form") else "right")
    for name, rows in record.rows.items():
        for form, row in rows.items():
            table.add_row(name, form, *cells(row))
    console.print(table)
    return int(any("error" in row for name in args.models for row in record.rows[name].values()))


if __name__ == "__main__":
    sys.exit(main())
