"""Checks many configs that differ in a few values, each as thoroughly as `ultravid.config.check.check`, and names those with errors.

Checking a config takes some 30 ms. A job of a sweep mostly replaces plain values, and then only the calls that take them, directly
or through references, can have another fault, and only these values another identity.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ultravid.config.call_faults import argument_faults, call_faults
from ultravid.config.check import all_faults, launcher_faults, report_faults
from ultravid.config.errors import ConfigError
from ultravid.config.everywhere import everywhere, is_everywhere, may_set
from ultravid.config.identity import (
    LeavesIdentity,
    identity_of_leaves,
    is_of_the_job,
    leaf_key,
    leaves,
    without_job,
)
from ultravid.config.loader import config_errors
from ultravid.config.mistyped import mistyped
from ultravid.config.nodes import Node
from ultravid.config.overrides import (
    apply_overrides,
    has_current_key,
    override_faults,
    plain_setting,
    split_override,
)
from ultravid.config.references import REFERENCE, is_reference
from ultravid.config.serialize import resolved, resolved_child
from ultravid.config.tree import (
    CONTROL_KEYS,
    Container,
    child_key,
    full_key,
    key_in_parent,
    raw_child,
    raw_children,
    split_key,
    walk,
)

__all__ = ["Variants"]

_Slot = tuple[Container, Any]


class Variants:
    """Configs of one file with different overrides.

    Args:
        name: the name of the file, for messages.
        loaded: its config, without overrides; it is not changed.
        required: keys that each must have.
        objects: those of them that must describe an object.
    """

    def __init__(
        self, name: str | Path, loaded: Node, required: Iterable[str] = (), objects: Iterable[str] = ()
    ) -> None:
        self._name, self._loaded = name, loaded
        self._required, self._objects = tuple(required), tuple(objects)
        self._met: set[tuple[str, ...]] = set()
        self._shapes: OrderedDict[tuple[str, ...], _Shape] = OrderedDict()
        self._of_patterns: dict[str, list[str]] = {}

    def config(self, overrides: Sequence[str]) -> Node:
        """The config with these overrides, without a check.

        Raises:
            ConfigError: an override is wrong.
        """
        with config_errors():
            return apply_overrides(copy.deepcopy(self._loaded), overrides)

    def identity(self, overrides: Sequence[str]) -> str:
        """Check the config with these overrides.

        Returns:
            its identity, as `ultravid.config.identity.config_identity` defines it.

        Raises:
            FaultyConfigError: with every fault of the overrides and of the config.
        """
        split = self._split(self._without_patterns(overrides))
        shape = self._shapes.get(split[0]) if split is not None else None
        if split is not None and shape is not None and (identity := shape.identity(split[1])) is not None:
            return identity
        cfg = copy.deepcopy(self._loaded)
        with config_errors():
            faults = override_faults(cfg, overrides)
        faults += all_faults(cfg, required=self._required, objects=self._objects)
        report_faults(self._name, faults)
        named = without_job(cfg)
        values = leaves(resolved(named))
        if split is not None:
            self._remember(*split, cfg, named, values)
        return identity_of_leaves(values)

    def _without_patterns(self, overrides: Sequence[str]) -> list[str]:
        """The overrides with ``**.key=value`` as one of each key that it sets, if none of them changes more than plain values."""
        if not any(map(is_everywhere, overrides)):
            return list(overrides)
        found = [each for text in overrides for each in self._places(text)]
        is_plain = all(plain_setting(self._loaded, text) is not None for text in found)
        return found if is_plain else list(overrides)

    def _places(self, text: str) -> list[str]:
        """An override as one of each key that it sets, if it has a pattern and no fault."""
        if text not in self._of_patterns:
            self._of_patterns[text] = [text]
            with contextlib.suppress(ConfigError):
                sign, key, typed = split_override(text)
                if is_everywhere(key) and not sign:
                    self._of_patterns[text] = [
                        f"{place}={typed}" for place in everywhere(self._loaded, key, typed).values
                    ]
        return self._of_patterns[text]

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[str]] | None:
        """Overrides that change more than plain values, and those of plain values; None if their order may matter."""
        plain: list[str] = []
        other: list[str] = []
        for text in overrides:
            (other if plain_setting(self._loaded, text) is None else plain).append(text)
        try:
            plain_keys, other_keys = ([split_override(text)[1] for text in texts] for texts in (plain, other))
            meet = any(may_set(a, b) for a in other_keys for b in plain_keys)
            is_repeated = len({tuple(split_key(key)) for key in plain_keys}) < len(plain_keys)
        except ConfigError:
            return None
        in_order = list(overrides) == [*other, *plain]
        if is_repeated or (meet and not in_order):
            return None
        if not in_order and not all(has_current_key(self._loaded, text) for text in other):
            return None
        return tuple(other), plain

    def _remember(
        self, other: tuple[str, ...], plain: Sequence[str], cfg: Node, named: Node, values: dict[str, str]
    ) -> None:
        """Keep what was found for further configs of this shape, once it is met twice: a shape takes some megabytes."""
        if other not in self._met:
            self._met.add(other)
            return
        before = self.config(other)
        if all(plain_setting(before, text) is not None for text in plain):
            self._shapes[other] = _Shape(before, cfg, named, values)
            if len(self._shapes) > _MOST_SHAPES:
                self._shapes.popitem(last=False)


_MOST_SHAPES = 50


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
        self._identity = LeavesIdentity(values)
        differing = {key for key in _plain_keys(good) if not _same(_raw(good, key), _raw(before, key))}
        self._own = {key: _raw(before, key) for key in differing}
        self._readers: dict[tuple[int, str], list[_Reader]] = {}

    def identity(self, overrides: Sequence[str]) -> str | None:
        """The identity of the config with these overrides; None if it takes a whole check to know it, or its faults."""
        settings = dict(self._own)
        for number, text in enumerate(overrides):
            found = plain_setting(self._before, text)
            if found is None or any(mistyped(overrides, number, lambda _: True)):
                return None
            settings[full_key(found[0], found[1])] = found[2]
        changed = {key: value for key, value in settings.items() if not _same(_raw(self._good, key), value)}
        named = {}
        for key, value in changed.items():
            if is_of_the_job(key):
                continue
            if not _same(_raw(self._named, key), _raw(self._good, key)):
                return None  # a key that is written otherwise today
            named[key] = value
        try:
            with _replaced(self._good, changed), _replaced(self._named, named):
                return None if self._has_faults(changed) else self._identity_with(named)
        except ConfigError:
            return None

    def _identity_with(self, changed: Iterable[str]) -> str:
        """The identity of the config in which these values were replaced."""
        changes: dict[str, str] = {}
        deleted: list[str] = []
        for key in changed:
            for reader in self._readers_of(self._named, key):
                now, place = resolved_child(reader.owner, reader.name), reader.place
                if isinstance(now, Container) or place not in self._values:  # with other keys below it, perhaps
                    below = (f"{place}.", f"{place}[")
                    deleted += [each for each in self._values if each == place or each.startswith(below)]
                changes |= {place: repr(now)} if type(now) in _PLAIN else leaves(now, reader.owner, reader.name)
        return self._identity.with_changes(changes, deleted)

    def _has_faults(self, changed: Iterable[str]) -> bool:
        """Whether a call that takes one of the changed values has a fault.

        The config had none before these values were replaced: only the arguments that hold them or refer to them can have one.
        """
        calls: dict[int, tuple[Node, set[Any]]] = {}
        for key in changed:
            for reader in self._readers_of(self._good, key):
                if reader.call is not None:
                    calls.setdefault(id(reader.call), (reader.call, set()))[1].add(reader.argument)
        for call, names in calls.values():
            is_whole = not names.isdisjoint(CONTROL_KEYS)
            complete = _is_complete(call)
            faults = call_faults(call, None, complete) if is_whole else argument_faults(call, names, complete)
            if any(True for _ in faults):
                return True
        return any(fault.fatal for fault in launcher_faults(self._good))

    def _readers_of(self, cfg: Node, key: str) -> list[_Reader]:
        """Where a key stands, and references to it, also by way of other references."""
        place = (id(cfg), key)
        if place not in self._readers:
            self._readers[place] = [_Reader(*slot) for slot in [_slot(cfg, key), *_readers(cfg, key)]]
        return self._readers[place]


class _Reader:
    """A place in a config.

    Args:
        owner: the container.
        name: the key in it.

    Attributes:
        place: what it is called among `leaves`.
        call: the call that takes it; None if there is none.
        argument: the name of the argument of that call in which it stands.
    """

    def __init__(self, owner: Container, name: Any) -> None:
        self.owner, self.name, self.place = owner, name, leaf_key(owner, name)
        call: Container | None = owner
        self.argument = name
        while call is not None and not (isinstance(call, Node) and "_target_" in call):
            above = call._up
            self.argument = key_in_parent(call) if above is not None else None
            call = above
        self.call = call


_PLAIN = (bool, int, float, str, type(None))


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
    if text.count(REFERENCE) != len(inner) + len(_RESOLVER.findall(text)):  # relative, or within another reference
        return True
    steps = split_key(key)
    return any(steps[: len(each)] == each for each in map(split_key, inner))


_RESOLVER = re.compile(r"\$\{[A-Za-z_][\w.]*:[^${}]*\}")  # of the environment, or of text: no key
_REFERRED = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")


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
