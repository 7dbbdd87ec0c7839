"""Check many configs that differ in a few values, each as thoroughly as `ultravid.config.check.check` does, and name each.

Checking a config takes some 30 ms. A job of a sweep mostly replaces plain values, and then only the calls that take them, directly
or through references, can have another fault, and only these values another identity.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ultravid.config.call_faults import call_faults
from ultravid.config.check import launcher_faults, refuse_faults
from ultravid.config.identity import has_no_influence, identity_of_leaves, leaves, without_job
from ultravid.config.loader import config_errors
from ultravid.config.mistyped import mistyped
from ultravid.config.nodes import Node
from ultravid.config.overrides import apply_overrides, plain_setting
from ultravid.config.references import REFERENCE, is_reference
from ultravid.config.serialize import resolved, resolved_child
from ultravid.config.tree import Container, child_key, full_key, raw_child, raw_children, split_key, walk

__all__ = ["Variants"]

_Slot = tuple[Container, Any]


class Variants:
    """Configs of one file with different overrides.

    Args:
        name: of the file, for messages.
        loaded: its config, without overrides; it is not changed.
        required: keys that each must have.
    """

    def __init__(self, name: str | Path, loaded: Node, required: Iterable[str] = ()) -> None:
        self._name, self._loaded, self._required = name, loaded, tuple(required)
        self._shapes: dict[tuple[str, ...], _Shape] = {}

    def identity(self, overrides: Sequence[str]) -> str:
        """Check the config with these overrides.

        Returns:
            its identity, as `ultravid.config.identity.config_identity` defines it.

        Raises:
            ConfigError: with every fault of the overrides and of the config.
        """
        plain = [plain_setting(self._loaded, text) is not None for text in overrides]
        num_other = plain.index(True) if True in plain else len(plain)
        if all(plain[num_other:]):  # what changes more than values comes first, so values meet the same config
            shape = self._shapes.get(tuple(overrides[:num_other]))
            if shape is not None and (identity := shape.identity(overrides[num_other:])) is not None:
                return identity
        cfg = copy.deepcopy(self._loaded)
        with config_errors():
            apply_overrides(cfg, overrides)
        refuse_faults(self._name, cfg, required=self._required)
        named = without_job(cfg)
        values = leaves(resolved(named), "")
        if all(plain[num_other:]):
            before = copy.deepcopy(self._loaded)
            apply_overrides(before, overrides[:num_other])
            self._shapes[tuple(overrides[:num_other])] = _Shape(before, cfg, named, values)
        return identity_of_leaves(values)


class _Shape:
    """Configs that have the same keys, calls and references, and differ in plain values.

    Args:
        before: the config before any value was replaced; what is typed is held against its values.
        good: a config of this shape that has no fault.
        named: the same, of `without_job`.
        values: the leaves of ``named``, resolved.
    """

    def __init__(self, before: Node, good: Node, named: Node, values: dict[str, str]) -> None:
        self._before, self._good, self._named, self._values = before, good, named, values
        differing = {key for key in _plain_keys(good) if not _same(_raw(good, key), _raw(before, key))}
        self._own = {key: _raw(before, key) for key in differing}
        self._readers: dict[tuple[int, str], list[_Slot]] = {}

    def identity(self, overrides: Sequence[str]) -> str | None:
        """The identity of the config with these overrides; None if it takes a whole check to know it, or its faults."""
        settings = dict(self._own)
        for number, text in enumerate(overrides):
            found = plain_setting(self._before, text)
            if found is None or any(mistyped(overrides, number, lambda _: True)):
                return None
            settings[full_key(found[0], found[1])] = found[2]
        changed = {key: value for key, value in settings.items() if not _same(_raw(self._good, key), value)}
        named = {key: value for key, value in changed.items() if _same(_raw(self._named, key), _raw(self._good, key))}
        if any(not has_no_influence(key) for key in changed.keys() - named.keys()):
            return None  # a key that is written otherwise today
        with _replaced(self._good, changed), _replaced(self._named, named):
            if self._has_faults(changed):
                return None
            values = dict(self._values)
            for key, value in named.items():
                values[key] = repr(value)
                for owner, name in self._readers_of(self._named, key):
                    values.update(leaves(resolved_child(owner, name), full_key(owner, name)))
            return identity_of_leaves(values)

    def _has_faults(self, changed: Iterable[str]) -> bool:
        """Whether a call that takes one of the changed values has a fault."""
        calls: dict[int, Node] = {}
        for key in changed:
            for owner, _ in [_slot(self._good, key), *self._readers_of(self._good, key)]:
                call: Container | None = owner
                while call is not None and not (isinstance(call, Node) and "_target_" in call):
                    call = call._up
                if isinstance(call, Node):
                    calls[id(call)] = call
        faults = [fault for call in calls.values() for fault in call_faults(call, None, _is_complete(call))]
        return bool(faults) or any(fault.fatal for fault in launcher_faults(self._good))

    def _readers_of(self, cfg: Node, key: str) -> list[_Slot]:
        """Where references to a key stand, also by way of other references."""
        place = (id(cfg), key)
        if place not in self._readers:
            self._readers[place] = list(_readers(cfg, key))
        return self._readers[place]


def _readers(cfg: Node, key: str) -> Iterator[_Slot]:
    """The values whose references may lead to a key; one that can't be told from its text counts."""
    waiting = [
        (owner, name, raw_child(owner, name))
        for owner in walk(cfg)
        for name, value in raw_children(owner)
        if is_reference(value)
    ]
    found = {key}
    while True:
        reached = [slot for slot in waiting if any(_may_mean(slot[2], each) for each in found)]
        if not reached:
            return
        waiting = [slot for slot in waiting if slot not in reached]
        for owner, name, _ in reached:
            yield owner, name
            found.add(full_key(owner, name))


