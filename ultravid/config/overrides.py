"""The command line's overrides, in hydra's grammar: ``key=value``, ``+key=value``, ``++key=value``, ``~key``.

A value may name an object of a config file, ``optimizer=configs_py/common/optim.py:SGD``: it takes the key's place whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultravid.config.errors import (
    ConfigError,
    Fault,
    InterpolationError,
    OverrideError,
    did_you_mean,
)
from ultravid.config.loader import load_config_file, load_namespace, shipped_config
from ultravid.config.nodes import (
    CONTAINERS,
    Container,
    ListNode,
    Node,
    TupleNode,
    full_key,
    raw_children,
    split_key,
)

__all__ = ["apply_overrides", "override_faults"]

_FILE_OBJECT = re.compile(r"(?P<file>[^\s:]+\.(?:py|yaml|yml)):(?P<name>[A-Za-z_][\w.]*)")
_SPLIT = re.compile(r"^(?P<sign>\+\+|\+|~|)(?P<key>[^=~+\s][^=\s]*?)(?P<rest>=.*)?$", re.DOTALL)


def apply_overrides(cfg: Node, overrides: Sequence[str]) -> Node:
    """Apply overrides in order, in place.

    Raises:
        OverrideError: some do not parse or do not fit; every one of them is told.
    """
    faults = override_faults(cfg, overrides)
    if faults:
        raise OverrideError("\n".join(f"{f.message} ({f.where})" for f in faults))
    return cfg


def override_faults(cfg: Node, overrides: Sequence[str]) -> list[Fault]:
    """Apply overrides in place and give those that could not be applied."""
    faults = []
    for number, text in enumerate(overrides, start=1):
        origin = f"override {number}: {text}"
        try:
            _apply(cfg, text, origin)
        except ConfigError as error:
            faults.append(Fault(text.partition("=")[0].lstrip("+~"), str(error), origin))
    return faults


def _apply(cfg: Node, text: str, origin: str) -> None:
    sign, key, value = _parse(text)
    steps = split_key(key)
    parent = _walk(cfg, steps[:-1], key, create=sign in ("+", "++"))
    last = _step(parent, steps[-1])
    present = (
        last in parent if isinstance(parent, Node) else isinstance(last, int) and -len(parent) <= last < len(parent)
    )
    if not present and not isinstance(parent, Node):
        raise OverrideError(f"{full_key(parent)!r} has {len(parent)} items; there is no index {steps[-1]}.")
    if isinstance(parent, TupleNode):
        raise OverrideError(f"{full_key(parent)!r} is a tuple: override it whole.")
    if sign == "~":
        if not present:
            raise OverrideError(f"Can't delete {key!r}: it is not there.{_hint(parent, steps[-1])}")
        if value is not None and parent[last] != value:
            raise OverrideError(f"Can't delete {key!r}: it is {parent[last]!r}, not {value!r}.")
        del parent[last]
        return
    if sign == "" and not present:
        raise OverrideError(f"Unknown key {key!r}.{_hint(parent, steps[-1])} To add a key, write '+{text}'.")
    if sign == "+" and present:
        raise OverrideError(f"{key!r} is there already; write '{text[1:]}' to set it or '+{text}' to set or add it.")
    old = dict.get(parent, last) if isinstance(parent, Node) else None
    if isinstance(value, dict) and isinstance(old, Node) and "_target_" not in value:
        _merge(old, value, key, origin, may_add=sign == "++")
        return
    if isinstance(parent, Node):
        parent.set(last, value, (origin,))
    else:
        parent[last] = value


def _merge(node: Node, values: dict[Any, Any], key: str, origin: str, may_add: bool) -> None:
    """Set the keys of a dict in a node, at every depth; what the dict doesn't name stays."""
    for name, value in values.items():
        if name not in node and not may_add:
            raise OverrideError(f"Unknown key {f'{key}.{name}'!r}.{_hint(node, name)}")
        old = dict.get(node, name)
        if isinstance(value, dict) and isinstance(old, Node) and "_target_" not in value:
            _merge(old, value, f"{key}.{name}", origin, may_add)
        else:
            node.set(name, value, (origin,))


