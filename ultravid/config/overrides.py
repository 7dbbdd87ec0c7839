"""The command line's overrides, in hydra's grammar: ``key=value``, ``+key=value``, ``++key=value``, ``~key``.

A value may name an object of a config file, ``optimizer=configs_py/common/optim.py:SGD``: it replaces the value as a whole.
A key that was renamed is set by its old name too, with a note.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import PurePath
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
from ultravid.config.loader import load_config_file, load_namespace
from ultravid.config.nodes import ListNode, Node, TupleNode
from ultravid.config.references import is_reference
from ultravid.config.shipped import shipped_config, shipped_names
from ultravid.config.tree import Container, Origin, full_key, join_key, raw_child, raw_children, split_key
from ultravid.config.upgrade import current_key, key_of_plain_value, make_parts, note_override, upgrade_value

__all__ = ["apply_overrides", "override_faults"]

_FILE_OBJECT = re.compile(
    r"(?P<file>(?:[A-Za-z][A-Za-z0-9+.-]*://[^='\"]+|[^:='\"]+)\.(?:py|yaml|yml)):(?P<name>[A-Za-z_][\w.]*)"
)
# A single number or name, as most values are: hydra's grammar read by a regular expression, a hundred times faster.
_WORD = re.compile(
    r"""(?P<int>[+-]?(?:0|[1-9](?:_?[0-9])*))
      | (?P<float>[+-]?(?:(?:(?:0|[1-9](?:_?[0-9])*)\.|(?:0|[1-9](?:_?[0-9])*)?\.[0-9](?:_?[0-9])*)
                     (?:[eE][+-]?[0-9](?:_?[0-9])*)?
                   | (?:0|[1-9](?:_?[0-9])*)[eE][+-]?[0-9](?:_?[0-9])*))
      | (?!(?:inf|nan)$)[A-Za-z_][A-Za-z0-9_-]*""",
    re.VERBOSE | re.IGNORECASE,
)
_UNKNOWN = "unknown key"
_CONSTANTS = {"true": True, "false": False, "null": None}
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
        overrides: of the command line, or of another source.
        origins: where each was given, ``"override ..."``; without them their number and text.
    """
    faults = []
    for number, text in enumerate(overrides, start=1):
        origin = origins[number - 1] if origins else f"override {number}: {text}"
        try:
            _apply(cfg, text, (origin,))
        except ConfigError as error:
            about = _UNKNOWN if isinstance(error, UnknownOverrideError) else ""
            faults.append(Fault(text.partition("=")[0].lstrip("+~"), str(error), origin, about=about))
    return faults


def _apply(cfg: Node, text: str, origin: Origin) -> None:
    sign, key, value = _parse(text)
    if (today := key_of_plain_value(cfg, current_key(cfg, key), value)) != key:
        make_parts(cfg, today, origin)
        old, key, sign = key, today, "++" if sign == "+" else sign  # what had to be added may be there today
    else:
        old = ""
    steps = split_key(key)
    parent, trail = _walk(cfg, steps[:-1], key, origin, create=sign in ("+", "++"))
    last = _step(parent, steps[-1])
    above = functools.reduce(join_key, (int(s) if s.isdecimal() else s for s in steps[:-1]), "")
    present = last in parent if isinstance(parent, Node) else -len(parent) <= last < len(parent)
    if sign == "~":
        if not present:
            raise OverrideError(f"Can't delete {key!r}: there is no such key.{_hint(parent, steps[-1])}")
        if value is not None and parent[last] != value:
            raise OverrideError(f"Can't delete {key!r}: it is {parent[last]!r}, not {value!r}.")
        if isinstance(parent, TupleNode):
            raise OverrideError(f"{above!r} is a tuple: override it as a whole.")
        parent.delete_key(last, origin)
        return
    if not present and not isinstance(parent, Node):
        raise OverrideError(f"{above!r} has {len(parent)} items; there is no index {steps[-1]}.")
    if sign == "" and not present:
        raise UnknownOverrideError(f"Unknown key {key!r}.{_hint(parent, steps[-1])} To add a key, write '+{text}'.")
    if sign == "+" and present:
        raise OverrideError(f"{key!r} exists already; write '{text[1:]}' to set it or '+{text}' to set or add it.")
    _put(parent, last, value, key, origin, may_add=sign == "++", trail=trail)
    if old:
        note_override(parent, last, old)


