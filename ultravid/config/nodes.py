"""The nodes that a config is made of: dicts and lists with attribute access, references and provenance.

Nodes form a tree. A node that already has a parent is copied when it is put in a second place; sharing is by reference
alone. Reading a node resolves references, however it is read; ``node.raw`` shows what was written.
"""

from __future__ import annotations

import copy
import enum
import itertools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, Self

from ultravid.config.errors import ConfigError, InterpolationError, UnknownKeyError, did_you_mean

__all__ = [
    "CONTAINERS",
    "DELETED",
    "MISSING",
    "MODULE_PREFIX",
    "PLAIN",
    "Container",
    "ListNode",
    "Node",
    "Origin",
    "Raw",
    "Record",
    "TupleNode",
    "ensure_record",
    "full_key",
    "is_reference",
    "join_key",
    "owner_of",
    "raw_child",
    "raw_children",
    "raw_items",
    "ref",
    "resolve_environment",
    "root_of",
    "same",
    "split_key",
    "value_at",
]

MISSING: Any = "???"
"""A value that somebody has to set; typed ``Any``, so that it passes for every argument."""

Origin = tuple[Any, ...]
"""Where a node or value was set, kept raw for speed: see `ultravid.config.provenance`."""

MODULE_PREFIX = "ultravid_config_file:"
"""Begins the names of the modules that config files are run as."""

PLAIN = frozenset({str, int, float, bool, type(None)})
"""Kinds of values that are data as they stand."""

_REFERENCE = "${"
_LEAVES = PLAIN | {FunctionType, type}
_INTERNAL = frozenset({"_up", "_origin", "_record"})


class _Deleted(enum.Enum):
    DELETED = "deleted"


DELETED = _Deleted.DELETED
"""Stands in a record for a key that was deleted."""


class Record:
    """What happened to a node after it was made; most nodes have none.

    Attributes:
        settings: for each key that was set later: (origin, value) of every setting, the oldest first. The value that the
            node was made with has no origin of its own.
        via: ``file:line`` of the imports that brought the node here, the innermost first.
        copied_from: one object for all copies that were made because a node was put in a second place.
        left_out: of a file's root: names that are no part of the config, with the kinds of their values.
    """

    __slots__ = ("copied_from", "left_out", "settings", "via")

    def __init__(self) -> None:
        self.settings: dict[Any, list[tuple[Origin | None, Any]]] = {}
        self.via: tuple[str, ...] = ()
        self.copied_from: object | None = None
        self.left_out: dict[str, str] = {}

    def copy(self, settings: dict[Any, list[tuple[Origin | None, Any]]]) -> Record:
        """A record for a copy of the node, with the settings that are the copy's."""
        new = Record()
        new.settings = settings
        new.via, new.copied_from, new.left_out = self.via, self.copied_from, self.left_out
        return new


def ensure_record(container: Container) -> Record:
    """The record of a node, begun where there is none."""
    if container._record is None:
        container._record = Record()
    return container._record


def ref(key: str) -> Any:
    """A reference to another key of the same config; the same as the string ``"${key}"``."""
    return "${" + key + "}"


def _caller() -> Origin:
    frame = sys._getframe(2)
    return (frame.f_code, frame.f_lasti)


