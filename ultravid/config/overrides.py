"""Overrides of the command line, in hydra's grammar: ``key=value``, ``+key=value``, ``++key=value``, ``~key``.

``**.key=value`` sets every key of this name (`ultravid.config.everywhere`).
A value may name an object of a config file, ``optimizer=configs_py/common/optim.py:SGD``: it replaces the value as a whole.
A key that was renamed is set by its old name too, with a note.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

from ultravid.config.addresses import config_path
from ultravid.config.errors import (
    ConfigError,
    Fault,
    InterpolationError,
    OverrideError,
    UnknownOverrideError,
    did_you_mean,
)
from ultravid.config.everywhere import everywhere, is_everywhere
from ultravid.config.loader import load_config_file, load_namespace
from ultravid.config.migrations import PLAIN_VALUES
from ultravid.config.mistyped import mistyped
from ultravid.config.nodes import ListNode, Node, TupleNode
from ultravid.config.override_values import Place, Typed, common_example, fitted, is_text, parse_value, untyped
from ultravid.config.references import is_reference
from ultravid.config.shipped import shipped_config, shipped_names
from ultravid.config.suggestions import unknown_key_hint
from ultravid.config.tree import (
    CONTROL_KEYS,
    MISSING,
    RESERVED_KEYS,
    Container,
    Origin,
    child_key,
    full_key,
    join_steps,
    raw_child,
    raw_children,
    split_key,
)
from ultravid.config.upgrade import current_key, key_of_plain_value, make_parts, note_override, upgrade_value
from ultravid.utils.text import quoted_for_shell

__all__ = ["apply_overrides", "has_current_key", "override_faults", "plain_setting", "split_override"]

_FILE_OBJECT = re.compile(
    r"(?P<file>(?:[A-Za-z][A-Za-z0-9+.-]*://[^='\"]+|[^:='\"]+)\.(?:py|yaml|yml)):(?P<name>[A-Za-z_][\w.]*)"
)
_UNKNOWN = "unknown key"
_SPLIT = re.compile(r"^(?P<sign>\+\+|\+|~|)(?P<key>[^=~+\s][^=\s]*?)(?P<rest>=.*)?$", re.DOTALL)


def apply_overrides(cfg: Node, overrides: Sequence[str]) -> Node:
    """Apply overrides in order, in place.

    Raises:
        OverrideError: some do not parse or do not fit; the message names all of them. The others have been applied. It is
            an `UnknownKeyError` too if one of them sets a key that the config does not have.
    """
    if isinstance(overrides, str):
        raise OverrideError(f"Overrides are a list of strings, not one: [{overrides!r}].")
    faults = override_faults(cfg, overrides)
    if faults:
        kind = UnknownOverrideError if any(f.about == _UNKNOWN for f in faults) else OverrideError
        raise kind("\n".join(f"{f.message} ({f.where})" for f in faults))
    return cfg


def override_faults(cfg: Node, overrides: Sequence[str], origins: Sequence[str] = ()) -> list[Fault]:
    """Apply overrides in place and return a fault for each that could not be applied.

    Args:
        cfg: the config.
        overrides: the overrides of the command line, or of another source.
        origins: where each was given, ``"override ..."``; without them their number and text.
    """
    faults = []
    skipped = 0  # arguments that belong to the one before
    for number, text in enumerate(overrides, start=1):
        if skipped:
            skipped -= 1
            continue
        origin = origins[number - 1] if origins else f"override {number}: {text}"
        try:
            message, skipped = mistyped(overrides, number - 1, functools.partial(_has, cfg))
            if message:
                raise OverrideError(message)
            _apply_anywhere(cfg, text, (origin,))
        except ConfigError as error:
            about = _UNKNOWN if isinstance(error, UnknownOverrideError) else ""
            faults.append(Fault(text.partition("=")[0].lstrip("+~"), str(error), origin, about=about))
    return faults


def has_current_key(cfg: Node, text: str) -> bool:
    """Whether an override names a key as it is called today, not as an earlier version called it."""
    try:
        _, key, typed = split_override(text)
        return _current_key(cfg, key, typed) == key
    except ConfigError:
        return False


def plain_setting(cfg: Node, text: str) -> tuple[Node, Any, Any] | None:
    """What an override would do if it replaces one plain value by another; nothing is changed.

    Returns:
        the node, the key in it and the new value; None if the override does anything else (adds, deletes, names an object or several
        keys, sets or replaces a reference), or can't be applied.
    """
    try:
        sign, key, typed = split_override(text)
        if sign or typed is None or not typed.strip() or is_everywhere(key) or _current_key(cfg, key, typed) != key:
            return None
        parent, _ = _walk(cfg, split_key(key), key, (), typed, create=False)
        last = _step(parent, split_key(key)[-1])
        old = raw_child(parent, last, None) if last in parent else MISSING
        if not isinstance(parent, Node) or type(old) not in _PLAIN or old == MISSING or is_reference(old):
            return None
        value = fitted(old, _value(key, typed, old), Place(parent, last, key, typed=typed))
    except ConfigError:
        return None
    is_plain = type(value) in _PLAIN and value != MISSING and not is_reference(value)
    return (parent, last, value) if is_plain and last not in RESERVED_KEYS | CONTROL_KEYS else None


_PLAIN = (bool, int, float, str, type(None))


def _has(cfg: Node, key: str) -> bool:
    """Whether a config has a key."""
    try:
        steps = split_key(key)
    except ConfigError:
        return False
    value: Any = cfg
    for step in steps:
        found = child_key(value, step) if isinstance(value, Container) else None
        if found is None:
            return False
        value = raw_child(value, found)
    return True


def _current_key(cfg: Node, key: str, typed: str | None) -> str:
    """Today's key for one of an earlier version, or for one that held a plain value before it held an object."""
    today = current_key(cfg, key)
    if typed is None or today.rpartition(".")[2] not in PLAIN_VALUES:
        return today
    return key_of_plain_value(cfg, today, untyped(_value(key, typed, None)))


