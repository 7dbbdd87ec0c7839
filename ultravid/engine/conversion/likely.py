"""Guesses, for messages, to which published model the weights of a file belong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

__all__ = ["either", "likely_models", "resnet_depth"]

_MODELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # (regular expression for a name of a file, the published models that have such a weight); the first that is found counts.
    (r"^roi_heads\.flownet\.", ("UltraDet",)),
    (r"^embednet\.", ("FGFA",)),
    (r"\.selsa_layers\.", ("SELSA",)),
    (r"^roi_heads\.relation\.", ("RelationNet", "BasicDet", "MEGA")),
    (r"^roi_heads\.(res5|box_predictor)\.", ("FasterRCNN",)),
    (r"^proposal_generator\.fcos_head\.", ("FCOS",)),
    (r"^proposal_generator\.head\.", ("DeFCN",)),
    (r"^proposal_generator\.stems\.", ("YOLOX", "TrackYOLO")),
    (r"^head\.cls_subnet\.", ("RetinaNet",)),
    (r"^temp_class_embed\.", ("TransVOD",)),
    (r"^transformer\.(corr|s_decoder1)\.", ("PTSEFormer",)),
    (r"^transformer\.decoder\.", ("DeformDETR", "CVANet")),
)


def likely_models(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The published models that have a file's names; empty if the names say nothing."""
    for pattern, models in _MODELS:
        if any(re.search(pattern, name) for name in weights):
            return models
    return ()


def resnet_depth(weights: Mapping[str, Tensor]) -> int | None:
    """18 or 34, by the number of blocks in res3; None if the file has no such names, or blocks of three convolutions."""
    found = {m[0]: m[1] for name in weights if (m := re.search(r"\b(?:res3|layer2)\.(\d)\.conv\d", name))}
    if any(name.endswith("conv3") for name in found):
        return None
    return {2: 18, 4: 34}.get(len({*found.values()}))


def either(names: Sequence[str]) -> str:
    """Some names in words: "A, B or C"."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
