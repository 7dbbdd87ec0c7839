"""Lists and tuples of a config. As a `Node` they resolve references when they are read, and adopt what is put in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

from ultravid.config.copying import adopt, copy_of, own_child
from ultravid.config.pickling import reduced
from ultravid.config.plain_data import same
from ultravid.config.references import is_reference, resolve
from ultravid.config.tree import DELETED, Container, Origin, Record, caller, forget_settings, note_setting

__all__ = ["ListNode", "TupleNode"]


class ListNode(list[Any], Container, replaces=list):
    """A list of a config.

    Args:
        values: the items; a node that belongs to another config already is copied.
    """

    __slots__ = ("_origin", "_record", "_up")

    _up: Container | None
    _origin: Origin | None
    _record: Record | None

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self._up = None
        self._origin = None
        self._record = None
        written = list.__iter__(values) if isinstance(values, ListNode) else values
        super().__init__(adopt(v, self) for v in written)

    @classmethod
    def _make(cls, pairs: Iterable[tuple[Any, Any]], origin: Origin | None) -> Self:
        node = cls(value for _, value in pairs)
        node._origin = origin
        return node

    # Reading resolves.
    def __getitem__(self, index: Any) -> Any:
        value = list.__getitem__(self, index)
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return resolve(value, self, index) if is_reference(value) else value

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(list.__iter__(self)):
            yield resolve(value, self, index) if is_reference(value) else value

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])

    def __contains__(self, value: Any) -> bool:
        return value in list(self)

    def index(self, value: Any, *bounds: Any) -> int:
        """First index of a resolved value."""
        return list(self).index(value, *bounds)

    def count(self, value: Any) -> int:
        """How often a resolved value occurs."""
        return list(self).count(value)

    def __add__(self, other: Any) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Any) -> list[Any]:
        return [*other, *self]

    def __mul__(self, number: Any) -> list[Any]:
        return list(self) * number

    # Writing adopts, and remembers who wrote.
    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            list.__setitem__(self, index, [adopt(v, self) for v in value])
            forget_settings(self, caller())
        else:
            self.set(index, value, caller())

    def set(self, index: int, value: Any, origin: Origin) -> None:
        """Set an item, as ``node[index] = value`` does, and note where it was set.

        Args:
            index: place of the item; negative ones count from the end.
            value: a node that belongs to another one already is copied.
            origin: the place that `explain` and errors name.

        Raises:
            IndexError: there is no such item.
        """
        index = range(len(self))[index]
        value = adopt(value, self)
        note_setting(self, index, value, origin, list.__getitem__(self, index))
        list.__setitem__(self, index, value)

    def delete_key(self, index: int, origin: Origin) -> None:
        """Delete the item at ``index``, as ``del node[index]`` does; ``origin`` is the place that `explain` and errors name.

        Raises:
            IndexError: there is no such item.
        """
        list.__delitem__(self, index)
        forget_settings(self, origin)

    def __delitem__(self, index: Any) -> None:
        self.delete_key(index, caller())

    def append(self, value: Any) -> None:
        """Add a value at the end."""
        self._extend([value], caller())

    def extend(self, values: Iterable[Any]) -> None:
        """Add several values at the end."""
        self._extend(values, caller())

    def __iadd__(self, values: Iterable[Any]) -> Self:  # type: ignore[misc]
        self._extend(values, caller())
        return self

    def _extend(self, values: Iterable[Any], origin: Origin) -> None:
        for value in [adopt(v, self) for v in values]:
            note_setting(self, len(self), value, origin, DELETED)
            list.append(self, value)

    def insert(self, index: Any, value: Any) -> None:
        """Add a value before an index."""
        list.insert(self, index, adopt(value, self))
        forget_settings(self, caller())

    def pop(self, index: Any = -1) -> Any:
        """Remove the item at ``index``, by default the last one, and return it, resolved.

        Raises:
            IndexError: there is no such item.
        """
        value = self[index]
        removed = list.pop(self, index)
        if isinstance(removed, Container):
            removed._up = None
        forget_settings(self, caller())
        return value

    def remove(self, value: Any) -> None:
        """Remove the first item that equals a value."""
        list.remove(self, value)
        forget_settings(self, caller())

    def clear(self) -> None:
        """Remove every item."""
        list.clear(self)
        forget_settings(self, caller())

    def reverse(self) -> None:
        """Reverse the order."""
        list.reverse(self)
        forget_settings(self, caller())

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort the items as written, that is without resolving references; ``key`` and ``reverse`` as of `list.sort`."""
        list.sort(self, key=key, reverse=reverse)
        forget_settings(self, caller())

    # Copies, pickles, equality.
    def copy(self) -> ListNode:
        """A copy of the whole tree below; live objects are shared."""
        return copy_of(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> ListNode:
        return copy_of(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def __eq__(self, other: object) -> bool:
        """As `Node`'s."""
        return same(self, other) if isinstance(other, list) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not same(self, other) if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class TupleNode(tuple[Any, ...], Container, replaces=tuple):
    """A tuple that holds nodes or references; a tuple of plain values stays a tuple."""

    _up: Container | None
    _origin: Origin | None
    _record: Record | None

    def __new__(cls, values: Iterable[Any] = ()) -> Self:
        """As tuple; the values are adopted."""
        written = tuple.__iter__(values) if isinstance(values, TupleNode) else values
        new = super().__new__(cls, [own_child(v) for v in written])
        new._up = None
        new._origin = None
        new._record = None
        for value in tuple.__iter__(new):
            if isinstance(value, Container):
                value._up = new
        return new

    @classmethod
    def _make(cls, pairs: Iterable[tuple[Any, Any]], origin: Origin | None) -> Self:
        node = cls(value for _, value in pairs)
        node._origin = origin
        return node

    def __getitem__(self, index: Any) -> Any:
        value = tuple.__getitem__(self, index)
        if isinstance(index, slice):
            return tuple(self)[index]
        return resolve(value, self, index) if is_reference(value) else value

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(tuple.__iter__(self)):
            yield resolve(value, self, index) if is_reference(value) else value

    def __contains__(self, value: object) -> bool:
        return value in tuple(self)

    def index(self, value: Any, *bounds: Any) -> int:
        """First index of a resolved value."""
        return tuple(self).index(value, *bounds)

    def count(self, value: Any) -> int:
        """How often a resolved value occurs."""
        return tuple(self).count(value)

    def __copy__(self) -> TupleNode:
        return copy_of(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> TupleNode:
        return copy_of(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def __eq__(self, other: object) -> bool:
        """As `Node`'s."""
        return same(self, other) if isinstance(other, tuple) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not same(self, other) if isinstance(other, tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
