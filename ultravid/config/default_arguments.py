"""Whether a config writes what it could leave out: the arguments that a call's target takes by default."""

from __future__ import annotations

import inspect
from typing import Any

from ultravid.config.errors import ConfigError
from ultravid.config.instantiate import locate
from ultravid.config.nodes import Node
from ultravid.config.tree import raw_child

__all__ = ["alike", "is_default_argument", "target_of"]


def is_default_argument(node: Node, name: str, value: Any) -> bool:
    """Whether a call's target takes this value for an argument that is not given."""
    try:
        parameter = inspect.signature(target_of(node)).parameters.get(name)
    except (ConfigError, TypeError, ValueError):  # no target, or one without a signature
        return False
    return parameter is not None and parameter.default is not parameter.empty and alike(parameter.default, value)


def target_of(node: Node) -> Any:
    """The callable of a call, imported if it is given by name."""
    target = raw_child(node, "_target_", None)
    return locate(target) if isinstance(target, str) else target


def alike(a: Any, b: Any) -> bool:
    """Whether two values are equal, lists and tuples alike."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return not isinstance(a, dict) and not isinstance(b, dict) and bool(a == b)
