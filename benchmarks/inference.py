#!/usr/bin/env python
"""What a frame of a stream costs: milliseconds (p50, p95, worst) of every published model, and how many times the plain form takes.

    python -m benchmarks.inference [--models NAME ...] [--size 512] [--depth 34] [--threads 2] [--turns 5]
        [--forms eager bf16 compiled onnxruntime] [--json FILE]

The models are those of `ultravid.modeling.published`, with random weights. Each is run in these forms, in turns, on the same frames, as a
user runs it: one frame after another through a `VideoStream`, boxes scaled, tracks linked. Each form has a process of its own, since how
memory is allocated and which threads wait is a matter of the process.

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
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
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
    "onnxruntime": onnx_detector,
}
"""From a model in evaluation mode and the side of its frames to what is measured beside the plain form."""

Turn = tuple[list[tuple[float, float]], list[Instances]]
"""Wall and CPU milliseconds of each frame, and what was detected in it."""


def make_frames(size: int) -> list[Tensor]:
    """Noise, the same in each process."""
    draw = torch.Generator().manual_seed(0)
    return [torch.rand(3, size, size, generator=draw) * 255 for _ in range(FRAMES_A_TURN)]


def run_turns(connection: Connection, name: str, form: str, size: int, depth: int, threads: int) -> None:
    """The process of a form: send None once the model stands, then a `Turn` for each message; an error is sent as text and ends it."""
    try:
        torch.set_num_threads(threads)
        frames, plain = make_frames(size), form == "plain"
        model = plain_model(name, depth) if plain else FORMS[form](published_model(name, depth), size)
        stream = VideoStream(model, (size, size))
        connection.send(None)
        with plain_operations() if plain else contextlib.nullcontext():
            while connection.recv():
                connection.send(_turn(stream, frames))
    except Exception as error:
        lines = str(error).strip().splitlines()
        connection.send(f"{type(error).__name__}: {lines[0] if lines else ''}")


def _turn(stream: VideoStream, frames: Sequence[Tensor]) -> Turn:
    times, detections = [], []
    for frame in frames:
        wall, cpu = time.perf_counter(), time.process_time()
        found = stream(frame)
        times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
        detections.append(found)
    return times, detections


class FormError(Exception):
    """A form could not be built or run."""


class Form:
    """A form of a model in its process, the times of its frames, and what it detects in the first ones."""

    def __init__(self, name: str, form: str, args: argparse.Namespace) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        rest = (name, form, args.size, args.depth, args.threads)
        self._process = spawn.Process(target=run_turns, args=(theirs, *rest), daemon=True)
        self._process.start()
        theirs.close()
        self._received()
        self.turns: list[list[tuple[float, float]]] = []
        self.found: list[Instances] = []
        for _ in range(WARM_UP_TURNS):
            self.run()
        self.turns.clear()

    def run(self) -> None:
        """One turn."""
        self._connection.send(True)
        times, detections = self._received()
        self.turns.append(times)
        self.found += detections

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._connection.send(False)
        self._process.join()

    def _received(self) -> Any:
        try:
            message = self._connection.recv()
        except EOFError:
            self._process.join()
            raise FormError(f"The process of the form ended with code {self._process.exitcode}.") from None
        if isinstance(message, str):
            raise FormError(message)
        return message

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


def rows_of(name: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The row of each form of a model, the plain one first; ``{"error": reason}`` for one that fails."""
    forms: dict[str, Form] = {}
    rows: dict[str, dict[str, Any]] = {form: {} for form in ("plain", *args.forms)}
    for form, row in rows.items():
        with _reported(row):
            forms[form] = Form(name, form, args)
    if "plain" in forms:
        for _ in range(args.turns):
            for form in (f for f in forms if not rows[f]):
                with _reported(rows[form]):
                    forms[form].run()
        measured = [] if rows["plain"] else [form for form in forms if not rows[form]]
        rows |= {form: forms[form].row(forms["plain"]) for form in measured}
    for running in forms.values():
        running.close()
    return rows


@contextlib.contextmanager
def _reported(row: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except FormError as error:
        row["error"] = str(error)


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
    settings = {name: getattr(args, name) for name in ("size", "depth", "threads", "turns")}
    record = Record(args.json, settings)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for name in args.models:
        rows = rows_of(name, args)
        record.add(name, rows)
        for form, row in rows.items():
            console.print(name, form, *cells(row), soft_wrap=True)
    title = f"ms a frame, {args.size} px, ResNet-{args.depth}, {args.threads} threads, {args.turns} turns of {FRAMES_A_TURN} frames"
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
