#!/usr/bin/env python
"""Whether everything works on a GPU, and how fast, in a given time: one JSON file and one table in Markdown.

    pip install -r requirements-gpu-check.txt
    python benchmarks/gpu.py --minutes 8 [--output outputs/gpu_check] [--models ultradet,fcos]

It needs the checkout and those packages, no data and no weights: the phantom is made, weights are drawn. Rows, in this order until
the time is up:

1. the launcher on the phantom, 50 iterations: fp32, bf16, fp16; and under ``train.deterministic`` a run that is killed and resumed
   beside one that is not, whose checkpoints must be equal bit for bit;
2. a process group of one process (nccl): its reductions, and a step of DDP;
3. detections of every model on the CPU and on CUDA, in fp32 without TF32, paired by place;
4. frames a second of every model in streaming, at 512 px and at 900,000 px: eager, then bf16;
5. a training step of every model, 16 frames of 512 px, in fp32 and bf16; peak memory;
6. frames a second, compiled: UltraDet, BasicDet and Faster R-CNN first.

Both files are rewritten, whole, after each row. A row that fails has the error's text, and the next one goes on; a process that dies or
hangs takes its row along and no other. Without a GPU the CPU's part runs, with small models, and the files say what was skipped.

This file imports nothing but Python's library until a row needs more, so that a package that is missing is a row that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("ultradet", "basicdet", "faster_rcnn")
"""Models whose rows come first."""

SIZES = {"512 px": (512, 512), "900,000 px": (948, 948)}
SMALL = {"128 px": (128, 128)}
NO_DEVICE = "needs a CUDA device"
MEMORY_FRAMES = {"mega": 6, "cvanet": 8}
"""First frames of a training clip that are memory, by model."""

Row = dict[str, Any]


def model_names() -> list[str]:
    """All models of `configs_py/common/models`, those of `FIRST` first."""
    found = {p.stem for p in (ROOT / "configs_py/common/models").glob("*.py") if not p.stem.endswith("_small")}
    return [*(n for n in FIRST if n in found), *sorted(found - set(FIRST) - {"__init__"})]


# --- the record ---------------------------------------------------------------------------------------------------------------


class Record:
    """The rows so far, on disk after each."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder = folder
        self.started = time.time()
        self.deadline = time.monotonic() + 60 * minutes
        self.content: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started)),
            "minutes": minutes,
            "finished": False,
            "environment": {},
            "rows": [],
        }
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left_s(self) -> float:
        """Seconds until the time is up."""
        return self.deadline - time.monotonic()

    def add(self, row: Row) -> None:
        """Add a row and write both files."""
        self.content["rows"].append(row)
        print(_line(row), flush=True)
        self.write()

    def write(self) -> None:
        """Write both files, each whole or not at all."""
        _replace(self.folder / "gpu_check.json", json.dumps(self.content, indent=1) + "\n")
        _replace(self.folder / "gpu_check.md", self.table())

    def table(self) -> str:
        """The rows in Markdown."""
        about = self.content["environment"]
        title = ", ".join(f"{key} {about[key]}" for key in about if about[key])
        lines = [
            f"# GPU check, {self.content['started']}",
            "",
            title,
            "",
            "| what | row | result | s | values |",
            "|---|---|---|---|---|",
        ]
        for row in self.content["rows"]:
            said = row.get("error") or ", ".join(
                f"{key} {_shown(value)}" for key, value in row.get("values", {}).items()
            )
            cells = (row["section"], row["name"], row["status"], f"{row.get('seconds', 0):.1f}", said)
            lines.append(
                "| " + " | ".join(" ".join(str(cell).replace("|", "/").split())[:300] for cell in cells) + " |"
            )
        return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(row: Row) -> str:
    values = " ".join(f"{key}={_shown(value)}" for key, value in row.get("values", {}).items())
    return f"{row['section']}: {row['name']}: {row['status']} {values}{row.get('error', '')[-300:]}"


