"""Values of a config as plain data for a YAML file, and whether two values look the same there.

What YAML has no word for is written as a mapping of plain data: ``{_tuple_: [...]}``, ``{_object_: torch.float32}`` for
anything that is imported by name, and calls with ``_target_`` for the rest (paths, slices, dataclasses, partials).
`ultravid.config.yaml_files.from_data` reads it.
"""

from __future__ import annotations

import argparse
import array
import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import operator
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from ultravid.config.errors import ConfigError
from ultravid.config.migrations import PAST_DEFAULTS, current_target
from ultravid.config.projects import owner_of
from ultravid.config.targets import importable_name, target_name
from ultravid.config.tree import CONTROL_KEYS, PLAIN, RESERVED_KEYS, Container, join_key

__all__ = ["as_call", "same", "to_data"]

_UNIONS: tuple[Any, ...] = (types.UnionType, typing.Union)


def _pairs(mapping: Any) -> list[list[Any]]:
    return [list(pair) for pair in mapping.items()]


_COLLECTIONS: dict[type, Callable[[Any], dict[str, Any]]] = {
    collections.OrderedDict: lambda v: {"_target_": "collections.OrderedDict", "_args_": [_pairs(v)]},
    collections.defaultdict: lambda v: {
        "_target_": "collections.defaultdict",
        "_args_": [v.default_factory, _pairs(v)],
    },
    collections.Counter: lambda v: {
        "_target_": "collections.Counter",
        "_args_": [{"_target_": "builtins.dict", "_args_": [_pairs(v)]}],
    },
    collections.deque: lambda v: {
        "_target_": "collections.deque",
        "_args_": [list(v), *([] if v.maxlen is None else [v.maxlen])],
    },
    collections.ChainMap: lambda v: {"_target_": "collections.ChainMap", "_args_": v.maps},
    collections.UserDict: lambda v: {"_target_": "collections.UserDict", "_args_": [v.data]},
    collections.UserList: lambda v: {"_target_": "collections.UserList", "_args_": [v.data]},
    types.MappingProxyType: lambda v: {"_target_": "types.MappingProxyType", "_args_": [dict(v)]},
    types.SimpleNamespace: lambda v: {"_target_": "types.SimpleNamespace", **vars(v)},
    argparse.Namespace: lambda v: {"_target_": "argparse.Namespace", **vars(v)},
    bytearray: lambda v: {"_target_": "builtins.bytearray.fromhex", "_args_": [v.hex()]},
    array.array: lambda v: {"_target_": "array.array", "_args_": [v.typecode, v.tolist()]},
    fractions.Fraction: lambda v: {"_target_": "fractions.Fraction", "_args_": [v.numerator, v.denominator]},
    decimal.Decimal: lambda v: {"_target_": "decimal.Decimal", "_args_": [str(v)]},
}
"""The calls that make collections and numbers of the standard library."""


def to_data(value: Any, key: str = "", *, allow_pickle: bool = False) -> Any:
    """Plain data for a raw value: references stay strings.

    Args:
        value: a node or any value.
        key: its full key, for messages.
        allow_pickle: write a value that has no other form as a pickle in base64 (with cloudpickle).

    Raises:
        ConfigError: something can't be written as data; the message names its key and the way out.
    """
    return _Writer(allow_pickle).data(value, key)


