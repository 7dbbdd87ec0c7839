"""A step as a program of `torch.export`, which needs only torch and torchvision."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ultravid.serving.export.step_graph import StepGraph, captured

__all__ = ["export_program"]


def export_program(graph: StepGraph, path: Path) -> None:
    """Write a program that `torch.export.load` reads once torchvision is imported, whose ``nms`` it calls.

    Args:
        graph: the graph of one phase.
        path: the file; its folder exists.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's exporter, on its own work
        program = captured(graph)
        program = program.run_decompositions({torch.ops.ultravid.nms_mask.default: _nms_mask})
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths and lines of the code that ran here
        content = io.BytesIO()  # torch's own writer hides why a file can't be written
        torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


def _nms_mask(boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """As `ultravid.layers.fixed_nms.nms_mask`: what is not valid has no area, so that it suppresses nothing."""
    count = valid.shape[-1]
    masks = []
    for frame_boxes, frame_scores, frame_valid in zip(
        boxes.reshape(-1, count, 4), scores.reshape(-1, count), valid.reshape(-1, count), strict=True
    ):
        index = torch.ops.torchvision.nms.default(
            torch.where(frame_valid[:, None], frame_boxes, 0.0),
            torch.where(frame_valid, frame_scores, -torch.inf),
            iou_threshold,
        )
        masks.append(torch.zeros_like(frame_valid).index_fill(0, index, True) & frame_valid)
    return torch.stack(masks).reshape(valid.shape)
