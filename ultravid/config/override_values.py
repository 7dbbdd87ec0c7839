"""The value of an override: parsed by hydra's grammar, then converted to the type of the value that it replaces.

What is typed has no types, so the old value decides: where a text was, ``2024`` and ``1e-3`` stay the texts that they are;
where a number or a bool was, a text is refused. If there was no value, or if the new one is of another kind, the annotations
of the arguments that the key sets decide.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import math
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from ultravid.config.errors import ConfigError, OverrideError, did_you_mean
from ultravid.config.instantiate import locate
from ultravid.config.nodes import Node
from ultravid.config.plain_data import as_call
from ultravid.config.references import is_reference, owner_of
from ultravid.config.targets import target_name
from ultravid.config.tree import MISSING, Container, full_key, key_in_parent, raw_child, raw_children, root_of, walk
from ultravid.config.value_types import mismatch, parameters_of, type_text
from ultravid.utils.text import quoted_for_shell

__all__ = [
    "Place",
    "Typed",
    "common_example",
    "fitted",
    "is_text",
    "parse_any",
    "parse_value",
    "quoted_value",
    "untyped",
]


@dataclasses.dataclass(frozen=True)
class Typed:
    """One value of an override: a number, a word, or a text in quotes.

    Attributes:
        value: what it is in hydra's grammar.
        text: as it was typed, without quotes.
        is_cast: whether its kind was named, as in ``str(5)``.
        is_quoted: whether it was typed in quotes.
    """

    value: Any
    text: str
    is_cast: bool = False
    is_quoted: bool = False


# --- reading --------------------------------------------------------------------------------------------------------------

# A single number or name, as most values are: hydra's grammar read by a regular expression, a hundred times faster.
_WORD = re.compile(
    r"""(?P<int>[+-]?(?:0|[1-9](?:_?[0-9])*))
      | (?P<float>[+-]?(?:(?:(?:0|[1-9](?:_?[0-9])*)\.|(?:0|[1-9](?:_?[0-9])*)?\.[0-9](?:_?[0-9])*)
                     (?:[eE][+-]?[0-9](?:_?[0-9])*)?
                   | (?:0|[1-9](?:_?[0-9])*)[eE][+-]?[0-9](?:_?[0-9])*))
      | (?!(?:inf|nan)$)[A-Za-z_][A-Za-z0-9_-]*""",
    re.VERBOSE | re.IGNORECASE,
)
_PATH = re.compile(r"(?:\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./:@-]*")  # a text, as the grammar has it
_CONSTANTS = {"true": True, "false": False, "null": None}
_MOST_DIGITS = 400  # of a number; Python refuses to read some thousands


def parse_value(key: str, text: str, old: Any) -> Any:
    """The value that was typed for a key: `Typed`, or lists and dicts of them.

    Args:
        key: the key of the override, for messages.
        text: what follows the ``=``.
        old: the value that is replaced. Where a text is, or nothing, what the grammar can't read is a text too (``a=b``),
            unless it begins like something else.

    Raises:
        OverrideError: it can't be read.
    """
    if word := _WORD.fullmatch(text):
        return Typed(_word_value(word), text)
    if _PATH.fullmatch(text) and text.lower() not in ("inf", "nan"):
        return Typed(text, text)
    from hydra.errors import HydraException

    try:
        value = _parsed(f"key={text}")
    except HydraException as error:
        plain = text.strip()
        if is_text(old) and plain[:1] not in set("'\"[{(=") and "," not in plain:
            return Typed(plain, plain)
        number = _right_scalar(type(old), plain.translate(_DASHES)) if isinstance(old, int | float) else None
        hint = _stuck(error, key, text, old) if number is None else f"write {quoted_for_shell(f'{key}={number}')}"
        raise OverrideError(f"{f'{key}={text}'!r} does not parse: {hint}") from error
    except RecursionError:
        raise OverrideError(f"{f'{key}={text}'[:40]!r}... does not parse: it is nested too deep.") from None
    return _plain(value, key, text, old)


def _word_value(word: re.Match[str]) -> Any:
    """The value of a single word in hydra's grammar."""
    text = word[0]
    if word["int"] is not None and len(text) <= _MOST_DIGITS:
        return int(text)
    if word["int"] is not None or word["float"] is not None:
        return float(text)
    return _CONSTANTS.get(text.lower(), text)


