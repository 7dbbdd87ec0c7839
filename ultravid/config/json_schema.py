"""A JSON Schema (2020-12) of a config's YAML form, with which editors complete and check a file while it is typed.

The schema knows the calls that the config makes: their arguments by name, the types that the annotations state, and which are
required. A reference (``${...}``) is allowed anywhere, as is a call or a named object where an object is taken, because its type
is known only when it is built: `ultravid.config.check` finds more. The key that a reference of the config reads is required as long
as the reference stands where it does.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ultravid.config.check import OF_LAUNCHERS
from ultravid.config.errors import ConfigError
from ultravid.config.file_version import VERSION_KEY
from ultravid.config.key_help import argument_doc, first_sentence, target_of_call
from ultravid.config.loader import own_project
from ultravid.config.nodes import Node, as_node
from ultravid.config.override_values import Place
from ultravid.config.plain_data import to_data
from ultravid.config.references import is_reference
from ultravid.config.tree import (
    CONTROL_KEYS,
    MISSING,
    Container,
    child_key,
    full_key,
    key_in_parent,
    raw_child,
    raw_children,
    split_key,
    walk,
)
from ultravid.config.value_types import Parameters, mismatch, parameters_of
from ultravid.utils.limits import as_limits

__all__ = ["DIALECT", "json_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_UNIONS: tuple[Any, ...] = (typing.Union, types.UnionType)
_VALUE, _NODE, _CALL = {"$ref": "#/$defs/value"}, {"$ref": "#/$defs/node"}, {"$ref": "#/$defs/call"}
_REFERENCE, _DESCRIBED = {"$ref": "#/$defs/reference"}, {"$ref": "#/$defs/described"}
_NULL: Schema = {"type": "null"}
_SAMPLES: dict[str, tuple[Any, ...]] = {
    "null": (None,),
    "boolean": (True,),
    "integer": (3,),
    "number": (0.5,),
    "string": ("text",),
    "array": ([1], (1,)),
    "object": (Node(),),
}
"""Values of the kinds of JSON, to ask whether a class takes them."""


def json_schema(cfg: Any, title: str = "") -> Schema:
    """The schema of the YAML form of a config and of its variants.

    Args:
        cfg: the config's root; its targets are imported.
        title: the title of the schema.

    Raises:
        ConfigError: the config is not a mapping.
    """
    root = as_node(cfg)
    with own_project(root):
        return _Writer(root).schema(title)


class _Writer:
    """Writes the schema of one config."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.targets: dict[str, Callable[..., Any]] = {}
        for node in walk(root):
            name = _name_of_target(node)
            target = target_of_call(node) if name and isinstance(node, Node) else None
            if target is not None:
                self.targets.setdefault(name, target)

    def schema(self, title: str) -> Schema:
        definitions = self._common()
        names = {}
        for name, target in self.targets.items():
            takes = _parameters(target)
            if takes is not None:
                key = names[name] = _definition_name(name, definitions)
                definitions[key] = self._call(name, target, takes)
        known = [
            {
                "if": {"properties": {"_target_": {"const": name}, "_check_": {"not": {"const": False}}}},
                "then": {"$ref": f"#/$defs/{key}"},
            }
            for name, key in names.items()
        ]
        if known:  # each call is examined once: by its target's schema, or as any other call
            is_known = {"properties": {"_target_": {"enum": list(names)}, "_check_": {"not": {"const": False}}}}
            definitions["call"]["else"] = {
                "if": is_known,
                "then": {"allOf": known},
                "else": definitions["call"]["else"],
            }
        referred = self._referred()
        return {
            "$schema": DIALECT,
            **({"title": title} if title else {}),
            **self._mapping(self.root),
            **({"allOf": referred} if referred else {}),
            "$defs": definitions,
        }

    def _common(self) -> dict[str, Schema]:
        return {
            "reference": {"type": "string", "pattern": r"\$\{", "description": "${key}: another value of the config"},
            "value": {"if": {"type": "object"}, "then": _NODE, "else": {"items": _VALUE}},
            "node": {
                "if": {"required": ["_target_"]},
                "then": _CALL,
                "else": {"type": "object", "additionalProperties": _VALUE},
            },
            "described": {
                "description": "a call, or an object by its name",
                "type": "object",
                "anyOf": [{"required": [key]} for key in ("_target_", "_object_", "_pickle_")],
                "if": {"required": ["_target_"]},
                "then": _CALL,
            },
            "call": {
                "type": "object",
                "required": ["_target_"],
                "properties": _control_properties(),
                "if": {"properties": {"_recursive_": {"const": False}}, "required": ["_recursive_"]},
                "else": {"additionalProperties": _VALUE},
            },
        }

    # --- places of the config -----------------------------------------------------------------------------------------

    def _mapping(self, node: Node) -> Schema:
        """A dict of the config; it may have further keys."""
        properties = {
            str(key): self._place(node, key) for key, _ in raw_children(node) if not isinstance(key, bool | None)
        }
        if node is self.root:
            properties[VERSION_KEY] = {"type": "string", "description": "the version of ultravid that saved the config"}
        return {"type": "object", "properties": properties, "additionalProperties": _VALUE}

    def _place(self, container: Node, key: Any) -> Schema:
        value = raw_child(container, key)
        if isinstance(value, Node) and "_target_" in value:
            return _either(_NULL, _REFERENCE, other=_NODE)
        if isinstance(value, Node) and "_object_" not in value:
            mapping = {"if": {"not": {"required": ["_target_"]}}, "then": self._mapping(value), "else": _CALL}
            return _either(_NULL, _REFERENCE, other=mapping)
        annotations = [annotation for annotation, _ in Place(container, key, full_key(container, key)).annotations()]
        if full_key(container) == "train" and key in OF_LAUNCHERS:
            annotations.append(OF_LAUNCHERS[key])
        if annotations:
            typed = [self._typed(annotation) for annotation in annotations]
            schemas = [schema for index, schema in enumerate(typed) if schema not in typed[:index]]
            return schemas[0] if len(schemas) == 1 else {"allOf": schemas}
        return _like(value)

    # --- references -----------------------------------------------------------------------------------------------------

    def _referred(self) -> list[Schema]:
        """For each key that references read: it is required if one of them is where the config has it."""
        places: dict[tuple[Any, ...], list[Schema]] = {}
        for container in walk(self.root):
            for name, value in raw_children(container):
                for text, key in _plain_references(value) if is_reference(value) else ():
                    if steps := _steps_of_reference(key, container):
                        refers: Schema = {"type": "string", "pattern": _SYNTAX.sub(r"\\\g<0>", text)}
                        places.setdefault(steps, []).append(_holds(self.root, _steps_to(container, name), refers))
        return [
            {"if": {"anyOf": refers}, "then": _holds(self.root, steps, {}, may_refer=True)}
            for steps, refers in places.items()
        ]

    # --- calls ----------------------------------------------------------------------------------------------------------

    def _call(self, name: str, target: Callable[..., Any], takes: Parameters) -> Schema:
        properties = _control_properties()
        for parameter in takes.by_name.values():
            properties[parameter.name] = self._argument(target, takes, parameter)
        others: Any = False
        if takes.any_name is not None:
            annotation = takes.annotations.get(takes.any_name.name)
            others = _VALUE if annotation is None else self._typed(annotation)
        required = [p.name for p in takes.by_name.values() if p.default is p.empty]
        schema: Schema = {
            "title": name,
            "type": "object",
            "properties": properties,
            "additionalProperties": others,
        }
        if doc := first_sentence(inspect.getdoc(target) or ""):
            schema["description"] = doc
        if required:
            is_partial = {"required": ["_partial_"], "properties": {"_partial_": {"const": True}}}
            schema["if"] = {"not": {"anyOf": [{"required": ["_args_"]}, is_partial]}}
            schema["then"] = {"required": required}
        return schema

    def _argument(self, target: Callable[..., Any], takes: Parameters, parameter: inspect.Parameter) -> Schema:
        annotation = takes.annotations.get(parameter.name)
        schema = dict(_VALUE if annotation is None else self._typed(annotation))
        default = parameter.default
        kind = _json_type(default)
        is_typed = annotation is not None and "anyOf" in schema and default is not parameter.empty
        if is_typed and mismatch(default, annotation) is not None:  # values like the default pass the check as well
            schema["anyOf"] = [*schema["anyOf"], {"type": kind} if kind else _VALUE]
        if kind and _is_finite(default):
            schema["default"] = default
        if doc := argument_doc(target, parameter.name):
            schema["description"] = doc
        return schema

    # --- types ----------------------------------------------------------------------------------------------------------

    def _typed(self, annotation: Any) -> Schema:
        """What an argument with this annotation accepts, references and calls included."""
        kinds = self._kinds(annotation)
        if kinds is None:
            return dict(_VALUE)
        unique = [kind for index, kind in enumerate(kinds) if kind not in kinds[:index]]
        return {"anyOf": [*unique, _REFERENCE, {"const": MISSING}, _DESCRIBED]}

    def _kinds(self, annotation: Any) -> list[Schema] | None:
        """Schemas of the plain values that agree with an annotation; None: any value may."""
        if annotation is None or annotation is type(None):
            return [_NULL]
        if annotation in (Any, object) or isinstance(annotation, str | typing.TypeVar):
            return None
        if isinstance(annotation, typing.NewType):
            return self._kinds(annotation.__supertype__)
        if isinstance(annotation, dataclasses.InitVar):
            return self._kinds(annotation.type)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in _UNIONS:
            found = [self._kinds(each) for each in arguments]
            return None if None in found else [kind for kinds in found for kind in kinds or ()]
        if origin is typing.Literal:
            plain = [value for value in arguments if value is None or isinstance(value, bool | int | float | str)]
            return [{"enum": plain}] if len(plain) == len(arguments) else None
        if origin is typing.Annotated:
            kinds = self._kinds(arguments[0])
            return kinds if kinds is None else [_bounded(kind, arguments[1:]) for kind in kinds]
        if origin is None:
            return _kinds_of_class(annotation) if isinstance(annotation, type) else None
        if not isinstance(origin, type):
            return None
        return self._kinds_of_generic(origin, arguments)

    def _kinds_of_generic(self, origin: type, arguments: tuple[Any, ...]) -> list[Schema] | None:
        if origin in (type, collections.abc.Callable):
            return []
        plain = _kinds_of_class(origin)
        if plain is None or not arguments:
            return plain
        if issubclass(origin, collections.abc.Mapping) and len(arguments) == 2:
            return [{**_PLAIN_OBJECT, "additionalProperties": self._typed(arguments[1])}]
        if not issubclass(origin, collections.abc.Iterable):
            return plain
        array: Schema = {"type": "array"}
        if origin is tuple and arguments[-1:] != (...,):
            items = [self._typed(each) for each in arguments]
            array |= {"prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        else:
            array["items"] = self._typed(arguments[0])
        others = [kind for kind in plain if kind not in (_ARRAY, _TUPLE)]
        return [array, _tuple_of(array), *others]


def _either(*plain: Schema, other: Schema) -> Schema:
    """Plain values, or what a mapping has to be: an error then is about the mapping."""
    return {"if": {"type": "object"}, "then": other, "else": {"anyOf": list(plain)}}


_PLAIN_REFERENCE = re.compile(r"(?<!\\)\$\{([^:${}]+)\}")
_RESOLVER = re.compile(r"\$\{[^${}]*:")
_SYNTAX = re.compile(r"[\\^$.*+?()\[\]{}|]")  # not re.escape, whose result is not always a pattern of JSON Schema


def _plain_references(text: str) -> list[tuple[str, str]]:
    """(reference, key) of the references in a text that name their key as it is; none beside a resolver, which need not read them."""
    return [] if _RESOLVER.search(text) else [(match[0], match[1].strip()) for match in _PLAIN_REFERENCE.finditer(text)]


def _steps_to(container: Container, key: Any) -> tuple[Any, ...]:
    """The keys and indices from the root to what a container holds under a key."""
    steps = [key]
    while container._up is not None:
        steps.append(key_in_parent(container))
        container = container._up
    return tuple(reversed(steps))


def _steps_of_reference(key: str, container: Container) -> tuple[Any, ...]:
    """The keys and indices from the root to what a reference in a container reads, up to another reference on the way.

    Empty if the config does not have the key, as a part of other configs need not.
    """
    dots = len(key) - len(key.lstrip("."))
    node: Any = container
    above = dots - 1 if dots else math.inf
    while above > 0 and node._up is not None:
        node, above = node._up, above - 1
    steps = [*_steps_to(node._up, key_in_parent(node))] if node._up is not None else []
    try:
        names = split_key(key[dots:])
    except ConfigError:
        return ()
    for step in names:
        if is_reference(node):
            break
        found = child_key(node, step)
        if found is None:
            return ()
        steps.append(found)
        node = raw_child(node, found)
    return tuple(steps)


def _holds(container: Any, steps: Sequence[Any], value: Schema, *, may_refer: bool = False) -> Schema:
    """A container that has a value at the end of steps.

    Args:
        container: the container.
        steps: keys and indices.
        value: what there is at the end.
        may_refer: whether a reference may be in place of a container on the way.
    """
    if not steps:
        return value
    first, *others = steps
    inner = _holds(raw_child(container, first), others, value, may_refer=may_refer)
    kinds = ["object", "array", "string"] if may_refer else ["object"]
    if isinstance(container, dict):
        return {"type": kinds, "required": [str(first)], "properties": {str(first): inner}}
    index = first % len(container)
    array = {"type": kinds if may_refer else ["array"], "minItems": index + 1, "prefixItems": [*[True] * index, inner]}
    if isinstance(container, list):
        return array
    return {"type": kinds, "required": ["_tuple_"], "properties": {"_tuple_": array}}


def _tuple_of(array: Schema) -> Schema:
    """A tuple in a saved config."""
    return {
        "type": "object",
        "properties": {"_tuple_": array},
        "required": ["_tuple_"],
        "additionalProperties": False,
    }


_ARRAY: Schema = {"type": "array", "items": _VALUE}
_TUPLE = _tuple_of(_ARRAY)
_PLAIN_OBJECT: Schema = {"type": "object", "not": {"required": ["_target_"]}, "additionalProperties": _VALUE}


def _control_properties() -> dict[str, Schema]:
    """Keys of a call that are not arguments."""
    switches = ("_partial_", "_recursive_", "_check_")
    return {
        "_target_": {"description": "what is called: a dotted name, or path/to/file.py:Name"},
        "_args_": {"description": "positional arguments", **_VALUE},
        **{key: {"type": "boolean"} for key in switches},
        **{key: {} for key in sorted(CONTROL_KEYS - {"_target_", "_args_", *switches})},
    }


def _kinds_of_class(wanted: type) -> list[Schema] | None:
    """Schemas of the plain values that may be given where a class is wanted, as the check of a config has it."""
    simple = {bool: "boolean", int: "integer", float: "number", str: "string"}
    if wanted in simple:
        return [{"type": simple[wanted]}]
    names = [kind for kind, samples in _SAMPLES.items() if any(mismatch(s, wanted) is None for s in samples)]
    if len(names) == len(_SAMPLES):
        return None
    special = {"array": _ARRAY, "object": _PLAIN_OBJECT}
    schemas = [special.get(name, {"type": name}) for name in names]
    return [*schemas, _TUPLE] if "array" in names else schemas


def _bounded(kind: Schema, metadata: Iterable[Any]) -> Schema:
    """The schema of a number within the bounds of an ``Annotated``."""
    if kind.get("type") not in ("integer", "number"):
        return kind
    bounds: Schema = {}
    for each in metadata:
        limits = as_limits(each)
        if limits is None:
            continue
        for name, limit in (
            ("minimum", limits.ge),
            ("exclusiveMinimum", limits.gt),
            ("maximum", limits.le),
            ("exclusiveMaximum", limits.lt),
        ):
            if isinstance(limit, int | float) and _is_finite(limit):
                bounds[name] = limit
    return {**kind, **bounds}


def _like(value: Any) -> Schema:
    """What may replace a value that no argument takes: one of its kind, as for an override."""
    is_open = value is None or is_reference(value) or (isinstance(value, str) and value == MISSING)
    if is_open or isinstance(value, Node):
        return dict(_VALUE)
    if isinstance(value, list | tuple):
        return {"anyOf": [_ARRAY, _TUPLE, _NULL, _REFERENCE, _DESCRIBED]}
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else _json_type(value)
    return {"anyOf": [{"type": kind}, _NULL, _REFERENCE, _DESCRIBED]} if kind else dict(_VALUE)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return next((name for kind, name in kinds.items() if type(value) is kind), "")


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _name_of_target(node: Container) -> str:
    """The name of a call's target in a file; "" if it has none."""
    if not isinstance(node, Node) or "_target_" not in node:
        return ""
    try:
        name = to_data(Node(_target_=node.raw["_target_"]))["_target_"]
    except ConfigError:
        return ""
    return name if isinstance(name, str) and "${" not in name else ""


def _parameters(target: Callable[..., Any]) -> Parameters | None:
    try:
        return parameters_of(target)
    except (TypeError, ValueError):
        return None


def _definition_name(name: str, taken: Iterable[str]) -> str:
    """A key of ``$defs`` that needs no escapes in a reference."""
    plain = re.sub(r"[^\w.-]", "_", name)
    while plain in taken:
        plain += "_"
    return plain