def _may_mean(text: str, key: str) -> bool:
    """Whether a text with references may refer to a key, or to a node above it."""
    inner = _REFERRED.findall(text)
    if text.count(REFERENCE) != len(inner) + len(
        _RESOLVER.findall(text)
    ):  # relative ones, references within references
        return True
    return any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in inner)


_RESOLVER = re.compile(r"\$\{[A-Za-z_][\w.]*:[^${}]*\}")  # of the environment, or of text: no key
_REFERRED = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


@contextlib.contextmanager
def _replaced(cfg: Node, values: Mapping[str, Any]) -> Iterator[None]:
    """Values of a config replaced in the block, without a note of who did it."""
    old = {key: _raw(cfg, key) for key in values}
    try:
        for key, value in values.items():
            owner, name = _slot(cfg, key)
            dict.__setitem__(owner, name, value)
        yield
    finally:
        for key, value in old.items():
            owner, name = _slot(cfg, key)
            dict.__setitem__(owner, name, value)


def _plain_keys(cfg: Node) -> Iterator[str]:
    for owner in walk(cfg):
        if isinstance(owner, Node):
            yield from (full_key(owner, key) for key, value in raw_children(owner) if not isinstance(value, Container))


def _slot(cfg: Node, key: str) -> tuple[Node, Any]:
    """The node that holds a key, and the key in it."""
    node: Any = cfg
    *above, last = split_key(key)
    for step in above:
        node = raw_child(node, child_key(node, step))
    return node, child_key(node, last)


def _raw(cfg: Node, key: str) -> Any:
    """The value of a key as written; `_ABSENT` if there is none."""
    node: Any = cfg
    for step in split_key(key):
        found = child_key(node, step) if isinstance(node, Container) else None
        if found is None:
            return _ABSENT
        node = raw_child(node, found)
    return node


_ABSENT = object()


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and bool(a == b) and repr(a) == repr(b))


def _is_complete(call: Node) -> bool:
    """Whether a call has to have all its required arguments; not below ``_recursive_: false``."""
    above = call._up
    while above is not None:
        if isinstance(above, Node) and dict.get(above, "_recursive_", True) is False:
            return False
        above = above._up
    return True