def _put(
    parent: Container,
    name: Any,
    value: Any,
    key: str,
    origin: Origin,
    may_add: bool,
    trail: Sequence[tuple[Container, Any]] = (),
) -> None:
    """Set a value; a dict is merged into the node that it meets, whose other keys stay.

    ``trail`` holds the containers above the parent, the root first, each with the key that leads to the next.
    """
    old = raw_child(parent, name, None)
    if type(value) is dict and "_target_" not in value:  # an object of a file is a node, and is not merged
        if is_reference(old):
            _refuse_reference(parent, name, key, "")
        if isinstance(old, Node):
            for inner, item in value.items():
                if inner not in old and not may_add:
                    raise UnknownOverrideError(f"Unknown key {f'{key}.{inner}'!r}.{_hint(old, inner)}")
                _put(old, inner, item, f"{key}.{inner}", origin, may_add)
            return
    value = _converted_as(old, value, key)
    above = list(trail)
    while isinstance(parent, TupleNode):  # it can't be changed: replace it
        items = [v for _, v in raw_children(parent)]
        for item in items:
            if isinstance(item, Container):
                item._up = None
        items[name] = value
        value = tuple(items)
        parent, name = above.pop()
    parent.set(name, value, origin)
    upgrade_value(parent, name)


def _converted_as(old: Any, value: Any, key: str) -> Any:
    """The value as the type of the old one, if the command line can't express that: a tuple, a path, an enum's member, a dtype."""
    if isinstance(value, list) and isinstance(old, tuple) and type(old) in (tuple, TupleNode):
        return tuple(value)
    if isinstance(value, dict) and dataclasses.is_dataclass(old):
        raise OverrideError(f"{key!r} is {old!r}, not a node: it has no keys to set.")
    if not isinstance(value, str) or is_reference(value):
        return value
    if isinstance(old, Node) and (value.endswith((".py", ".yaml"))):
        raise OverrideError(f"{value!r} is a file; name an object of it: {key}={value}:NAME.")
    if isinstance(old, PurePath):
        return type(old)(value)
    if isinstance(old, enum.Enum):
        members = type(old).__members__
        if value not in members:
            raise OverrideError(
                f"{key!r} is a {type(old).__name__}, which has no {value!r}.{did_you_mean(value, members)}"
            )
        return members[value]
    if type(old).__module__ == "torch" and type(old).__name__ == "dtype":
        found = getattr(sys.modules["torch"], value.removeprefix("torch."), None)
        if type(found) is not type(old):
            raise OverrideError(f"{key!r} is a torch.dtype, and {value!r} is not one.")
        return found
    return value


@functools.lru_cache(maxsize=1)
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def _parse(text: str) -> tuple[str, str, Any]:
    """(sign, key, value) of an override."""
    split = _SPLIT.match(text)
    if split is None:
        raise OverrideError(f"{text!r} is not an override: write key=value, +key=value, ++key=value or ~key.")
    sign, key, rest = split["sign"], split["key"], split["rest"]
    if rest is None and sign != "~":
        raise OverrideError(f"{text!r} sets nothing: write {text}=value, or ~{key} to delete the key.")
    if rest is not None and rest.strip() == "=":
        raise OverrideError(f"{text!r} has no value: write {key}='' for an empty string, {key}=null for None.")
    if rest is not None and _FILE_OBJECT.fullmatch(rest[1:]):
        return sign, key, _object_of_file(rest[1:])
    if rest is not None and (word := _WORD.fullmatch(rest, 1)):
        return sign, key, _word_value(word)
    # hydra parses the value; its grammar of keys has no [0], so the key is removed first.
    from hydra.errors import HydraException

    parsed = f"{sign}key{rest or ''}"
    try:
        value = _parser().parse_override(parsed).value()
    except HydraException as error:
        raise OverrideError(f"{text!r} does not parse: {_stuck(error, parsed, text)}") from error
    except RecursionError:
        raise OverrideError(f"{text[:40]!r}... does not parse: it is nested too deep.") from None
    return sign, key, _plain(value, text)


