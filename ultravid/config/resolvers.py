"""References with a colon, as OmegaConf's resolvers of the same names: ``${oc.env:NAME,default}``, ``${oc.decode:text}``.

Their arguments are separated by commas. One in quotes is what stands between them; elsewhere a backslash keeps a comma, a colon,
a quote or a blank as it is.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from ultravid.config.errors import InterpolationError, did_you_mean

__all__ = ["end_of_reference", "is_resolver", "resolver_value"]

_CALL = re.compile(r"\s*[A-Za-z_][\w.]*\s*:")
_ESCAPED = re.compile(r"\\([\\,:'\"{}\[\]()= \t])")


def is_resolver(inner: str) -> bool:
    """Whether the text between ``${`` and ``}`` calls a resolver, and is not a key."""
    return _CALL.match(inner) is not None


def end_of_reference(text: str, start: int) -> int:
    """The index of the ``}`` that closes the ``${`` at an index, -1 if there is none; braces in quotes do not count."""
    depth, index = 0, start
    while index < len(text):
        if text.startswith("${", index):
            depth, index = depth + 1, index + 2
            continue
        if text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        elif text[index] in "'\"" and text[start:index].rstrip()[-1:] in (",", ":"):
            index = _end_of_quotes(text, index)
        index += 1
    return -1


def _end_of_quotes(text: str, start: int) -> int:
    """The index of the quote that closes the one at an index; of the same one if none does."""
    closing = re.compile(rf"(?:[^\\{text[start]}]|\\.)*{text[start]}", re.DOTALL).match(text, start + 1)
    return closing.end() - 1 if closing is not None else start


def resolver_value(inner: str, where: str, value_of: Callable[[str], Any]) -> Any:
    """The value of a call of a resolver.

    Args:
        inner: ``name:arguments``.
        where: the full key of the value that holds the reference, for messages.
        value_of: gives a text with the references in it replaced; a text that is one reference gives that one's value.

    Raises:
        InterpolationError: there is no such resolver, its arguments are wrong, or it has no value.
    """
    name, _, text = inner.partition(":")
    name = name.strip()
    if name not in _RESOLVERS:
        known = did_you_mean(name, _RESOLVERS)
        raise InterpolationError(
            f"Reference '${{{inner}}}' at {where!r}: no resolver {name!r}; there are {', '.join(_RESOLVERS)}.{known if 'mean' in known else ''}"
        )
    most, resolver = _RESOLVERS[name]
    arguments = [_argument(part, where, value_of) for part in _parts(text, most)]
    return resolver(arguments, where)


def _parts(text: str, most: int) -> Iterator[str]:
    """The arguments as written; what follows the comma before the last one belongs to that, commas and all."""
    start = index = 0
    while index < len(text) and most > 1:
        if text[index] == "\\":
            index += 1
        elif text.startswith("${", index) and (end := end_of_reference(text, index)) > 0:
            index = end
        elif text[index] in "'\"" and not text[start:index].strip():
            index = _end_of_quotes(text, index)
        elif text[index] == ",":
            yield text[start:index]
            start, most = index + 1, most - 1
        index += 1
    yield text[start:]


def _argument(part: str, where: str, value_of: Callable[[str], Any]) -> Any:
    """An argument's value: a text, that of a reference, or None for ``null`` without quotes."""
    text = part.strip()
    if text[:1] in ("'", '"') and text[:1]:
        if len(text) < 2 or _end_of_quotes(text, 0) != len(text) - 1:
            raise InterpolationError(f"{where!r}: {text!r} is not a text in quotes.")
        quote = text[0]
        inside = re.sub(rf"(\\+)(?={quote}|$)", lambda m: "\\" * (len(m[1]) // 2), text[1:-1])
        return str(value_of(inside)) if "${" in inside else inside
    if "${" in text:
        return value_of(text)
    return None if text.lower() == "null" else _ESCAPED.sub(r"\1", text)


def _env(arguments: list[Any], where: str) -> str | None:
    """The text of an environment variable, or the default, which is a text too unless it is null."""
    name = str(arguments[0])
    if name in os.environ:
        return os.environ[name]
    if len(arguments) < 2:
        raise InterpolationError(f"Environment variable {name!r}, which {where!r} refers to, is not set.")
    return None if arguments[1] is None else str(arguments[1])


def _decode(arguments: list[Any], where: str) -> Any:
    """The number, bool, list or dict that a text means in the grammar of overrides; what is not a text stays as it is."""
    (text,) = arguments
    if not isinstance(text, str):
        return text
    from omegaconf import OmegaConf  # only here: few configs need it
    from omegaconf.errors import OmegaConfBaseException
    from omegaconf.grammar_parser import parse

    try:
        alone = OmegaConf.create()  # a text from outside refers to nothing
        value = alone.resolve_parse_tree(parse(text, "singleElement", "VALUE_MODE"), node=alone)
    except (OmegaConfBaseException, ValueError) as error:
        raise InterpolationError(f"{where!r}: oc.decode can't read {text!r}.") from error
    if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
        raise InterpolationError(f"{where!r}: oc.decode reads {text!r}, which is beyond the largest float.")
    return value


# How many arguments each takes at most.
_RESOLVERS: dict[str, tuple[int, Callable[[list[Any], str], Any]]] = {"oc.env": (2, _env), "oc.decode": (1, _decode)}