@functools.lru_cache(maxsize=1)
def _grammar() -> Any:
    """A function that reads an override by hydra's grammar and keeps each value's own text."""
    import antlr4  # type: ignore[import-untyped]
    from hydra.core.override_parser import overrides_parser, overrides_visitor
    from hydra.core.override_parser.types import QuotedString
    from hydra.grammar.gen import OverrideLexer, OverrideParser

    class Visitor(overrides_visitor.HydraOverrideVisitor):
        """Gives `Typed` for a value; the arguments of a function stay plain."""

        functions_open = 0

        def visitPrimitive(self, ctx: Any) -> Any:  # noqa: N802  # the name is the grammar's
            text = ctx.getText().strip()
            is_long = len(text) > _MOST_DIGITS and re.fullmatch(r"[+-]?[\d_]+", text)
            value = float(text) if is_long else super().visitPrimitive(ctx)
            if self.functions_open:
                return value
            if isinstance(value, QuotedString):
                return Typed(value.text, value.text, is_quoted=True)
            return Typed(value, text)

        def visitFunction(self, ctx: Any) -> Any:  # noqa: N802
            self.functions_open += 1
            try:
                value = super().visitFunction(ctx)
            finally:
                self.functions_open -= 1
            value = value.text if isinstance(value, QuotedString) else value
            is_scalar = value is None or isinstance(value, str | int | float)
            return Typed(value, str(value), is_cast=True) if is_scalar else value

    functions = overrides_parser.create_functions()

    def read(text: str) -> Any:
        listener = overrides_visitor.HydraErrorListener()
        lexer = OverrideLexer.OverrideLexer(antlr4.InputStream(text))
        parser: Any = OverrideParser.OverrideParser(antlr4.CommonTokenStream(lexer))
        for part in (lexer, parser):
            part.removeErrorListeners()
            part.addErrorListener(listener)
        return Visitor(functions).visit(parser.override())._value

    return read


def parse_any(key: str, text: str) -> Any:
    """What hydra's grammar makes of a value, a sweep over several values included.

    Returns:
        `Typed` for a number, a word or a text; a list or dict of these; a sweep or glob of `hydra.core.override_parser.types`,
        whose values are `Typed`, or plain in the arguments of a function such as ``choice``.

    Raises:
        OverrideError: the text does not parse.
    """
    from hydra.errors import HydraException

    try:
        return _parsed(f"key={text}")
    except HydraException as error:
        raise OverrideError(f"{f'{key}={text}'!r} does not parse: {_stuck(error, key, text, None)}") from error
    except RecursionError:
        raise OverrideError(f"{f'{key}={text}'[:40]!r}... does not parse: it is nested too deep.") from None


def _parsed(text: str) -> Any:
    return _grammar()(text)


def _plain(value: Any, key: str, text: str, old: Any) -> Any:
    """Without hydra's own types; a sweep, however deep, is refused."""
    from hydra.core.override_parser.types import Glob, QuotedString, Sweep

    if isinstance(value, QuotedString):  # the key of a dict
        return value.text
    if isinstance(value, Sweep | Glob):
        raise OverrideError(
            f"{f'{key}={text}'!r} is a sweep over several values; an override sets one.{_of_sweep(key, text, old)}"
        )
    if isinstance(value, dict):
        return {_plain(k, key, text, old): _plain(v, key, text, old) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, key, text, old) for v in value]
    return value


