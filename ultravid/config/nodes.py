"""The node that a config is made of: a dict with attribute access, references and provenance.

Nodes form a tree. A node that already has a parent is copied when it is put in a second place; only references
share. Reading a node resolves references, however it is read; ``node.raw`` shows what was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from ultravid.config.copying import adopt, as_container, copy_of
from ultravid.config.errors import ConfigError
from ultravid.config.pickling import reduced, restored
from ultravid.config.plain_data import same
from ultravid.config.references import REFERENCE, is_reference, resolve
from ultravid.config.sequences import ListNode, TupleNode
from ultravid.config.tree import (
    DELETED,
    Container,
    Origin,
    Record,
    _Deleted,  # noqa: F401  # see `_unpickled`
    caller,
    note_setting,
    raw_children,
    unknown_key,
    value_at,
)

__all__ = ["ListNode", "Node", "Raw", "TupleNode", "as_node", "as_root", "resolve_environment"]

_INTERNAL = frozenset({"_up", "_origin", "_record"})
_unpickled = restored  # pickles that 0.1 wrote look for it, and for `_Deleted`, in this module


class Node(dict[Any, Any], Container, replaces=dict):
    """A dict with attribute access, made of values, references and further nodes.

    With ``_target_`` it is a call that has not been made yet. A key that is also the name of a method (``items``) is
    reached as an item only: ``node["items"]``.

    Args:
        args: mappings or iterables of pairs, as `dict` takes them. A node that belongs to another config already is
            copied.
        kwargs: further keys and their values.
    """

    __slots__ = ("_origin", "_record", "_up")

    _up: Container | None
    _origin: Origin | None
    _record: Record | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._up = None
        self._origin = caller()
        self._record = None
        for source in (*args, kwargs):
            pairs = source.items() if isinstance(source, Mapping) else source
            for key, value in dict.items(source) if isinstance(source, Node) else pairs:
                dict.__setitem__(self, key, adopt(value, self))

    @classmethod
    def _make(cls, pairs: Iterable[tuple[Any, Any]], origin: Origin | None) -> Self:
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
            raise unknown_key(self, key) from None
        return resolve(value, self, key) if type(value) is str and REFERENCE in value else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # Python asks for its protocols all the time
            raise AttributeError(name)
        return self[name]

    def get(self, key: Any, default: Any = None) -> Any:
        """The resolved value, or the default if there is no such key."""
        return self[key] if key in self else default  # noqa: SIM401  # this is what `get` is

    def __iter__(self) -> Iterator[Any]:
        # Defined here so that dict(node) and **node read through __getitem__, which resolves, and not past it.
        return dict.__iter__(self)

    def values(self) -> list[Any]:  # type: ignore[override]
        """Resolved values."""
        return [self[key] for key in self]

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """(key, resolved value)."""
        return [(key, self[key]) for key in self]

    @property
    def raw(self) -> Raw:
        """The values as written, with their references unresolved."""
        return Raw(self)

    # Writing adopts, and remembers who wrote.
    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value, caller())

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INTERNAL:
            object.__setattr__(self, name, value)
        else:
            self.set(name, value, caller())

    def set(self, key: Any, value: Any, origin: Origin) -> None:
        """Set a key, as ``node[key] = value`` does, and note where it was set; what it held before stays in the node's record.

        Args:
            key: one key of this node; a dot in it does not lead further down.
            value: a node that belongs to another one already is copied.
            origin: the place that `explain` and errors name.
        """
        old = dict.get(self, key, DELETED)
        if value is old and isinstance(value, Container):  # ``cfg.hooks += [...]`` changes the list and then assigns it
            return
        value = adopt(value, self)
        note_setting(self, key, value, origin, old)
        dict.__setitem__(self, key, value)

    def delete_key(self, key: Any, origin: Origin) -> None:
        """Delete a key, as ``del node[key]`` does, and note where that was done.

        Args:
            key: one key of this node.
            origin: the place that `explain` and errors name.

        Raises:
            UnknownKeyError: there is no such key.
        """
        if key not in self:
            raise unknown_key(self, key)
        value = dict.pop(self, key)
        note_setting(self, key, DELETED, origin, value)
        if isinstance(value, Container):
            value._up = None

    def __delattr__(self, name: str) -> None:
        self.delete_key(name, caller())

    def __delitem__(self, key: Any) -> None:
        self.delete_key(key, caller())

    def clear(self) -> None:
        """Delete every key."""
        origin = caller()
        for key in list(self):
            self.delete_key(key, origin)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set every key of the given mappings."""
        self._set_all(caller(), *args, kwargs)

    def _set_all(self, origin: Origin, *sources: Any) -> None:
        for source in sources:
            pairs = dict.items(source) if isinstance(source, Node) else dict(source).items()
            for key, value in pairs:
                self.set(key, value, origin)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The resolved value; if there is no such key, it is first set to the default."""
        if key not in self:
            self.set(key, default, caller())
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        """Delete a key and return its resolved value."""
        if key not in self and default:
            return default[0]
        value = self[key]
        self.delete_key(key, caller())
        return value

    def popitem(self) -> tuple[Any, Any]:
        """Delete the last key and return it with its resolved value."""
        if not self:
            raise KeyError("The node is empty.")
        key = next(reversed(self))
        value = self[key]
        self.delete_key(key, caller())
        return key, value

    def copy(self) -> Self:
        """A copy of the whole tree below; live objects are shared."""
        return copy_of(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy_of(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def __or__(self, other: Any) -> Any:
        merged = self.copy()
        merged._set_all(caller(), other)
        return merged

    def __ior__(self, other: Any) -> Self:
        self._set_all(caller(), other)
        return self

    def __eq__(self, other: object) -> bool:
        """Whether both say the same as written, with their keys in any order.

        References are compared as strings; a target equals its name.
        """
        return same(self, other) if isinstance(other, dict) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not same(self, other) if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class Raw(Mapping[Any, Any]):
    """What was written in a node, by item or attribute, with references as strings."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getitem__(self, key: Any) -> Any:
        if key not in self._node:
            raise unknown_key(self._node, key)
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


def resolve_environment(container: Container) -> None:
    """Replace every value that refers to the environment by the value it stands for, in place.

    Args:
        container: the node whose values, at any depth, are replaced.
    """
    for key, value in list(raw_children(container)):
        if isinstance(value, Container):
            resolve_environment(value)
        elif is_reference(value) and "${oc.env:" in value and not isinstance(container, TupleNode):
            resolved = container[key]
            if isinstance(container, Node):
                dict.__setitem__(container, key, resolved)
            else:
                list.__setitem__(container, key, resolved)  # type: ignore[call-overload]


def as_root(value: Any) -> Any:
    """A value as a root: plain containers and OmegaConf's become nodes; a node stays itself."""
    if isinstance(value, Container):
        return value
    if type(value).__module__.startswith("omegaconf.") and value._get_parent() is not None:
        return value_at(as_root(value._get_root()), value._get_full_key(None))  # its references may lead outside of it
    return as_container(value)


def as_node(cfg: Any) -> Node:
    """A config's root as a node: a plain dict or an OmegaConf config becomes one.

    Raises:
        ConfigError: it is not a mapping.
    """
    node = as_root(cfg)
    if not isinstance(node, Node):
        raise ConfigError(f"A config is a mapping, got {type(cfg).__name__}.")
    return node
