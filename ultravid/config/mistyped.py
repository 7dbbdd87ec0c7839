"""Overrides that were mistyped or changed by a shell or a document: ``key = value``, ``key: value``, “quotes”, Windows line endings.

Arguments are looked at as they arrived, before they are read as overrides; each finding says what to type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ultravid.utils.text import quoted_for_shell

__all__ = ["mistyped"]

_KEY = re.compile(r"(\+\+|\+|)[A-Za-z_][\w.\[\]-]*")
_WITH_BLANKS = re.compile(r"(?P<key>(?:\+\+|\+|)[A-Za-z_][\w.\[\]-]*)\s+=\s*(?P<value>.*)|\s+\S.*", re.DOTALL)
_WITH_COLON = re.compile(r"(?P<key>[A-Za-z_][\w.\[\]-]*):\s*(?P<value>[^=]*)")
_WITH_DASHES = re.compile(r"-+(?P<key>[A-Za-z_][\w.\[\]-]*)(?P<rest>=.*)?", re.DOTALL)
_ITEM_OF_DICT = re.compile(r"[A-Za-z_]\w*:(?!//)\S+")
_CURLY = "“”„‟«»‘’‚‛"  # noqa: RUF001
_INVISIBLE = re.compile("[\u00a0\u2007\u202f\u200b\u200c\u200d\u2060\ufeff]")


def mistyped(arguments: Sequence[str], index: int, has_key: Callable[[str], bool]) -> tuple[str, int]:
    """What is wrong with an argument that was meant as an override, and the number of arguments after it that belong to it.

    Args:
        arguments: all that are taken as overrides.
        index: the index of the one in question.
        has_key: whether the config has a key.

    Returns:
        the message, "" if nothing of these kinds is wrong, and the number.
    """
    text = arguments[index]
    if message := _characters(text):
        return message, 0
    if apart := _braces_apart(arguments, index):
        inner = ",".join(each.partition("=")[2] for each in arguments[index : index + apart + 1])
        whole = f"{text.partition('=')[0]}={{{inner}}}"
        return f"A shell splits braces that are not quoted: write {quoted_for_shell(whole)}.", apart
    if "=" in text and not text.startswith("-") and text[-1] != "=" and not text[0].isspace() and " =" not in text:
        return "", 0  # as nearly all are
    following = list(arguments[index + 1 : index + 3])
    parts = _apart(text, following, has_key)
    if parts:
        shown = " ".join([text, *following[:parts]])
        joined = _joined(text, following[:parts])
        return f"{shown!r} is {parts + 1} arguments: write {quoted_for_shell(joined)}.", parts
    if (found := _WITH_BLANKS.fullmatch(text)) is not None:
        right = f"{found['key']}={found['value']}" if found["key"] else text.strip()
        return f"{text!r} has blanks in the wrong place: write {quoted_for_shell(right)}.", 0
    if (found := _WITH_COLON.fullmatch(text)) is not None and found["value"] and has_key(found["key"]):
        right = f"{found['key']}={found['value']}"
        return f"{text!r} has a colon in place of '=': write {quoted_for_shell(right)}.", 0
    if (found := _WITH_DASHES.fullmatch(text)) is not None:
        right = f"{found['key']}{found['rest'] or '=VALUE'}"
        return f"{text!r} begins with a dash, and an override does not: write {quoted_for_shell(right)}.", 0
    return _word_of_the_one_before(arguments, index, has_key), 0


def _characters(text: str) -> str:
    """The message on characters that look like others, or like nothing."""
    if text.endswith("\r"):
        right = quoted_for_shell(text.rstrip("\r"))
        return f"{text!r} ends with a carriage return, as in a script with Windows line endings: write {right}."
    key, _, value = text.partition("=")
    if not text.isascii():
        if value[:1] in _CURLY and value[:1]:
            inner = value.strip(_CURLY)
            right = f"{key}={inner}" if re.fullmatch(r"[\w./-]+", inner) else f"{key}='{inner}'"
            return f"{text!r} has typographic quotes ({value[0]}): write {quoted_for_shell(right)}."
        if _INVISIBLE.search(key) or _INVISIBLE.match(value) or (value and _INVISIBLE.match(value[-1])):
            found = _INVISIBLE.search(text)
            name = f"U+{ord(found[0]):04X}" if found is not None else ""
            return f"{text!r} has an invisible character ({name}): write {quoted_for_shell(_INVISIBLE.sub('', text))}."
    if value.startswith("="):
        right = value.lstrip("=").strip()
        quoted = f"{key}={right or chr(39) + value + chr(39)}"
        return f"{text!r} has two equals signs: write {quoted_for_shell(quoted)}."
    if not text.strip():
        return f"{text!r} is an empty argument; an override is key=value."
    return ""


def _apart(text: str, following: Sequence[str], has_key: Callable[[str], bool]) -> int:
    """How many of the following arguments belong to this one, which is a key without its value."""
    key = text.rstrip("=:").lstrip("+")
    if not _KEY.fullmatch(text.rstrip("=:")) or not following:
        return 0
    after = following[0]
    if text.endswith("="):
        return 1 if "=" not in after and not has_key(after.lstrip("+~")) else 0
    if after == "=":
        return 2 if len(following) > 1 else 1
    if after.startswith("="):
        return 1
    return 1 if has_key(key) and "=" not in after and not has_key(after.lstrip("+~")) else 0


def _braces_apart(arguments: Sequence[str], index: int) -> int:
    """How many of the following arguments are of one dict with this one: ``key={a:1,b:2}`` arrives as ``key=a:1`` and ``key=b:2``."""
    key = arguments[index].partition("=")[0]
    count = 0
    for text in arguments[index:]:
        name, _, value = text.partition("=")
        if name != key or not _ITEM_OF_DICT.fullmatch(value):
            break
        count += 1
    return max(count - 1, 0)


def _joined(text: str, following: Sequence[str]) -> str:
    value = "".join(following).lstrip("=")
    return f"{text.rstrip('=:')}={value or 'VALUE'}"


def _word_of_the_one_before(arguments: Sequence[str], index: int, has_key: Callable[[str], bool]) -> str:
    """The message on a word behind an override: a text with a blank that had no quotes."""
    text = arguments[index]
    before = arguments[index - 1] if index else ""
    if "=" in text or "=" not in before or before.endswith("=") or text[0] in "+~-" or has_key(text):
        return ""
    first = index - 1
    while first and "=" not in arguments[first]:
        first -= 1
    whole = " ".join(arguments[first : index + 1])
    return f"{text!r} sets nothing. If it belongs to the override before it, write {quoted_for_shell(whole)}."
