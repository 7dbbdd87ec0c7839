"""Configs as data (YAML) and as text (Python-like).

What YAML has no word for is written as a mapping of plain data: ``{_tuple_: [...]}``, ``{_object_: torch.float32}`` for
anything that is imported by name, and calls with ``_target_`` for the rest (paths, slices, dataclasses, partials). Such
a file is read by any safe loader; reading it imports nothing.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import enum
import functools
import hashlib
import inspect
import operator
import pathlib
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any

import yaml

from ultravid.config.errors import ConfigError, ConfigImportError
from ultravid.config.instantiate import CONTROL_KEYS, as_root, locate, target_name
from ultravid.config.loader import MODULE_PREFIX, RESERVED_KEYS, gc_paused
from ultravid.config.nodes import CONTAINERS, PLAIN, Container, Node, TupleNode, is_reference, join_key, raw_children

__all__ = [
    "as_call",
    "config_hash",
    "dump_yaml",
    "importable_name",
    "py_text",
    "resolved",
    "same_in_file",
    "to_data",
    "to_py",
    "written_target",
]

_LINE_LENGTH = 120
_UNIONS: tuple[Any, ...] = (types.UnionType, typing.Union)


def importable_name(value: Any) -> str | None:
    """The name by which `locate` finds this very object again; None where there is none."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    owner = getattr(value, "__self__", None)
    if isinstance(owner, type):  # a class method: its own module's name may be that of a base class
        name = f"{owner.__module__}.{owner.__qualname__}.{value.__name__}"
    elif isinstance(value, enum.Enum):
        name = f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"
    elif type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "layout", "memory_format"):
        name = str(value)
    else:
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if module is None and hasattr(value, "__objclass__"):  # a method of a class in C
            module = value.__objclass__.__module__
        if not isinstance(module, str) or not isinstance(qualname, str):
            return _name_in_loaded_package(value)
        name = f"{module}.{qualname}"
    if name.startswith(MODULE_PREFIX):  # defined in a config file, or in one that it imports by relative path
        file, _, attributes = name.removeprefix(MODULE_PREFIX).partition(".py.")
        return None if "<" in attributes else f"{file}.py:{attributes}"
    private = any(part.startswith("_") for part in name.split("."))
    for candidate in (_name_in_loaded_package(value) if private else None, _public_name(name), name):
        if candidate is None:
            continue
        try:
            found = locate(candidate)
        except ConfigImportError:
            continue
        if found is value or (isinstance(owner, type) and found == value):
            return candidate
    return _name_in_loaded_package(value)


def _public_name(name: str) -> str:
    """``torch.optim.AdamW`` for ``torch.optim.adamw.AdamW``: the shortest package that hands on the same object."""
    parts = name.split(".")
    try:
        target = locate(name)
    except ConfigImportError:
        return name
    for length in range(1, len(parts) - 1):
        package = sys.modules.get(".".join(parts[:length]))
        if package is not None and getattr(package, parts[-1], None) is target:
            return ".".join([*parts[:length], parts[-1]])
    return name


