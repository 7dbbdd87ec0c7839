"""Finds the model that a YAML config of the predecessor describes, with its values; unsupported values are refused, never ignored."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.config import CfgNode, ConfigError, Node, get_config
from ultravid.config.default_arguments import alike, is_default_argument
from ultravid.config.lazy import LazyConfig
from ultravid.config.tree import value_at
from ultravid.engine.conversion.keys import (
    ARCHITECTURES,
    ARGUMENTS,
    BY_HAND,
    CLIPS,
    NAMES,
    ONE_VALUE,
    OTHER_MODELS,
    TRAINING,
    TWO_STAGE,
)
from ultravid.modeling.published import PUBLISHED_MODELS
from ultravid.utils.text import nearest

__all__ = ["ModelOfKeys", "decoded", "model_of_keys", "published_model", "published_name", "values_of_yaml"]


@dataclass
class ModelOfKeys:
    """The model that a YAML config of the predecessor describes.

    Attributes:
        name: one of `PUBLISHED_MODELS`.
        model: its config.
        changed: arguments with another value than published, as ``(argument, value, key)``.
        training: keys that were set and decide about training alone; they are not carried over.
        source: the YAML file, for messages.
    """

    name: str
    model: Node
    changed: list[tuple[str, Any, str]] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    source: str = ""


def values_of_yaml(path: str | Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a YAML file and of its ``_BASE_`` files by full key, ``MODEL.RPN.NMS_THRESH``.

    Args:
        path: the file.
        options: keys and values in turn, which replace those of the file.

    Raises:
        ConfigError: a file is missing or is not plain YAML, or it is no config of the predecessor.
    """
    content = CfgNode.load_yaml_with_base(path)
    values = dict(_flat(content, ""))
    if len(options) % 2:
        raise ConfigError(f"Options are keys and values in turn; the last one, {options[-1]!r}, has no value.")
    values.update(zip(options[::2], options[1::2], strict=True))
    if "model._target_" in values or "MODEL.CONFIG" in values:
        raise ConfigError(f"{path} is a config of this package already, not of the predecessor: run it as it is.")
    return values


def _flat(node: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in node.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


def published_model(name: str, depth: int = 34) -> Node:
    """The config of a published model, including the points in which its code differs from its paper.

    Args:
        name: one of `PUBLISHED_MODELS`.
        depth: the depth of the ResNet.

    Raises:
        ConfigError: there is no model of that name.
    """
    if name not in PUBLISHED_MODELS:
        close = nearest(name, PUBLISHED_MODELS)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ConfigError(f"There is no published model {name!r}.{hint} Known are {', '.join(PUBLISHED_MODELS)}.")
    published = PUBLISHED_MODELS[name]
    root = Node(model=get_config(published.config).model)
    LazyConfig.apply_overrides(root, [f"++model.{text}" for text in published.overrides])
    root.model.backbone.depth = depth
    return root.model


def published_name(values: Mapping[str, Any], source: str) -> str:
    """Which of `PUBLISHED_MODELS` the values of a YAML config describe.

    Args:
        values: by full key.
        source: the file, for the message.

    Raises:
        ConfigError: none of them.
    """
    key = "MODEL.META_ARCHITECTURE"
    architecture = values.get(key)
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ConfigError(_is_unknown(key, architecture, ARCHITECTURES, source))
    key, names = ARCHITECTURES[architecture]
    value = values.get(key) if key else ""
    if not isinstance(value, str) or value not in names:
        raise ConfigError(_is_unknown(key, value, names, source))
    return names[value]


def _is_unknown(key: str, value: Any, known: Mapping[str, str] | Mapping[str, Any], source: str) -> str:
    close = nearest(str(value), known)
    hint = f" Did you mean {close!r}?" if close else f" Known here: {', '.join(known)}."
    missing = f"{source} has no {key}" if value is None else f"{source}: {key} is {value!r}"
    return f"{missing}, which says which of the predecessor's models it is.{hint}"


def model_of_keys(values: Mapping[str, Any], source: str) -> ModelOfKeys:
    """The model that a YAML config of the predecessor describes, with every value that it sets.

    Args:
        values: by full key, of all its files; keys that it does not set have the predecessor's defaults.
        source: the file, for messages.

    Raises:
        ConfigError: it is none of the published models, or has a key or value that is not supported: all of them, by key.
    """
    values = {key: decoded(value) for key, value in values.items()}
    name = published_name(values, source)
    found = ModelOfKeys(name, published_model(name, 34), source=source)
    arguments = _of_model(ARGUMENTS, name)
    single = _of_model(ONE_VALUE, name)
    faults = []
    for key, (default, paths) in arguments.items():
        value = values.get(key, default)
        if key == "MODEL.BACKBONE.FREEZE_AT" and value == -1:
            value = 0  # both freeze nothing
        for path in paths.split():
            _set(found, path, value, key, source)
    for key, (default, needed) in single.items():
        value = values.get(key, default)
        if not alike(value, needed):
            said = f"{key} is {value!r}" if key in values else f"{key} is not set, which means {value!r}"
            faults.append(f"{said}; {name} is supported only with {needed!r}.")
    faults += _anchors(found, values, source) + _box_classes(name, values) + _remembered(found, values, source)
    known = {key for table in (ARGUMENTS, ONE_VALUE) for _, keys in table for key in keys}
    for key in values:
        if key in arguments or key in single or key in NAMES or key in BY_HAND:
            continue
        if key in TRAINING:
            found.training.append(key)
        elif key.startswith("MODEL.") and key not in known and not key.startswith(OTHER_MODELS):
            close = nearest(key, known)
            faults.append(f"{key} is not a known key.{f' Did you mean {close}?' if close else ''}")
    if faults:
        rows = "".join(f"\n  {fault}" for fault in faults)
        raise ConfigError(f"{source} describes {name} with values that can't be converted:{rows}")
    return found


def _of_model(
    table: Sequence[tuple[tuple[str, ...], dict[str, tuple[Any, Any]]]], name: str
) -> dict[str, tuple[Any, Any]]:
    return {key: value for models, keys in table if name in models for key, value in keys.items()}


def _set(found: ModelOfKeys, path: str, value: Any, key: str, source: str) -> None:
    """Set an argument unless it has the value already, explicitly or by default."""
    above, _, last = path.rpartition(".")
    node = value_at(found.model, above) if above else found.model
    assert isinstance(node, Node), f"{found.name} has no {above}"
    if last in node and alike(node[last], value):
        return
    if last not in node and is_default_argument(node, last, value):
        return
    node.set(last, tuple(value) if isinstance(value, list) else value, (f"{key}, {source}",))
    if path != "backbone.depth":  # published with both
        found.changed.append((path, value, key))


def _anchors(found: ModelOfKeys, values: Mapping[str, Any], source: str) -> list[str]:
    """Sizes and ratios of the anchors of one feature map, and the number of anchors that follows."""
    head = {"RetinaNet": "dense_head"}.get(found.name, "proposal_head" if found.name in TWO_STAGE else "")
    if not head:
        return []
    faults, counts = [], 1
    for key, argument, default in (
        ("MODEL.ANCHOR_GENERATOR.SIZES", "sizes", [[32, 64, 128, 256, 512]]),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "aspect_ratios", [[0.33, 0.5, 0.66, 1.0, 2.0, 3.0]]),
    ):
        levels = values.get(key, default)
        if not (isinstance(levels, list | tuple) and len(levels) == 1 and isinstance(levels[0], list | tuple)):
            faults.append(f"{key} is {levels!r}; the models have one feature map, so it is [[a, b, ...]].")
            continue
        _set(found, f"{head}.anchor_generator.shapes.{argument}", list(levels[0]), key, source)
        counts *= len(levels[0])
    if not faults and head == "proposal_head":
        _set(found, "proposal_head.rpn_head.num_anchors", counts, "MODEL.ANCHOR_GENERATOR", source)
    return faults