def _of_sweep(key: str, text: str, old: Any) -> str:
    """What may have been meant by values with commas between them."""
    if re.match(r"\w+\(", text):
        return ""
    if isinstance(old, int | float):
        is_decimal = isinstance(old, float) and re.fullmatch(r"[+-]?\d+,\d+", text)
        return f" Write {quoted_for_shell(f'{key}={text}'.replace(',', '.'))}." if is_decimal else ""
    as_list = (
        f"for a list write {quoted_for_shell(f'{key}=[{text}]')}"
        if old is None or isinstance(old, list | tuple)
        else ""
    )
    as_text = f"for a text with a comma write {quoted_for_shell(f'{key}={quoted_value(text)}')}" if is_text(old) else ""
    hint = ", ".join(filter(None, (as_list, as_text)))
    return f" {hint[0].upper()}{hint[1:]}." if hint else ""


def quoted_value(text: str) -> str:
    """A text in the quotes of hydra's grammar, which is the value of an override whatever characters it has."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _stuck(error: Exception, key: str, text: str, old: Any) -> str:
    """The place in the user's text at which the parser got stuck, and the reason if it gives one."""
    parsed, whole = f"key={text}", f"{key}={text}"
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
    column = min(max(0, start + len(whole) - len(parsed)), len(whole))
    if column == len(whole):
        return "it ends too early; is a bracket left open?"
    stuck = f"stuck at column {column + 1}, before {whole[column:]!r}"
    if call:
        return f"{stuck}: {call[2]}"
    if text.startswith("(") and (old is None or isinstance(old, list | tuple)):
        as_list = f"{key}=[{text[1:].removesuffix(')')}]"
        return f"{stuck}; write a tuple as a list, {quoted_for_shell(as_list)}"
    if text[:1] in "[{" or "'" in text or not is_text(old):
        return stuck
    return f"{stuck}; for a text with such characters write {quoted_for_shell(f'{key}={quoted_value(text)}')}"


# --- where a value is set ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a value is set.

    Attributes:
        container: what holds it.
        name: its key or index there.
        key: its full key, as typed.
        steps: keys and indices below it, if a part of the value is meant.
        call: the annotation of the argument, if the value is one of a call that is set together with it; else None.
        typed: the whole value as typed, if it is set at this key itself.
        sign: "+" if the key has to be added, else "".
    """

    container: Container
    name: Any
    key: str
    steps: tuple[Any, ...] = ()
    call: Any = None
    typed: str = ""
    sign: str = ""

    def inner(self, step: Any, annotation: Any = None) -> Place:
        """The place of a part of the value."""
        key = f"{self.key}[{step}]" if isinstance(step, int) else f"{self.key}.{step}"
        if annotation is not None:
            return Place(self.container, self.name, key, (step,), annotation)
        return dataclasses.replace(self, key=key, steps=(*self.steps, step), typed="")

    def annotations(self) -> list[tuple[Any, str]]:
        """The annotations that the value has to agree with, each with a sentence for messages in which ``{}`` stands for it."""
        steps = self.steps
        if self.call is not None:
            found: list[tuple[Any, str]] = [(self.call, "")]
            steps = steps[1:]
        else:
            found = [row for place in _users(self.container, self.name) if (row := _annotation_at(*place)) is not None]
        for step in steps:
            found = [(item, text) for whole, text in found if (item := _item_annotation(whole, step)) is not None]
        return found

    def agrees(self, value: Any) -> bool:
        """Whether there are annotations, and the value contradicts none."""
        found = self.annotations()
        return bool(found) and not any(_contradicts(value, annotation) for annotation, _ in found)


def _contradicts(value: Any, annotation: Any) -> bool:
    """Whether a value does not agree with an annotation; a bool, which Python takes for an int, is not a number here."""
    if (
        isinstance(value, bool)
        and re.search(r"\b(?:int|float|complex)\b", text := type_text(annotation))
        and "bool" not in text
    ):
        return True
    return mismatch(value, annotation) is not None


def _users(container: Container, name: Any) -> Iterator[tuple[Container, Any]]:
    """A value's own place, and the places of all references to it."""
    yield container, name
    for here in walk(root_of(container)):
        for key, value in raw_children(here):
            if is_reference(value) and (here is not container or key != name):
                try:
                    owner, own = owner_of(here, key)
                except (ConfigError, LookupError, TypeError, AttributeError):  # a wrong reference is reported elsewhere
                    continue
                if owner is container and own == name:
                    yield here, key


