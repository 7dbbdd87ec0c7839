"""Checks that the parts of a detector fit the feature map of its backbone."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

__all__ = ["check_map_arguments"]

_STRIDES = (
    "proposal_head.stride",
    "proposal_head.anchor_generator.stride",
    "dense_head.stride",
    "dense_head.anchor_generator.stride",
    "feature_context.stride",
    "feature_context.warp.map_stride",
    "memory_context.stride",
    "memory_context.warp.map_stride",
    "token_mixer.warp.map_stride",
)
_SCALES = ("roi_pooler.box_pooler.spatial_scale",)
_CHANNELS = (
    "proposal_head.in_channels",
    "proposal_head.rpn_head.in_channels",
    "dense_head.in_channels",
    "feature_context.channels",
    "feature_context.dim",
    "encoder.in_channels",
    "roi_pooler.head.in_channels",
    "token_mixer.map_channels",
)
_OF_ENCODER = ("memory_context.channels", "memory_context.dim", "decoder.dim", "query_context.dim")


def check_map_arguments(model: nn.Module) -> None:
    """Compare what the parts of a model state of the map with the backbone's ``stride`` and ``out_channels``, and with the encoder's ``dim``.

    A backbone without these attributes is not checked, nor is a part that states nothing.

    Raises:
        ValueError: some part was built for another stride or width; the message names all such arguments.
    """
    stride, channels = (_number(model, f"backbone.{name}") for name in ("stride", "out_channels"))
    encoded = _number(model, "encoder.dim")
    faults = []
    for paths, right, what in (
        (_STRIDES, stride, f"the backbone's stride is {stride}"),
        (_SCALES, None if stride is None else 1 / stride, f"the backbone's stride is {stride}, its inverse 1/{stride}"),
        (_CHANNELS, channels, f"the backbone's out_channels are {channels}"),
        (_OF_ENCODER, encoded, f"the encoder's dim is {encoded}"),
    ):
        for path in paths:
            stated = _number(model, path)
            if stated is not None and right is not None and not math.isclose(stated, right):
                faults.append(f"model.{path} is {stated}, {what}")
    if faults:
        raise ValueError(f"The parts don't fit the backbone's map: {'; '.join(faults)}.")


def _number(model: nn.Module, path: str) -> float | None:
    """The attribute at a path; None if there is none, or it is no number."""
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, int | float) else None
