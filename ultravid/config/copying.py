"""Puts values into a tree, and copies trees.

A container has one parent. A plain dict, list or tuple becomes a container when it is put in a config, and a node that has a
parent already is copied when it is put in a second place, so that what one config changes never reaches another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from ultravid.config.references import is_reference
from ultravid.config.tree import LEAVES, MISSING, Container, ensure_record, raw_child, raw_children

__all__ = ["adopt", "as_container", "copy_of", "copy_tree", "own_child"]


def adopt(value: Any, parent: Container) -> Any:
    """A value as a child of ``parent``: plain containers become nodes, a node with another parent is copied."""
    if type(value) in LEAVES:
        return value
    value = as_container(value)
    if isinstance(value, Container):
        if value._up is not None or _is_ancestor(value, parent):
            value = _copy_for_second_place(value)
        value._up = parent
    return value


def own_child(value: Any) -> Any:
    """As `adopt`, for a parent that does not exist yet: the child is to be given its parent later."""
    value = as_container(value)
    return _copy_for_second_place(value) if isinstance(value, Container) and value._up is not None else value


def as_container(value: Any) -> Any:
    """A plain dict or list, a tuple that holds one or a reference, or an OmegaConf config as a container; else the value."""
    kind = type(value)
    if kind in LEAVES:
        return value
    if kind is dict:
        return Container._kinds[dict]._make(value.items(), None)
    if kind is list:
        return Container._kinds[list]._make(enumerate(value), None)
    if kind is tuple:
        needs_node = any(
            type(v) in (dict, list, tuple)
            or isinstance(v, Container)
            or is_reference(v)
            or (type(v) is str and v == MISSING)
            for v in value
        )
        return Container._kinds[tuple]._make(enumerate(value), None) if needs_node else value
    if kind.__module__.startswith("omegaconf.") and kind.__name__ in ("DictConfig", "ListConfig"):
        from omegaconf import OmegaConf  # only here: it is slow to import

        return as_container(OmegaConf.to_container(value, resolve=False))
    return value


def _is_ancestor(value: Any, node: Container | None) -> bool:
    while node is not None:
        if node is value:
            return True
        node = node._up
    return False


def _copy_for_second_place(original: Any) -> Any:
    """A copy; the original and the copy remember that they are two, for `ultravid.config.check` to say so."""
    record = ensure_record(original)
    record.copied_from = record.copied_from or object()
    return _copied(original, None)


def copy_of(container: Any, memo: dict[int, Any] | None = None) -> Any:
    """A copy that somebody asked for, of the whole tree below; with a memo the values are deep-copied too.

    The copy has the original's parent, so that its references resolve where the original's do.
    """
    new = _copied(container, None if memo is None else lambda value: _deep_copy(value, memo))
    if new._record is not None:
        new._record.copied_from = None
    return new


def _deep_copy(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) is MappingProxyType:  # Python does not copy one
        return MappingProxyType(copy.deepcopy(dict(value), memo))
    return copy.deepcopy(value, memo)


def copy_tree(root: Any, copy_value: Callable[[Any], Any], copies: dict[int, Any]) -> Any:
    """A copy of the tree of a container without a parent, with the records as they are.

    Args:
        root: the container.
        copy_value: gives the copy of a value that is not a container.
        copies: receives the copy of each container by the original's id.
    """
    return _copied(root, copy_value, copies)


def _copied(container: Any, copy_value: Callable[[Any], Any] | None, copies: dict[int, Any] | None = None) -> Any:
    def copied_value(value: Any) -> Any:
        if isinstance(value, Container):
            child = _copied(value, copy_value, copies)
            child._up = None
            return child
        return value if copy_value is None else copy_value(value)

    pairs = [(key, copied_value(value)) for key, value in raw_children(container)]
    new: Any = type(container)._make(pairs, container._origin)
    if copies is not None:
        copies[id(container)] = new
    if container._record is not None:
        settings = {
            key: [(origin, _copied_setting(value, container, new, key, copy_value)) for origin, value in entries]
            for key, entries in container._record.settings.items()
        }
        new._record = container._record.copy(settings)
    new._up = container._up
    return new


def _copied_setting(
    value: Any, old: Container, new: Container, key: Any, copy_value: Callable[[Any], Any] | None
) -> Any:
    """A value for the record of a copy: the copy's child for the original's, and for an earlier value another copy."""
    if not isinstance(value, Container):
        return value
    if value is raw_child(old, key, None):
        return raw_child(new, key)
    copied = _copied(value, copy_value)
    copied._up = None
    return copied
