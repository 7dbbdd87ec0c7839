"""The parts that may be built from somebody else's config: those on ultravid's list, and those that the user adds by name.

Such a config is data (a run's ``config.yaml``). Its targets are looked up in the list, never by import: a package is no safe unit, since
``torch.hub.load`` is torch's and ``ultravid.modeling.detector.torch.hub.load`` leads there too.
"""

from __future__ import annotations

import functools
import importlib
import logging
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ultravid.config import Node, locate
from ultravid.config.loader import own_project
from ultravid.config.migrations import current_target
from ultravid.config.tree import Container, full_key, raw_children
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted

__all__ = ["ALLOWED", "TrustError", "allowed_targets", "parts_of", "trusted_targets"]

logger = logging.getLogger(__name__)

ALLOWED = {
    "torchvision.ops": ("RoIAlign",),
    "torch.nn": ("GELU", "GroupNorm", "Identity", "LeakyReLU", "ReLU", "SiLU"),
    "ultravid.layers": (
        *(
            "BatchNorm2d",
            "Box2BoxTransform",
            "Conv2d",
            "ConvTranspose2d",
            "DepthwiseSeparableConv2d",
            "FrozenBatchNorm2d",
        ),
        *("Linear", "NaiveSyncBatchNorm", "ROIAlign", "RelationLayer", "RelationModule", "SELSALayer", "SELSAModule"),
        *("ShapeSpec", "TokenRelation", "TokenRelationLayer", "ciou_loss", "diou_loss", "giou_loss"),
    ),
    "ultravid.modeling": (
        # families and detectors by name
        *("BasicDet", "FasterRCNN", "OneStage", "Query", "TwoStage"),
        # backbones, contexts, flow
        *("ResNet", "TimmBackbone", "make_stage"),
        *("FlowAggregation", "FrameFusion", "NoFeatureContext", "ProgressiveAggregation"),
        *("FlowNet", "FlowWarp", "ZeroFlow"),
        # heads
        *("AnchorGenerator", "DeFCN", "FCOS", "RPN", "RPNHead", "RetinaNet", "YOLOX", "anchor_shapes"),
        *("BoxPredictor", "FCBoxHead", "RoIHeads", "RoIPooler", "RoISampler"),
        *("OrganConv2d", "OrganLinear"),
        # tokens and queries
        *("FlowContextMixer", "MEGAMixer", "NoMixer", "RelationMixer"),
        *("DeformableEncoder", "NoQueryContext", "QueryCriterion", "QueryDecoder", "TemporalQueries"),
        # assigners, tracker
        *("CenterSampling", "HungarianAssigner", "Matcher", "OneToOne", "SimOTA", "TopQuality"),
        "KalmanTracker",
    ),
    "ultravid.modeling.track.kalman": ("BoxFilter",),
}
"""The parts that a config of unknown origin may name, by the module that hands them out. None of them runs code that its arguments name."""

_FETCHING = frozenset(
    {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"}
)
"""Arguments of `TimmBackbone` that timm reads files by, or downloads."""


class TrustError(UserError):
    """A config names something that is not on ultravid's list, and that the user has not named as trusted."""


@functools.cache
def allowed_targets() -> Mapping[str, Any]:
    """The objects of `ALLOWED` by every name that a config may have for them.

    These are the short one, that of the module which defines it, and those of the packages between.
    """
    found: dict[str, Any] = {}
    for module, names in ALLOWED.items():
        for name in names:
            target = getattr(importlib.import_module(module), name)
            found[f"{module}.{name}"] = target
            place = target.__module__
            while place:
                if getattr(sys.modules.get(place), name, None) is target:
                    found[f"{place}.{name}"] = target
                place = place.rpartition(".")[0]
    return found


def trusted_targets(root: Node, key: str, trust: Iterable[str] = ()) -> dict[str, Any]:
    """The objects that the targets of a part of a config stand for; nothing is imported before all of them are accepted.

    Args:
        root: the config, read from data.
        key: the key of the part that is to be built, as "model"; what it refers to elsewhere in the config belongs to it.
        trust: names of targets that the user accepts besides.

    Returns:
        what `ultravid.config.Builder` takes as ``targets``.

    Raises:
        TrustError: some are not accepted; the message names each with its key, and what to type.
    """
    accepted, names = set(trust), set()
    refused: dict[str, list[str]] = {}
    for part in parts_of(root[key]):
        if not isinstance(part, Node):
            continue
        for word in ("_target_", "_object_"):
            if word in part:
                name = part[word]
                if callable(name) and not isinstance(
                    name, Container
                ):  # of a shipped Python file: a file of data holds none
                    continue
                if isinstance(name, str) and (current_target(name) in allowed_targets() or name in accepted):
                    names.add(name)
                else:
                    shown = name if isinstance(name, str) else f"<{type(name).__name__}>"
                    refused.setdefault(shown, []).append(full_key(part, word))
        for argument in _FETCHING & set(part) if _is_timm(part) else ():
            if f"TimmBackbone.{argument}" not in accepted:
                refused.setdefault(f"TimmBackbone.{argument}", []).append(full_key(part, argument))
    if refused:
        raise TrustError(_refusal(refused))
    with own_project(root):
        return {name: allowed_targets().get(current_target(name)) or locate(name) for name in names}


def parts_of(value: Any) -> list[Container]:
    """A container, all containers below it, and all that references in them lead to, each once."""
    found: dict[int, Container] = {}
    stack = [value]
    while stack:
        here = stack.pop()
        if not isinstance(here, Container) or id(here) in found:
            continue
        found[id(here)] = here
        stack.extend(here[key] for key, _ in raw_children(here))
    return list(found.values())


def _is_timm(part: Node) -> bool:
    name = part.get("_target_")
    return isinstance(name, str) and name.rpartition(".")[2] == "TimmBackbone"


def _refusal(refused: Mapping[str, Collection[str]]) -> str:
    rows = [f"  {name}  (at {', '.join(keys)})" for name, keys in refused.items()]
    names = [name for name in refused if not name.startswith("<")]
    typed = " ".join(f"--trust {shlex.quote(name)}" for name in names)
    if not typed:
        hint = (
            "What a config builds to call it can't be trusted by name; write the config as Python, and name that file."
        )
    else:
        hint = (
            f"If you know what {'it does' if len(names) == 1 else 'they do'} and trust whoever made the config: {typed} "
            f"(in Python: trust={tuple(names)!r})."
        )
    what = counted(len(refused), "target")
    return (
        f"The config names {what} that {'is' if len(refused) == 1 else 'are'} not on ultravid's list of parts:\n"
        + "\n".join([*rows, hint])
    )