def _apply_anywhere(cfg: Node, text: str, origin: Origin) -> None:
    """Apply an override to its key, or to every key that a pattern such as ``**.dropout`` means; then also report them."""
    sign, pattern, typed = split_override(text)
    if not is_everywhere(pattern):
        _apply(cfg, text, origin)
        return
    if sign in ("+", "++"):
        last = pattern.rpartition("**.")[2]
        raise OverrideError(
            f"{text!r} would add a key, and '**' does not say where: write {quoted_for_shell(text.lstrip('+'))} to set the key wherever "
            f"it stands, or {quoted_for_shell(f'{sign}PLACE.{last}={typed}')} to add it at one place."
        )
    found = everywhere(cfg, pattern, typed)
    messages = [
        f"{key!r} has a dot in one of its names, so no override reaches it."
        for key in found.values
        if not _has(cfg, key)
    ]
    rest = "" if typed is None else f"={typed}"
    done = []
    for key in found.values:
        if not _has(cfg, key):  # it was in a value that has been replaced
            continue
        done.append(key)
        try:
            _apply(cfg, f"{sign}{key}{rest}", origin)
        except OverrideError as error:
            messages.append(str(error))
    if messages:
        raise OverrideError("\n".join(messages))
    found.report(str(origin[0]), sign, done, rest[1:])


def _apply(cfg: Node, text: str, origin: Origin) -> None:
    sign, key, typed = split_override(text)
    if (today := _current_key(cfg, key, typed)) != key:
        make_parts(cfg, today, origin)
        old, key, sign = key, today, "++" if sign == "+" else sign  # what had to be added may be there today
    else:
        old = ""
    steps = split_key(key)
    parent, trail = _walk(cfg, steps, key, origin, typed, create=sign in ("+", "++"))
    last = _step(parent, steps[-1])
    above = join_steps(steps[:-1])
    present = last in parent if isinstance(parent, Node) else -len(parent) <= last < len(parent)
    if sign == "~":
        if not present:
            raise OverrideError(f"Can't delete {key!r}: there is no such key.{unknown_key_hint(parent, steps[-1])}")
        if typed is not None and parent[last] != (value := untyped(_value(key, typed, parent[last]))):
            raise OverrideError(f"Can't delete {key!r}: it is {parent[last]!r}, not {value!r}.")
        if isinstance(parent, TupleNode):
            raise OverrideError(f"{above!r} is a tuple: override it as a whole.")
        parent.delete_key(last, origin)
        return
    assert typed is not None
    if not typed.strip():
        raise OverrideError(_no_value(text, f"{sign}{key}", parent, last))
    if not present and not isinstance(parent, Node):
        if last != len(parent) or sign == "":
            raise OverrideError(_no_index(parent, above, last, typed))
        _put(parent, last, _value(key, typed, None), key, origin, may_add=True, trail=trail, typed=typed)
        return
    if sign == "" and not present:
        items = raw_child(parent, key_of_sum, None) if (key_of_sum := str(last).removesuffix("+")) != last else None
        if isinstance(items, ListNode | TupleNode):  # names+=x
            raise UnknownOverrideError(f"Unknown key {key!r}.{_to_append(items, key[:-1], typed)}")
        hint = unknown_key_hint(parent, steps[-1], (), _fitting_text(parent, last, key, typed))
        add = "" if "dd it with" in hint else f" To add a key, write {quoted_for_shell(f'+{text}')}."
        raise UnknownOverrideError(f"Unknown key {key!r}.{hint}{add}")
    if sign == "+" and present:
        also = "" if isinstance(parent, Node) else _to_append(parent, above, typed)
        raise OverrideError(
            f"{key!r} exists already; write {quoted_for_shell(text[1:])} to set it or {quoted_for_shell(f'+{text}')} to set or add it.{also}"
        )
    value = _value(key, typed, raw_child(parent, last, None))
    _put(parent, last, value, key, origin, may_add=sign == "++", trail=trail, typed=typed)
    if old:
        note_override(parent, last, old)


