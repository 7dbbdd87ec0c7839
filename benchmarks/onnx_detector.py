"""A detector whose step is an ONNX graph that onnxruntime runs on the processor."""

# ruff: noqa: ARG002 - the signatures are those of `VideoDetector`

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from ultravid.modeling import VideoDetector, prepare_for_inference
from ultravid.modeling.types import Detections, State
from ultravid.serving.export.onnx_format import export_onnx
from ultravid.serving.export.step_graph import DETECTION_OUTPUTS, StepGraph, state_tensors
from ultravid.serving.export.winograd_graph import use_winograd_graphs
from ultravid.structures import Clip

__all__ = ["OnnxDetector"]


class OnnxDetector(VideoDetector):
    """An export of a model, with Winograd's filtering. Its state is one of onnxruntime's values, which stay where they are from frame to frame.

    Args:
        model: in evaluation mode.
        image_size: (H, W) of the frames.
        threads: of an operation; they sleep when they wait, as torch's do here.
    """

    def __init__(self, model: VideoDetector, image_size: tuple[int, int], threads: int) -> None:
        super().__init__(organs=model.organs, tracker=model.tracker)
        self.model = model
        prepared = prepare_for_inference(model, image_size)
        use_winograd_graphs(prepared)
        graphs = [StepGraph(prepared, image_size, phase) for phase in range(model.num_phases)]
        self.names = graphs[0].output_names
        self.state = state_tensors(graphs[0].state)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.sessions = []
        with tempfile.TemporaryDirectory() as folder:
            for graph in graphs:
                export_onnx(graph, Path(folder) / "model.onnx")
                self.sessions.append(
                    onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
                )

    @property
    def num_phases(self) -> int:
        return self.model.num_phases

    def phase(self, frame_number: int) -> int:
        return self.model.phase(frame_number)

    def initial_state(self, image_size: tuple[int, int], organ: str = "") -> State:
        return {name: onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()) for name, value in self.state.items()}

    def _step(self, image: Tensor, state: State, phase: int) -> tuple[Detections, State]:
        feeds = {"image": onnxruntime.OrtValue.ortvalue_from_numpy(image.contiguous().numpy()), **state}
        outputs: dict[str, Any] = dict(
            zip(self.names, self.sessions[phase].run_with_ort_values(self.names, feeds), strict=True)
        )
        found = [torch.from_numpy(outputs[name].numpy()) for name in DETECTION_OUTPUTS]
        return Detections.of(*found), {name: outputs[f"next_{name}"] for name in state}

    def detect_clip(self, frames: Tensor, organ: str = "") -> Detections:
        raise NotImplementedError

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        raise NotImplementedError
