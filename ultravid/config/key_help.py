"""Help on the keys of a config: type, value, default, a line of documentation, and the place that set it."""

from __future__ import annotations

import functools
import inspect
import io
import os
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.config.errors import ConfigError, UnknownKeyError
from ultravid.config.file_version import BESIDE_THE_RUN
from ultravid.config.instantiate import locate
from ultravid.config.loader import own_project
from ultravid.config.nodes import Node, TupleNode, as_node
from ultravid.config.provenance import where
from ultravid.config.references import is_reference, owner_of, referred_key
from ultravid.config.serialize import py_text, target_text
from ultravid.config.suggestions import unknown_key_hint
from ultravid.config.tree import (
    CONTROL_KEYS,
    Container,
    full_key,
    raw_child,
    raw_children,
    walk,
)
from ultravid.config.value_types import Parameters, parameters_of, type_text

__all__ = ["KeyHelp", "argument_doc", "first_sentence", "help_text", "helps_as_text", "key_helps", "target_of_call"]


@dataclass(frozen=True)
class KeyHelp:
    """What is known of one key; a text is "" if it is not known.

    Attributes:
        key: full key.
        value: as written, as Python-like code; of a dict "".
        type: what the arguments that it sets accept; without an annotation the type of the value.
        default: what the argument is if it is not given, as Python-like code.
        doc: the first sentence about the argument in its target's docstring; of a call whose argument has none, of the target.
        comment: that of the config file at the key.
        where: ``file:line`` or override that set it last.
        also_takes: of a call, the arguments that are not written: ``name: type = default``.
    """

    key: str
    value: str
    type: str
    default: str
    doc: str
    comment: str
    where: str
    also_takes: tuple[str, ...] = ()


def key_helps(cfg: Any, prefix: str = "") -> list[KeyHelp]:
    """Help for every key of a config, in its order.

    Args:
        cfg: the config's root.
        prefix: only this key and those below it; if there is no such key, those that begin with this text.

    Raises:
        UnknownKeyError: no key begins so.
    """
    root = as_node(cfg)
    with own_project(root):
        places = list(_places(root))
        chosen = [p for p in places if _is_below(p[0], prefix)] or [p for p in places if p[0].startswith(prefix)]
        if not chosen:
            raise UnknownKeyError(f"Unknown key {prefix!r}.{_hint(root, prefix)}")
        users = _users(root)
        return [_help(key, container, name, users) for key, container, name in chosen]


def _places(container: Container) -> Iterator[tuple[str, Container, Any]]:
    """(full key, container, key in it) of all values; lists without dicts or calls in them count as one."""
    for name, value in raw_children(container):
        if name in CONTROL_KEYS or (container._up is None and name in BESIDE_THE_RUN):
            continue
        yield full_key(container, name), container, name
        if isinstance(value, Container) and _has_keys(value):
            yield from _places(value)


def _has_keys(container: Container) -> bool:
    if isinstance(container, Node):
        return not _is_object(container)
    return any(isinstance(value, Container) for _, value in raw_children(container))


def _is_object(node: Node) -> bool:
    return len(node) == 1 and "_object_" in node


def _is_below(key: str, prefix: str) -> bool:
    return not prefix or key == prefix or key.startswith((f"{prefix}.", f"{prefix}["))


def _hint(root: Node, prefix: str) -> str:
    steps = re.findall(r"[^.\[\]]+", prefix)
    node: Any = root
    for index, step in enumerate(steps):
        found = raw_child(node, step, None) if isinstance(node, Node) else None
        if not isinstance(found, Container):
            return unknown_key_hint(node, step, steps[index + 1 :]) if isinstance(node, Node) else ""
        node = found
    return ""


_Users = dict[tuple[int, Any], list[tuple[Container, Any]]]


def _users(root: Node) -> _Users:
    """Owner's (id, key) -> places of the references to it."""
    found: _Users = {}
    for container in walk(root):
        for key, value in raw_children(container):
            if referred_key(value) is None:
                continue
            try:
                owner, own_key = owner_of(container, key)
            except ConfigError:  # the check reports it
                continue
            if (owner, own_key) != (container, key):
                found.setdefault((id(owner), own_key), []).append((container, key))
    return found