def _name_in_loaded_package(value: Any) -> str | None:
    """The name of what does not know its module: ``torch.relu``, ``numpy.add``, ``types.NoneType``, ``...``."""
    name = "Ellipsis" if value is ... else getattr(value, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        return None
    for package in ("builtins", "types", "operator", "torch", "torch.nn.functional", "numpy"):
        module = sys.modules.get(package)
        if module is not None and vars(module).get(name) is value:
            return f"{package}.{name}"
    return None


def to_data(value: Any, key: str = "", *, allow_pickle: bool = False) -> Any:
    """Plain data for a value as written: references stay strings.

    Args:
        value: a node or any value.
        key: its full key, for messages.
        allow_pickle: write what has no other form as a pickle in base64 (with cloudpickle).

    Raises:
        ConfigError: something can't be written as data; the message names its key and the way out.
    """
    return _Writer(allow_pickle).data(value, key)


class _Writer:
    """Turns values into plain data; remembers the names of targets, which are costly to find."""

    def __init__(self, allow_pickle: bool) -> None:
        self.allow_pickle = allow_pickle
        self.names: dict[int, str | None] = {}

    def name(self, value: Any) -> str | None:
        if id(value) not in self.names:
            self.names[id(value)] = importable_name(value)
        return self.names[id(value)]

    def data(self, value: Any, key: str) -> Any:
        if type(value) in PLAIN:
            return value
        if isinstance(value, TupleNode) or type(value) is tuple:
            return {"_tuple_": [self.data(v, f"{key}[{i}]") for i, v in enumerate(tuple.__iter__(value))]}
        if type(value) is list or (isinstance(value, CONTAINERS) and isinstance(value, list)):
            return [self.data(v, f"{key}[{i}]") for i, v in enumerate(list.__iter__(value))]
        if type(value) is dict or isinstance(value, Node):
            return self._mapping(dict.items(value), key)
        call = as_call(value)
        if call is not None:
            return self._mapping(call.items(), key)
        name = self.name(value)
        if name is not None:
            return {"_object_": name}
        if self.allow_pickle:
            return {"_pickle_": _pickled(value, key)}
        raise ConfigError(
            f"{key or 'The value'} holds {value!r}, a {type(value).__name__} that can't be written as data. Describe it "
            "with LazyCall, give it a name at the top of a module (no lambda, no local class), or ask for pickling by "
            "name: LazyConfig.save(..., allow_pickle=True)."
        )

    def _mapping(self, pairs: Iterable[tuple[Any, Any]], key: str) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        for name, value in pairs:
            if type(name) is not str and (type(name) not in PLAIN or name != name):
                raise ConfigError(
                    f"{key or 'The config'} has the key {name!r}; a key that is written as data is a string, a number, "
                    "a bool or None."
                )
            place = join_key(key, name)
            data[name] = self._target(value, place) if name == "_target_" else self.data(value, place)
        if len(data) == 1 and not RESERVED_KEYS.isdisjoint(data) and type(data.get("_object_")) is not str:
            raise ConfigError(
                f"{key or 'The config'} is a dict with the one key {next(iter(data))!r}, a reserved word."
            )
        return data

    def _target(self, target: Any, key: str) -> Any:
        if isinstance(target, str):
            return target
        if isinstance(target, dict):
            return self.data(target, key)
        if isinstance(target, functools.partial):
            return self.data(target, key)
        name = self.name(target)
        if name is None and self.allow_pickle:
            return {"_pickle_": _pickled(target, key)}
        if name is None:
            raise ConfigError(
                f"{key} is {target_name(target)}, which can't be imported by that name, so it can't be written as data. "
                "Move it to the top of a module (no lambda, no local class), or ask for pickling by name: "
                "LazyConfig.save(..., allow_pickle=True)."
            )
        return name


def _pickled(value: Any, key: str) -> str:
    import cloudpickle

    try:
        return base64.b64encode(cloudpickle.dumps(value)).decode()
    except Exception as error:  # whatever an object's own pickling raises
        raise ConfigError(f"{key or 'The value'} holds {value!r}, which can't be pickled either: {error}") from error


def as_call(value: Any) -> dict[str, Any] | None:
    """The call that makes a value of a well-known kind."""
    kind = type(value)
    if isinstance(value, pathlib.PurePath):
        name = "pathlib.Path" if isinstance(value, pathlib.Path) else f"pathlib.{kind.__name__}"
        return {"_target_": name, "_args_": [str(value)]}
    if kind in (slice, range):
        return {"_target_": f"builtins.{kind.__name__}", "_args_": [value.start, value.stop, value.step]}
    if kind is collections.OrderedDict:
        return {"_target_": "collections.OrderedDict", "_args_": [[list(pair) for pair in value.items()]]}
    if kind is datetime.timedelta:
        arguments = {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds}
        return {"_target_": "datetime.timedelta", **arguments}
    origin = typing.get_origin(value)
    if origin in _UNIONS:  # int | None
        return {"_target_": "functools.reduce", "_args_": [operator.or_, list(typing.get_args(value))]}
    if isinstance(origin, type):  # list[int], Own[int]
        return {"_target_": "operator.getitem", "_args_": [origin, typing.get_args(value)]}
    if kind in (set, frozenset):
        return {"_target_": f"builtins.{kind.__name__}", "_args_": [sorted(value, key=repr)]}
    if kind is complex:
        return {"_target_": "builtins.complex", "_args_": [value.real, value.imag]}
    if kind in (datetime.date, datetime.datetime, datetime.time):
        return {"_target_": f"datetime.{kind.__name__}.fromisoformat", "_args_": [value.isoformat()]}
    if kind is bytes:
        return {"_target_": "builtins.bytes.fromhex", "_args_": [value.hex()]}
    if isinstance(value, functools.partial) and CONTROL_KEYS.isdisjoint(value.keywords):
        arguments = {"_args_": list(value.args)} if value.args else {}
        return {"_target_": value.func, "_partial_": True, **arguments, **value.keywords}
    if kind.__module__ == "torch" and kind.__name__ == "Size":
        return {"_target_": "torch.Size", "_args_": [list(value)]}
    if kind.__module__ == "torch" and kind.__name__ == "device":
        return {"_target_": "torch.device", "_args_": [str(value)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not _needs_more_than_fields(kind):
        return {"_target_": kind, **{f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return {"_target_": kind, **dict(zip(kind._fields, value, strict=True))}
    if isinstance(value, enum.Flag) and importable_name(value) is None:  # a combination has no name of its own
        return {"_target_": kind, "_args_": [value.value]}
    if "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].dtype):
        return {"_target_": "numpy.dtype", "_args_": [value.str]}
    if kind.__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", ()):
        return {"_target_": f"numpy.{kind.__name__}", "_args_": [value.item()]}
    return None


def _needs_more_than_fields(kind: Any) -> bool:
    """Has a dataclass a constructor that takes other things (an ``InitVar``, say) than its objects keep?"""
    return {f.name for f in dataclasses.fields(kind) if f.init} != set(inspect.signature(kind).parameters)


def same_in_file(a: Any, b: Any) -> bool:
    """Are two values written alike? A target and its name are, a path and the call that makes it too."""
    writer = _Writer(allow_pickle=False)
    write = writer._target if type(a) is str or type(b) is str else writer.data
    try:
        return bool(write(a, "") == write(b, ""))
    except ConfigError:
        return False


def config_hash(cfg: Any) -> str:
    """SHA-256 (hex) of a config as written: the same in every process, for keys in any order, and after saving.

    Raises:
        ConfigError: see `to_data`.
    """
    return hashlib.sha256(_canonical(to_data(as_root(cfg))).encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(data: Any) -> str:
    if isinstance(data, dict):
        return "{" + ",".join(sorted(f"{k!r}:{_canonical(v)}" for k, v in data.items())) + "}"
    if isinstance(data, list):
        return "[" + ",".join(map(_canonical, data)) + "]"
    return repr(data)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Safe YAML without anchors: sharing is said by reference alone."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def dump_yaml(node: Any, *, allow_pickle: bool = False) -> str:
    """A config as YAML, keys in their order.

    Raises:
        ConfigError: see `to_data`.
    """
    data = to_data(node, allow_pickle=allow_pickle)
    with gc_paused():
        text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def to_py(node: Any, prefix: str = "cfg.") -> str:
    """A config as Python-like code, a statement for each plain value and one for each call; meant for reading."""
    return "\n".join(_py_lines(node, prefix)) + "\n"


def _py_lines(node: Any, prefix: str) -> Iterable[str]:
    for key, value in raw_children(node):
        name = f"{prefix}{key}"
        if isinstance(value, Node) and "_target_" not in value and value and not _is_object(value):
            yield from _py_lines(value, f"{name}.")
        else:
            yield f"{name} = {py_text(value, _LINE_LENGTH - len(name) - 3)}"


def _is_object(node: Node) -> bool:
    return len(node) == 1 and isinstance(node.raw.get("_object_"), str)


def py_text(value: Any, most: int | None = None, indent: str = "") -> str:
    """One value as Python-like code: on one line, or broken where it has more than ``most`` characters."""
    opening, parts, closing = _py_parts(value)
    inner = indent + "    "
    texts = [name + py_text(part) for name, part in parts]
    line = f"{opening}{', '.join(texts)}{',' if opening == '(' and len(texts) == 1 else ''}{closing}"
    if most is None or len(line) <= most or not parts:
        return line
    width = _LINE_LENGTH - len(inner) - 1
    lines = "".join(f"{inner}{name}{py_text(part, width - len(name), inner)},\n" for name, part in parts)
    return f"{opening}\n{lines}{indent}{closing}"


def _py_parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """A value's text before its parts, the parts with their names, and the text after them."""
    if isinstance(value, Node):
        items = dict(raw_children(value))
        if _is_object(value):
            return items["_object_"], [], ""
        if "_target_" not in items:
            return "{", [(f"{k!r}: ", v) for k, v in items.items()], "}"
        positional = items.get("_args_", ())
        held = isinstance(positional, CONTAINERS)
        arguments = (
            [("", v) for _, v in raw_children(positional)] if held else [("*", positional)] if positional else []
        )
        arguments += [(f"{k}=", v) for k, v in items.items() if k not in CONTROL_KEYS]
        name = written_target(items["_target_"])
        return (
            (f"partial({name}, " if arguments else f"partial({name}") if items.get("_partial_") else f"{name}(",
            arguments,
            ")",
        )
    if isinstance(value, CONTAINERS):
        brackets = "()" if isinstance(value, TupleNode) else "[]"
        return brackets[0], [("", v) for _, v in raw_children(value)], brackets[1]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}") and value.count("${") == 1:
        return f"ref({value[2:-1]!r})", [], ""
    return target_name(value) if callable(value) else repr(value), [], ""


def written_target(target: Any) -> str:
    """A target as one reads it: its dotted name, or the call that makes it."""
    return py_text(target) if isinstance(target, Node) else target_name(target)


def resolved(container: Container) -> Any:
    """A copy with values in the place of references; one to a call stays, as the call stands for one shared object.

    Raises:
        InterpolationError: a reference leads nowhere or in a circle.
    """

    def child(key: Any, value: Any) -> Any:
        if is_reference(value):
            found = container[key]
            if isinstance(found, Node) and "_target_" in found:
                return value
            return resolved(found) if isinstance(found, CONTAINERS) else found
        return resolved(value) if isinstance(value, CONTAINERS) else value

    pairs = [(key, child(key, value)) for key, value in raw_children(container)]
    if isinstance(container, Node):
        return Node(pairs)
    return type(container)([value for _, value in pairs])
