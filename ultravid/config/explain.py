"""The origin of a value: every place that set a key, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ultravid.config.errors import InterpolationError, UnknownKeyError, did_you_mean
from ultravid.config.nodes import Node, as_node
from ultravid.config.provenance import origin_text, place_made, settings_of
from ultravid.config.references import is_reference, referred_key
from ultravid.config.serialize import py_text
from ultravid.config.tree import (
    DELETED,
    Container,
    full_key,
    join_key,
    raw_child,
    raw_children,
    root_of,
    split_key,
    value_at,
)
from ultravid.config.upgrade import current_key, upgrade_notes

__all__ = ["Setting", "explain", "explain_text"]


@dataclass(frozen=True)
class Setting:
    """One setting of a key.

    Attributes:
        value: as written; `DELETED` if the key was deleted.
        where: ``file:line`` or the override that did it; "" if it is not known.
        via: ``file:line`` of the imports through which it came, and of the override that added its parent, in order.
    """

    value: Any
    where: str
    via: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = [f"brought in by {v}" if v.startswith("override ") else f"imported at {v}" for v in self.via]
        return ", ".join([self.where or "an unknown place", *steps])


def explain(cfg: Any, key: str) -> list[Setting]:
    """Every setting of a key, the oldest first; the last one holds.

    Args:
        cfg: the config's root.
        key: full key, ``"train.max_iter"``; one that was renamed may be given by its old name. The settings of a value that
            refers to another key are followed by that key's.

    Raises:
        UnknownKeyError: there is no such key and never was.
    """
    if not key:
        raise UnknownKeyError("No key to explain: it is empty.")
    root = as_node(cfg)
    key = current_key(root, key)
    return list(_history(root, split_key(key), (), key))


def _history(container: Container, steps: list[str], via: tuple[str, ...], key: str) -> Iterator[Setting]:
    step: Any = steps[0]
    if not isinstance(container, Node) or (step not in container and not settings_of(container, step)):
        step = int(step) if step.removeprefix("-").isdecimal() else step
    settings = settings_of(container, step) or [(None, raw_child(container, step, DELETED))]
    if settings == [(None, DELETED)]:
        known = [k for k, _ in raw_children(container)]
        place = full_key(container)
        raise UnknownKeyError(f"Unknown key {key!r}.{did_you_mean(step, known, f'{place}.' if place else '')}")
    via = (*(container._record.via if container._record is not None else ()), *via)
    home = _file(place_made(container))
    for origin, value in settings:
        place = origin_text(origin) if origin is not None else place_made(container, step)
        outer = _outside(place, via, home) if origin is not None else via
        put_in = (place,) if origin is not None and place.startswith("override ") else ()
        if len(steps) == 1 or value is DELETED:
            if isinstance(value, Container) and value._origin is not None:  # it was not made where it was put
                own = value._record.via if value._record is not None else ()
                made = place_made(value)
                yield _setting(value, made, (*own, *put_in, *outer))
            else:
                yield _setting(value, place, outer)
            if len(steps) == 1 and is_reference(value) and value is raw_child(container, step, None):
                yield from _of_owner(container, step)
        elif isinstance(value, Container):
            try:
                yield from list(_history(value, steps[1:], (*put_in, *outer), key))
            except UnknownKeyError:
                if value is raw_child(container, step, None):  # an object that was replaced need not have it
                    raise
        elif type(value) is tuple:  # a plain one, whose items were set with it
            yield _setting(value_at(value, ".".join(steps[1:])), place, outer)
        elif is_reference(value) and isinstance(owner := container[step], Container):
            yield _setting(value, place, outer)
            yield from _history(root_of(owner), [*split_key(full_key(owner)), *steps[1:]], (), key)
        elif value is raw_child(container, step, None):
            raise UnknownKeyError(
                f"Unknown key {key!r}: {full_key(container, step)!r} is {value!r}, which has no keys."
            )


def _of_owner(container: Container, step: Any) -> Iterator[Setting]:
    """The settings of the value that a string, if it is one whole reference, refers to."""
    value = raw_child(container, step)
    inner = referred_key(value)
    if inner is None or inner.startswith("."):
        return
    root = root_of(container)
    if isinstance(root, Node):
        try:
            container[step]
        except InterpolationError:
            return
        yield from explain(root, inner)


def _setting(value: Any, where: str, via: tuple[str, ...]) -> Setting:
    return Setting(value, where, tuple(step for step in dict.fromkeys(via) if step != where))


def _file(place: str) -> str:
    return place.rpartition(":")[0]


def _outside(place: str, via: tuple[str, ...], home: str) -> tuple[str, ...]:
    """The imports that lead outwards from the file of a place; none if the place is outside of them all."""
    if place.startswith("override "):
        return ()
    same = [i for i, step in enumerate(via) if _file(step) == _file(place)]
    if same:
        return via[same[-1] + 1 :]
    return via if _file(place) == home else ()


def explain_text(cfg: Any, key: str) -> str:
    """`explain` as text: the value, then a line for each setting, the notes on it, and the parts of a node.

    Args:
        cfg: the config's root.
        key: the key to explain, ``"optimizer.lr"``; the name that an earlier version gave it is taken too.

    Raises:
        UnknownKeyError: there is no such key.
    """
    cfg = as_node(cfg)
    key = current_key(cfg, key)
    settings = explain(cfg, key)
    lines = [f"{key} = {_shown(settings[-1].value)}"]
    lines += [f"  {number}  {_shown(s.value)}  from {s}" for number, s in enumerate(settings, start=1)]
    node = settings[-1].value
    notes = upgrade_notes(node) if isinstance(node, Container) else [n for n in upgrade_notes(cfg) if n.key == key]
    lines += [f"  note: {note}" for note in notes]
    if isinstance(node, Container):
        lines.append("  its parts:")
        for child, value in raw_children(node):
            found = explain(cfg, join_key(key, child))
            part = next((s for s in reversed(found) if s.value is value), found[-1])
            lines.append(f"    {join_key('', child)} = {_shown(value)}  from {part}")
    return "\n".join(lines)


def _shown(value: Any, most: int = 70) -> str:
    text = "(deleted)" if value is DELETED else py_text(value)
    return text if len(text) <= most else text[: most - 3] + "..."