def _fitting_text(parent: Container, name: Any, key: str, typed: str) -> str:
    """What was typed for a key that may be added, if it can be its value."""
    try:
        fitted(None, _value(key, typed, None), Place(parent, name, key))
    except ConfigError:
        return "VALUE"
    return typed


def _no_value(text: str, key: str, parent: Container, last: Any) -> str:
    old = raw_child(parent, last, None)
    ways = []
    if is_text(old):
        ways.append(f"""{quoted_for_shell(f"{key}=''")} for an empty text""")
    if not isinstance(old, bool | int | float) or Place(parent, last, key).agrees(None):
        ways.append(f"{quoted_for_shell(f'{key}=null')} for None")
    return f"{text!r} has no value: write {', '.join(ways) or quoted_for_shell(f'{key}=VALUE')}."


def _no_index(items: Container, above: str, index: int, typed: str) -> str:
    return f"{above!r} has {len(items)} items; there is no index {index}.{_to_append(items, above, typed)}"


def _to_append(items: Container, above: str, typed: str) -> str:
    return f" To append an item, write {quoted_for_shell(f'+{above}.{len(items)}={typed}')}."


def _put(
    parent: Container,
    name: Any,
    value: Any,
    key: str,
    origin: Origin,
    may_add: bool,
    trail: Sequence[tuple[Container, Any]] = (),
    typed: str = "",
) -> None:
    """Set a value; a dict is merged into the node that it meets, whose other keys stay.

    ``trail`` holds the containers above the parent, the root first, each with the key that leads to the next; ``typed`` is the
    value's text, if it is that of the whole override.
    """
    old = raw_child(parent, name, None)
    if type(value) is dict and _is_merged(value):
        if is_reference(old):
            _refuse_reference(parent, name, key, "")
        if isinstance(old, Node):
            for inner, item in value.items():
                if inner not in old and not may_add:
                    text = item.text if isinstance(item, Typed) else "VALUE"
                    raise UnknownOverrideError(
                        f"Unknown key {f'{key}.{inner}'!r}.{unknown_key_hint(old, str(inner), (), text)}"
                    )
                _put(old, inner, item, f"{key}.{inner}", origin, may_add)
            return
    if isinstance(parent, ListNode | TupleNode) and name == len(parent):
        old = common_example([v for _, v in raw_children(parent)])
    is_new = isinstance(parent, Node) and name not in parent
    value = fitted(old, value, Place(parent, name, key, typed=typed, sign="+" if is_new else ""))
    above = list(trail)
    while isinstance(parent, TupleNode):  # it can't be changed: replace it
        items = [v for _, v in raw_children(parent)]
        for item in items:
            if isinstance(item, Container):
                item._up = None
        items[name : name + 1] = [value]  # one at the end is added
        value = tuple(items)
        parent, name = above.pop()
    if isinstance(parent, ListNode) and name == len(parent):
        parent._extend([value], origin)
    else:
        parent.set(name, value, origin)
    upgrade_value(parent, name)


def _is_merged(value: dict[Any, Any]) -> bool:
    """Whether a dict changes some keys of a node; a call, or an object by its name, replaces the node."""
    return "_target_" not in value and not (len(value) == 1 and not RESERVED_KEYS.isdisjoint(value))


