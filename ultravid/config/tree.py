"""The tree of a config: containers that know their parent, the full keys of their items, and the record of changes.

The modules above define the containers themselves (`Node`, `ListNode`, `TupleNode`); this one has what all three share.
A "raw" value is a value as written, with its references as strings.
"""

from __future__ import annotations

import enum
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ultravid.config.errors import ConfigError, UnknownKeyError, did_you_mean
from ultravid.config.file_version import VERSION_KEY

__all__ = [
    "CONTROL_KEYS",
    "DELETED",
    "LEAVES",
    "MISSING",
    "PLAIN",
    "RESERVED_KEYS",
    "Container",
    "Origin",
    "Record",
    "caller",
    "child_key",
    "ensure_record",
    "forget_settings",
    "full_key",
    "join_key",
    "join_steps",
    "key_in_parent",
    "note_setting",
    "raw_child",
    "raw_children",
    "root_of",
    "split_key",
    "unknown_key",
    "value_at",
    "walk",
]

MISSING: Any = "???"
"""A value that somebody has to set; typed ``Any``, so that a type checker accepts it for every argument."""

Origin = tuple[Any, ...]
"""Where a node or value was set, kept raw for speed; `ultravid.config.provenance` turns it into ``file:line``."""

CONTROL_KEYS = frozenset({"_target_", "_args_", "_partial_", "_recursive_", "_check_", "_convert_", VERSION_KEY})
"""Keys of a call that are not arguments of its target; a saved call that another reader loaded has the version beside it."""

RESERVED_KEYS = frozenset({"_tuple_", "_object_", "_pickle_"})
"""A mapping whose only key is one of these is not a mapping but a value that YAML can't express."""

PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types of values that are data as they are."""

LEAVES = PLAIN | {FunctionType, type}
"""Types of values that are never turned into a container: the common ones, tested first."""


class _Deleted(enum.Enum):
    DELETED = "deleted"


DELETED = _Deleted.DELETED
"""The value that a record gives to a key that was deleted."""


class Record:
    """What happened to a container after it was made; most have no record.

    Attributes:
        settings: for each key that was set later: (origin, value) of every setting, the oldest first. The value that the
            container was made with has no origin (None).
        via: ``file:line`` of the imports that brought the container here, the innermost first.
        copied_from: one object shared by all copies that were made because a node was put in a second place.
        ignored_names: of a file's root: names in the file that are not part of the config, with their values' types.
        notes: for each key whose name or value was migrated from an earlier version: what changed.
        version: of a file's root: the version of ultravid that the file states; "" if it states none.
    """

    __slots__ = ("copied_from", "ignored_names", "notes", "settings", "version", "via")

    def __init__(self) -> None:
        self.settings: dict[Any, list[tuple[Origin | None, Any]]] = {}
        self.via: tuple[str, ...] = ()
        self.copied_from: object | None = None
        self.ignored_names: dict[str, str] = {}
        self.notes: dict[Any, str] = {}
        self.version = ""

    def copy(self, settings: dict[Any, list[tuple[Origin | None, Any]]]) -> Record:
        """A record for a copy of the container, with the copy's settings."""
        new = Record()
        new.settings = settings
        new.via, new.copied_from, new.ignored_names = self.via, self.copied_from, self.ignored_names
        new.notes = dict(self.notes)
        new.version = self.version
        return new


