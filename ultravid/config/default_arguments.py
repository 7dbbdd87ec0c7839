"""The arguments that a call's target has by default, to tell which values a config need not write."""

from __future__ import annotations

import inspect
from typing import Any

from ultravid.config.errors import ConfigError
from ultravid.config.instantiate import locate
from ultravid.config.nodes import Node
from ultravid.config.tree import raw_child

__all__ = ["alike", "default_argument", "is_default_argument", "target_of"]


def is_default_argument(node: Node, name: str, value: Any) -> bool:
    """Whether a call's target takes this value for an argument that is not given."""
    default = default_argument(node, name)
    return default is not inspect.Parameter.empty and alike(default, value)


def default_argument(node: Node, name: str) -> Any:
    """What a call's target takes for an argument that is not given; `inspect.Parameter.empty` if nothing is known of it."""
    try:
        parameter = _parameter(target_of(node), name)
    except (ConfigError, TypeError, ValueError):  # no target, or one without a signature
        return inspect.Parameter.empty
    return inspect.Parameter.empty if parameter is None else parameter.default


def _parameter(target: Any, name: str) -> inspect.Parameter | None:
    """A parameter of a callable; of a class whose constructor hands ``**kwargs`` on, that of the class above it."""
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if name in parameters or not (takes_any and isinstance(target, type)):
        return parameters.get(name)
    return next((_parameter(base, name) for base in target.__bases__ if base is not object), None)


def target_of(node: Node) -> Any:
    """The callable of a call, imported if it is given by name."""
    target = raw_child(node, "_target_", None)
    return locate(target) if isinstance(target, str) else target


def alike(a: Any, b: Any) -> bool:
    """Whether two values are equal, lists and tuples alike."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return not isinstance(a, dict) and not isinstance(b, dict) and bool(a == b)