def _word_value(word: re.Match[str]) -> Any:
    """The value of a single word in hydra's grammar."""
    text = word[0]
    if word["int"] is not None:
        return int(text)
    if word["float"] is not None:
        return float(text)
    return _CONSTANTS.get(text.lower(), text)


def _stuck(error: Exception, parsed: str, text: str) -> str:
    """The place in the user's text at which the parser got stuck, and the reason if it gives one."""
    cause: Any = error.__cause__
    start = getattr(cause, "startIndex", None)  # the lexer's errors have it, the parser's have a token
    if start is None:
        start = getattr(getattr(cause, "offendingToken", None), "start", None)
    call = re.search(r"while evaluating '(.*?)': (.*)", str(error))
    extra = re.search(r"extraneous input '(.*?)' expecting", str(error))
    if start is None and (found := call or extra):
        start = parsed.rfind(found[1])
    if start is None or start < 0:
        return ". ".join(line for line in str(error).splitlines() if line)
    column = min(max(0, start + len(text) - len(parsed)), len(text))
    if column == len(text):
        return "it ends too early; is a bracket left open?"
    stuck = f"stuck at column {column + 1}, before {text[column:]!r}"
    if call:
        return f"{stuck}: {call[2]}"
    key, _, value = text.partition("=")
    if value.startswith("("):
        return f"{stuck}; write a tuple as [...]"
    if value[:1] in "[{" or "'" in value:
        return stuck
    return f"{stuck}; a text with such characters needs quotes: {key}={value!r}"


def _plain(value: Any, text: str) -> Any:
    """Hydra's values as Python's; a sweep, however deep, is refused."""
    from hydra.core.override_parser.types import Glob, QuotedString, Sweep

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Sweep | Glob):
        raise OverrideError(f"{text!r} is a sweep over several values; an override sets one. Use quotes for a comma.")
    if isinstance(value, dict):
        return {_plain(k, text): _plain(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, text) for v in value]
    return value


def _object_of_file(text: str) -> Any:
    found = _FILE_OBJECT.fullmatch(text)
    assert found is not None
    path = config_path(found["file"])
    if not path.is_file():
        shipped = shipped_config(found["file"])
        if shipped is None and not path.parent.is_dir():
            raise OverrideError(f"File {path} does not exist.{did_you_mean(str(path), shipped_names())}")
        path = shipped or path
    node: Any = load_namespace(path) if path.suffix == ".py" else load_config_file(path)
    for step in found["name"].split("."):
        if isinstance(node, list | tuple) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
            continue
        known = list(node) if isinstance(node, dict) else []
        if step not in known:
            raise OverrideError(
                f"{path} has no {step!r}.{did_you_mean(step, [k for k in known if not k.startswith('_')])}"
            )
        node = node[step]
    return node


def _walk(
    cfg: Node, steps: Sequence[str], key: str, origin: Origin, create: bool
) -> tuple[Container, list[tuple[Container, Any]]]:
    """The container that the steps lead to, and those above it, the root first, each with the key that leads to the next."""
    node: Container = cfg
    trail: list[tuple[Container, Any]] = []
    for step in steps:
        name = _step(node, step)
        raw = raw_child(node, name, None)
        if is_reference(raw):
            _refuse_reference(node, name, key, key[len(full_key(node, name)) :])
        if raw is None and isinstance(node, Node) and name not in node:
            if not create:
                raise UnknownOverrideError(
                    f"Unknown key {key!r}: there is no {full_key(node, name)!r}.{_hint(node, step)}"
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


def _hint(node: Container, step: str) -> str:
    if not isinstance(node, Node):
        return f" It has {len(node)} items."
    place = full_key(node)
    return did_you_mean(step, (k for k in node if not str(k).startswith("_")), f"{place}." if place else "")