def _annotation_at(container: Container, name: Any) -> tuple[Any, str] | None:
    """The annotation of the value at a place below an argument of a call; None if there is none that can be read."""
    steps: list[Any] = [name]
    while not (isinstance(container, Node) and "_target_" in container):
        if container._up is None:
            return None
        steps.append(key_in_parent(container))
        container = container._up
    argument = steps.pop()
    found = _parameter(raw_child(container, "_target_"), argument)
    if found is None or raw_child(container, "_check_", True) is False:
        return None
    annotation, text = found
    while steps:
        annotation = _item_annotation(annotation, steps.pop())
        if annotation is None:
            return None
    return annotation, text


def _parameter(target: Any, argument: Any) -> tuple[Any, str] | None:
    """(annotation, sentence for messages) of an argument; None if there is none."""
    try:
        function = locate(target) if isinstance(target, str) else target
        takes = parameters_of(function) if callable(function) and not isinstance(function, Container) else None
    except (ConfigError, TypeError):
        return None
    if takes is None:
        return None
    parameter = takes.by_name.get(argument, takes.any_name) if isinstance(argument, str) else None
    annotation = takes.annotations.get(parameter.name) if parameter is not None else None
    if annotation is None:
        return None
    return annotation, f"{target_name(function)} takes {{}} for {argument!r}"


def _item_annotation(annotation: Any, step: Any) -> Any:
    """The annotation of an item of an annotated container; None if there is none."""
    origin: Any = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _item_annotation(arguments[0], step)
    if origin in (typing.Union, types.UnionType):
        inner = [item for each in arguments if (item := _item_annotation(each, step)) is not None]
        return typing.Union[tuple(inner)] if inner else None  # noqa: UP007  # of what is known only now
    if not isinstance(origin, type) or origin is collections.abc.Callable:
        return None
    if issubclass(origin, collections.abc.Mapping):
        return arguments[1] if len(arguments) == 2 else None
    if origin is tuple and arguments[-1:] != (...,):
        return arguments[step] if isinstance(step, int) and -len(arguments) <= step < len(arguments) else None
    return arguments[0] if issubclass(origin, collections.abc.Iterable) and arguments else None


# --- fitting ----------------------------------------------------------------------------------------------------------------

_YES, _NO = frozenset({"true", "yes", "on", "y", "t", "1"}), frozenset({"false", "no", "off", "n", "f", "0"})
_DASHES = str.maketrans("−‐‑‒–—", "------")  # noqa: RUF001  # what documents have in place of a minus
_SCALARS = {bool, int, float, str}
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


def is_text(old: Any) -> bool:
    """Whether the value of a key is a text or a path, or says nothing about its kind."""
    return old is None or isinstance(old, str | PurePath)


def untyped(value: Any) -> Any:
    """A value parsed by the grammar, without the old value's type."""
    if isinstance(value, Typed):
        return value.value
    if isinstance(value, dict) and not isinstance(value, Container):
        return {k: untyped(v) for k, v in value.items()}
    if isinstance(value, list) and not isinstance(value, Container):
        return [untyped(v) for v in value]
    return value


def fitted(old: Any, new: Any, place: Place) -> Any:
    """A new value as one of the old one's kind.

    Args:
        old: the raw value that it replaces; None if there is none.
        new: the new value, as `parse_value` returns it, or an object of a file.
        place: where it is set.

    Raises:
        OverrideError: it is of another kind, and no annotation allows that; or it is a number that is out of range.
    """
    old = _resolved(old, place)
    if isinstance(new, Typed):
        return _fitted_scalar(old, new, place)
    if type(new) is dict and list(new) == ["_tuple_"] and type(new["_tuple_"]) is list:
        return tuple(_fitted_list(old, new["_tuple_"], place))
    if type(new) is dict:
        return _fitted_dict(old, new, place)
    if type(new) is list:
        return _fitted_list(old, new, place)
    is_other = {type(old), type(new)} <= _SCALARS and type(old) is not type(new)
    are_numbers = {type(old), type(new)} == {int, float} and (type(old) is float or not place.annotations())
    if is_other and not are_numbers and not place.agrees(new):  # of a file
        raise _wrong_kind(old, new, repr(new), place)
    return new