def _parse(text: str) -> tuple[str, str, Any]:
    """(sign, key, value) of an override."""
    split = _SPLIT.match(text)
    if split is None:
        raise OverrideError(f"{text!r} is no override: write key=value, +key=value, ++key=value or ~key.")
    sign, key, rest = split["sign"], split["key"], split["rest"]
    if rest is None and sign != "~":
        raise OverrideError(f"{text!r} sets nothing: write {text}=value, or ~{key} to delete the key.")
    if rest == "=":
        raise OverrideError(f"{text!r} has no value: write {key}='' for an empty string, {key}=null for None.")
    if rest is not None and _FILE_OBJECT.fullmatch(rest[1:]):
        return sign, key, _object_of_file(rest[1:])
    # hydra parses the value; its own grammar of keys knows no [0], so the key has been taken off.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"{sign}key{rest or ''}")
        if parsed.is_sweep_override():
            raise OverrideError(
                f"{text!r} is a sweep over several values; an override sets one. Use quotes for a comma."
            )
        value = parsed.value()
    except HydraException as error:
        raise OverrideError(f"{text!r} does not parse: {_position(str(error), key)}") from error
    return sign, key, _plain(value)


def _position(message: str, key: str) -> str:
    """Hydra's message in one line, its columns counted in what the user wrote."""
    shift = len(key) - len("key")
    first = message.splitlines()[0] if message else "unknown reason"
    return re.sub(r"\bcolumn (\d+)\b", lambda m: f"column {max(0, int(m[1]) + shift)}", first)


def _plain(value: Any) -> Any:
    """Hydra's quoted strings as strings."""
    if type(value).__name__ == "QuotedString":
        return value.text
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _object_of_file(text: str) -> Any:
    found = _FILE_OBJECT.fullmatch(text)
    assert found is not None
    path = Path(found["file"])
    if not path.is_file() and (shipped := shipped_config(found["file"])) is not None:
        path = shipped
    node: Any = load_namespace(path) if path.suffix == ".py" else load_config_file(path)
    for step in found["name"].split("."):
        known = list(node) if isinstance(node, dict) else []
        if step not in known:
            raise OverrideError(
                f"{path} has no {step!r}.{did_you_mean(step, [k for k in known if not k.startswith('_')])}"
            )
        node = node[step]
    return node


def _walk(cfg: Node, steps: Sequence[str], key: str, create: bool) -> Container:
    node: Container = cfg
    for step in steps:
        name = _step(node, step)
        raw = next((v for k, v in raw_children(node) if k == name), None)
        if isinstance(raw, str) and "${" in raw:
            try:
                owner = node[name]
            except InterpolationError as error:
                raise OverrideError(f"Can't override {key!r}: {error}") from error
            if isinstance(owner, CONTAINERS):
                place, here = full_key(owner), full_key(node, name)
                instead = place + key[len(here) :]
                raise OverrideError(
                    f"{here!r} is a reference to {place!r}, which owns the value: override {instead!r}."
                )
        if raw is None and isinstance(node, Node) and name not in node:
            if not create:
                raise OverrideError(f"Unknown key {key!r}: there is no {full_key(node, name)!r}.{_hint(node, step)}")
            node.set(name, Node(), ("override",))
            raw = node[name]
        if not isinstance(raw, CONTAINERS):
            raise OverrideError(f"Unknown key {key!r}: {full_key(node, name)!r} is {raw!r}, which has no keys.")
        node = raw
    return node


def _step(node: Container, step: str) -> Any:
    if isinstance(node, ListNode | TupleNode):
        if not step.lstrip("-").isdigit():
            raise OverrideError(f"{full_key(node)!r} is a list: {step!r} is no index of it.")
        return int(step)
    if step not in node and step.lstrip("-").isdigit() and int(step) in node:
        return int(step)
    return step


def _hint(node: Container, step: str) -> str:
    if not isinstance(node, Node):
        return f" It has {len(node)} items."
    place = full_key(node)
    return did_you_mean(step, (k for k in node if not str(k).startswith("_")), f"{place}." if place else "")