def _help(key: str, container: Container, name: Any, users: _Users) -> KeyHelp:
    value = raw_child(container, name)
    call = target_of_call(value) if isinstance(value, Node) else None
    types, default, doc = [], "", ""
    for place, argument in [(container, name), *users.get((id(container), name), ())]:
        found = _argument(place, argument)
        if found is None:
            continue
        takes, parameter, target = found
        types.append(_type_text(takes, parameter))
        default = default or (py_text(parameter.default) if _has_default(parameter) else "")
        doc = doc or argument_doc(target, parameter.name)
    if not doc and call is not None:
        doc = first_sentence(inspect.getdoc(call) or "")
    place = where(container, name)
    return KeyHelp(
        key,
        _value_text(container, name, value),
        " & ".join(dict.fromkeys(filter(None, types))) or _type_of(value),
        default,
        doc,
        _comment(place),
        place,
        tuple(_also_takes(value, call)) if call is not None and isinstance(value, Node) else (),
    )


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty and parameter.default is not ...


def target_of_call(node: Node) -> Callable[..., Any] | None:
    """The callable of a call; None if the node is not one, or its target can't be imported."""
    if "_target_" not in node:
        return None
    try:
        target = node["_target_"]
        target = locate(target) if isinstance(target, str) else target
    except ConfigError:
        return None
    return target if callable(target) and not isinstance(target, Container) else None


def _parameters(target: Callable[..., Any]) -> Parameters | None:
    try:
        return parameters_of(target)
    except (TypeError, ValueError):
        return None


def _argument(container: Container, name: Any) -> tuple[Parameters, inspect.Parameter, Callable[..., Any]] | None:
    """The parameter of the target that a value is an argument of; None if it is not one."""
    positional = isinstance(container, Container) and not isinstance(container, Node)
    call = container._up if positional else container
    if not isinstance(call, Node) or (positional and raw_child(call, "_args_", None) is not container):
        return None
    target = target_of_call(call)
    takes = _parameters(target) if target is not None else None
    if target is None or takes is None:
        return None
    if positional:
        parameter = takes.positional[name] if name < len(takes.positional) else takes.any_number
    else:
        parameter = takes.by_name.get(name) or takes.any_name
    return (takes, parameter, target) if parameter is not None else None


def _type_text(takes: Parameters, parameter: inspect.Parameter) -> str:
    annotation = takes.annotations.get(parameter.name)
    return "" if annotation is None else type_text(annotation)


def _type_of(value: Any) -> str:
    if isinstance(value, Node):
        return "" if "_target_" in value else "dict"
    if value is None or is_reference(value):
        return ""
    return (
        "tuple" if isinstance(value, TupleNode | tuple) else "list" if isinstance(value, list) else type(value).__name__
    )


def _value_text(container: Container, name: Any, value: Any) -> str:
    if isinstance(value, Node) and not _is_object(value):
        return f"{target_text(value.raw['_target_'])}(...)" if "_target_" in value else ""
    text = py_text(value)
    if is_reference(value):
        try:
            found = container[name]
        except ConfigError as error:
            return f"{text}, which leads nowhere: {error}"
        if not isinstance(found, Container):
            text += f", which is {py_text(found)}"
    return text


def _also_takes(node: Node, target: Callable[..., Any]) -> Iterator[str]:
    takes = _parameters(target)
    if takes is None:
        return
    by_position = {p.name for p in takes.positional[: len(node.get("_args_", ()))]} if "_args_" in node else set()
    for parameter in takes.by_name.values():
        if parameter.name not in node and parameter.name not in by_position:
            kind = _type_text(takes, parameter)
            default = f" = {py_text(parameter.default)}" if _has_default(parameter) else ""
            yield f"{parameter.name}{f': {kind}' if kind else ''}{default}"


# --- documentation ----------------------------------------------------------------------------------------------------------

_ENTRY = re.compile(r"(?P<indent>\s*)\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)")


def argument_doc(target: Callable[..., Any], name: str) -> str:
    """The first sentence about an argument in a target's docstring, or in that of its constructor or of a class above."""
    kinds = target.__mro__ if isinstance(target, type) else (target,)
    for each in kinds:
        for holder in (each, vars(each).get("__init__") if isinstance(each, type) else None):
            if text := _documented(inspect.cleandoc(getattr(holder, "__doc__", None) or "")).get(name):
                return text
    return ""


@functools.lru_cache(maxsize=512)
def _documented(docstring: str) -> dict[str, str]:
    """The first sentence about each argument in the section ``Args`` of a docstring."""
    found: dict[str, list[str]] = {}
    lines = iter(docstring.splitlines())
    for line in lines:
        if re.fullmatch(r"(?:Args|Arguments|Parameters|Attributes):\s*", line.strip()):
            indent = len(line) - len(line.lstrip())
            _read_entries(lines, indent, found)
    return {name: first_sentence(" ".join(text)) for name, text in found.items()}


