"""A step as an ONNX graph.

What torch's exporter knows no ONNX form of is given here: suppression of boxes, and the stable sorts around it. Both keep PyTorch's
order of ties: ONNX's ``TopK`` and onnxruntime's ``NonMaxSuppression`` put the lower index first.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ultravid.serving.export.step_graph import ExportError, StepGraph, captured, refused
from ultravid.utils.errors import UserError

__all__ = ["OPSET", "SINGLE_FILE_BYTES", "export_onnx", "import_onnx_packages", "onnx_versions"]

OPSET = 18
"""Of ONNX 1.13 (2022): the first that has all operators that the models need."""

SINGLE_FILE_BYTES = 2**31 - 2**24
"""Weights above this go to a second file: a protocol buffer ends at 2 GB, and the graph needs some of it."""

_LOWEST = float(np.finfo(np.float32).min)
_BOOL, _INT32 = 9, 6  # of onnx.TensorProto.DataType


def import_onnx_packages() -> None:
    """Import what an export to ONNX needs.

    Raises:
        UserError: a package is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Export to ONNX needs the package {error.name}, which is not installed: pip install 'ultravid[onnx]'."
        ) from error


def onnx_versions() -> dict[str, str]:
    """Of the packages that an export to ONNX needs."""
    import onnx
    import onnxscript

    return {"onnx": onnx.__version__, "onnxscript": onnxscript.__version__}


def export_onnx(graph: StepGraph, path: Path) -> None:
    """Write a graph to one file; weights above `SINGLE_FILE_BYTES` to a second one beside it, ``<name>.data``.

    Args:
        graph: the graph of one phase.
        path: the file; its folder exists.

    Raises:
        UserError: a package is missing.
        ExportError: the model has no ONNX form; the message says why.
    """
    import_onnx_packages()
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with _quiet(), torch.no_grad():
        captured_graph = captured(graph)
        try:
            program = torch.onnx.export(
                captured_graph,
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                input_names=graph.input_names,
                output_names=graph.output_names,
                custom_translation_table=_translations(),
            )
        except torch.onnx.OnnxExporterError as error:
            raise refused(graph, "written as ONNX", error) from error
    assert program is not None
    model: Any = program.model
    ClearMetadataAndDocStringPass()(model)  # paths and lines of the code that ran here
    model.producer_name, model.graph.name = "ultravid", "step"
    _check_names(graph, model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    program.save(str(path), external_data=size > SINGLE_FILE_BYTES)


def _check_names(graph: StepGraph, model: Any) -> None:
    found = [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
    if found != [graph.input_names, graph.output_names]:
        raise ExportError(f"torch's exporter gave the graph other inputs and outputs than it was asked for: {found}.")


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX forms by operation."""
    from onnxscript import opset18

    op: Any = opset18  # its annotations ask for a type by each element type

    def sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
        """``TopK`` of all: "given two equivalent values, the element with the lower index will appear first"."""
        del stable
        is_bool = self.dtype == _BOOL
        values, index = op.TopK(
            op.Cast(self, to=_INT32) if is_bool else self,
            op.Constant(value_ints=[int(self.shape[dim])]),
            axis=dim,
            largest=int(descending),
            sorted=1,
        )
        return (op.Cast(values, to=_BOOL) if is_bool else values), index

    def nms_mask(boxes: Any, scores: Any, valid: Any, iou_threshold: float) -> Any:
        shape = [int(length) for length in valid.shape]
        count = shape[-1]
        frames = math.prod(shape[:-1])
        low = op.Constant(value_float=float("-inf"))
        picked = op.NonMaxSuppression(
            op.Reshape(boxes, op.Constant(value_ints=[frames, count, 4])),
            op.Reshape(op.Where(valid, scores, low), op.Constant(value_ints=[frames, 1, count])),
            op.Constant(value_ints=[count]),
            op.Constant(value_floats=[_float32_below(iou_threshold)]),
            op.Constant(value_floats=[_LOWEST]),  # a score must be above: -inf is not
        )  # (kept, 3): frame, class, box
        place = op.MatMul(picked, op.Constant(value=_int64_tensor([[count], [0], [1]])))  # (kept, 1)
        kept = op.ScatterND(
            op.Constant(value=_int64_tensor([0] * (frames * count))),
            place,
            op.Expand(op.Constant(value_ints=[1]), op.Shape(place, end=1)),
        )
        return op.Reshape(op.Cast(kept, to=_BOOL), op.Constant(value_ints=shape))

    return {torch.ops.aten.sort.stable: sort, torch.ops.ultravid.nms_mask.default: nms_mask}


def _int64_tensor(values: Any) -> Any:
    import onnx.numpy_helper

    return onnx.numpy_helper.from_array(np.array(values, np.int64))


def _float32_below(threshold: float) -> float:
    """The largest float32 that is not above a threshold: an IoU, in float32, is above the one if and only if it is above the other."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1.0)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own work: deprecations within it, and operators that it did not fold."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