def split_override(text: str) -> tuple[str, str, str | None]:
    """(sign, key, text of the value) of an override; None for the value if there is no ``=``."""
    split = _SPLIT.match(text)
    if split is None:
        raise OverrideError(f"{text!r} is not an override: write key=value, +key=value, ++key=value or ~key.")
    sign, key, rest = split["sign"], split["key"], split["rest"]
    if rest is None and sign != "~":
        raise OverrideError(
            f"{text!r} sets nothing: write {quoted_for_shell(f'{text}=VALUE')}, or {quoted_for_shell(f'~{key}')} to delete the key."
        )
    return sign, key, None if rest is None else rest[1:]


def _value(key: str, typed: str, old: Any) -> Any:
    """The value that was typed: an object of a config file, or what hydra's grammar makes of it."""
    if (found := _file_and_name(typed)) is not None:
        try:
            return _object_of_file(*found)
        except ConfigError as error:
            if isinstance(old, str) and old != MISSING:
                text = quoted_for_shell(f"{key}='{typed}'")
                raise OverrideError(f"{error} For this text write {text}.") from error
            raise
    return parse_value(key, typed, old)


def _file_and_name(typed: str) -> tuple[str, str] | None:
    """The parts of ``file.py:NAME``; a file whose path has a character of the grammar (``lr=0.1/run.py:model``) has to be there."""
    if (found := _FILE_OBJECT.fullmatch(typed)) is not None:
        return found["file"], found["name"]
    file, colon, name = typed.rpartition(":")
    is_name = colon and all(part.isidentifier() for part in name.split("."))
    return (file, name) if is_name and file.endswith((".py", ".yaml", ".yml")) and os.path.isfile(file) else None


def _object_of_file(file: str, name: str) -> Any:
    path = config_path(file)
    if not path.is_file():
        shipped = shipped_config(file)
        if shipped is None and not path.parent.is_dir():
            raise OverrideError(f"File {path} does not exist.{did_you_mean(str(path), shipped_names())}")
        path = shipped or path
    node: Any = load_namespace(path) if path.suffix == ".py" else load_config_file(path)
    for step in name.split("."):
        if isinstance(node, list | tuple) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
            continue
        if isinstance(node, type) and hasattr(node, step):  # Net.Inner
            node = getattr(node, step)
            continue
        known = list(node) if isinstance(node, dict) else []
        if step not in known:
            raise OverrideError(
                f"File {path} has no {step!r}.{did_you_mean(step, [k for k in known if not k.startswith('_')])}"
            )
        node = node[step]
    return node


def _walk(
    cfg: Node, steps: Sequence[str], key: str, origin: Origin, typed: str | None, create: bool
) -> tuple[Container, list[tuple[Container, Any]]]:
    """The container that holds what the steps lead to, and those above it, each with the key that leads to the next."""
    node: Container = cfg
    trail: list[tuple[Container, Any]] = []
    for number, step in enumerate(steps[:-1], start=1):
        name = _step(node, step)
        if not isinstance(node, Node) and not -len(node) <= name < len(node):
            raise OverrideError(f"{full_key(node)!r} has {len(node)} items; there is no index {name}.")
        raw = raw_child(node, name, None)
        if is_reference(raw):
            _refuse_reference(node, name, key, key[len(full_key(node, name)) :])
        if raw is None and isinstance(node, Node) and name not in node:
            if not create:
                raise UnknownOverrideError(
                    f"Unknown key {key!r}: there is no {full_key(node, name)!r}."
                    f"{unknown_key_hint(node, step, steps[number:], typed)}"
                )
            node.set(name, {}, origin)
            raw = raw_child(node, name, None)
        if type(raw) is tuple:  # a plain one: one of its items is to be replaced
            raw = TupleNode(raw)
            raw._up = node
        if not isinstance(raw, Container):
            raise UnknownOverrideError(f"Unknown key {key!r}: {full_key(node, name)!r} is {raw!r}, which has no keys.")
        trail.append((node, name))
        node = raw
    return node, trail


def _refuse_reference(node: Container, name: Any, key: str, rest: str) -> None:
    """Refuse to set a value through a reference; the message names the key that owns the value."""
    try:
        owner = node[name]
    except InterpolationError as error:
        raise OverrideError(f"Can't override {key!r}: {error}") from error
    if isinstance(owner, Container):
        place, here = full_key(owner), full_key(node, name)
        raise OverrideError(f"{here!r} is a reference to {place!r}, which owns the value: override {place + rest!r}.")


def _step(node: Container, step: str) -> Any:
    if isinstance(node, ListNode | TupleNode):
        if not step.lstrip("-").isdigit():
            raise OverrideError(f"{full_key(node)!r} is a list: {step!r} is not an index of it.")
        return int(step)
    if step not in node and step.lstrip("-").isdigit() and int(step) in node:
        return int(step)
    return step
