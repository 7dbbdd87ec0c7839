"""``model.json``, the description of an exported model: everything that a program needs to run it without ultravid.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ultravid.modeling.detector import Tracker
from ultravid.modeling.inference import describe
from ultravid.modeling.track.kalman import BoxFilter
from ultravid.serving.export.step_graph import ExportError, StepGraph, state_tensors
from ultravid.serving.loading import LoadedDetector
from ultravid.serving.tracking import default_tracker

__all__ = ["describe_export", "weights_hash"]

FORMAT_VERSION = 1
"""Raised when a key changes its meaning; keys may be added without."""

_NOTES = {
    "image": "float32 (3, H, W), channels in 'channel_order', values 0 to 255; the graph normalises it. Frames are resized as "
    "'preprocessing' says.",
    "boxes": "(K, 4): x1, y1, x2, y2 in pixels of the image that the graph got. To a frame of w x h pixels: times w / W and h / H, "
    "then clipped to it; boxes without area are left out.",
    "valid": "(K,): rows that are detections; they come first, by falling score. The others mean nothing.",
    "state": "'state.<path>' of the first frame of a stream is 'initial' (one number: everywhere); afterwards it is 'next_state.<path>' "
    "of the frame before. Each stream has its own.",
    "phases": "frame n of a stream, counted from 0, is given to the file files[cycle[n % len(cycle)]].",
    "organ": "a model with a classifier per organ: 'state.organ' is the organ's place in 'organs'.",
    "resize": "area: a frame of w x h pixels is resized to round(w * s) x round(h * s) with s = sqrt(area / (w * h)), halves to the even "
    "number, which must be W x H; null: frames must have that size. Bilinear with antialiasing, as Pillow's and torchvision's: each "
    "output pixel is the mean of the input pixels within max(1, 1 / s) of its center, weighted by a triangle, along x first, then along "
    "y. Both passes give whole numbers: weights are rounded to multiples of 2**-p with the largest p for which they are below 2**15 "
    "(at most 22), and the sums half up.",
    "score_threshold": "the model's own: no detection has a lower score.",
    "tracker": "what links detections to lesion tracks in ultravid: the model's own tracker, or the default one, which starts tracks from "
    "the lowest score that is asked for (0.3 here). It is not part of the graph.",
}


def describe_export(
    detector: LoadedDetector,
    graphs: Sequence[StepGraph],
    files: Sequence[str],
    cycle: Sequence[int],
    outputs: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of ``model.json``.

    Args:
        detector: that is exported.
        graphs: one a phase.
        files: the file of each graph.
        cycle: the phases of frames, see `phase_cycle`.
        outputs: the outputs of one step, by name.
        facts: format, precision, versions and other facts of the export.
    """
    graph, preprocessing, model = graphs[0], detector.preprocessing, detector.model
    return {
        "format_version": FORMAT_VERSION,
        **facts,
        "model": describe(model),
        "name": detector.name,
        "image_size": list(graph.image_size),
        "inputs": list(_inputs(graph)),
        "outputs": [{"name": name, **_kind(tensor)} for name, tensor in outputs.items()],
        "phases": {"files": list(files), "cycle": list(cycle)},
        "preprocessing": {
            "channel_order": preprocessing.image_format,
            "value_range": [0, 255],
            "area": preprocessing.area,
            "interpolation": "bilinear, antialiased",
        },
        "classes": list(detector.class_names),
        "score_threshold": detector.score_threshold,
        "nms_threshold": detector.nms_threshold,
        "organs": list(model.organs),
        "tracker": _described(model.tracker or default_tracker()),
        "weights": {
            "file": None if detector.weights is None else detector.weights.name,
            "file_sha256": detector.weights_sha256 or None,
            "sha256": weights_hash(model),
        },
        "notes": _NOTES,
    }


def weights_hash(model: nn.Module) -> str:
    """SHA-256, in hex, over the names, dtypes, shapes and bytes of a model's weights and buffers, by name: it does not depend on the file."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _inputs(graph: StepGraph) -> list[dict[str, Any]]:
    state = state_tensors(graph.state)
    tensors = zip(graph.input_names, graph.example_inputs(), strict=True)
    return [
        {"name": name, **_kind(tensor)} | ({"initial": _initial(name, tensor)} if name in state else {})
        for name, tensor in tensors
    ]


def _kind(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _initial(name: str, tensor: Tensor) -> Any:
    """One number if all values are equal, else all of them, nested."""
    if not tensor.isfinite().all():
        raise ExportError(f"The initial value of {name} is not finite everywhere, which JSON can't state.")
    first = tensor.flatten()[:1]
    if len(first) and bool((tensor == first).all()):
        return first.item()
    return tensor.tolist()


def _described(part: Tracker | BoxFilter) -> dict[str, Any]:
    """The class of a tracker, and those of its settings that are numbers, names or a filter of boxes."""
    kind = type(part)
    settings: dict[str, Any] = {}
    for key, value in vars(part).items():
        if isinstance(value, BoxFilter):
            settings[key] = _described(value)
        elif isinstance(value, bool | int | float | str):
            settings[key] = value
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": settings}