def _resolved(old: Any, place: Place) -> Any:
    """The old value, that of a reference if it is one; None if it says nothing about the kind of the new one."""
    if is_reference(old) and isinstance(place.container, Container) and not place.steps:
        try:
            old = place.container[place.name]
        except (ConfigError, LookupError):
            return None
    if isinstance(old, str) and old == MISSING:
        return None
    if type(old).__module__ == "numpy" and hasattr(old, "item") and not getattr(old, "shape", ()):
        return old.item()
    return old


def _fitted_dict(old: Any, new: dict[Any, Any], place: Place) -> Any:
    target = untyped(new.get("_target_"))
    if not {"_target_", "_object_"} & new.keys() and not (old is None or isinstance(old, dict)):
        if dataclasses.is_dataclass(old):
            raise OverrideError(f"{place.key!r} is {old!r}, not a node: it has no keys to set.")
        if not place.agrees(untyped(new)):
            raise _wrong_kind(old, untyped(new), "a dict", place)
    value = {}
    for name, item in new.items():
        found = _parameter(target, name) if isinstance(target, str) and _may_need_text(item) else None
        inner = place.inner(name, found[0] if found is not None else None)
        value[name] = fitted(
            raw_child(old, name, None) if isinstance(old, Node) and target is None else None, item, inner
        )
    return value


def _may_need_text(item: Any) -> bool:
    return isinstance(item, list) or (isinstance(item, Typed) and not isinstance(item.value, str))


def _fitted_list(old: Any, new: list[Any], place: Place) -> Any:
    if not (old is None or isinstance(old, list | tuple)) and not place.agrees(untyped(new)):
        raise _wrong_kind(old, untyped(new), "a list", place)
    held = (
        [v for _, v in raw_children(old)]
        if isinstance(old, Container)
        else list(old)
        if isinstance(old, list | tuple)
        else []
    )
    like = common_example(held)
    whole_agrees = False
    values = []
    for index, item in enumerate(new):
        example = like if like is not None or index >= len(held) or len(held) != len(new) else held[index]
        try:
            values.append(fitted(None if whole_agrees else example, item, place.inner(index)))
        except OverrideError:
            if not place.agrees(untyped(new)):
                raise
            whole_agrees = True
            values.append(untyped(item))
    is_tuple = isinstance(old, tuple) and not hasattr(old, "_fields") and not place.steps
    return tuple(values) if is_tuple else values


def common_example(held: Sequence[Any]) -> Any:
    """A value of the kind that all items have; None if they differ, or if a number may be whole or not."""
    kinds = {type(item) for item in held}
    is_one = len(kinds) == 1 and not is_reference(held[0])
    return held[0] if is_one and (kinds <= _SCALARS or isinstance(held[0], list | tuple)) else None


def _fitted_scalar(old: Any, new: Typed, place: Place) -> Any:
    value = new.value
    if is_reference(value) or value is None:
        return value
    if value == "None" and is_text(old) and not new.is_cast and not new.is_quoted:
        raise OverrideError(
            f"{place.key!r}: 'None' would be text. Write {_write(place, 'null')} for None, or {_write(place, quoted_value(value))} for the text."
        )
    if isinstance(old, str | PurePath) and not new.is_cast:
        if not isinstance(value, str) and isinstance(old, str) and place.agrees(value):
            return _in_range(new, place)
        text = _at_home(value if isinstance(value, str) else new.text)
        return text if isinstance(old, str) else type(old)(text)
    if isinstance(value, str) and not new.is_cast:
        value = _at_home(value)
    if isinstance(value, int | float):
        _in_range(new, place, at_float=type(old) is float)
    if new.is_cast or (place.name in ("_target_", "_object_") and isinstance(value, str)):
        return value
    if old is None:
        return _by_annotation(value, new, place)
    if type(value) is type(old):
        return value
    if type(old) is float and type(value) is int:
        return float(value)
    if type(old) is int and type(value) is float and not place.annotations():  # nothing says that it is whole
        return value
    if isinstance(old, enum.Enum):
        return _member(old, new, place)
    if type(old).__module__ == "torch" and type(old).__name__ == "dtype":
        found = getattr(sys.modules["torch"], new.text.removeprefix("torch."), None)
        if type(found) is not type(old):
            raise OverrideError(f"{place.key!r} is a torch.dtype, and {new.text!r} is not one.")
        return found
    if place.agrees(value):
        return value
    raise _wrong_kind(old, value, repr(new.text), place)


