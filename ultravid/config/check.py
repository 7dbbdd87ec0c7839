"""Every fault of a config at once, before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ultravid.config.errors import ConfigError, Fault, InterpolationError, did_you_mean
from ultravid.config.instantiate import CONTROL_KEYS, locate, target_name
from ultravid.config.lazy import LazyConfig
from ultravid.config.nodes import CONTAINERS, MISSING, Container, Node, full_key, raw_children
from ultravid.config.overrides import override_faults
from ultravid.config.provenance import where

__all__ = ["check", "load_checked"]


def check(cfg: Node) -> list[Fault]:
    """Walk a config and report what can't work.

    Found are: targets that can't be imported, arguments that a target doesn't take, required arguments that are missing,
    references that lead nowhere or in a circle, and values still ``???``. Targets are imported; nothing is built and no
    data is read.

    Returns:
        faults in the order of the config; empty where there is none.
    """
    return [*_faults(cfg), *_circles(cfg)]


def load_checked(config_file: str | Path, overrides: Sequence[str] = ()) -> Node:
    """Read a config, apply overrides, and check the whole.

    Raises:
        ConfigError: with every fault of the overrides and of the config.
    """
    cfg = LazyConfig.load(config_file)
    faults = override_faults(cfg, overrides) + check(cfg)
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(f"{config_file}: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}\n{lines}")
    return cfg


def _faults(container: Container) -> Iterator[Fault]:
    if isinstance(container, Node) and "_target_" in container:
        yield from _call_faults(container)
    for key, value in raw_children(container):
        if isinstance(value, CONTAINERS):
            yield from _faults(value)
        elif type(value) is str and value == MISSING:
            yield Fault(
                full_key(container, key),
                f"is still {MISSING}: give it a value",
                where(container, key),
            )
        elif type(value) is str and "${" in value:
            try:
                container[key]
            except InterpolationError as error:
                yield Fault(full_key(container, key), str(error), where(container, key))


def _circles(cfg: Node) -> Iterator[Fault]:
    """Objects that need themselves to be built, through calls and plain containers alike."""
    done: set[int] = set()
    stack: list[Container] = []

    def walk(container: Container) -> Iterator[Fault]:
        if any(c is container for c in stack):
            circle = [*stack[next(i for i, c in enumerate(stack) if c is container) :], container]
            names = " -> ".join(full_key(c) or "the config" for c in circle)
            yield Fault(full_key(container), f"needs itself to be built: {names}", where(container))
            return
        if id(container) in done:
            return
        stack.append(container)
        for key, _ in raw_children(container):
            try:
                value = container[key]
            except ConfigError:  # told already
                continue
            if isinstance(value, CONTAINERS):
                yield from walk(value)
        stack.pop()
        done.add(id(container))

    yield from walk(cfg)


def _call_faults(node: Node) -> Iterator[Fault]:
    try:
        target = node["_target_"]
        if isinstance(target, str):
            target = locate(target)
    except InterpolationError:  # told where the value is looked at
        return
    except ConfigError as error:
        yield Fault(full_key(node), str(error), where(node, "_target_"))
        return
    if isinstance(target, Node):  # built first; what it takes is known then
        return
    if not callable(target):
        yield Fault(
            full_key(node),
            f"_target_ is {target!r}, which can't be called",
            where(node, "_target_"),
        )
        return
    yield from _signature_faults(node, target)


def _signature_faults(node: Node, target: Callable[..., Any]) -> Iterator[Fault]:
    try:
        parameters = inspect.signature(target).parameters
    except (ValueError, TypeError):  # some built-ins do not tell
        return
    kinds = inspect.Parameter
    by_name = {n: p for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    positional = [p for p in parameters.values() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    takes_any_name = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    takes_any_number = any(p.kind is kinds.VAR_POSITIONAL for p in parameters.values())
    given = [k for k, _ in raw_children(node) if k not in CONTROL_KEYS]
    num_args = len(node.get("_args_", ()))
    by_position = {p.name for p in positional[:num_args]}
    name = target_name(target)
    if num_args > len(positional) and not takes_any_number:
        message = f"{name} takes {len(positional)} positional arguments, {num_args} are given"
        yield Fault(full_key(node), message, where(node))
    for key in given:
        if key not in by_name and not takes_any_name:
            message = f"{name} takes no argument {key!r}.{did_you_mean(key, by_name)}"
            yield Fault(full_key(node, key), message, where(node, key))
        elif key in by_position:
            yield Fault(full_key(node, key), f"{name} gets {key!r} by position too", where(node, key))
    if node.get("_partial_", False):
        return
    for parameter in by_name.values():
        required = parameter.default is kinds.empty and parameter.name not in by_position
        if required and parameter.name not in given:
            yield Fault(full_key(node), f"{name} needs an argument {parameter.name!r}", where(node))
