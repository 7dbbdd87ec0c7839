"""Helpers for tests of configs, boxes and modules, under the names of detectron2's ``utils.testing``."""

from __future__ import annotations

import importlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["random_boxes", "reload_lazy_config", "reload_script_model"]


def random_boxes(num_boxes: int, max_coord: int = 100, device: torch.device | str = "cpu") -> Tensor:
    """Boxes that are not empty, ``(num_boxes, 4)``, float32, XYXY; sides of at least 1 px, coordinates up to ``max_coord`` px.

    A corner lies in the first half of each axis, and a side is at most half of ``max_coord`` long.

    Args:
        num_boxes: the number of boxes.
        max_coord: the size of the image in pixels.
        device: where the tensor is made.
    """
    boxes = torch.rand(num_boxes, 4, device=device) * (max_coord * 0.5)
    boxes.clamp_(min=1.0)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def reload_lazy_config(cfg: Any) -> Any:
    """A config saved to YAML and read back, by the ``LazyConfig`` of the package that its class is of.

    Args:
        cfg: the config.
    """
    config = importlib.import_module(type(cfg).__module__.rpartition(".")[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        config.LazyConfig.save(cfg, str(path))
        return config.LazyConfig.load(str(path))


def reload_script_model(module: nn.Module) -> Any:
    """A scripted module, saved and read back.

    Args:
        module: what `torch.jit.script` returned.
    """
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)
