"""Overrides of all keys of one name: ``**.dropout=0.1``, or only below one key with ``model.**.dropout=0.1``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ultravid.config.errors import ConfigError, OverrideError, UnknownOverrideError, did_you_mean
from ultravid.config.file_version import BESIDE_THE_RUN
from ultravid.config.instantiate import locate
from ultravid.config.nodes import Node
from ultravid.config.references import is_reference, owner_of, referred_key
from ultravid.config.serialize import py_text, target_text
from ultravid.config.suggestions import unknown_key_hint
from ultravid.config.tree import (
    RESERVED_KEYS,
    Container,
    child_key,
    full_key,
    join_key,
    raw_child,
    raw_children,
    split_key,
    walk,
)
from ultravid.config.value_types import parameters_of
from ultravid.utils.text import counted, quoted_for_shell

__all__ = ["Everywhere", "everywhere", "is_everywhere", "may_set"]

logger = logging.getLogger(__name__)

_ANYWHERE = "**"


@dataclass(frozen=True)
class Everywhere:
    """The places of a key in a config.

    Attributes:
        pattern: ``**.dropout``.
        values: full key -> raw value, in the order of the config.
        references: full key of a value that refers to one of ``values`` -> the key of that one.
        not_written: full key -> target and default of an argument of this name that a call's target takes and the config does
            not write.
        objects: full key -> object or dict of this name, which a plain value is not meant for, as the hook ``trainer.hooks.lr`` for
            ``**.lr=0.1``.
    """

    pattern: str
    values: dict[str, Any]
    references: dict[str, str]
    not_written: dict[str, tuple[str, Any]]
    objects: dict[str, Node]

    def report(self, origin: str, sign: str, done: Sequence[str], typed: str) -> None:
        """Log what the override does: which values it changes, which follow them, and which arguments keep their defaults."""
        verb = "deletes" if sign == "~" else "sets"
        lines = [f"{origin} {verb} {counted(len(done), 'key')}:"]
        lines += [f"  {key} (was {_short(self.values[key])})" for key in done]
        lines += [f"  {key} is a reference to {owner}" for key, owner in self.references.items()]
        if self.objects:
            lines.append("Not set, as they hold an object or a dict and other keys of the name a value:")
            lines += [f"  {key} ({_short(node)})" for key, node in self.objects.items()]
        if self.not_written and sign != "~":
            lines.append("Not set, as the config does not write them:")
            lines += [
                f"  {key} ({target} takes {_short(default)}); to set it write {quoted_for_shell(f'+{key}={typed}')}"
                for key, (target, default) in self.not_written.items()
            ]
        logger.warning("%s", "\n".join(lines))


def _short(value: Any, most: int = 60) -> str:
    text = py_text(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def is_everywhere(key: str) -> bool:
    """Whether a key has a ``**`` among its steps."""
    return _ANYWHERE in key


def may_set(override: str, key: str) -> bool:
    """Whether an override of a key or a pattern may set a plain value, or something that holds it, in any config.

    Args:
        override: a key, or a pattern such as ``model.**.dropout``.
        key: the full key of the value.

    Raises:
        ConfigError: one of them is not a key.
    """
    steps = split_key(key)
    if not is_everywhere(override):
        own = split_key(override)
        return own[: len(steps)] == steps[: len(own)]
    above, tail = _parts(override)
    own = split_key(above)
    ends = range(len(own) + len(tail), len(steps) + 1)
    return steps[: len(own)] == own and any(steps[end - len(tail) : end] == tail for end in ends)


def everywhere(cfg: Node, pattern: str, typed: str | None = None) -> Everywhere:
    """The places of the keys that match a pattern in a config.

    Args:
        cfg: the config's root.
        pattern: ``**.dropout``, ``model.**.dropout``, ``**.backbone.depth``.
        typed: the value that it is to be set to, for messages; None if it is not set.

    Raises:
        OverrideError: it is not such a pattern.
        UnknownOverrideError: no key matches; the message names the nearest keys, and the calls that accept such an argument.
    """
    above, tail = _parts(pattern)
    base = _base(cfg, above, pattern)
    values: dict[str, Any] = {}
    references: dict[str, tuple[str, Any]] = {}
    for container, key in _found(base, tail):
        owner = _owner(container, key)
        place = full_key(container, key)
        if owner is None:
            values[place] = raw_child(container, key)
        else:
            references[place] = owner, raw_child(container, key)
    for place, (owner, _) in list(references.items()):
        if owner not in values:  # what it refers to has another name, and is not set
            values[place] = references.pop(place)[1]
    not_written = dict(_not_written(base, tail))
    if not values:
        raise UnknownOverrideError(_nowhere(base, pattern, tail, not_written, typed))
    order = [full_key(container, key) for container, key in _found(base, tail)]
    values = {key: values[key] for key in order if key in values}
    objects = {key: value for key, value in values.items() if isinstance(value, Node) and "_object_" not in value}
    if typed is None or typed.lstrip().startswith(("{", "${")) or len(objects) == len(values):
        objects = {}
    return Everywhere(
        pattern,
        {key: value for key, value in values.items() if key not in objects},
        {place: owner for place, (owner, _) in references.items() if owner not in objects},
        not_written,
        objects,
    )


def _parts(pattern: str) -> tuple[str, list[str]]:
    """The key before the ``**``, and the steps behind it."""
    above, _, tail = pattern.partition(_ANYWHERE)
    if (above and not above.endswith(".")) or not tail.startswith(".") or _ANYWHERE in tail or len(tail) == 1:
        raise OverrideError(
            f"{pattern!r} is not a key: '**' may occur once, between dots, as in '**.dropout' or 'model.**.dropout'."
        )
    return above.removesuffix("."), split_key(tail[1:])


def _base(cfg: Node, above: str, pattern: str) -> Container:
    """The container below which a pattern is searched."""
    node: Any = cfg
    for step in split_key(above):
        found = child_key(node, step)
        if found is None:
            hint = unknown_key_hint(node, step) if isinstance(node, Container) else ""
            raise UnknownOverrideError(f"Unknown key {above!r} of {pattern!r}.{hint}")
        value = raw_child(node, found)
        if is_reference(value) and isinstance(owner := node[found], Container):
            raise OverrideError(f"{above!r} is a reference: write {full_key(owner) + pattern[len(above) :]!r}.")
        node = value
    if not isinstance(node, Container):
        raise UnknownOverrideError(f"{above!r} of {pattern!r} is {node!r}, which has no keys.")
    return node


def _found(base: Container, tail: Sequence[str]) -> Iterator[tuple[Container, Any]]:
    """(container, key) of every value at which the steps of a pattern end."""
    for container in walk(base):
        node: Any = container
        if not isinstance(node, Node) or tail[0] not in node or (node._up is None and tail[0] in BESIDE_THE_RUN):
            continue
        if len(node) == 1 and not RESERVED_KEYS.isdisjoint(node):
            continue
        *steps, last = tail
        for step in steps:
            found = child_key(node, step) if isinstance(node, Container) else None
            node = raw_child(node, found) if found is not None else None
        found = child_key(node, last) if isinstance(node, Container) else None
        if found is not None and not _is_beside_the_run(container):
            yield node, found


def _is_beside_the_run(container: Container) -> bool:
    key = full_key(container)
    return bool(key) and split_key(key)[0] in BESIDE_THE_RUN


def _owner(container: Container, key: Any) -> str | None:
    """The full key of the value that a value refers to; None if it is not one whole reference that leads somewhere."""
    if referred_key(raw_child(container, key)) is None:
        return None
    try:
        owner, own_key = owner_of(container, key)
    except ConfigError:  # reported by the check
        return None
    return full_key(owner, own_key) if (owner, own_key) != (container, key) else None


def _not_written(base: Container, tail: Sequence[str]) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Arguments of a name that targets take with a default and that the config leaves out."""
    if len(tail) > 1:
        return
    (name,) = tail
    for node in walk(base):
        if not isinstance(node, Node) or "_target_" not in node or name in node or "_args_" in node:
            continue
        try:
            target = node["_target_"]
            function = locate(target) if isinstance(target, str) else target
            takes = parameters_of(function) if callable(function) else None
        except (ConfigError, TypeError):  # reported by the check
            continue
        parameter = takes.by_name.get(name) if takes is not None else None
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            yield join_key(full_key(node), name), (target_text(node.raw["_target_"]), parameter.default)


def _nowhere(
    base: Container, pattern: str, tail: Sequence[str], not_written: dict[str, tuple[str, Any]], typed: str | None
) -> str:
    place = f"below {full_key(base)!r}" if full_key(base) else "in the config"
    message = f"{pattern!r} matches no key {place}."
    if not_written:
        value = "VALUE" if typed is None else typed
        ways = [
            f"{quoted_for_shell(f'+{key}={value}')} for {target}" for key, (target, _) in list(not_written.items())[:3]
        ]
        more = f", and {len(not_written) - 3} more" if len(not_written) > 3 else ""
        return (
            f"{message} Some calls accept this argument but do not set it; to add it, write: {', '.join(ways)}{more}."
        )
    names = {str(key) for node in walk(base) if isinstance(node, Node) for key, _ in raw_children(node)}
    prefix = pattern[: pattern.rfind(tail[-1])]
    return message + did_you_mean(tail[-1], (name for name in names if not name.startswith("_")), prefix)