def _by_annotation(value: Any, new: Typed, place: Place) -> Any:
    """The value where none was: the text as typed if only that agrees with the annotations."""
    found = [annotation for annotation, _ in place.annotations()]
    if not any(_contradicts(value, a) for a in found):
        return value
    if not any(_contradicts(new.text, a) for a in found):
        return new.text
    wanted = next(a for a in found if _contradicts(value, a))
    for kind, like in ((bool, False), (int, 0)):  # what is clear; the check reports the rest
        is_kind = not _contradicts(like, wanted) and (kind is bool or _contradicts(0.5, wanted))
        if is_kind and (_right_scalar(kind, str(value)) is not None):
            raise _wrong_kind(like, value, repr(new.text), place, is_set=False)
    return value


def _member(old: enum.Enum, new: Typed, place: Place) -> enum.Enum:
    members = type(old).__members__
    if new.text in members:
        return members[new.text]
    values = [
        member for member in members.values() if member.value == new.value and type(member.value) is type(new.value)
    ]
    if values:
        return values[0]
    raise OverrideError(
        f"{place.key!r} is a {type(old).__name__}, which has no {new.text!r}.{did_you_mean(new.text, members)}"
    )


def _at_home(text: str) -> str:
    """With the home folder in place of ``~``, which a shell leaves alone behind ``=``."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def _in_range(new: Typed, place: Place, at_float: bool = False) -> Any:
    """The value, unless it is not the number that was typed.

    Raises:
        OverrideError: it is too large or too small for a float, or for the 64 bits that torch and numpy have for an integer.
    """
    value, text = new.value, new.text
    if type(value) is float and math.isinf(value) and "inf" not in text.lower():
        raise OverrideError(
            f"{place.key!r}: {_short(text)} is beyond the largest float (1.8e308); write {_write(place, '-inf' if value < 0 else 'inf')} for infinity."
        )
    if type(value) is float and value == 0 and re.search(r"[1-9]", text.lower().partition("e")[0]):
        raise OverrideError(
            f"{place.key!r}: {_short(text)} is below the smallest float (5e-324); write {_write(place, '0')} for zero."
        )
    if type(value) is int and not (_LOWEST <= value <= _HIGHEST or (at_float and abs(value) < 1e308)):
        raise OverrideError(f"{place.key!r}: {_short(text)} is beyond the 64 bits of an integer (at most {_HIGHEST}).")
    return value


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


# --- messages ---------------------------------------------------------------------------------------------------------------


def _wrong_kind(old: Any, new: Any, typed: str, place: Place, is_set: bool = True) -> OverrideError:
    """The error for a value of another kind: the old value, what was typed, and what to type.

    ``is_set`` is false if the old value is only one that the argument could have.
    """
    said = f"{typed} is {_kind(new)}" if isinstance(new, bool | int | float | str) else f"not {typed}"
    takes = next(
        (text.replace("{}", type_text(a)) for a, text in place.annotations() if text and _contradicts(new, a)), ""
    )
    if is_set:
        message = f"{place.key!r} is {_described(old)}{'; ' if said[0] == typed[0] else ', '}{said}."
        message += f" {takes}." if takes else ""
    else:
        message = f"{place.key!r}: {said}{f', and {takes}' if takes else f', not {_kind(old)}'}."
    return OverrideError(f"{message} {_right(old, new, place)}".rstrip())


def _described(old: Any) -> str:
    if isinstance(old, Node):
        return f"a call of {target_name(old.raw['_target_'])}" if "_target_" in old else "a dict"
    if isinstance(old, list | tuple):
        return f"a {'tuple' if isinstance(old, tuple) else 'list'}"
    shown = {True: "true", False: "false"}.get(old, repr(old)) if isinstance(old, bool) else _short(repr(old))
    return f"{shown}, {_kind(old)}" if isinstance(old, bool | int | float | str) else shown


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "a dict"
    if isinstance(value, list | tuple):
        return "a list"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _right(old: Any, new: Any, place: Place) -> str:
    """What to type instead, if that is known; else how to give the key another kind of value."""
    given = str(new).translate(_DASHES)
    if isinstance(old, bool | int | float) and (right := _right_scalar(type(old), given)) is not None:
        return f"Write {_write(place, right)}."
    if isinstance(old, bool):
        return f"Write {_write(place, 'true')} or {_write(place, 'false')}.{_forced(new, place)}"
    if isinstance(new, str) and given.lower() == "none":
        return f"Write {_write(place, 'null')} for None."
    holds_parts = isinstance(old, Container) and any(isinstance(v, Container) for _, v in raw_children(old))
    if isinstance(old, list | tuple) and not isinstance(new, dict) and not holds_parts:
        return f"Write {_write(place, f'[{given}]')}."
    if isinstance(old, Node):
        return _for_node(old, given, place)
    if (call := as_call(old)) is not None and isinstance(new, str) and len(call.get("_args_", ())) == 1:
        described = f"{{_target_: {call['_target_']}, _args_: [{quoted_value(given)}]}}"
        return f"Describe the call that makes it: write {_write(place, described)}."
    if isinstance(old, type) or callable(old):
        return f"For an object with a name write {_write(place, '{_object_: ' + given + '}')}."
    return _forced(new, place).lstrip()


def _right_scalar(kind: type, given: str) -> str | None:
    """A bool or a number as it is typed, for what was typed in its place; None if that is not clear."""
    if kind is bool:
        return "true" if given.lower() in _YES else "false" if given.lower() in _NO else None
    number = _number(given, kind)
    return None if number is None else repr(number)


def _for_node(old: Node, given: str, place: Place) -> str:
    if given.endswith((".py", ".yaml", ".yml")):
        return f"Name an object of the file: write {_write(place, f'{given}:NAME')}."
    if re.fullmatch(r"\w+:\s*\S.*", given):
        return f"A shell splits braces that are not quoted; write {_write(place, '{' + given + '}')}."
    if isinstance(raw_child(old, "enabled", None), bool) and (switch := _right_scalar(bool, given)):  # train.amp=true
        return f"Write {quoted_for_shell(f'{place.key}.enabled={switch}')}."
    if "_target_" in old and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", given):
        return f"For another target with the same arguments write {quoted_for_shell(f'{place.key}._target_={given}')}."
    takes_none = not any(_contradicts(None, annotation) for annotation, _ in place.annotations())
    none = f", or write {_write(place, 'null')} for none" if takes_none else ""
    return f"Name an object of a config file, as {_write(place, 'FILE.py:NAME')}{none}.{_forced(given, place)}"


def _number(text: str, kind: type) -> float | int | None:
    try:
        number = float(text.replace("_", "").strip())
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    if kind is int:
        return int(number) if number.is_integer() else None
    return number


def _write(place: Place, value: str) -> str:
    """An override that sets a value; of a part of what was typed the value alone, which belongs in its place there."""
    return value if place.steps else quoted_for_shell(f"{place.sign}{place.key}={value}")


def _forced(new: Any, place: Place) -> str:
    """How to give a key a value of another kind; nothing where an annotation forbids it."""
    if not place.typed or not isinstance(place.container, Node) or (place.annotations() and not place.agrees(new)):
        return ""
    key = full_key(place.container, place.name)
    added = quoted_for_shell(f"+{key}={place.typed}")
    return f" For a value of another kind delete the key first: write {quoted_for_shell(f'~{key}')} {added}."
