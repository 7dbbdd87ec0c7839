"""References: strings such as ``"${train.max_iter}"`` that mean another value of the same config.

``${a.b}`` counts from the root, ``${..b}`` from the place of the reference; ``${oc.env:NAME,default}`` reads the environment,
``${oc.decode:...}`` reads a text as an override's value is read. A string that is one reference gives the value itself, any other a string.
"""

from __future__ import annotations

import threading
from typing import Any

from ultravid.config.errors import InterpolationError, did_you_mean
from ultravid.config.resolvers import end_of_reference, is_resolver, resolver_value
from ultravid.config.tree import Container, child_key, full_key, raw_child, raw_children, root_of, split_key

__all__ = ["REFERENCE", "is_reference", "owner_of", "ref", "referred_key", "resolve"]

REFERENCE = "${"
"""The beginning of a reference."""

_resolving = threading.local()


def ref(key: str) -> Any:
    """A reference to another key of the same config; the same as the string ``"${key}"``.

    Args:
        key: the key as it is written from the root of the config, ``"train.device"``.

    Returns:
        The string ``"${key}"``, typed as `Any` so that type checkers accept it in place of the value.
    """
    return "${" + key + "}"


def is_reference(value: Any) -> bool:
    """Whether a value is a string with a reference in it."""
    return type(value) is str and REFERENCE in value


def referred_key(value: Any) -> str | None:
    """The key in a string that is one whole reference to a key, ``a.b`` for ``"${a.b}"``; None for anything else."""
    whole = is_reference(value) and value.startswith(REFERENCE) and value.find("}") == len(value) - 1
    return value[2:-1] if whole and ":" not in value else None


def resolve(text: str, container: Container, key: Any) -> Any:
    """The value that a string with references, held by a container under a key, stands for.

    Raises:
        InterpolationError: a reference leads nowhere or in a circle.
    """
    active: list[tuple[Container, Any]] = _resolving.__dict__.setdefault("active", [])
    if any(c is container and k == key for c, k in active):
        chain = [full_key(c, k) for c, k in [*active, (container, key)]]
        raise InterpolationError(f"References lead in a circle: {' -> '.join(chain)}.")
    active.append((container, key))
    try:
        return _substitute(text, container, key)
    finally:
        active.pop()


def owner_of(container: Container, key: Any) -> tuple[Container, Any]:
    """(container, key) that owns a value: where the references that it consists of end."""
    for _ in range(100):  # whoever resolved the value has reported a circle already
        inner = referred_key(raw_child(container, key))
        if inner is None:
            return container, key
        place = _place(inner, container, key)
        if not isinstance(place[0], Container):  # an item of a plain tuple
            return container, key
        container, key = place
    return container, key


def _substitute(text: str, container: Container, key: Any) -> Any:
    parts: list[Any] = []
    position = 0
    while position < len(text):
        start = text.find(REFERENCE, position)
        if start < 0:
            parts.append(text[position:])
            break
        if start > 0 and text[start - 1] == "\\":
            parts.append(text[position : start - 1] + REFERENCE)
            position = start + 2
            continue
        end = _closing_brace(text, start, container, key)
        if start > position:
            parts.append(text[position:start])
        inner = text[start + 2 : end]
        if is_resolver(inner):
            value = resolver_value(inner, full_key(container, key), lambda part: _substitute(part, container, key))
        else:
            inner = str(_substitute(inner, container, key)) if REFERENCE in inner else inner
            owner, step = _place(inner, container, key)
            value = owner[step]
        if start == 0 and end == len(text) - 1:
            return value
        parts.append(str(value))
        position = end + 1
    return "".join(parts)


def _closing_brace(text: str, start: int, container: Container, key: Any) -> int:
    if (end := end_of_reference(text, start)) > 0:
        return end
    raise InterpolationError(f"Reference {text!r} at {full_key(container, key)!r} lacks a closing brace.")


def _place(inner: str, container: Container, key: Any) -> tuple[Container, Any]:
    """(container, key) that a reference means."""
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
        child = child_key(node, step)
        if child is None:
            error = InterpolationError(
                f"Reference '${{{inner}}}' at {full_key(container, key)!r} leads nowhere: "
                f"there is no {step!r}.{_why_absent(node, step)}"
            )
            error.found = _kind_in_file(node, step)
            raise error
        found = (node, child)
    assert found is not None
    return found


def _kind_in_file(node: Any, step: str) -> str:
    """What the config file defines under a name that is not part of the config, as "function"; "" if nothing."""
    record = node._record if isinstance(node, Container) else None
    return record.ignored_names.get(step, "") if record is not None else ""


def _why_absent(node: Any, step: str) -> str:
    """What a message adds about a key that a value does not have; begins with a space."""
    if not isinstance(node, Container):
        return did_you_mean(step, [])
    if kind := _kind_in_file(node, step):
        if kind.startswith("Lazy"):
            return f" In that file it is a {kind} without its arguments: write L(...)(...)."
        return (
            f" In that file it is a {kind}, and only the dicts and nodes that a file defines at its top level are part "
            "of the config."
        )
    above = full_key(node)
    return did_you_mean(step, [k for k, _ in raw_children(node)], f"{above}." if above else "")