class Node(dict[Any, Any]):
    """A dict with attribute access, made of values, references and further nodes.

    With ``_target_`` it is a call that has not been made. A key that is also a method's name (``items``) is reached by
    item alone: ``node["items"]``.
    """

    __slots__ = ("_origin", "_record", "_up")

    _up: Container | None
    _origin: Origin | None
    _record: Record | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._up = None
        self._origin = _caller()
        self._record = None
        for source in (*args, kwargs):
            pairs = source.items() if isinstance(source, Mapping) else source
            for key, value in raw_items(source) if isinstance(source, Node) else pairs:
                dict.__setitem__(self, key, adopt(value, self))

    @classmethod
    def _make(cls, pairs: Iterable[tuple[Any, Any]], origin: Origin | None) -> Self:
        """A node without a search for its caller; ``origin=None`` takes the parent's."""
        node = cls.__new__(cls)
        node._up = None
        node._origin = origin
        node._record = None
        for key, value in pairs:
            dict.__setitem__(node, key, adopt(value, node))
        return node

    # Reading resolves.
    def __getitem__(self, key: Any) -> Any:
        try:
            value = dict.__getitem__(self, key)
        except KeyError:
            raise self._unknown(key) from None
        return _resolve(value, self, key) if type(value) is str and _REFERENCE in value else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # protocols of Python, asked for all the time
            raise AttributeError(name)
        return self[name]

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or the default where the key is not there."""
        return self[key] if key in self else default  # noqa: SIM401  # this is what `get` is

    def __iter__(self) -> Iterator[Any]:
        # Defined here, so that dict(node) and **node take the slow way through __getitem__, which resolves.
        return dict.__iter__(self)

    def values(self) -> list[Any]:  # type: ignore[override]
        """Resolved values."""
        return [self[key] for key in self]

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """(key, resolved value)."""
        return [(key, self[key]) for key in self]

    @property
    def raw(self) -> Raw:
        """What was written: values with their references unresolved."""
        return Raw(self)

    # Writing adopts, and remembers who wrote.
    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value, _caller())

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INTERNAL:
            object.__setattr__(self, name, value)
        else:
            self.set(name, value, _caller())

    def set(self, key: Any, value: Any, origin: Origin) -> None:
        """Set a key and note where it was set; what it held before stays in the node's record."""
        old = dict.get(self, key, DELETED)
        if value is old and isinstance(value, CONTAINERS):  # as in ``cfg.hooks += [...]``: it is changed, not put anew
            return
        value = adopt(value, self)
        _note(self, key, value, origin, old)
        dict.__setitem__(self, key, value)

    def take_out(self, key: Any, origin: Origin) -> None:
        """Delete a key and note where that was done.

        Raises:
            UnknownKeyError: it is not there.
        """
        if key not in self:
            raise self._unknown(key)
        value = dict.pop(self, key)
        _note(self, key, DELETED, origin, value)
        if isinstance(value, CONTAINERS):
            value._up = None

    def __delattr__(self, name: str) -> None:
        self.take_out(name, _caller())

    def __delitem__(self, key: Any) -> None:
        self.take_out(key, _caller())

    def clear(self) -> None:
        """Delete every key."""
        origin = _caller()
        for key in list(self):
            self.take_out(key, origin)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set every key of the given mappings."""
        self._take(_caller(), *args, kwargs)

    def _take(self, origin: Origin, *sources: Any) -> None:
        for source in sources:
            pairs = raw_items(source) if isinstance(source, Node) else dict(source).items()
            for key, value in pairs:
                self.set(key, value, origin)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value, set to the default where the key is not there."""
        if key not in self:
            self.set(key, default, _caller())
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        """The resolved value; the key goes."""
        if key not in self and default:
            return default[0]
        value = self[key]
        self.take_out(key, _caller())
        return value

    def popitem(self) -> tuple[Any, Any]:
        """The last key and its resolved value; they go."""
        if not self:
            raise KeyError("The node is empty.")
        key = next(reversed(self))
        value = self[key]
        self.take_out(key, _caller())
        return key, value

    def copy(self) -> Self:
        """A copy of the whole tree below; live objects are shared."""
        return _asked_for(self, None)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return _asked_for(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {k: _by_name(v, as_target=k == "_target_") for k, v in raw_items(self)}
        return _unpickled, (type(self), values, _portable(self._origin), _portable_record(self))

    def __or__(self, other: Any) -> Any:
        merged = self.copy()
        merged._take(_caller(), other)
        return merged

    def __ior__(self, other: Any) -> Self:
        self._take(_caller(), other)
        return self

    def __eq__(self, other: object) -> bool:
        """The same as written: keys in any order, references as strings, a target's name and the target itself alike."""
        return same(self, other) if isinstance(other, dict) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not same(self, other) if isinstance(other, dict) else NotImplemented

    __hash__ = None

    def _unknown(self, key: Any) -> UnknownKeyError:
        place = full_key(self)
        of = f"'{place}'" if place else "the config"
        return UnknownKeyError(f"No key {str(key)!r} in {of}.{did_you_mean(key, dict.keys(self))}")


class ListNode(list[Any]):
    """A list of a config; as `Node` it resolves on reading and adopts on writing."""

    __slots__ = ("_origin", "_record", "_up")

    _up: Container | None
    _origin: Origin | None
    _record: Record | None

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self._up = None
        self._origin = None
        self._record = None
        pairs = list.__iter__(values) if isinstance(values, ListNode) else values
        super().__init__(adopt(v, self) for v in pairs)

    def __getitem__(self, index: Any) -> Any:
        value = list.__getitem__(self, index)
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return _resolve(value, self, index) if is_reference(value) else value

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(list.__iter__(self)):
            yield _resolve(value, self, index) if is_reference(value) else value

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            list.__setitem__(self, index, [adopt(v, self) for v in value])
            _rearranged(self, _caller())
        else:
            self.set(index, value, _caller())

    def set(self, index: int, value: Any, origin: Origin) -> None:
        """Set an item and note where it was set."""
        index = range(len(self))[index]
        value = adopt(value, self)
        _note(self, index, value, origin, list.__getitem__(self, index))
        list.__setitem__(self, index, value)

    def take_out(self, index: int, origin: Origin) -> None:
        """Delete an item and note where that was done."""
        list.__delitem__(self, index)
        _rearranged(self, origin)

    def __delitem__(self, index: Any) -> None:
        self.take_out(index, _caller())

    def append(self, value: Any) -> None:
        """Add at the end."""
        self._extend([value], _caller())

    def extend(self, values: Iterable[Any]) -> None:
        """Add several at the end."""
        self._extend(values, _caller())

    def __iadd__(self, values: Iterable[Any]) -> Self:  # type: ignore[misc]
        self._extend(values, _caller())
        return self

    def _extend(self, values: Iterable[Any], origin: Origin) -> None:
        for value in [adopt(v, self) for v in values]:
            _note(self, len(self), value, origin, DELETED)
            list.append(self, value)

    def insert(self, index: Any, value: Any) -> None:
        """Add before an index."""
        list.insert(self, index, adopt(value, self))
        _rearranged(self, _caller())

    def pop(self, index: Any = -1) -> Any:
        """The resolved item; it goes."""
        value = self[index]
        gone = list.pop(self, index)
        if isinstance(gone, CONTAINERS):
            gone._up = None
        _rearranged(self, _caller())
        return value

    def remove(self, value: Any) -> None:
        """Take the first item that equals a value away."""
        list.remove(self, value)
        _rearranged(self, _caller())

    def clear(self) -> None:
        """Take every item away."""
        list.clear(self)
        _rearranged(self, _caller())

    def reverse(self) -> None:
        """Turn the order round."""
        list.reverse(self)
        _rearranged(self, _caller())

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort the items as written."""
        list.sort(self, key=key, reverse=reverse)
        _rearranged(self, _caller())

    def __add__(self, other: Any) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Any) -> list[Any]:
        return [*other, *self]

    def __mul__(self, number: Any) -> list[Any]:
        return list(self) * number

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])

    def index(self, value: Any, *bounds: Any) -> int:
        """First place of a resolved value."""
        return list(self).index(value, *bounds)

    def count(self, value: Any) -> int:
        """How often a resolved value is there."""
        return list(self).count(value)

    def __contains__(self, value: Any) -> bool:
        return value in list(self)

    def copy(self) -> ListNode:
        """As `Node.copy`."""
        return _asked_for(self, None)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> ListNode:
        return _asked_for(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        values = [_by_name(v) for v in list.__iter__(self)]
        return _unpickled, (ListNode, values, _portable(self._origin), _portable_record(self))

    def __eq__(self, other: object) -> bool:
        """As `Node`'s."""
        return same(self, other) if isinstance(other, list) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not same(self, other) if isinstance(other, list) else NotImplemented

    __hash__ = None


class TupleNode(tuple[Any, ...]):
    """A tuple that holds nodes or references."""

    _up: Container | None
    _origin: Origin | None
    _record: Record | None

    def __new__(cls, values: Iterable[Any] = ()) -> Self:
        """As tuple; the values are adopted."""
        pairs = tuple.__iter__(values) if isinstance(values, TupleNode) else values
        converted = [_converted(v) for v in pairs]
        new = super().__new__(cls, [_second(v) if _is_owned(v) else v for v in converted])
        new._up = None
        new._origin = None
        new._record = None
        for value in tuple.__iter__(new):
            if isinstance(value, CONTAINERS):
                value._up = new
        return new

    def __getitem__(self, index: Any) -> Any:
        value = tuple.__getitem__(self, index)
        if isinstance(index, slice):
            return tuple(self)[index]
        return _resolve(value, self, index) if is_reference(value) else value

    def index(self, value: Any, *bounds: Any) -> int:
        """First place of a resolved value."""
        return tuple(self).index(value, *bounds)

    def count(self, value: Any) -> int:
        """How often a resolved value is there."""
        return tuple(self).count(value)

    def __contains__(self, value: object) -> bool:
        return value in tuple(self)

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(tuple.__iter__(self)):
            yield _resolve(value, self, index) if is_reference(value) else value

    def __copy__(self) -> TupleNode:
        return _asked_for(self, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> TupleNode:
        return _asked_for(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        values = tuple([_by_name(v) for v in tuple.__iter__(self)])
        return _unpickled, (TupleNode, values, _portable(self._origin), _portable_record(self))

    def __eq__(self, other: object) -> bool:
        """As `Node`'s."""
        return same(self, other) if isinstance(other, tuple) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not same(self, other) if isinstance(other, tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


Container = Node | ListNode | TupleNode
CONTAINERS = (Node, ListNode, TupleNode)


class Raw(Mapping[Any, Any]):
    """What was written in a node, by item or attribute, with references as strings."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getitem__(self, key: Any) -> Any:
        if key not in self._node:
            raise self._node._unknown(key)
        return dict.__getitem__(self._node, key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[Any]:
        return dict.__iter__(self._node)

    def __len__(self) -> int:
        return len(self._node)

    def __repr__(self) -> str:
        return dict.__repr__(self._node)


def raw_items(node: Node) -> Iterable[tuple[Any, Any]]:
    """(key, value as written) of a node."""
    return dict.items(node)


def raw_children(container: Container) -> Iterable[tuple[Any, Any]]:
    """(key or index, value as written) of any container."""
    if isinstance(container, Node):
        return dict.items(container)
    base: Iterable[Any] = list.__iter__(container) if isinstance(container, ListNode) else tuple.__iter__(container)
    return enumerate(base)


def _note(container: Node | ListNode, key: Any, value: Any, origin: Origin, old: Any) -> None:
    """Add a setting to a node's record, after the value that the node was made with."""
    settings = ensure_record(container).settings
    if key not in settings:
        settings[key] = [] if old is DELETED else [(None, old)]
    settings[key].append((origin, value))


def _rearranged(items: ListNode, origin: Origin) -> None:
    """Note that a list's items stand elsewhere now: what was known of each place is no longer true."""
    items._origin = origin
    if items._record is not None:
        items._record.settings.clear()


def value_at(container: Any, key: str) -> Any:
    """The resolved value at a full key, as ``"a.b[0].c"``; "" is the container itself.

    Raises:
        ConfigError: there is no such key.
    """
    value = container
    for step in split_key(key):
        if (found := _child_key(value, step)) is not None:
            value = value[found]
        elif isinstance(value, Node):
            raise value._unknown(step)
        else:
            raise UnknownKeyError(f"Unknown key {key!r}: there is no {step!r} in {value!r}.")
    return value


def raw_child(container: Container, key: Any, *default: Any) -> Any:
    """One value as written; the default, where one is given, if there is no such key or index."""
    try:
        if isinstance(container, Node):
            return dict.__getitem__(container, key)
        if isinstance(container, ListNode):
            return list.__getitem__(container, key)
        return tuple.__getitem__(container, key)
    except LookupError:
        if default:
            return default[0]
        raise


def _unpickled(kind: type[Container], values: Any, origin: Origin | None, record: Any) -> Container:
    container = kind._make(values.items(), origin) if issubclass(kind, Node) else kind(values)
    container._origin = origin
    if record is not None:
        kept = ensure_record(container)
        kept.settings, kept.via = record
    return container


def _by_name(value: Any, as_target: bool = False) -> Any:
    """A value for a pickle: what a config file defines goes by its name, for pickle finds it in no module."""
    if type(value) in PLAIN or isinstance(value, CONTAINERS):
        return value
    module = getattr(value, "__module__", None)
    if not (isinstance(module, str) and module.startswith(MODULE_PREFIX)):
        return value
    from ultravid.config.serialize import importable_name

    name = importable_name(value)
    if name is None:
        return value
    return name if as_target else {"_object_": name}


def _portable_record(node: Container) -> Any:
    """A record for a pickle: settings with their values where those are plain."""
    if node._record is None:
        return None

    def plain(value: Any) -> Any:
        kept = type(value) in PLAIN or value is DELETED or isinstance(value, CONTAINERS)
        return value if kept else f"<{type(value).__name__}>"

    record = node._record
    settings = {k: [(_portable(o), plain(v)) for o, v in entries] for k, entries in record.settings.items()}
    return settings, record.via


def _portable(origin: Origin | None) -> Origin | None:
    """An origin for a pickle, which can't hold a code object: its file and line."""
    if origin is None or not isinstance(origin[0], CodeType):
        return origin
    positions = next(itertools.islice(origin[0].co_positions(), origin[1] // 2, None), (None,))
    return (f"{origin[0].co_filename}:{positions[0]}",)


def is_reference(value: Any) -> bool:
    """Is it a string with a reference in it?"""
    return type(value) is str and _REFERENCE in value


def _is_owned(value: Any) -> bool:
    return isinstance(value, CONTAINERS) and value._up is not None


def _converted(value: Any) -> Any:
    """Plain containers and OmegaConf's as nodes; anything else as it is."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return Node._make(value.items(), None)
    if kind is list:
        return ListNode(value)
    if kind is tuple and any(
        type(v) in (dict, list, tuple, *CONTAINERS) or is_reference(v) or (type(v) is str and v == MISSING)
        for v in value
    ):
        return TupleNode(value)
    if kind.__module__.startswith("omegaconf.") and kind.__name__ in ("DictConfig", "ListConfig"):
        from omegaconf import OmegaConf

        return _converted(OmegaConf.to_container(value, resolve=False))
    return value


def adopt(value: Any, parent: Container) -> Any:
    """The value as a child of ``parent``: plain containers become nodes, a node with another parent is copied."""
    value = _converted(value)
    if isinstance(value, CONTAINERS):
        if value._up is not None or _is_ancestor(value, parent):
            value = _second(value)
        value._up = parent
    return value


def _second(original: Any) -> Any:
    """A copy for a second place, which both remember."""
    record = ensure_record(original)
    record.copied_from = record.copied_from or object()
    return _copied(original, None)


def _is_ancestor(value: Any, node: Container | None) -> bool:
    while node is not None:
        if node is value:
            return True
        node = node._up
    return False


def _asked_for(container: Any, memo: dict[int, Any] | None) -> Any:
    """A copy that somebody wanted: nobody needs to be told of it."""
    new = _copied(container, memo)
    if new._record is not None:
        new._record.copied_from = None
    return new


def _copied(container: Any, memo: dict[int, Any] | None) -> Any:
    """A copy of the tree; with a memo the leaves are deep-copied too. It resolves where the original does."""

    def leaf(value: Any) -> Any:
        if isinstance(value, CONTAINERS):
            child = _copied(value, memo)
            child._up = None
            return child
        return value if memo is None else copy.deepcopy(value, memo)

    pairs = [(key, leaf(value)) for key, value in raw_children(container)]
    new: Any
    if isinstance(container, Node):
        new = type(container)._make(pairs, container._origin)
    else:
        new = type(container)(value for _, value in pairs)
        new._origin = container._origin
    if container._record is not None:
        settings = {
            key: [(origin, _copied_setting(value, container, new, key, memo)) for origin, value in entries]
            for key, entries in container._record.settings.items()
        }
        new._record = container._record.copy(settings)
    new._up = container._up
    return new


def _copied_setting(value: Any, old: Container, new: Container, key: Any, memo: dict[int, Any] | None) -> Any:
    """A value of a record for the record's copy: the child's copy for the child, for an older node one of its own."""
    if not isinstance(value, CONTAINERS):
        return value
    if value is raw_child(old, key, None):
        return raw_child(new, key)
    copied = _copied(value, memo)
    copied._up = None
    return copied


# --- references ---------------------------------------------------------------------------------------------------------

_resolving = threading.local()


def full_key(container: Container, key: Any = None) -> str:
    """The key of a node, or of one of its values, from the root: ``trainer.hooks.eval``, ``a.b[0]``; "" is the root."""
    steps: list[Any] = [] if key is None else [key]
    node: Container = container
    while node._up is not None:
        parent = node._up
        found = next((k for k, v in raw_children(parent) if v is node), None)
        steps.append("?" if found is None else found)
        node = parent
    text = ""
    for step in reversed(steps):
        text = join_key(text, step)
    return text


def join_key(parent: str, step: Any) -> str:
    """The full key of a child: ``a.b`` for a name, ``a[0]`` for an index."""
    return f"{parent}[{step}]" if type(step) is int else f"{parent}.{step}" if parent else str(step)


def root_of(container: Container) -> Container:
    """The node without a parent."""
    while container._up is not None:
        container = container._up
    return container


def _resolve(text: str, container: Container, key: Any) -> Any:
    """The value that a string with references stands for."""
    active: list[tuple[Container, Any]] = _resolving.__dict__.setdefault("active", [])
    if any(c is container and k == key for c, k in active):
        chain = [full_key(c, k) for c, k in [*active, (container, key)]]
        raise InterpolationError(f"References lead in a circle: {' -> '.join(chain)}.")
    active.append((container, key))
    try:
        return _substitute(text, container, key)
    finally:
        active.pop()


def _substitute(text: str, container: Container, key: Any) -> Any:
    parts: list[Any] = []
    position = 0
    while position < len(text):
        start = text.find(_REFERENCE, position)
        if start < 0:
            parts.append(text[position:])
            break
        if start > 0 and text[start - 1] == "\\":
            parts.append(text[position : start - 1] + _REFERENCE)
            position = start + 2
            continue
        end = _closing_brace(text, start, container, key)
        if start > position:
            parts.append(text[position:start])
        inner = text[start + 2 : end]
        if _REFERENCE in inner:
            inner = str(_substitute(inner, container, key))
        value = _lookup(inner, container, key)
        if start == 0 and end == len(text) - 1:
            return value
        parts.append(str(value))
        position = end + 1
    return "".join(parts)


def _closing_brace(text: str, start: int, container: Container, key: Any) -> int:
    depth = 0
    for index in range(start, len(text)):
        if text.startswith(_REFERENCE, index):
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    raise InterpolationError(f"Reference {text!r} at {full_key(container, key)!r} lacks a closing brace.")


def _env(argument: str, where: str) -> Any:
    name, comma, default = argument.partition(",")
    value = os.environ.get(name.strip(), default.strip() if comma else None)
    if value is None:
        raise InterpolationError(f"Environment variable {name.strip()!r}, which {where!r} refers to, is not set.")
    return None if value == "null" else value


def _decode(argument: str, where: str) -> Any:
    """``${oc.decode:${oc.env:N,3}}``: the number, bool or list that a text means in YAML."""
    import yaml

    try:
        return yaml.safe_load(argument)
    except yaml.YAMLError as error:
        raise InterpolationError(f"{where!r}: oc.decode can't read {argument!r}.") from error


_RESOLVERS: dict[str, Callable[[str, str], Any]] = {"oc.env": _env, "oc.decode": _decode}


def _lookup(inner: str, container: Container, key: Any) -> Any:
    name, colon, argument = inner.partition(":")
    if colon:
        here = full_key(container, key)
        if name not in _RESOLVERS:
            raise InterpolationError(
                f"Reference '${{{inner}}}' at {here!r}: no resolver {name!r}; there are oc.env, oc.decode."
            )
        return _RESOLVERS[name](argument, here)
    owner, step = _place(inner, container, key)
    return owner[step]


def _place(inner: str, container: Container, key: Any) -> tuple[Container, Any]:
    """(node, key) that a reference means; the node is the root's own name where the reference is to a root."""
    path = inner.strip()
    dots = len(path) - len(path.lstrip("."))
    node: Any = container if dots else root_of(container)
    for _ in range(dots - 1):
        node = node._up
        if node is None:
            raise InterpolationError(f"Reference '${{{inner}}}' at {full_key(container, key)!r} goes above the root.")
    steps = split_key(path[dots:])
    if not steps:
        raise InterpolationError(f"Reference '${{{inner}}}' at {full_key(container, key)!r} names no key.")
    found: tuple[Any, Any] | None = None
    for step in steps:
        if found is not None:  # the last step is not read here: each link of a chain would be read twice as often
            node = found[0][found[1]]
        child = _child_key(node, step)
        if child is not None:
            found = (node, child)
        else:
            known = [k for k, _ in raw_children(node)] if isinstance(node, CONTAINERS) else []
            above = full_key(node) if isinstance(node, CONTAINERS) else ""
            hint = did_you_mean(step, known, f"{above}." if above else "")
            record = node._record if isinstance(node, Node) else None
            if record is not None and step in record.left_out:
                kind = record.left_out[step]
                hint = f" It is a {kind} in that file; only dicts and nodes of its top floor are part of a config."
                if kind.startswith("Lazy"):
                    hint = f" It is a {kind} without its arguments in that file: write L(...)(...)."
            raise InterpolationError(
                f"Reference '${{{inner}}}' at {full_key(container, key)!r} leads nowhere: there is no {step!r}.{hint}"
            )
    assert found is not None
    return found


def _child_key(value: Any, step: str) -> Any:
    """The key or index that a step of a full key means in a value; None where it has no such child."""
    if isinstance(value, Node) and step in value:
        return step
    if step.removeprefix("-").isdecimal():
        index = int(step)
        has_it = (
            index in value
            if isinstance(value, Node)
            else isinstance(value, list | tuple) and -len(value) <= index < len(value)
        )
        return index if has_it else None
    return None


def owner_of(container: Container, key: Any) -> tuple[Container, Any]:
    """(node, key) that owns a value: where the references that it consists of end."""
    for _ in range(100):  # circles have been told by whoever resolved the value
        value = raw_child(container, key)
        if not (is_reference(value) and value.startswith(_REFERENCE) and value.find("}") == len(value) - 1):
            return container, key
        inner = value[2:-1]
        if ":" in inner:
            return container, key
        place = _place(inner, container, key)
        if not isinstance(place[0], CONTAINERS):  # an item of a plain tuple
            return container, key
        container, key = place
    return container, key


def same(a: Any, b: Any) -> bool:
    """Do two values say the same as written? A saved value that was read back equals the one that was saved."""
    if a is b:
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        return dict.keys(a) == dict.keys(b) and all(
            same(value, dict.__getitem__(b, key)) or (key == "_target_" and _same_data(value, dict.__getitem__(b, key)))
            for key, value in dict.items(a)
        )
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, list.__iter__(a), list.__iter__(b)))
    if isinstance(a, tuple) and isinstance(b, tuple) and _is_plain_tuple(a) and _is_plain_tuple(b):
        return len(a) == len(b) and all(map(same, tuple.__iter__(a), tuple.__iter__(b)))
    if type(a) in PLAIN and type(b) in PLAIN:
        return bool(a == b and type(a) is type(b)) or (a != a and b != b)
    try:
        if bool(a == b):
            return True
    except Exception:  # an array's answer is no bool
        return False
    return type(a) is not str and type(b) is not str and _same_data(a, b)


def _is_plain_tuple(value: tuple[Any, ...]) -> bool:
    return type(value) in (tuple, TupleNode)


def _same_data(a: Any, b: Any) -> bool:
    """Are two values written to a file alike: a class and its name, a path and the call that makes it?"""
    from ultravid.config.serialize import same_in_file

    return same_in_file(a, b)


def resolve_environment(container: Container) -> None:
    """Replace every value that refers to the environment by what it stands for, in place."""
    for key, value in list(raw_children(container)):
        if isinstance(value, CONTAINERS):
            resolve_environment(value)
        elif is_reference(value) and "${oc.env:" in value and not isinstance(container, TupleNode):
            resolved = container[key]
            if isinstance(container, Node):
                dict.__setitem__(container, key, resolved)
            else:
                list.__setitem__(container, key, resolved)


_STEP = re.compile(r"\[(-?\d+)\]|([^.\[\]]+)")


def split_key(key: str) -> list[str]:
    """``a.b[0].c`` and ``a.b.0.c`` as ``["a", "b", "0", "c"]``.

    Raises:
        ConfigError: it is no key.
    """
    steps, position = [], 0
    while position < len(key):
        match = _STEP.match(key, position)
        if match is None:
            raise ConfigError(f"{key!r} is no key: stuck at {key[position:]!r}.")
        steps.append(match[1] if match[1] is not None else match[2])
        position = match.end()
        if position < len(key) and key[position] == ".":
            position += 1
            if position == len(key):
                raise ConfigError(f"{key!r} is no key: it ends with a dot.")
    return steps
