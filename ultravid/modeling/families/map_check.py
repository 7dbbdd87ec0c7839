"""Checks that the parts of a detector fit the feature map of its backbone, and each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    "feature_context.warp.estimator.scale_channels",
    "token_mixer.warp.estimator.scale_channels",
)
_OF_ENCODER = (
    "memory_context.channels",
    "memory_context.dim",
    "memory_context.warp.estimator.scale_channels",
    "decoder.dim",
    "query_context.dim",
)
_OF_TOKENS = ("token_mixer.relation.dim", "box_predictor.in_features")


def check_map_arguments(model: nn.Module) -> None:
    """Compare what the parts of a model state of maps and tokens with the parts that compute these.

    These are the backbone's ``stride`` and ``out_channels``, the encoder's ``dim``, and the ``dim`` or ``out_channels`` of the head of the
    RoI pooler. A part that states nothing is not checked, and nothing is checked against one of these that states nothing.

    Raises:
        ValueError: some part was built for another stride or width; the message names all such arguments.
    """
    stride, channels = (_number(model, f"backbone.{name}") for name in ("stride", "out_channels"))
    encoded = _number(model, "encoder.dim")
    of_tokens = _number(model, "roi_pooler.head.dim") or _number(model, "roi_pooler.head.out_channels")
    of_maps = _faults(model, _STRIDES, stride, f"the backbone's stride is {stride}")
    inverse = None if stride is None else 1 / stride
    of_maps += _faults(model, _SCALES, inverse, f"the backbone's stride is {stride}, its inverse 1/{stride}")
    of_maps += _faults(model, _CHANNELS, channels, f"the backbone's out_channels are {channels}")
    of_maps += _faults(model, _OF_ENCODER, encoded, f"the encoder's dim is {encoded}")
    others = _faults(model, _OF_TOKENS, of_tokens, f"the tokens of roi_pooler.head are {of_tokens} wide")
    others += _faults(model, ("roi_pooler.head.pooled_size",), *_pooled(model))
    texts = (
        f"The parts don't fit the backbone's map: {'; '.join(of_maps)}.",
        f"The parts don't fit: {'; '.join(others)}.",
    )
    if of_maps or others:
        raise ValueError(" ".join(text for text, faults in zip(texts, (of_maps, others), strict=True) if faults))


def _faults(model: nn.Module, paths: Sequence[str], right: float | None, what: str) -> list[str]:
    """One text for each argument at the paths that states another number than the right one."""
    stated = {path: _number(model, path) for path in paths}
    return [
        f"model.{path} is {value}, {what}"
        for path, value in stated.items()
        if value is not None and right is not None and not math.isclose(value, right)
    ]


def _pooled(model: nn.Module) -> tuple[float | None, str]:
    """The side of the RoI pooler's maps, None if they are no squares, and what it is for a message."""
    size = getattr(getattr(getattr(model, "roi_pooler", None), "box_pooler", None), "output_size", None)
    sides = set(size) if isinstance(size, Sequence) else {size}
    (side,) = sides if len(sides) == 1 else (None,)
    return side, f"the output_size of roi_pooler.box_pooler is {size}"


def _number(model: nn.Module, path: str) -> float | None:
    """The attribute at a path; None if there is none, or it is no number."""
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, int | float) else None
