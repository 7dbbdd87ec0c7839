"""A step of a detector as a function of tensors only, and the names of these tensors.

Legend: ``H, W`` height and width of a frame in pixels, ``K`` rows of detections.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ultravid.modeling.detector import VideoDetector
from ultravid.modeling.inference import InferenceDetector, describe
from ultravid.modeling.types import State
from ultravid.utils.errors import UserError

__all__ = ["DETECTION_OUTPUTS", "ExportError", "StepGraph", "captured", "phase_cycle", "refused", "state_tensors"]

DETECTION_OUTPUTS = ("boxes", "scores", "classes", "valid")
"""Fields of `Detections` that a graph gives; tracks are the caller's."""


class ExportError(UserError):
    """A model that can't be exported; the message says why."""


def state_tensors(state: State, prefix: str = "state") -> dict[str, Tensor]:
    """The tensors of a state by their path in it, ``state.token_mixer.valid`` say, in its order."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        found |= state_tensors(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return found


def _as_state(like: State, tensors: Iterator[Tensor]) -> State:
    return {key: _as_state(value, tensors) if isinstance(value, dict) else next(tensors) for key, value in like.items()}


class StepGraph(nn.Module):
    """One phase of a detector: from an image and the tensors of a state to detections and the tensors of the next state.

    Args:
        model: prepared, on the CPU.
        image_size: (H, W).
        phase: as of `VideoDetector.step`.
        organ: what is scanned, whose place is in the initial state of a model with a classifier per organ.
    """

    def __init__(self, model: InferenceDetector, image_size: tuple[int, int], phase: int = 0, organ: str = "") -> None:
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.phase = phase
        self.state = model.initial_state(image_size, organ)
        self.eval()

    @property
    def input_names(self) -> list[str]:
        """``image``, then ``state.<path>`` of each tensor of the state."""
        return ["image", *state_tensors(self.state)]

    @property
    def output_names(self) -> list[str]:
        """`DETECTION_OUTPUTS`, then ``next_state.<path>``."""
        return [*DETECTION_OUTPUTS, *state_tensors(self.state, "next_state")]

    def example_inputs(self) -> tuple[Tensor, ...]:
        """A black frame, ``(3, H, W)`` float32, and the state before the first frame."""
        return (torch.zeros(3, *self.image_size), *state_tensors(self.state).values())

    def forward(self, image: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of `output_names`."""
        detections, following = self.model.step(image, _as_state(self.state, iter(state)), self.phase)
        return (*(getattr(detections, name) for name in DETECTION_OUTPUTS), *state_tensors(following).values())


def captured(graph: StepGraph) -> torch.export.ExportedProgram:
    """The operations of a graph, as torch traces them.

    Raises:
        ExportError: the model's code can't be traced, because what it does depends on the values of its inputs, for example.
    """
    try:
        return torch.export.export(graph, graph.example_inputs())
    except (OSError, MemoryError, UserError):
        raise
    except Exception as error:  # the model's code may raise anything when it is given tensors without values
        raise refused(graph, "traced by torch.export", error) from error


def refused(graph: StepGraph, what: str, error: BaseException) -> ExportError:
    """What to raise for an error of an exporter; its innermost cause names the operation."""
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    reason = next((line for line in str(innermost).splitlines() if line.strip()), "no reason given").strip()
    height, width = graph.image_size
    return ExportError(
        f"{describe(graph.model.model)} can't be {what} for frames of {width}x{height} px (phase {graph.phase}): "
        f"{type(innermost).__name__}: {reason}"
    )


def phase_cycle(model: VideoDetector, longest: int = 4096) -> list[int]:
    """The phases of the first frames of a stream; frame ``n``, counted from 0, has that of place ``n % length``.

    Raises:
        ExportError: they do not repeat within ``longest`` frames.
    """
    phases = [model.phase(number) for number in range(2 * longest)]
    for length in range(1, longest + 1):
        if phases[length:] == phases[:-length]:
            return phases[:length]
    raise ExportError(
        f"The phases of {type(model).__name__} do not repeat within {longest} frames: the program that runs an exported model could not know "
        "which of its graphs a frame takes."
    )