def _remembered(found: ModelOfKeys, values: Mapping[str, Any], source: str) -> list[str]:
    """How many frames FGFA, MEGA and CVA-Net remember: it follows from the clips that they were trained on."""
    if found.name not in ("FGFA", "MEGA", "CVANet"):
        return []
    keys = ("INPUT.TRAIN_FRAME_SAMPLER.NUM_OUT_FRAMES", "INPUT.TRAIN_FRAME_SAMPLER.MEMORY_FRAMES")
    frames, memory = (values.get(key, CLIPS[key][0]) for key in keys)
    used = {keys[0]: frames} if found.name == "FGFA" else {keys[0]: frames, keys[1]: memory}
    for key, count in used.items():
        if type(count) is not int or count < 1:
            return [f"{key} is {count!r}; it is a number of frames, 1 or more."]
    if found.name == "CVANet" and frames != memory:
        return [
            f"{keys[0]} is {frames} and {keys[1]} is {memory}; CVANet needs as many frames of the memory as others."
        ]
    lengths = {
        "FGFA": {"feature_context.context_frames": (frames - 1, keys[0])},
        "CVANet": {"feature_context.lag": (frames, keys[0])},
        "MEGA": {
            "token_mixer.local_frames": (frames, keys[0]),
            "token_mixer.recent_memory_frames": (frames, keys[0]),
            "token_mixer.memory_frames": (frames + memory, keys[1]),
        },
    }
    for path, (value, key) in lengths[found.name].items():
        _set(found, path, value, key, source)
    return []


def _box_classes(name: str, values: Mapping[str, Any]) -> list[str]:
    """Boxes are the same for all classes here; with one class that makes no difference."""
    classes = values.get("MODEL.ROI_HEADS.NUM_CLASSES", 1)
    key = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"
    if name not in TWO_STAGE or classes == 1 or values.get(key, False) is True:
        return []
    return [
        f"MODEL.ROI_HEADS.NUM_CLASSES is {classes} with boxes for each class; only one box for all ({key}) is supported."
    ]


def decoded(value: Any) -> Any:
    """What detectron2 makes of a value of a YAML file: the text ``"(0.3, 1.5)"`` is a tuple."""
    if not isinstance(value, str):
        return value
    decode: Callable[[str], Any] = ast.literal_eval
    try:
        return decode(value)
    except (ValueError, SyntaxError):
        return value