class _Writer:
    """Turns values into plain data; remembers the names of objects, which are costly to find."""

    def __init__(self, allow_pickle: bool) -> None:
        self.allow_pickle = allow_pickle
        self.names: dict[int, str | None] = {}

    def name(self, value: Any) -> str | None:
        if id(value) not in self.names:
            self.names[id(value)] = importable_name(value)
        return self.names[id(value)]

    def data(self, value: Any, key: str) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value
        if isinstance(value, Container) or kind in (dict, list, tuple):
            if isinstance(value, dict):
                return self._mapping(dict.items(value), key)
            if isinstance(value, list):
                return [self.data(v, f"{key}[{i}]") for i, v in enumerate(list.__iter__(value))]
            return {"_tuple_": [self.data(v, f"{key}[{i}]") for i, v in enumerate(tuple.__iter__(value))]}
        call = as_call(value)
        if call is not None:
            return self._mapping(call.items(), key)
        name = self.name(value)
        if name is not None:
            return {"_object_": name}
        if self.allow_pickle:
            return {"_pickle_": _pickled(value, key)}
        raise ConfigError(
            f"{key or 'The value'} holds {value!r}, a {kind.__name__} that can't be written as data. Describe it "
            "with LazyCall, define it at the top of a module (no lambda, no local class), or allow "
            "pickling: LazyConfig.save(..., allow_pickle=True)."
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
            data[name] = self.target(value, place) if name == "_target_" else self.data(value, place)
        if len(data) == 1 and not RESERVED_KEYS.isdisjoint(data) and type(data.get("_object_")) is not str:
            raise ConfigError(
                f"{key or 'The config'} is a dict with the one key {next(iter(data))!r}, a reserved word."
            )
        return data

    def target(self, target: Any, key: str) -> Any:
        if isinstance(target, str):  # a name of an earlier version would be taken for a config that it saved
            return current_target(target, kept=True) if target in PAST_DEFAULTS else target
        if isinstance(target, dict | functools.partial):
            return self.data(target, key)
        name = self.name(target)
        if name is None and self.allow_pickle:
            return {"_pickle_": _pickled(target, key)}
        if name is None:
            raise ConfigError(
                f"{key} is {target_name(target)}, which can't be imported by that name, so it can't be written as data. "
                "Move it to the top of a module (no lambda, no local class), or allow pickling: "
                "LazyConfig.save(..., allow_pickle=True)."
            )
        return name


def _pickled(value: Any, key: str) -> str:
    import cloudpickle  # only here: few configs hold a pickle

    try:
        return base64.b64encode(cloudpickle.dumps(value)).decode()
    except Exception as error:  # whatever the object's own pickling raises
        raise ConfigError(f"{key or 'The value'} holds {value!r}, which can't be pickled either: {error}") from error


def as_call(value: Any) -> dict[str, Any] | None:
    """The call that makes a value of a well-known type; None for any other."""
    kind = type(value)
    if isinstance(value, pathlib.PurePath):
        name = "pathlib.Path" if isinstance(value, pathlib.Path) else f"pathlib.{kind.__name__}"
        return {"_target_": name, "_args_": [str(value)]}
    if kind in (slice, range):
        return {"_target_": f"builtins.{kind.__name__}", "_args_": [value.start, value.stop, value.step]}
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](value)
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
    """Whether a dataclass's constructor takes other things (an ``InitVar``, say) than its objects keep."""
    return {f.name for f in dataclasses.fields(kind) if f.init} != set(inspect.signature(kind).parameters)


# --- equality -------------------------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Whether two raw values say the same. A saved value that was read back equals the one that was saved."""
    if a is b:
        return True
    if _describes_other(a, b) or _describes_other(b, a):
        return _same_data(a, b)
    if _is_plain_dict(a) and _is_plain_dict(b):
        return dict.keys(a) == dict.keys(b) and all(
            same(value, dict.__getitem__(b, key)) or (key == "_target_" and _same_data(value, dict.__getitem__(b, key)))
            for key, value in dict.items(a)
        )
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, list.__iter__(a), list.__iter__(b)))
    if isinstance(a, tuple) and isinstance(b, tuple) and _is_plain_tuple(a) and _is_plain_tuple(b):
        return len(a) == len(b) and all(map(same, tuple.__iter__(a), tuple.__iter__(b)))
    if type(a) in PLAIN and type(b) in PLAIN:
        return bool(a == b and type(a) is type(b)) or (a != a and b != b)
    try:
        if bool(a == b):
            return True
    except Exception:  # an array's answer is not a bool
        return False
    return type(a) is not str and type(b) is not str and _same_data(a, b)


def _describes_other(call: Any, value: Any) -> bool:
    """Whether one value may be the call that makes the other: that of a saved config beside that of the config itself."""
    return isinstance(call, Container) and isinstance(call, dict) and "_target_" in call and not _is_plain_dict(value)


def _is_plain_dict(value: Any) -> bool:
    return type(value) is dict or (isinstance(value, Container) and isinstance(value, dict))


def _is_plain_tuple(value: tuple[Any, ...]) -> bool:
    return type(value) is tuple or isinstance(value, Container)


def _same_data(a: Any, b: Any) -> bool:
    """Whether two values look alike in a file: a class and its name, a path and the call that makes it."""
    owners = [owner_of(getattr(value, "__module__", None)) for value in (a, b)]
    if None not in owners and owners[0] is not owners[1]:  # modules of one name, of two projects
        return False
    writer = _Writer(allow_pickle=False)
    write = writer.target if type(a) is str or type(b) is str else writer.data
    try:
        return bool(write(a, "") == write(b, ""))
    except ConfigError:
        return False