class Container:
    """A dict, list or tuple of a config. It has one parent, or none if it is a root.

    A subclass is declared with the plain type that it replaces, ``class Node(dict, Container, replaces=dict)``; a plain value
    of that type that is put in a config becomes one. Its slots (or attributes) are ``_up``, the parent, ``_origin``, where it
    was made (None: where its parent was), and ``_record``.
    """

    if not TYPE_CHECKING:
        __slots__ = ()  # the subclasses have the slots; a base of dict's kind can't

    _kinds: ClassVar[dict[type, type[Container]]] = {}

    _up: Container | None
    _origin: Origin | None
    _record: Record | None

    def __init_subclass__(cls, replaces: type | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if replaces is not None:
            Container._kinds[replaces] = cls

    @classmethod
    def _make(cls, pairs: Iterable[tuple[Any, Any]], origin: Origin | None) -> Self:
        """A container of (key, value) pairs that does not look for its caller; ``origin=None`` takes the parent's."""
        raise NotImplementedError

    if TYPE_CHECKING:  # at run time these are dict's, list's and tuple's, or those of the subclass

        def __getitem__(self, key: Any) -> Any: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> int: ...
        def set(self, key: Any, value: Any, origin: Origin) -> None:
            """Set a value and note where it was set; a tuple has no such method."""

        def delete_key(self, key: Any, origin: Origin) -> None:
            """Delete a value and note where that was done; a tuple has no such method."""


# --- what a container holds -----------------------------------------------------------------------------------------------


def raw_children(container: Container) -> Iterable[tuple[Any, Any]]:
    """(key or index, raw value) of any container."""
    if isinstance(container, dict):
        return dict.items(container)
    base: Iterable[Any] = list.__iter__(container) if isinstance(container, list) else tuple.__iter__(container)  # type: ignore[arg-type]
    return enumerate(base)


def raw_child(container: Container, key: Any, *default: Any) -> Any:
    """One raw value; if there is no such key or index, the default, if one is given."""
    try:
        if isinstance(container, dict):
            return dict.__getitem__(container, key)
        if isinstance(container, list):
            return list.__getitem__(container, key)
        return tuple.__getitem__(container, key)  # type: ignore[call-overload]
    except LookupError:
        if default:
            return default[0]
        raise


def walk(container: Container) -> Iterator[Container]:
    """A container and all containers below it, in their order."""
    stack = [container]
    while stack:
        here = stack.pop()
        yield here
        stack.extend(reversed([v for _, v in raw_children(here) if isinstance(v, Container)]))


# --- keys -----------------------------------------------------------------------------------------------------------------

_STEP = re.compile(r"\[(-?\d+)\]|([^.\[\]]+)")


def split_key(key: str) -> list[str]:
    """``a.b[0].c`` and ``a.b.0.c`` as ``["a", "b", "0", "c"]``.

    Raises:
        ConfigError: it is not a key.
    """
    return list(_split(key))


@functools.lru_cache(maxsize=4096)
def _split(key: str) -> tuple[str, ...]:
    steps, position = [], 0
    while position < len(key):
        match = _STEP.match(key, position)
        if match is None:
            dotted = ".".join(re.findall(r"[\w-]+", key))
            right = f" The parts of a key are separated by one dot: {dotted!r}." if dotted else ""
            raise ConfigError(f"{key!r} is not a key: stuck at {key[position:]!r}.{right}")
        steps.append(match[1] if match[1] is not None else match[2])
        position = match.end()
        if position < len(key) and key[position] == ".":
            position += 1
            if position == len(key):
                raise ConfigError(f"{key!r} is not a key: it ends with a dot.")
    return tuple(steps)


def join_key(parent: str, step: Any) -> str:
    """The full key of a child: ``a.b`` for a name, ``a[0]`` for an index."""
    return f"{parent}[{step}]" if type(step) is int else f"{parent}.{step}" if parent else str(step)


def join_steps(steps: Iterable[str]) -> str:
    """The full key of steps such as `split_key` gives: ``a.b[0].c`` for ``["a", "b", "0", "c"]``."""
    return functools.reduce(join_key, (int(step) if step.isdecimal() else step for step in steps), "")


def full_key(container: Container, key: Any = None) -> str:
    """The key of a container, or of one of its values, from the root: ``trainer.hooks.eval``, ``a.b[0]``; "" is the root."""
    steps: list[Any] = [] if key is None else [key]
    node: Container = container
    while node._up is not None:
        found = key_in_parent(node)
        steps.append("?" if found is None else found)
        node = node._up
    text = ""
    for step in reversed(steps):
        text = join_key(text, step)
    return text


def key_in_parent(container: Container) -> Any:
    """The key or index under which its parent holds a container; None for a root."""
    parent = container._up
    return None if parent is None else next((k for k, v in raw_children(parent) if v is container), None)


def root_of(container: Container) -> Container:
    """The container without a parent that everything hangs on."""
    while container._up is not None:
        container = container._up
    return container


def child_key(value: Any, step: str) -> Any:
    """The key or index that a step of a full key means in a value; None if it has no such child."""
    if isinstance(value, dict) and isinstance(value, Container) and step in value:
        return step
    if step.removeprefix("-").isdecimal():
        index = int(step)
        has_it = (
            index in value
            if isinstance(value, dict) and isinstance(value, Container)
            else isinstance(value, list | tuple) and -len(value) <= index < len(value)
        )
        return index if has_it else None
    return None


def value_at(container: Any, key: str) -> Any:
    """The resolved value at a full key, as ``"a.b[0].c"``; "" is the container itself.

    Raises:
        ConfigError: there is no such key.
    """
    value = container
    for step in split_key(key):
        if (found := child_key(value, step)) is not None:
            value = value[found]
        elif isinstance(value, dict) and isinstance(value, Container):
            raise unknown_key(value, step)
        else:
            raise UnknownKeyError(f"Unknown key {key!r}: there is no {step!r} in {value!r}.")
    return value


def unknown_key(container: Container, key: Any) -> UnknownKeyError:
    """The error for a key that a node does not have."""
    place = full_key(container)
    return UnknownKeyError(
        f"No key {str(key)!r} in {repr(place) if place else 'the config'}.{did_you_mean(key, dict.keys(container))}"  # type: ignore[arg-type]
    )


# --- the record -----------------------------------------------------------------------------------------------------------


def caller() -> Origin:
    """The place that called the function which calls this one: a container's method, and whoever writes to the container."""
    frame = sys._getframe(2)
    return (frame.f_code, frame.f_lasti)


def ensure_record(container: Container) -> Record:
    """The record of a container; an empty one is made if it has none."""
    if container._record is None:
        container._record = Record()
    return container._record


def note_setting(container: Container, key: Any, value: Any, origin: Origin, old: Any) -> None:
    """Add a setting to a container's record, after the value that the container was made with."""
    settings = ensure_record(container).settings
    if key not in settings:
        settings[key] = [] if old is DELETED else [(None, old)]
    settings[key].append((origin, value))


def forget_settings(container: Container, origin: Origin) -> None:
    """Note that a list's items have moved: their settings no longer belong to their indices."""
    container._origin = origin
    if container._record is not None:
        container._record.settings.clear()
