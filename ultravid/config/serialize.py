"""Configs as data (YAML) and as text (Python-like).

What YAML has no word for is written as a mapping of plain data: ``{_tuple_: [...]}``, ``{_object_: torch.float32}`` for
anything that is imported by name, and calls with ``_target_`` for the rest (paths, slices, dataclasses, partials). Such
a file is read by any safe loader; reading it imports nothing.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import yaml

from ultravid.config.errors import ConfigError, ConfigImportError
from ultravid.config.instantiate import CONTROL_KEYS, locate, target_name
from ultravid.config.loader import MODULE_PREFIX
from ultravid.config.nodes import CONTAINERS, Container, Node, TupleNode, full_key, raw_children

__all__ = ["dump_yaml", "importable_name", "to_data", "to_py"]


def importable_name(value: Any) -> str | None:
    """The name by which `locate` finds this very object again; None where there is none."""
    owner = getattr(value, "__self__", None)
    if isinstance(owner, type):  # a class method: its own module's name may be that of a base class
        name = f"{owner.__module__}.{owner.__qualname__}.{value.__name__}"
    elif isinstance(value, enum.Enum):
        name = f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"
    elif type(value).__module__ == "torch" and type(value).__name__ in (
        "dtype",
        "layout",
        "memory_format",
    ):
        name = str(value)
    else:
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(qualname, str):
            return None
        if module.startswith(MODULE_PREFIX):  # defined in a config file, or in one that it imports by relative path
            return None if "<" in qualname else f"{module.removeprefix(MODULE_PREFIX)}:{qualname}"
        name = f"{module}.{qualname}"
    for candidate in (_public_name(name), name):
        try:
            found = locate(candidate)
        except ConfigImportError:
            continue
        if found is value or (isinstance(owner, type) and found == value):
            return candidate
    return None


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


def to_data(value: Any, key: str = "") -> Any:
    """Plain data for a value as written: references stay strings.

    Raises:
        ConfigError: something can't be written as data; the message names its key and the way out.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, CONTAINERS):
        return _container_data(value)
    if isinstance(value, dict):
        return {k: to_data(v, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [to_data(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if type(value) is tuple:
        return {"_tuple_": [to_data(v, f"{key}[{i}]") for i, v in enumerate(value)]}
    call = _as_call(value)
    if call is not None:
        return {k: to_data(v, f"{key}.{k}") for k, v in call.items()}
    name = importable_name(value)
    if name is not None:
        return {"_object_": name}
    raise ConfigError(
        f"{key or 'The value'} holds {value!r}, a {type(value).__name__} that can't be written as data. Describe it with "
        f"LazyCall, or give it a name at the top of a module (no lambda, no local class)."
    )


def _as_call(value: Any) -> dict[str, Any] | None:
    """The call that makes a value of a well-known kind."""
    if isinstance(value, pathlib.PurePath):
        kind = "pathlib.Path" if isinstance(value, pathlib.Path) else f"pathlib.{type(value).__name__}"
        return {"_target_": kind, "_args_": [str(value)]}
    if isinstance(value, slice):
        return {"_target_": "builtins.slice", "_args_": [value.start, value.stop, value.step]}
    if isinstance(value, set | frozenset):
        return {"_target_": f"builtins.{type(value).__name__}", "_args_": [sorted(value, key=repr)]}
    if isinstance(value, functools.partial):
        arguments = {"_args_": list(value.args)} if value.args else {}
        return {
            "_target_": _target_data(value.func, "partial"),
            "_partial_": True,
            **arguments,
            **value.keywords,
        }
    if type(value).__module__ == "torch" and type(value).__name__ == "device":
        return {"_target_": "torch.device", "_args_": [str(value)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {"_target_": _target_data(type(value), "dataclass"), **fields}
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", ()):
        return {"_target_": f"numpy.{type(value).__name__}", "_args_": [value.item()]}
    return None


def _target_data(target: Any, key: str) -> Any:
    if isinstance(target, str):
        return target
    if isinstance(target, Node):
        return _container_data(target)
    name = importable_name(target)
    if name is None:
        raise ConfigError(
            f"{key} is {target_name(target)}, which can't be imported by that name, so it can't be written as data. Move "
            f"it to the top of a module (no lambda, no local class)."
        )
    return name


def _container_data(node: Container) -> Any:
    if isinstance(node, Node):
        data = {}
        for key, value in raw_children(node):
            place = full_key(node, key)
            data[key] = _target_data(value, place) if key == "_target_" else to_data(value, place)
        return data
    values = [to_data(value, full_key(node, i)) for i, value in raw_children(node)]
    return {"_tuple_": values} if isinstance(node, TupleNode) else values


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Safe YAML without anchors: sharing is said by reference alone."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def dump_yaml(node: Any) -> str:
    """A config as YAML, keys in their order.

    Raises:
        ConfigError: see `to_data`.
    """
    text: str = yaml.dump(to_data(node), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def to_py(node: Any, prefix: str = "cfg.") -> str:
    """A config as Python-like code, a line for each plain value and one for each call; meant for reading."""
    return "\n".join(_py_lines(node, prefix)) + "\n"


def _py_lines(node: Any, prefix: str) -> Iterable[str]:
    for key, value in raw_children(node):
        name = f"{prefix}{key}"
        if isinstance(value, Node) and "_target_" not in value and len(value) > 0:
            yield from _py_lines(value, f"{name}.")
        else:
            yield f"{name} = {_py(value)}"


def _py(value: Any) -> str:
    if isinstance(value, Node):
        items = dict(raw_children(value))
        if "_target_" not in items:
            return "{" + ", ".join(f"{k!r}: {_py(v)}" for k, v in items.items()) + "}"
        target = items["_target_"]
        name = _py(target) if isinstance(target, Node) else target_name(target)
        arguments = [_py(v) for _, v in raw_children(items["_args_"])] if "_args_" in items else []
        arguments += [f"{k}={_py(v)}" for k, v in items.items() if k not in CONTROL_KEYS]
        return (
            f"partial({', '.join([name, *arguments])})" if items.get("_partial_") else f"{name}({', '.join(arguments)})"
        )
    if isinstance(value, CONTAINERS):
        inner = ", ".join(_py(v) for _, v in raw_children(value))
        if isinstance(value, TupleNode):
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return f"[{inner}]"
    if isinstance(value, str) and value.startswith("${") and value.endswith("}") and value.count("${") == 1:
        return f"ref({value[2:-1]!r})"
    return target_name(value) if callable(value) else repr(value)
