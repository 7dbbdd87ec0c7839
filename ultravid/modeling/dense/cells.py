"""The cells of a feature map in the image, and code that heads with one box per cell share.

Legend: ``B`` frames, ``h, w`` height, width of the feature map, ``N`` its cells, row by row, ``K`` classes, ``G`` rows of ground truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.layers import get_norm
from ultravid.layers.box_tensors import take_rows
from ultravid.modeling.assign import Assignment
from ultravid.modeling.map_size import map_size
from ultravid.modeling.organs import OrganLayer
from ultravid.modeling.types import Targets

__all__ = [
    "boxes_of_distances",
    "by_cell",
    "cell_corners",
    "class_targets",
    "conv_tower",
    "init_normal",
    "matched_boxes",
    "num_cells",
    "prior_bias",
    "product_scores",
    "within_image",
]


def num_cells(image_size: tuple[int, int], stride: int) -> int:
    """``N`` for an image of (height, width) pixels."""
    return math.prod(map_size(image_size, stride))


def cell_corners(feature_map: Tensor, stride: int) -> Tensor:
    """``(N, 2)`` float32 (x, y) in pixels: the upper left corner of each cell of ``(B, C, h, w)``."""
    height, width = feature_map.shape[-2:]
    y = torch.arange(height, device=feature_map.device, dtype=torch.float32) * stride
    x = torch.arange(width, device=feature_map.device, dtype=torch.float32) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1)


def within_image(corners: Tensor, image_sizes: Tensor) -> Tensor:
    """``(B, N)`` bool: cells that begin within the frame, not in its padding; ``image_sizes`` ``(B, 2)`` is (height, width)."""
    return (corners < image_sizes.flip(-1)[:, None]).all(dim=-1)


def by_cell(prediction: Tensor) -> Tensor:
    """``(B, D, h, w)`` to ``(B, N, D)``."""
    return prediction.flatten(2).transpose(1, 2)


def boxes_of_distances(points: Tensor, distances: Tensor) -> Tensor:
    """XYXY boxes from distances ``(..., 4)`` of their left, upper, right, lower side from points ``(..., 2)``."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def product_scores(logits: Tensor, location_logits: Tensor) -> Tensor:
    """``(B, N, K)`` float32: probability of the class, of ``(B, N, K)``, times that of the location, of ``(B, N)``."""
    return logits.float().sigmoid() * location_logits.float().sigmoid()[..., None]


def class_targets(assignment: Assignment, targets: Targets, num_classes: int) -> Tensor:
    """``(B, N, K)`` float32: 1 for the class that a location is trained towards."""
    classes = targets.classes.gather(1, assignment.rows)
    return F.one_hot(classes, num_classes) * (assignment.labels == 1)[..., None].float()


def matched_boxes(assignment: Assignment, targets: Targets) -> Tensor:
    """``(B, N, 4)``: the box that a location is trained towards, without meaning where there is none."""
    return take_rows(targets.boxes, assignment.rows)


def conv_tower(
    channels: int, num_convs: int, norm: str | None = None, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """3x3 convolutions in a row, each with a norm and an activation."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        after = get_norm(norm, channels)
        layers += [nn.Conv2d(channels, channels, 3, padding=1), *([] if after is None else [after]), activation()]
    return nn.Sequential(*layers)


def init_normal(*modules: nn.Module, std: float = 0.01) -> None:
    """Draw the weights of all convolutions from a normal distribution; their biases are 0."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | OrganLayer):
                nn.init.normal_(layer.weight, std=std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def prior_bias(layer: nn.Linear | nn.Conv2d | OrganLayer, probability: float) -> None:
    """Let a classifier begin with this probability everywhere (Lin et al., ICCV 2017, section 4.1)."""
    assert layer.bias is not None
    nn.init.constant_(layer.bias, -math.log((1 - probability) / probability))
