"""The model of a YAML config: the Python file of ``MODEL.CONFIG``, changed by ``MODEL.OPTS``.

Keys of model parts of version 0.1 (`ultravid.config.cfg_keys`) are applied to the same model, before ``MODEL.OPTS``.
Imports nothing of torch itself; the model's file does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ultravid.config.addresses import config_path
from ultravid.config.cfg_keys import MODEL_KEYS
from ultravid.config.cfg_node import CfgNode, place_of
from ultravid.config.default_arguments import alike, is_default_argument, target_of
from ultravid.config.errors import ConfigError, did_you_mean
from ultravid.config.instantiate import locate
from ultravid.config.loader import load_config_file
from ultravid.config.nodes import ListNode, Node
from ultravid.config.overrides import override_faults
from ultravid.config.shipped import shipped_config, shipped_names
from ultravid.config.tree import Container

__all__ = ["model_of_cfg_node"]


def model_of_cfg_node(cfg: CfgNode) -> Node:
    """The config of the model that a YAML config describes, a fresh copy.

    Raises:
        ConfigError: the file does not exist or has no ``model``, or keys and overrides do not fit it; all of them, each with
            its key, file and line.
    """
    model = _model_of_file(cfg)
    faults = _EarlierKeys(model, cfg).apply()
    root = Node(model=model)
    for number, text in enumerate(cfg.MODEL.OPTS or ()):
        origin = f"override MODEL.OPTS[{number}] {text!r}; {place_of(cfg, 'MODEL.OPTS')}"
        found = override_faults(root, [re.sub(r"^(\+\+|\+|~|)", r"\1model.", str(text), count=1)], [origin])
        faults += [f"{_as_in_opts(fault.message)} ({origin.removeprefix('override ')})" for fault in found]
    if faults:
        raise ConfigError("\n".join(faults))
    changed: Node = root["model"]
    return changed


def _as_in_opts(message: str) -> str:
    """A message about an override with keys as ``MODEL.OPTS`` has them: below the model."""
    return re.sub(r"(?<=['\"+~ ])model\.(?=[^ ])", "", message)


def _model_of_file(cfg: CfgNode) -> Node:
    name, place = cfg.MODEL.CONFIG, place_of(cfg, "MODEL.CONFIG")
    given = config_path(name or "")
    path = given if given.is_file() else shipped_config(name or "")
    if path is None:
        raise ConfigError(
            f"MODEL.CONFIG is {name!r}: there is no such file, and no shipped config of that name."
            f"{did_you_mean(name, shipped_names())} ({place})"
        )
    content = load_config_file(path)
    if not isinstance(content.get("model"), Node):
        raise ConfigError(f"{path} has no model, which MODEL.CONFIG needs.{did_you_mean('model', content)} ({place})")
    model: Node = content["model"]
    return model


class _EarlierKeys:
    """Applies the earlier keys that a config sets to a model.

    A value that the model has already, explicitly or as its target's default, is not written again.
    """

    def __init__(self, model: Node, cfg: CfgNode) -> None:
        self.model = model
        self.cfg = cfg
        self.given = {key: _value(cfg, key) for key in MODEL_KEYS if _value(cfg, key) is not None}
        self.faults: list[str] = []

    def apply(self) -> list[str]:
        """Change the model, and return what does not fit it."""
        if not self.given:
            return []
        self._apply_architecture()
        self._apply_class("MODEL.BACKBONE.NAME", self.model.get("backbone"))
        self._apply_anchors()
        self._apply_box_head()
        self._apply_feature_map()
        relates = isinstance(self._at("token_mixer"), Node)
        for key, value in self.given.items():
            path = MODEL_KEYS[key].path
            is_done = not path or key in _APPLIED_APART or key.startswith("MODEL.ANCHOR_GENERATOR.S")
            if is_done or (not relates and key.startswith(("MODEL.RELATION.", "MODEL.CONTEXT."))):
                continue
            if path.startswith("roi_pooler.head.") and self._has_linear_head():  # keys of the other head
                continue
            if key in _FOLLOW_FROM_DEPTH and value == MODEL_KEYS[key].default and self._at(path) is None:
                continue
            self._set(path, None if key in _NONE_IF_EMPTY and not value else value, key)
        return self.faults

    def _apply_architecture(self) -> None:
        """With or without relations between boxes, which were two detectors; or another one, by its name."""
        key = "MODEL.META_ARCHITECTURE"
        name = self.given.get(key)
        if name == "FasterRCNN":
            self._set("token_mixer", None, key)
        elif name != "BasicDet":
            self._apply_class(key, self.model)
        elif not isinstance(self._at("token_mixer"), Node):
            shipped = shipped_config("common/models/basicdet.py")
            assert shipped is not None
            self._set("token_mixer", load_config_file(shipped).model.token_mixer, key)

    def _apply_class(self, key: str, node: Any) -> None:
        """Let a node build the class that a key names."""
        if key not in self.given or not isinstance(node, Node):
            return
        name = self.given[key]
        try:
            target = locate(name if "." in name else f"ultravid.modeling.{name}")
        except ConfigError as error:
            self.faults.append(f"{key} is {name!r}. {error} ({place_of(self.cfg, key)})")
            return
        if target is not target_of(node):
            node.set("_target_", target, self._origin(key))

    def _apply_anchors(self) -> None:
        group = "MODEL.ANCHOR_GENERATOR."
        path = "proposal_head.anchor_generator.shapes"
        shapes, present = self.given.get(f"{group}SHAPES"), self._at(path)
        sizes, ratios = f"{group}SIZES", f"{group}ASPECT_RATIOS"
        if shapes:
            self._set(path, shapes, f"{group}SHAPES")
            self._set("proposal_head.rpn_head.num_anchors", len(shapes), f"{group}SHAPES")
            return
        if shapes is None and (not isinstance(present, Node) or not {sizes, ratios} & self.given.keys()):
            return
        key = sizes if sizes in self.given else ratios if ratios in self.given else f"{group}SHAPES"
        if not isinstance(present, Node):
            call = {"sizes": MODEL_KEYS[sizes].default[0], "aspect_ratios": MODEL_KEYS[ratios].default[0]}
            self._set(path, Node(_target_="ultravid.modeling.anchor_shapes", **call), key)
        for name, own in (("sizes", sizes), ("aspect_ratios", ratios)):
            if own in self.given:
                self._set(f"{path}.{name}", self._one_level(own), own)
        present = self._at(path)
        self._set("proposal_head.rpn_head.num_anchors", len(present.sizes) * len(present.aspect_ratios), key)

    def _one_level(self, key: str) -> Sequence[float]:
        """The values of the one feature map: detectron2 writes a list for each level."""
        value = self.given[key]
        nested = [isinstance(part, list | tuple) for part in value]
        if not value or (any(nested) and (len(value) > 1 or not value[0])):
            self.faults.append(
                f"{key} is {value!r}; the detectors have one feature map, so it is [[a, b, ...]]. ({place_of(self.cfg, key)})"
            )
            return [1.0]
        level: Sequence[float] = value[0] if nested[0] else value
        return level

    def _apply_box_head(self) -> None:
        group = "MODEL.ROI_BOX_HEAD."
        name, dim, size = (self.given.get(group + key) for key in ("NAME", "DIM", "POOLER_RESOLUTION"))
        head = self._at("roi_pooler.head")
        if not isinstance(head, Node):
            return
        if name not in (None, "FCBoxHead", "Res5Head"):
            hint = did_you_mean(str(name), ("FCBoxHead", "Res5Head"))
            self.faults.append(f"{group}NAME is {name!r}.{hint} ({place_of(self.cfg, f'{group}NAME')})")
        elif name is not None and (name == "FCBoxHead") != self._has_linear_head():
            width = dim or self._at("box_predictor.in_features")
            common = {"in_channels": head.in_channels}
            if name == "FCBoxHead":
                pooled = size or self._at("roi_pooler.box_pooler.output_size")
                call = Node(_target_="ultravid.modeling.FCBoxHead", **common, pooled_size=pooled, dim=width)
            else:
                part = {
                    key: MODEL_KEYS[f"{group}RES5_{key.upper()}"].default for key in ("num_blocks", "stride", "norm")
                }
                call = Node(_target_="ultravid.modeling.make_stage", **common, out_channels=width, **part, project=True)
            self._set("roi_pooler.head", call, f"{group}NAME")
        if dim is not None:
            self._set(f"roi_pooler.head.{'dim' if self._has_linear_head() else 'out_channels'}", dim, f"{group}DIM")
            self._set("box_predictor.in_features", dim, f"{group}DIM")
            if isinstance(self._at("token_mixer.relation"), Node):
                self._set("token_mixer.relation.dim", dim, f"{group}DIM")
        if size is not None:
            self._set("roi_pooler.box_pooler.output_size", size, f"{group}POOLER_RESOLUTION")
            if self._has_linear_head():
                self._set("roi_pooler.head.pooled_size", size, f"{group}POOLER_RESOLUTION")

    def _has_linear_head(self) -> bool:
        head = self._at("roi_pooler.head")
        return isinstance(head, Node) and getattr(target_of(head), "__name__", "") == "FCBoxHead"

    def _apply_feature_map(self) -> None:
        """The number of channels and the stride of the backbone's map, which the parts behind it are given too."""
        channels, strides = "MODEL.RESNETS.OUT_CHANNELS", "MODEL.RESNETS.STRIDES"
        if channels in self.given:
            for path in ("proposal_head.rpn_head.in_channels", "roi_pooler.head.in_channels"):
                self._set(path, self.given[channels][-1], channels)
        if strides in self.given:
            stride = 4 * math.prod(self.given[strides])
            self._set("proposal_head.anchor_generator.stride", stride, strides)
            self._set("roi_pooler.box_pooler.spatial_scale", 1 / stride, strides)

    def _at(self, path: str) -> Any:
        """The value at a path of the model, None if there is none."""
        node: Any = self.model
        for step in path.split("."):
            node = node.get(step) if isinstance(node, Node) else None
        return node

    def _set(self, path: str, value: Any, key: str) -> None:
        above, _, last = path.rpartition(".")
        node = self._at(above) if above else self.model
        if not isinstance(node, Node):
            self.faults.append(
                f"{key} is {self.given[key]!r}, but the model of MODEL.CONFIG has no {above!r}. ({place_of(self.cfg, key)})"
            )
            return
        if last in node and alike(node[last], value):
            return
        if last not in node and is_default_argument(node, last, value):
            return
        node.set(last, _as_tuples(value), self._origin(key))

    def _origin(self, key: str) -> tuple[str]:
        return (place_of(self.cfg, key),)


_APPLIED_APART = frozenset({"MODEL.BACKBONE.NAME", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"})
_FOLLOW_FROM_DEPTH = frozenset({"MODEL.RESNETS.OUT_CHANNELS", "MODEL.RESNETS.STRIDES"})
_NONE_IF_EMPTY = frozenset({"MODEL.RESNETS.DEPTH", "MODEL.RESNETS.NUM_BLOCKS"})


def _as_tuples(value: Any) -> Any:
    """A list of numbers as a tuple, as the shipped configs write them."""
    if isinstance(value, Container) or not isinstance(value, list | tuple):
        return value
    rows = [_as_tuples(v) for v in value]
    return rows if any(isinstance(v, tuple | ListNode) for v in rows) else tuple(rows)


def _value(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        if part not in node:
            return None
        node = node[part]
    return node
