"""A detector written as files that run without ultravid: a graph of its step for each phase, and a description.

Legend: ``H, W`` height and width of a frame in pixels, ``K`` rows of detections.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

import ultravid
from ultravid.data.transforms import area_size
from ultravid.modeling.detector import VideoDetector
from ultravid.modeling.inference import Precision, prepare_for_inference
from ultravid.serving.export.agreement import Agreement, Arrays, Step, compare_steps, noise_frames
from ultravid.serving.export.description import describe_export
from ultravid.serving.export.onnx_format import OPSET, export_onnx, import_onnx_packages, onnx_versions
from ultravid.serving.export.step_graph import ExportError, StepGraph, phase_cycle, state_tensors
from ultravid.serving.export.torch_format import export_program
from ultravid.serving.export.winograd_graph import use_winograd_graphs
from ultravid.serving.loading import LoadedDetector
from ultravid.utils.errors import UserError
from ultravid.utils.folder_lock import locked
from ultravid.utils.text import counted
from ultravid.utils.whole_files import dump_json

__all__ = ["ExportFormat", "ExportedDetector", "export_detector"]

logger = logging.getLogger(__name__)

ExportFormat = Literal["onnx", "torch_export"]
"""The kinds of files that `export_detector` writes: ``"onnx"`` for ONNX graphs, ``"torch_export"`` for programs of `torch.export`."""
DESCRIPTION = "model.json"
_SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2"}
_PHASE_NAMES = ("model", "model_key")
_CHECKED_FRAMES = 3
_BREAK = re.compile(r"\n\s*")


@dataclass(frozen=True)
class ExportedDetector:
    """The files that `export_detector` wrote.

    Attributes:
        files: the graphs, one a phase.
        description: the file ``model.json``.
        agreement: with PyTorch's detections; None if they were not compared, for want of onnxruntime.
    """

    files: tuple[Path, ...]
    description: Path
    agreement: Agreement | None


def export_detector(
    detector: LoadedDetector,
    image_size: tuple[int, int],
    output: str | Path,
    *,
    format: ExportFormat = "onnx",
    precision: Precision = "float32",
    organ: str | None = None,
    winograd: bool = False,
) -> ExportedDetector:
    """Write a detector's step, for frames of one size, to a folder: ``model.onnx`` (or ``model.pt2``) and ``model.json``.

    A model whose frames take two computations in turn (UltraDet) has a second graph for its key frames, ``model_key.onnx``. Norms are
    folded. Nothing is written if the export fails; an earlier export in the folder is replaced as a whole.

    Args:
        detector: stays as it is.
        image_size: (H, W) of the frames that the graph takes.
        output: the folder.
        format: "onnx" runs anywhere; "torch_export" needs torch and torchvision.
        precision: "bfloat16" is for "torch_export" only.
        organ: whose place is the initial value of ``state.organ`` of a model with a classifier per organ, which the caller may change;
            None: that of the config.
        winograd: compute large 3x3 convolutions by Winograd's minimal filtering, in float32. onnxruntime on a processor takes up to a fifth
            less time so; runtimes with such a way of their own, as on GPUs, take more.

    Raises:
        ExportError: the model can't be exported, or what was exported does not detect the same.
        UserError: a value is wrong, or a package is missing.
        ValueError: the model does not take frames of that size, or needs to know the organ.
        OSError: the folder can't be written.
    """
    _check_arguments(image_size, format, precision)
    if format == "onnx":
        import_onnx_packages()
    _warn_of_area(detector, image_size)
    cycle = phase_cycle(detector.model)
    graphs = _graphs(detector.model, image_size, precision, _organ(detector, organ), winograd)
    outputs = _first_step(graphs[0])  # what the model itself says against the size is raised here
    names = [f"{name}{_SUFFIX[format]}" for name in _phase_names(len(graphs))]
    output = Path(output)
    with _staged(output) as folder:
        files = [folder / name for name in names]
        for graph, path in zip(graphs, files, strict=True):
            (export_onnx if format == "onnx" else export_program)(graph, path)
        run = _runner(format, graphs, files)
        agreement = None if run is None else _checked(graphs, cycle, run)
        facts = {**_facts(format, precision), "compared_with_torch": None if agreement is None else asdict(agreement)}
        content = describe_export(detector, graphs, names, cycle, outputs, facts)
        (folder / DESCRIPTION).write_text(_on_one_line(dump_json(content, indent=1)) + "\n", encoding="utf-8")
        _replace(output, folder)
    return ExportedDetector(tuple(output / name for name in names), output / DESCRIPTION, agreement)


def _check_arguments(image_size: tuple[int, int], format: str, precision: str) -> None:
    if format not in _SUFFIX:
        raise UserError(f"format is {format!r}; the formats are {', '.join(_SUFFIX)}.")
    if min(image_size) < 1:
        raise UserError(f"The size of frames, (height, width), is {tuple(image_size)}: both must be at least 1.")
    if format == "onnx" and precision != "float32":
        raise UserError(
            f"ONNX is exported in float32, not {precision}: onnxruntime computes little else on a processor. "
            "--format torch_export takes --precision bfloat16."
        )


def _warn_of_area(detector: LoadedDetector, image_size: tuple[int, int]) -> None:
    area = detector.preprocessing.area
    if area is not None and area_size(*image_size, area) != tuple(image_size):
        height, width = area_size(*image_size, area)
        logger.warning(
            "The model is exported for frames of %dx%d px, but its config resizes frames to %d square pixels, which is %dx%d px at this "
            "aspect ratio. Detections of frames of another size than it was trained on are worse, and not those of 'ultravid predict'.",
            *(image_size[1], image_size[0], round(area), width, height),
        )


def _organ(detector: LoadedDetector, organ: str | None) -> str:
    organs = detector.model.organs
    if organ and organ not in organs:
        known = f"those of the model are {', '.join(organs)}" if organs else "the model has no classifier per organ"
        raise UserError(f"There is no organ {organ!r}: {known}.")
    chosen = organ or detector.preprocessing.organ
    if organs and chosen not in organs:
        raise UserError(
            f"The model has a classifier per organ ({', '.join(organs)}), and its config does not say which one is scanned: give "
            f"--organ {organs[0]}, say. The graph takes each of them, by its input state.organ."
        )
    return chosen


def _graphs(
    model: VideoDetector, image_size: tuple[int, int], precision: Precision, organ: str, winograd: bool
) -> list[StepGraph]:
    prepared = prepare_for_inference(model, image_size, precision=precision, winograd=winograd).cpu()
    if winograd:
        use_winograd_graphs(prepared)
    return [StepGraph(prepared, image_size, phase, organ) for phase in range(prepared.num_phases)]


@torch.no_grad()
def _first_step(graph: StepGraph) -> dict[str, Tensor]:
    return dict(zip(graph.output_names, graph(*graph.example_inputs()), strict=True))


def _phase_names(number: int) -> list[str]:
    return [*_PHASE_NAMES, *(f"model_phase{n}" for n in range(len(_PHASE_NAMES), number))][:number]


def _facts(format: ExportFormat, precision: Precision) -> dict[str, Any]:
    versions = {"ultravid": ultravid.__version__, "torch": torch.__version__}
    if format == "onnx":
        return {"format": format, "opset": OPSET, "precision": precision, "versions": versions | onnx_versions()}
    versions["torchvision"] = torchvision.__version__
    needs = ["torch", "torchvision"]
    return {"format": format, "needs": needs, "precision": precision, "versions": versions}


def _on_one_line(text: str) -> str:
    """Indented JSON whose lists of numbers and names take one line each."""
    return re.sub(r"\[\s*([^\[\]{}]*?)\s*\]", lambda found: f"[{re.sub(_BREAK, ' ', found[1])}]", text)


# --- files


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A folder within ``output``, which is locked, for the files of an export; both are removed at the end, ``output`` only if it is empty.

    Raises:
        LockedError: another process writes to ``output``.
        OSError: it can't be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    try:
        with locked(output, "an export", "choose another folder (--output)"):
            for left in output.glob(".export.*.tmp"):  # by an export that was killed
                shutil.rmtree(left, ignore_errors=True)
            folder = output / f".export.{os.getpid()}.tmp"
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):  # it is not empty, or another export has removed it
            output.rmdir()


def _replace(output: Path, staged: Path) -> None:
    """Move the staged files to their place. ``model.json`` goes first and comes last: a folder with one holds a whole export."""
    description = output / DESCRIPTION
    earlier = _files_of(description)
    description.unlink(missing_ok=True)
    for name in earlier:
        (output / name).unlink(missing_ok=True)
    for path in sorted(staged.iterdir(), key=lambda path: path.name == DESCRIPTION):
        path.replace(output / path.name)


def _files_of(description: Path) -> list[str]:
    """The graphs and their weights of an earlier export, by its ``model.json``; none if there is none."""
    try:
        names = json.loads(description.read_bytes())["phases"]["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    plain = [name for name in names if isinstance(name, str) and Path(name).name == name] if names else []
    return [file for name in plain for file in (name, f"{name}.data")]


# --- what was exported is run


def _runner(format: ExportFormat, graphs: Sequence[StepGraph], files: Sequence[Path]) -> Step | None:
    """None without onnxruntime."""
    if format == "torch_export":
        programs = [torch.export.load(file).module() for file in files]
        return lambda inputs, phase: _called(programs[phase], graphs[phase], inputs)
    try:
        import onnxruntime
    except ImportError:
        logger.warning("onnxruntime is not installed (pip install 'ultravid[onnx]'): the exported graph was not run.")
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    sessions = [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
    names = graphs[0].output_names
    return lambda inputs, phase: dict(zip(names, sessions[phase].run(names, dict(inputs)), strict=True))


@torch.no_grad()
def _called(module: nn.Module, graph: StepGraph, inputs: Arrays) -> Arrays:
    outputs = module(*(torch.from_numpy(np.asarray(inputs[name])) for name in graph.input_names))
    return {name: value.numpy() for name, value in zip(graph.output_names, outputs, strict=True)}


def _checked(graphs: Sequence[StepGraph], cycle: Sequence[int], run: Step) -> Agreement:
    """Compare with PyTorch over a few frames.

    Raises:
        ExportError: more than half of the detections differ.
    """
    initial = {name: tensor.numpy() for name, tensor in state_tensors(graphs[0].state).items()}
    frames = noise_frames(graphs[0].image_size, _CHECKED_FRAMES)
    found = compare_steps(
        lambda inputs, phase: _called(graphs[phase], graphs[phase], inputs), run, initial, frames, cycle
    )
    if found.unpaired:
        what = f"{found.unpaired} of {counted(found.detections, 'detection')} in {found.frames} frames of noise"
        if 2 * found.unpaired > found.detections:
            raise ExportError(
                f"The exported model does not detect what PyTorch detects: {what} differ. Nothing was written."
            )
        logger.warning(
            "%s differ from PyTorch's by more than rounding, as happens where a score or an overlap lies at a threshold.",
            what,
        )
    return found
