"""The nodes that a config is made of: dicts and lists with attribute access, references and provenance.

Nodes form a tree. A node that already has a parent is copied when it is put in a second place; sharing is by reference
alone. Reading a node resolves references, however it is read; ``node.raw`` shows what was written.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, Self

from ultravid.config.errors import ConfigError, InterpolationError, UnknownKeyError, did_you_mean

__all__ = ["MISSING", "ListNode", "Node", "Origin", "Raw", "TupleNode", "full_key", "ref", "resolve_environment"]

MISSING: Any = "???"
"""A value that somebody has to set; typed ``Any``, so that it passes for every argument."""

Origin = tuple[Any, ...]
"""Where a node or value was set, kept raw for speed: see `ultravid.config.provenance`."""

_REFERENCE = "${"
_LEAVES = frozenset({str, int, float, bool, type(None), FunctionType, type})
_INTERNAL = frozenset({"_up", "_origin", "_history"})


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

    __slots__ = ("_history", "_origin", "_up")

    _up: Container | None
    _origin: Origin | None
    _history: dict[Any, list[Origin]] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._up = None
        self._origin = _caller()
        self._history = None
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
        node._history = None
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
        """Set a key and note where it was set; what it held before stays in the key's history."""
        dict.__setitem__(self, key, adopt(value, self))
        if self._history is None:
            self._history = {}
        self._history.setdefault(key, []).append(origin)

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise self._unknown(key)
        dict.__delitem__(self, key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set every key of the given mappings."""
        origin = _caller()
        for source in (*args, kwargs):
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
        del self[key]
        return value

    def copy(self) -> Self:
        """A copy of the whole tree below; live objects are shared."""
        return _copied(self, None)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return _copied(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_node, (dict(raw_items(self)), _portable(self._origin))

    def __or__(self, other: Any) -> Any:
        merged = self.copy()
        merged.update(other)
        return merged

    def _unknown(self, key: Any) -> UnknownKeyError:
        place = full_key(self)
        of = f"'{place}'" if place else "the config"
        return UnknownKeyError(f"No key {str(key)!r} in {of}.{did_you_mean(key, dict.keys(self))}")


class ListNode(list[Any]):
    """A list of a config; as `Node` it resolves on reading and adopts on writing."""

    __slots__ = ("_origin", "_up")

    _up: Container | None
    _origin: Origin | None

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self._up = None
        self._origin = None
        pairs = list.__iter__(values) if isinstance(values, ListNode) else values
        super().__init__(adopt(v, self) for v in pairs)

    def __getitem__(self, index: Any) -> Any:
        value = list.__getitem__(self, index)
        if isinstance(index, slice):
            return [_resolve(v, self, i) if _is_reference(v) else v for i, v in enumerate(value)]
        return _resolve(value, self, index) if _is_reference(value) else value

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(list.__iter__(self)):
            yield _resolve(value, self, index) if _is_reference(value) else value

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            value = [adopt(v, self) for v in value]
        list.__setitem__(self, index, value if isinstance(index, slice) else adopt(value, self))

    def append(self, value: Any) -> None:
        """Add at the end."""
        list.append(self, adopt(value, self))

    def insert(self, index: Any, value: Any) -> None:
        """Add before an index."""
        list.insert(self, index, adopt(value, self))

    def extend(self, values: Iterable[Any]) -> None:
        """Add several at the end."""
        list.extend(self, [adopt(v, self) for v in values])

    def __iadd__(self, values: Iterable[Any]) -> Self:  # type: ignore[misc]
        self.extend(values)
        return self

    def pop(self, index: Any = -1) -> Any:
        """The resolved item; it goes."""
        value = self[index]
        list.pop(self, index)
        return value

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
        return _copied(self, None)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> ListNode:
        return _copied(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return ListNode, (list(list.__iter__(self)),)


class TupleNode(tuple[Any, ...]):
    """A tuple that holds nodes or references."""

    _up: Container | None
    _origin: Origin | None

    def __new__(cls, values: Iterable[Any] = ()) -> Self:
        """As tuple; the values are adopted."""
        pairs = tuple.__iter__(values) if isinstance(values, TupleNode) else values
        converted = [_converted(v) for v in pairs]
        new = super().__new__(cls, [_copied(v, None) if _is_owned(v) else v for v in converted])
        new._up = None
        new._origin = None
        for value in tuple.__iter__(new):
            if isinstance(value, CONTAINERS):
                value._up = new
        return new

    def __getitem__(self, index: Any) -> Any:
        value = tuple.__getitem__(self, index)
        return _resolve(value, self, index) if _is_reference(value) else value

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(tuple.__iter__(self)):
            yield _resolve(value, self, index) if _is_reference(value) else value

    def __deepcopy__(self, memo: dict[int, Any]) -> TupleNode:
        return _copied(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return TupleNode, (tuple(tuple.__iter__(self)),)


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


def _unpickled_node(values: dict[Any, Any], origin: Origin | None) -> Node:
    return Node._make(values.items(), origin)


def _portable(origin: Origin | None) -> Origin | None:
    """An origin for a pickle, which can't hold a code object: its file and line."""
    if origin is None or not isinstance(origin[0], CodeType):
        return origin
    positions = next(itertools.islice(origin[0].co_positions(), origin[1] // 2, None), (None,))
    return (f"{origin[0].co_filename}:{positions[0]}",)


def _is_reference(value: Any) -> bool:
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
    if kind is tuple and any(type(v) in (dict, list, tuple, *CONTAINERS) or _is_reference(v) for v in value):
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
            value = _copied(value, None)
        value._up = parent
    return value


def _is_ancestor(value: Any, node: Container | None) -> bool:
    while node is not None:
        if node is value:
            return True
        node = node._up
    return False


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
        if container._history is not None:
            new._history = {k: list(v) for k, v in container._history.items()}
    else:
        new = type(container)(value for _, value in pairs)
        new._origin = container._origin
    new._up = container._up
    return new


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
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


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


_RESOLVERS: dict[str, Callable[[str, str], Any]] = {"oc.env": _env}


def _lookup(inner: str, container: Container, key: Any) -> Any:
    here = full_key(container, key)
    name, colon, argument = inner.partition(":")
    if colon:
        if name not in _RESOLVERS:
            raise InterpolationError(f"Reference '${{{inner}}}' at {here!r}: no resolver {name!r}; there is 'oc.env'.")
        return _RESOLVERS[name](argument, here)
    path = inner.strip()
    dots = len(path) - len(path.lstrip("."))
    node: Any = container if dots else root_of(container)
    for _ in range(dots - 1):
        node = node._up
        if node is None:
            raise InterpolationError(f"Reference '${{{inner}}}' at {here!r} goes above the root.")
    for step in split_key(path[dots:]):
        if isinstance(node, Node) and step in node:
            node = node[step]
        elif (
            isinstance(node, ListNode | TupleNode)
            and str(step).lstrip("-").isdigit()
            and -len(node) <= int(step) < len(node)
        ):
            node = node[int(step)]
        else:
            known = [k for k, _ in raw_children(node)] if isinstance(node, CONTAINERS) else []
            parent = full_key(node) if isinstance(node, CONTAINERS) else ""
            hint = did_you_mean(step, known, f"{parent}." if parent else "")
            raise InterpolationError(
                f"Reference '${{{inner}}}' at {here!r} leads nowhere: there is no {str(step)!r}.{hint}"
            )
    return node


def resolve_environment(container: Container) -> None:
    """Replace every value that refers to the environment by what it stands for, in place."""
    for key, value in list(raw_children(container)):
        if isinstance(value, CONTAINERS):
            resolve_environment(value)
        elif _is_reference(value) and "${oc.env:" in value and not isinstance(container, TupleNode):
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
