"""Suggestions for a key that a config does not have: a similar key, a key elsewhere, or an argument that can be added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ultravid.config.errors import ConfigError, did_you_mean
from ultravid.config.instantiate import locate
from ultravid.config.nodes import Node
from ultravid.config.references import is_reference
from ultravid.config.synonyms import option_of, same_meaning
from ultravid.config.targets import target_name
from ultravid.config.tree import Container, child_key, full_key, join_key, raw_child, raw_children, root_of
from ultravid.config.value_types import parameters_of
from ultravid.utils.text import likeness, nearest, quoted_for_shell

__all__ = ["unknown_key_hint"]

_ALMOST = 0.75  # how alike a key elsewhere must be to be named


def unknown_key_hint(node: Container, step: str, rest: Sequence[str] = (), value: str | None = None) -> str:
    """What a message says after "Unknown key ..."; begins with a space.

    Args:
        node: the container that has no such key.
        step: the key that it does not have.
        rest: the steps that follow.
        value: what the key was to be set to, as typed; None if it is not set.
    """
    if not isinstance(node, Node):
        return f" It has {len(node)} items."
    if dotted := _key_with_dots(node, [step, *rest]):
        merged = f"{full_key(node)}={{{dotted}: {'VALUE' if value is None else value}}}"
        return f" The key {dotted!r} has a dot in it: write {quoted_for_shell(merged)}."
    argument = None if rest else _argument(node, step)
    if argument == step:
        return f" {_target_text(node)} accepts this argument: add it with {_added(node, step, value)}."
    names = _names(node)
    means = next((name for name in same_meaning(step) if name in names), None)
    near = means or nearest(step, names)
    unit = " A run is counted in iterations." if "epoch" in [step, *rest][-1].lower() else ""
    if means is None:
        if apart := _separated_otherwise(node, [step, *rest]):
            return _meant(apart)
        if not rest and (option := option_of(step)):
            return f" The launcher has an option for it: {option}."
        if not rest and same_meaning(step) and (found := _elsewhere(node, [step])):
            return _meant(found) + unit
    if near is not None and (means or likeness(near, step) >= _ALMOST):
        return _meant([_completed(node, near, rest)]) + unit
    if found := _elsewhere(node, [step, *rest]):
        return _meant(found) + unit
    if near is not None:
        return _meant([_completed(node, near, rest)])
    if argument:
        return f" Did you mean {argument!r}, which {_target_text(node)} takes? Add it with {_added(node, argument, value)}."
    if rest and (parent := _part(root_of(node), [step, *rest[:-1]])) is not None:
        return unknown_key_hint(parent, rest[-1], (), value)
    place = full_key(node)
    return did_you_mean(step, names, f"{place}." if place else "")


def _meant(keys: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(map(repr, keys))}?"


def _names(node: Node) -> list[str]:
    return [str(k) for k in node if not str(k).startswith("_")]


def _key_with_dots(node: Node, steps: Sequence[str]) -> str:
    """The key of a node that all the steps together are; "" if there is none, or if they do not stand for one key."""
    whole = ".".join(steps).replace('"', "").replace("'", "")
    return whole if "." in whole and whole in node and full_key(node) else ""


def _completed(node: Node, name: str, rest: Sequence[str]) -> str:
    """The full key of a value, with the steps that followed as far as the config has them."""
    key, value = full_key(node, name), raw_child(node, child_key(node, name))
    for step in rest:
        found = child_key(value, step) if isinstance(value, Container) else None
        if found is None:
            return full_key(node, name)
        key, value = join_key(key, found), raw_child(value, found)
    return key


def _separated_otherwise(node: Node, steps: Sequence[str]) -> list[str]:
    """Keys whose steps are these with other signs between them: ``train/lr``, ``train_lr``, ``amp_enabled``."""
    typed, below = _letters([*full_key(node).split("."), *steps]), _letters(steps)
    ends = ((path, [_letters(path[i:]) for i in range(max(len(path) - 1, 1))]) for path, _ in _keys(root_of(node), []))
    found = [".".join(path) for path, letters in ends if len(path) > 1 and (typed == letters[0] or below in letters)]
    return list(dict.fromkeys(found))[:3]


def _letters(steps: Sequence[str]) -> str:
    return "".join(char for char in "".join(steps).lower() if char.isalnum())


# --- elsewhere in the config ----------------------------------------------------------------------------------------------


def _elsewhere(node: Node, steps: Sequence[str]) -> list[str]:
    """Up to three keys of the whole config that end as the steps do, or mean the same; the most likely ones."""
    exact = [list(steps), list(steps[1:])] if len(steps) > 1 else [list(steps)]
    meant = [end.split(".") for end in same_meaning(steps[-1])]
    every = list(_keys(root_of(node), []))
    found = [
        (path, value, end in exact) for end in (*exact, *meant) for path, value in every if path[-len(end) :] == end
    ]
    if not found and len(steps) == 1:
        alike = [(likeness(steps[0], path[-1]), path, value) for path, value in every]
        most = max((score for score, _, _ in alike), default=0.0)
        found = [(path, value, False) for score, path, value in alike if score == most >= _ALMOST]
    ranks = [_rank(*row) for row in found]
    best = [".".join(path) for (path, _, _), rank in zip(found, ranks, strict=True) if rank == min(ranks)]
    return list(dict.fromkeys(best))[:3]


def _rank(path: Sequence[str], value: Any, is_exact: bool) -> tuple[int, float]:
    """Values come before parts of the config and these before references, then higher levels; the very name counts for more."""
    kind = 2 if is_reference(value) else 1 if isinstance(value, Container) else 0
    return kind, len(path) - (1.5 if is_exact else 0.0)


def _keys(container: Container, above: list[str]) -> Iterator[tuple[list[str], Any]]:
    """(steps of a full key, raw value) of every key that is a name."""
    for key, value in raw_children(container):
        path = [*above, str(key)]
        if type(key) is str and not key.startswith("_"):
            yield path, value
        if isinstance(value, Container):
            yield from _keys(value, path)


def _part(root: Container, steps: Sequence[str]) -> Node | None:
    """The node at the highest level whose full key ends in these steps."""
    found = [(len(path), value) for path, value in _keys(root, []) if path[-len(steps) :] == list(steps)]
    return next((value for _, value in sorted(found, key=lambda row: row[0]) if isinstance(value, Node)), None)


# --- arguments of a target ------------------------------------------------------------------------------------------------


def _argument(node: Node, step: str) -> str | None:
    """The argument that a call's target takes and that is a step, or most like it; None if there is none."""
    if "_target_" not in node:
        return None
    try:
        target = node["_target_"]
        takes = parameters_of(locate(target) if isinstance(target, str) else target)
    except (ConfigError, TypeError):
        return None
    names = [name for name in takes.by_name if name not in node] if takes is not None else []
    return step if step in names else nearest(step, names)


def _target_text(node: Node) -> str:
    return target_name(node.raw["_target_"])


def _added(node: Node, name: str, value: str | None) -> str:
    return quoted_for_shell(f"+{full_key(node, name)}={'VALUE' if value is None else value}")