def _read_entries(lines: Iterator[str], outer: int, found: dict[str, list[str]]) -> None:
    """Read the entries of a section, up to the first line that is not indented more than its title."""
    entry_indent: int | None = None
    current: list[str] | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= outer:
            return
        match = _ENTRY.fullmatch(line)
        if match is not None and (entry_indent is None or indent == entry_indent):
            entry_indent = indent
            current = found.setdefault(match["name"], [])
            current.append(match["text"])
        elif current is not None and line.strip():
            current.append(line.strip())


def first_sentence(text: str) -> str:
    """The first sentence of a text, without the marks of reStructuredText."""
    plain = re.sub(r":[\w:]+:`~?\.?([^`]+)`", r"\1", text.strip().partition("\n\n")[0])
    plain = " ".join(plain.replace("``", "").split())
    return re.split(r"(?<=[a-z0-9)\]'\"])\. (?=[A-Z`])", plain, maxsplit=1)[0].rstrip(".")


def _comment(place: str) -> str:
    """The comment behind a line of a config file, or on the lines above it."""
    file, _, line = place.rpartition(":")
    if not line.isdecimal() or place.startswith("override ") or not file:
        return ""
    comments, alone = _comments(file)
    number = int(line)
    if number in comments and number not in alone:
        return comments[number]
    above = []
    while number - 1 in alone:
        number -= 1
        above.append(comments[number])
    return " ".join(reversed(above))


@functools.lru_cache(maxsize=64)
def _comments(file: str) -> tuple[dict[int, str], frozenset[int]]:
    """(comments of a file by their line, lines that hold nothing else)."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return {}, frozenset()
    found: dict[int, str] = {}
    if file.endswith(".py"):
        try:
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                if token.type == tokenize.COMMENT:
                    found[token.start[0]] = token.string
        except (tokenize.TokenError, SyntaxError):
            return {}, frozenset()
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            if (mark := re.search(r"(?:^|\s)(#[^'\"]*)$", line)) is not None:
                found[number] = mark[1]
    lines = text.splitlines()
    alone = frozenset(number for number in found if lines[number - 1].lstrip().startswith("#"))
    plain = {
        n: re.sub(r"^\s*-{2,}|-{2,}\s*$|\s*#?\s*(?:noqa|type:|pragma)\b.*", "", c.lstrip("#!")).strip()
        for n, c in found.items()
    }
    return {n: c for n, c in plain.items() if c}, alone & {n for n, c in plain.items() if c}


# --- as text ----------------------------------------------------------------------------------------------------------------


def help_text(cfg: Any, prefix: str = "", width: int = 100) -> str:
    """`key_helps` as lines of at most so many characters, but for a key that is longer.

    Raises:
        UnknownKeyError: no key begins with the prefix.
    """
    return helps_as_text(key_helps(cfg, prefix), width)


def helps_as_text(helps: Iterable[KeyHelp], width: int = 100) -> str:
    """Help for keys as lines of at most so many characters."""
    lines: list[str] = []
    for each in helps:
        lines += _shortened_head(each, width)
        facts = [each.type, f"default {_short(each.default)}" if each.default else ""]
        lines += _wrapped(", ".join(filter(None, facts)), width)
        lines += _wrapped(each.doc, width)
        lines += _wrapped(f"# {each.comment}" if each.comment else "", width)
        lines += _wrapped(_set_by(each.where), width)
        lines += _wrapped(f"also takes {', '.join(each.also_takes)}" if each.also_takes else "", width)
    return "\n".join(lines)


def _shortened_head(each: KeyHelp, width: int) -> list[str]:
    if not each.value:
        return [each.key]
    line = f"{each.key} = {each.value}"
    if len(line) <= width:
        return [line]
    rest = textwrap.wrap(each.value, width - 4, break_on_hyphens=False)
    shown = rest if len(rest) <= 3 else [*rest[:2], f"{rest[2][: width - 8]} ..."]
    return [f"{each.key} =", *(f"    {line}" for line in shown)]


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False, break_long_words=True
    )


def _set_by(place: str) -> str:
    """What set a value: an override, or a line of a file, whose path is shown from the current folder if it is below it."""
    if place.startswith("override "):
        return f"set by {place}"
    return f"set at {place.replace(f'{os.getcwd()}{os.sep}', '')}" if place else ""