# --- the process that loads models --------------------------------------------------------------------------------------------


class Worker:
    """A process that computes rows; it is restarted after one that killed it."""

    def __init__(self, log: Path, device: str) -> None:
        self.log = log
        self.device = device
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str | None] = queue.Queue()

    def ask(self, request: Row, timeout_s: float) -> Row:
        """The answer to a request: its ``values``, or ``error``."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        process, answers = self.process, self.answers
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = answers.get(timeout=max(timeout_s, 0.1))
        except queue.Empty:
            self.stop()
            return {"status": "not finished", "error": f"It took more than {timeout_s:.0f} s."}
        except OSError:
            answer = None
        if answer is None:
            code = process.wait()
            self.stop()
            return {"status": "failed", "error": f"The process ended with {code}: {_tail(self.log)}"}
        row: Row = json.loads(answer)
        return row

    def _start(self) -> None:
        command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--worker", "--device", self.device]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment()
            )
        self.answers = queue.Queue()
        threading.Thread(target=_forward, args=(self.process, self.answers), daemon=True).start()

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _forward(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put(None)


def _environment() -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"OMP_WAIT_POLICY": "passive", "ULTRAVID_CACHE": "off", **os.environ, "PYTHONPATH": os.pathsep.join(path)}


def _tail(path: Path, characters: int = 1500) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")[-characters:].strip()
    return ""


# --- the launcher -------------------------------------------------------------------------------------------------------------


class Launch:
    """A run of the launcher in a process of its own."""

    def __init__(self, folder: Path, data: Path, cuda: bool, overrides: Sequence[str], resume: bool = False) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        self.started = time.monotonic()
        small = [] if cuda else ["train.max_iter=4", "dataloader.train.frame_sampler.num_frames=3"]
        command = [
            *(sys.executable, str(ROOT / "tools/lazyconfig_train.py"), *(["--resume"] if resume else [])),
            *("--config-file", str(ROOT / "projects/basicdet/configs/phantom.py"), f"data.root={data}"),
            *(f"train.output_dir={folder}", "train.max_iter=50", "train.log_period=1", "train.checkpointer.period=10"),
            *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
            *(f"train.device={'cuda' if cuda else 'cpu'}", *small, *overrides),
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What the run has logged."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "metrics.json").read_text(encoding="utf-8").splitlines()
            with contextlib.suppress(ValueError):
                return [json.loads(line) for line in lines]
        return []

    def kill(self) -> None:
        """End the run at once, as a machine does that fails."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def result(self, left_s: float) -> Row:
        """The row of the run, once it has ended."""
        try:
            code = self.process.wait(timeout=max(left_s, 0.1))
        except subprocess.TimeoutExpired:
            self.kill()
            printed = _tail(self.log, 400) or "the launcher had printed nothing yet"
            return {"status": "not finished", "error": f"The time was up: {printed}"}
        row: Row = {"seconds": time.monotonic() - self.started}
        losses = [r["total_loss"] for r in self.rows if "total_loss" in r]
        if code != 0 or not losses:
            return {**row, "status": "failed", "error": f"The launcher ended with {code}: {_tail(self.log)}"}
        steps = sorted(r["time"] for r in self.rows if "time" in r)
        values = {"iterations": len(losses), "first loss": losses[0], "last loss": losses[-1]}
        if steps:
            values["ms a step, median"] = 1000 * steps[len(steps) // 2]
        finite = all(isinstance(loss, float) and loss == loss for loss in losses)
        return {**row, "status": "ok" if finite else "failed", "values": values}


def launcher_rows(record: Record, worker: Worker, work: Path, cuda: bool) -> None:
    """Train on the phantom in each precision, and once killed and resumed. On a GPU the runs share it."""
    data = work / "phantom"
    shape = ("12", "32", "128") if cuda else ("4", "12", "64")
    command = [sys.executable, str(ROOT / "tools/make_phantom.py"), "--output", str(data)]
    made = subprocess.run(
        [*command, "--videos", shape[0], "--frames", shape[1], "--size", shape[2]],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    section = "launcher"
    if made.returncode:
        record.add({"section": section, "name": "phantom", "status": "failed", "error": made.stderr[-1500:]})
        return
    runs = {"fp32": Launch(work / "fp32", data, cuda, [])}
    if cuda:
        for name, precision in (("bf16", "bfloat16"), ("fp16", "float16")):
            amp = ["train.amp.enabled=true", f"train.amp.precision={precision}"]
            runs[name] = Launch(work / name, data, cuda, amp)
        runs["deterministic"] = Launch(work / "deterministic", data, cuda, ["train.deterministic=true"])
        killed = Launch(work / "killed", data, cuda, ["train.deterministic=true"])
        last = _kill_after_a_checkpoint(killed, record)
    for name, run in runs.items():
        record.add({"section": section, "name": name, **run.result(record.left_s)})
    if not cuda:
        for name in ("bf16", "fp16", "killed and resumed, deterministic"):
            record.add({"section": section, "name": name, "status": "skipped", "error": NO_DEVICE})
        return
    row: Row = {"section": section, "name": "killed and resumed, deterministic"}
    if last is None:
        record.add(
            {**row, "status": "failed", "error": f"The run ended before it could be killed: {_tail(killed.log)}"}
        )
        return
    resumed = Launch(work / "killed", data, cuda, ["train.deterministic=true"], resume=True)
    result = resumed.result(record.left_s)
    if result["status"] == "ok":
        request = {"kind": "equal", "files": [str(work / d / "model_final.pth") for d in ("deterministic", "killed")]}
        result = {**result, **worker.ask(request, record.left_s)}
        result["values"] = {"killed after iteration": last, **result.get("values", {})}
    record.add({**row, **result})


def _kill_after_a_checkpoint(run: Launch, record: Record) -> int | None:
    """Kill a run some iterations after its second checkpoint; the iteration, or None if it ended before."""
    while run.process.poll() is None and record.left_s > 0:
        iterations = [int(r["iteration"]) for r in run.rows if "iteration" in r]
        if iterations and iterations[-1] >= 24 and (run.folder / "last_checkpoint").exists():
            run.kill()
            return iterations[-1]
        time.sleep(0.02)
    run.kill()
    return None


# --- the plan -----------------------------------------------------------------------------------------------------------------


def planned(models: Sequence[str], cuda: bool) -> Iterator[tuple[str, str, Row | None]]:
    """(what, row, request) of all rows after the launcher's; a request that is None needs a CUDA device."""
    backend = "nccl" if cuda else "gloo"
    yield "one process", backend, {"kind": "one_process", "backend": backend}
    if not cuda:
        yield "one process", "nccl", None
        yield "CPU and CUDA agree", "every model", None
    for model in models if cuda else ():
        yield "CPU and CUDA agree", model, {"kind": "agreement", "model": model}
    sizes = SIZES if cuda else SMALL
    for mode in ("eager", "bf16"):
        for label, size in sizes.items():
            for model in models if cuda or mode == "eager" else ():
                request = {"kind": "stream", "model": model, "size": size, "mode": mode, "small": not cuda}
                yield f"frames a second, {mode}", f"{model}, {label}", request
    if not cuda:
        yield "frames a second, bf16", "every model", None
        yield "frames a second", "512 px and 900,000 px", None
    for precision in ("fp32", "bf16"):
        for model in models if cuda or precision == "fp32" else ():
            request = {"kind": "train", "model": model, "precision": precision, "small": not cuda}
            yield "training step", f"{model}, {precision}", request
    if not cuda:
        yield "training step", "bf16 and peak memory", None
        yield "frames a second, compiled", "every model", None
    for label, size in sizes.items() if cuda else ():
        for model in models:
            request = {"kind": "stream", "model": model, "size": size, "mode": "compiled", "small": False}
            yield "frames a second, compiled", f"{model}, {label}", request


def check(args: argparse.Namespace) -> int:
    """Fill the record; returns the number of rows that failed."""
    record = Record(Path(args.output), args.minutes)
    work = Path(tempfile.mkdtemp(prefix="gpu_check"))
    log = record.folder / "gpu_check.log"
    log.unlink(missing_ok=True)
    worker = Worker(log, args.device)
    models = args.models.split(",") if args.models else model_names()
    try:
        about = worker.ask({"kind": "environment"}, 120)
        record.content["environment"] = about.get("values", {})
        if about["status"] != "ok":
            record.add({"section": "environment", "name": "torch", **about})
            return 1
        cuda = bool(record.content["environment"]["cuda"])
        launcher_rows(record, worker, work, cuda)
        for section, name, request in planned(models, cuda):
            start = time.monotonic()
            if request is None:
                answer = {"status": "skipped", "error": NO_DEVICE}
            elif record.left_s <= 0:
                answer = {"status": "not reached", "error": "the time was up"}
            else:
                answer = worker.ask(request, record.left_s)
            record.add({"section": section, "name": name, "seconds": time.monotonic() - start, **answer})
        record.content["finished"] = all(
            r["status"] not in ("not reached", "not finished") for r in record.content["rows"]
        )
        record.content["seconds"] = time.time() - record.started
        record.write()
    finally:
        worker.stop()
        shutil.rmtree(work, ignore_errors=True)
    print(f"{record.folder / 'gpu_check.json'} and {record.folder / 'gpu_check.md'}")
    return sum(row["status"] in ("failed", "differs") for row in record.content["rows"])


# --- in the worker ------------------------------------------------------------------------------------------------------------


def serve(device: str) -> None:
    """Answer requests, one a line."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            handler: Callable[..., Row] = HANDLERS[request.pop("kind")]
            answer = handler(device=device, **request)
        except Exception as error:  # whatever it is, it is the row's result
            traceback.print_exc()
            said = "".join(traceback.format_exception_only(error)).strip()
            frame = traceback.extract_tb(error.__traceback__)[-1]
            answer = {"status": "failed", "error": f"{said[-1200:]} ({Path(frame.filename).name}:{frame.lineno})"}
        out.write(json.dumps(answer) + "\n")
        out.flush()
        _free_memory()


def _free_memory() -> None:
    import gc

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # after an illegal access each call fails; the next row says so
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def row_of_environment(device: str) -> Row:
    """What the rows were computed with."""
    import torch
    import torchvision

    cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise RuntimeError("--device cuda, but torch sees no CUDA device.")
    values: dict[str, Any] = {
        "cuda": torch.version.cuda if cuda else "",
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)),
    }
    if cuda:
        values["cudnn"] = torch.backends.cudnn.version()
        values["GB"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30)
    return {"status": "ok", "values": values}


def _target(device: str) -> Any:
    import torch

    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _model(name: str, small: bool) -> Any:
    """A model with drawn weights under which it detects: of constant variance, without biases against detections."""
    import torch
    from torch import nn

    from ultravid.config import get_config, instantiate

    torch.manual_seed(0)
    model = instantiate(get_config(f"common/models/{name}{'_small' if small else ''}.py").model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                continue
            for key, weight in module.named_parameters(recurse=False):
                if weight.ndim >= 2:
                    weight.copy_(torch.randn(weight.shape, generator=draw) * weight[0].numel() ** -0.5)
                elif key.endswith("bias") and not hasattr(module, "eps"):  # a norm's shift stays
                    weight.zero_()
    return model


def _frames(number: int, height: int, width: int) -> Any:
    """``(T, 3, H, W)`` float32 in 0..255: smooth noise that moves."""
    import torch
    from torch.nn import functional as F

    noise = torch.randn(1, 1, height // 8, (width + 8 * number) // 8, generator=torch.Generator().manual_seed(2))
    wide = F.interpolate(noise * 40 + 110, (height, width + 8 * number), mode="bilinear").clamp(0, 255)
    return torch.stack([wide[0, :, :, 3 * t : 3 * t + width].expand(3, -1, -1) for t in range(number)]).contiguous()


def _clip(name: str, size: Sequence[int], length: int) -> Any:
    import torch

    from ultravid.structures import Boxes, Clip, Instances

    height, width = size
    box = Boxes([[0.3 * width, 0.3 * height, 0.6 * width, 0.55 * height]])
    one = torch.zeros(1, dtype=torch.int64)
    instances = [Instances((height, width), gt_boxes=box, gt_classes=one, gt_ids=one) for _ in range(length)]
    frames = _frames(length, height, width).to(torch.uint8)
    memory = min(MEMORY_FRAMES.get(name, 0), length // 2)
    return Clip(frames, instances, ["v"] * length, list(range(length)), num_memory=memory)


def _synchronize(target: Any) -> None:
    import torch

    if target.type == "cuda":
        torch.cuda.synchronize()


def _peak(target: Any) -> dict[str, float]:
    import torch

    return {"peak GB": torch.cuda.max_memory_allocated() / 2**30} if target.type == "cuda" else {}


def row_of_equal(device: str, files: Sequence[str]) -> Row:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    del device
    import torch

    from ultravid.checkpoint import load_file

    def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from tensors(item, f"{name}.{key}")
        elif isinstance(value, list | tuple):
            for place, item in enumerate(value):
                yield from tensors(item, f"{name}.{place}")

    first, second = (dict(tensors(load_file(file))) for file in files)
    differ = [k for k in first if k not in second or not torch.equal(first[k], second[k])]
    values = {"tensors": len(first), "different": len(differ)}
    if differ or first.keys() != second.keys():
        return {
            "status": "differs",
            "values": values,
            "error": f"{len(differ)} tensors differ: {', '.join(differ[:3])}",
        }
    return {"status": "ok", "values": values}


def row_of_one_process(device: str, backend: str) -> Row:
    """Reduce in a group of one process, and make a step of DDP there."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from ultravid.modeling.losses import mean_over_processes

    target = _target(device)
    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(f"{folder}/store", 1)
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            value = torch.arange(4.0, device=target)
            distributed.all_reduce(value)
            normalizer = float(mean_over_processes(value.sum()))
            model = _model("faster_rcnn", small=True).to(target).train()
            parallel = DistributedDataParallel(model, device_ids=[0] if target.type == "cuda" else None)
            loss = sum(parallel([_clip("faster_rcnn", (96, 96), 2)]).values())
            loss.backward()
        finally:
            distributed.destroy_process_group()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    good = value.tolist() == [0.0, 1.0, 2.0, 3.0] and normalizer == 6.0 and bool(torch.isfinite(loss)) and not without
    return {
        "status": "ok" if good else "failed",
        "values": {"loss": float(loss.detach()), "without gradient": len(without)},
    }


def row_of_agreement(device: str, model: str) -> Row:
    """Detections of a stream on the CPU and on CUDA."""
    import copy

    import torch
    from scipy.optimize import linear_sum_assignment

    from ultravid.modeling import VideoStream

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    here = _model(model, small=False).eval()
    there = copy.deepcopy(here).to(_target(device))
    frames = _frames(5, 256, 320)
    try:
        pairs = [
            (a.to("cpu"), b.to("cpu"))
            for a, b in zip(*([VideoStream(m, (256, 320))(f) for f in frames] for m in (here, there)), strict=True)
        ]
    finally:
        torch.backends.cudnn.allow_tf32 = True
    pixels = scores = 0.0
    unpaired = number = 0
    for expected, found in pairs:
        number += len(expected)
        unpaired += abs(len(expected) - len(found))
        if len(expected) == 0 or len(found) == 0:
            continue
        apart = (expected.pred_boxes.tensor[:, None] - found.pred_boxes.tensor[None]).abs().amax(dim=-1)
        of_scores = (expected.scores[:, None] - found.scores[None]).abs()
        row, column = (torch.from_numpy(i) for i in linear_sum_assignment((apart + 100 * of_scores).numpy()))
        apart, of_scores = apart[row, column], of_scores[row, column]
        far = (apart > 1.0) | (of_scores > 0.02)
        unpaired += int(far.sum())
        if not bool(far.all()):
            pixels = max(pixels, float(apart[~far].max()))
            scores = max(scores, float(of_scores[~far].max()))
    values = {"detections": number, "largest px": pixels, "largest score": scores, "unpaired": unpaired}
    agree = unpaired == 0 and pixels <= 0.2 and scores <= 2e-3 and number > 0
    return {"status": "ok" if agree else "differs", "values": values}


def row_of_stream(device: str, model: str, size: Sequence[int], mode: str, small: bool) -> Row:
    """Milliseconds a frame in streaming, once every window is full."""
    import torch

    from ultravid.modeling import VideoStream

    target = _target(device)
    height, width = size
    frames = _frames(8, height, width).to(target)
    detector = _prepared(_model(model, small).to(target).eval(), (height, width), mode)
    warm, timed = (3, 5) if small else (20, 32)
    times, found = [], 0
    with torch.no_grad():
        stream = VideoStream(detector, (height, width))
        for number in range(warm + timed):
            _synchronize(target)
            start = time.perf_counter()
            found = len(stream(frames[number % len(frames)]))
            _synchronize(target)
            times.append(1000 * (time.perf_counter() - start))
    times = sorted(times[warm:])
    middle, late = times[len(times) // 2], times[min(len(times) - 1, int(0.95 * len(times)))]
    values = {"frames a second": 1000 / middle, "p50 ms": middle, "p95 ms": late, "worst ms": times[-1], "found": found}
    return {"status": "ok", "values": {**values, **_peak(target)}}


def _prepared(model: Any, size: tuple[int, int], mode: str) -> Any:
    from ultravid.modeling.inference import prepare_for_inference

    precision = "bfloat16" if mode == "bf16" else "float32"
    return prepare_for_inference(model, size, precision=precision, compile=mode == "compiled")


def row_of_train(device: str, model: str, precision: str, small: bool) -> Row:
    """Milliseconds of a training step, and what memory it takes."""
    import torch

    target = _target(device)
    detector = _model(model, small).to(target).train()
    clip = _clip(model, (64, 64) if small else (512, 512), 4 if small else 16).to(target)
    parameters = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    times, loss = [], torch.zeros(())
    for _ in range(1 if small else 5):
        _synchronize(target)
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(target.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = sum(detector([clip]).values(), torch.zeros((), device=target))
        loss.backward()
        optimizer.step()
        _synchronize(target)
        times.append(1000 * (time.perf_counter() - start))
    finite = bool(torch.isfinite(loss)) and all(p.grad is None or bool(p.grad.isfinite().all()) for p in parameters)
    values = {"ms a step": min(times), "loss": float(loss.detach()), **_peak(target)}
    return {"status": "ok" if finite else "failed", "values": values, **({} if finite else {"error": "not finite"})}


HANDLERS: dict[str, Callable[..., Row]] = {
    "environment": row_of_environment,
    "equal": row_of_equal,
    "one_process": row_of_one_process,
    "agreement": row_of_agreement,
    "stream": row_of_stream,
    "train": row_of_train,
}
"""From a request's ``kind`` to what answers it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; returns 1 if a row failed."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything")
    parser.add_argument("--output", default="outputs/gpu_check", help="folder of gpu_check.json and gpu_check.md")
    parser.add_argument(
        "--models", default="", help="names of configs in configs_py/common/models, with commas; default: all"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        serve(args.device)
        return 0
    return min(check(args), 1)


if __name__ == "__main__":
    sys.exit(main())
