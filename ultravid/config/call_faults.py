"""Checks one call: its target, the names of its arguments, and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from inspect import isabstract
from typing import Any

from ultravid.config.errors import ConfigError, Fault, InterpolationError, did_you_mean
from ultravid.config.instantiate import is_allowed, locate_allowed
from ultravid.config.nodes import Node
from ultravid.config.provenance import is_override, settings_of, where
from ultravid.config.references import is_reference, owner_of
from ultravid.config.targets import target_name
from ultravid.config.tree import CONTROL_KEYS, DELETED, MISSING, Container, full_key, raw_child, raw_children
from ultravid.config.value_types import (
    Parameters,
    hint_of,
    is_function,
    mismatch,
    parameters_of,
    resolved_items,
    type_text,
)

__all__ = ["argument_faults", "call_faults", "object_faults"]

_SWITCHES = ("_partial_", "_recursive_", "_check_")


def object_faults(node: Node, allowed: frozenset[str] | None) -> Iterator[Fault]:
    """Faults of ``{_object_: name}``."""
    name = node.raw["_object_"]
    try:
        if not isinstance(name, str):
            raise ConfigError(f"_object_ is {name!r}, not the name of an object.")
        locate_allowed(name, allowed)
    except ConfigError as error:
        yield Fault(full_key(node), str(error), where(node))


def call_faults(node: Node, allowed: frozenset[str] | None, complete: bool = True) -> Iterator[Fault]:
    """Faults of a node with a ``_target_``.

    Args:
        node: the call; its arguments' own calls are not checked.
        allowed: packages that targets may be from; None allows all.
        complete: whether all required arguments must be given. Not so below ``_recursive_: false``, as other code builds it.
    """
    for switch in _SWITCHES:
        if not isinstance(value := dict.get(node, switch, True), bool):
            yield Fault(full_key(node, switch), f"is {value!r}; it is true or false", where(node, switch))
    if not isinstance(dict.get(node, "_args_", ()), list | tuple):
        shown = node.raw["_args_"]
        yield Fault(
            full_key(node, "_args_"), f"is {shown!r}, not a list of positional arguments", where(node, "_args_")
        )
        return
    if node.raw["_target_"] == MISSING:  # reported with the value
        return
    try:
        target = node["_target_"]
        if isinstance(target, str):
            target = locate_allowed(target, allowed)
        elif not isinstance(target, Node):
            is_allowed(None, target, allowed)
    except InterpolationError:  # reported with the value
        return
    except ConfigError as error:
        yield Fault(full_key(node), str(error), where(node, "_target_"))
        return
    if isinstance(target, Node):  # it is built first; only then its parameters are known
        return
    if not callable(target):
        message = f"_target_ is {target!r}, which can't be called"
        yield Fault(full_key(node), message, where(node, "_target_"))
        return
    if isabstract(target) and node.get("_partial_", False) is not True:
        lacks = ", ".join(sorted(target.__abstractmethods__))
        yield Fault(full_key(node), f"{target_name(target)} is abstract: it lacks {lacks}", where(node, "_target_"))
    parameters = parameters_of(target)
    if parameters is not None:
        yield from _signature_faults(node, target, parameters, complete)
        if node.get("_recursive_", True) and node.get("_check_", True):
            yield from _type_faults(node, target, parameters)
            yield from _relation_faults(node, target, parameters)
            yield from _alternative_faults(node, target, parameters, complete and not node.get("_partial_", False))


def argument_faults(node: Node, names: Set[Any], complete: bool = True) -> Iterator[Fault]:
    """Faults of some arguments of a call without faults, in which nothing but their values was replaced.

    Args:
        node: the call.
        names: of the arguments; for ``_target_``, ``_args_`` and their like there is `call_faults`.
        complete: as of `call_faults`.
    """
    target = node["_target_"]
    target = locate_allowed(target, None) if isinstance(target, str) else target
    takes = None if isinstance(target, Node) else parameters_of(target)
    if takes is not None and node.get("_recursive_", True) and node.get("_check_", True):
        yield from _named_type_faults(node, target, takes, names)
        yield from _relation_faults(node, target, takes)
        yield from _alternative_faults(node, target, takes, complete and not node.get("_partial_", False))


def _positional(node: Node) -> list[Any]:
    """The resolved positional arguments; ??? for one whose reference is wrong."""
    return [value for _, value in resolved_items(node["_args_"])] if "_args_" in node else []


def _signature_faults(node: Node, target: Callable[..., Any], takes: Parameters, complete: bool) -> Iterator[Fault]:
    given = [k for k, _ in raw_children(node) if k not in CONTROL_KEYS]
    num_args = len(_positional(node))
    by_position = {p.name for p in takes.positional[:num_args]}
    name = target_name(target)
    if num_args > len(takes.positional) and takes.any_number is None:
        message = f"{name} takes {len(takes.positional)} positional arguments, {num_args} are given"
        yield Fault(full_key(node), message, where(node))
    for key in given:
        if key not in takes.by_name and takes.any_name is None:
            message = f"{name} takes no argument {key!r}.{did_you_mean(key, takes.by_name)}{_swapped(node, key)}"
            yield Fault(full_key(node, key), message, where(node, key))
        elif key in by_position:
            yield Fault(full_key(node, key), f"{name} gets {key!r} by position too", where(node, key))
    if not complete or node.get("_partial_", False):
        return
    for parameter in (*takes.positional_only, *takes.by_name.values()):
        required = parameter.default is parameter.empty and parameter.name not in by_position
        if required and (parameter.name not in given or parameter.name not in takes.by_name):
            yield Fault(full_key(node), f"{name} needs an argument {parameter.name!r}", where(node))


def _swapped(node: Node, key: str) -> str:
    """What a message adds about an argument that was meant for the target that the present one replaced."""
    swaps = [(origin, value) for origin, value in settings_of(node, "_target_") if value is not DELETED]
    if len(swaps) < 2 or (settings_of(node, key) and settings_of(node, key)[-1][0] is not None):
        return ""
    return f" It was meant for {target_name(swaps[-2][1])}; '~{full_key(node, key)}' removes it."


def _type_faults(node: Node, target: Callable[..., Any], takes: Parameters) -> Iterator[Fault]:
    if not takes.annotations:
        return
    for index, value in enumerate(_positional(node)):
        parameter = takes.positional[index] if index < len(takes.positional) else takes.any_number
        if parameter is not None:
            held = node["_args_"]
            if isinstance(held, Container):
                yield from _type_fault(held, index, value, target, parameter, takes)
            else:  # a plain tuple does not know where its items were set
                yield from _type_fault(node, "_args_", value, target, parameter, takes)
    yield from _named_type_faults(node, target, takes)


def _named_type_faults(
    node: Node, target: Callable[..., Any], takes: Parameters, names: Set[Any] | None = None
) -> Iterator[Fault]:
    """Faults of the types of arguments that are given by name; of all of them, or of some."""
    for key, value in resolved_items(node, names):
        if key not in CONTROL_KEYS:
            parameter = takes.by_name.get(key, takes.any_name)
            if parameter is not None:
                yield from _type_fault(node, key, value, target, parameter, takes)


def _relation_faults(node: Node, target: Callable[..., Any], takes: Parameters) -> Iterator[Fault]:
    """Arguments that another argument of the same call bounds: ``fold`` is below ``num_folds``."""
    given = dict(resolved_items(node, {*takes.bounds, *takes.bounds.values()}))
    for name, bound in takes.bounds.items():
        if type(given.get(name)) is not int:
            continue
        other = given.get(bound, takes.by_name[bound].default if bound in takes.by_name else None)
        owner, own_key = owner_of(node, name)
        what = f"is {given[name]}, and {target_name(target)}"
        if other is None:
            message = f"{what} needs {bound} with it; {full_key(node, bound)} is None"
        elif type(other) is int and given[name] >= other:
            message = f"{what} takes 0 to {other - 1} for {name!r}, as {full_key(node, bound)} is {other}"
        else:
            continue
        yield Fault(full_key(owner, own_key), message, where(owner, own_key), about="type")


def _alternative_faults(node: Node, target: Callable[..., Any], takes: Parameters, complete: bool) -> Iterator[Fault]:
    """Arguments of which a call takes one or the other, if it is given both or neither."""
    given = dict(resolved_items(node, {*takes.alternatives, *takes.alternatives.values()}))
    for name, other in takes.alternatives.items():
        if "_args_" in node:
            continue
        if given.get(name) is None and given.get(other) is None:
            if complete:
                yield Fault(full_key(node), f"{target_name(target)} needs either {name} or {other}", where(node))
        elif given.get(name) is not None and given.get(other) is not None:
            # the one that was set last is what the user wants
            wanted, left = (other, name) if _overridden(node, other) and not _overridden(node, name) else (name, other)
            message = (
                f"is {_shown(given[wanted])}, and {target_name(target)} takes either {wanted} or {left}, which is {_shown(given[left])} "
                f"here; '~{full_key(node, left)}' removes it"
            )
            yield Fault(full_key(node, wanted), message, where(node, wanted), about="type")


def _overridden(node: Node, key: str) -> bool:
    settings = settings_of(node, key)
    return bool(settings) and is_override(settings[-1][0])


def _type_fault(
    container: Container, key: Any, value: Any, target: Callable[..., Any], parameter: Any, takes: Parameters
) -> Iterator[Fault]:
    annotation = takes.annotations.get(parameter.name)
    if annotation is None or value is parameter.default:
        return
    wrong = mismatch(value, annotation)
    if wrong is None or (
        type(value) is type(parameter.default) and _is_like_default(value, parameter.default, annotation)
    ):
        return
    owner, own_key = owner_of(container, key)
    through = ""
    if (owner, own_key) != (container, key):
        through = f" ({full_key(container, key)} refers to it)"
    if through and is_override(settings_of(container, key)[-1][0] if settings_of(container, key) else None):
        owner, own_key, through = container, key, f" (it refers to {full_key(owner, own_key)})"  # a wrong reference
    else:
        for step in wrong.steps:
            inner = owner[own_key]
            if not isinstance(inner, Container):
                break
            owner, own_key = owner_of(inner, step)
    text = type_text(wrong.annotation)
    # A number outside of its limits is of the right type.
    is_clear = wrong.value is None or isinstance(wrong.value, Container) or wrong.right_type
    what = "" if is_clear else f", {_article(type_text(type(wrong.value)))}"
    message = (
        f"is {_shown(wrong.value)}{what}, but {target_name(target)} takes {text} for {parameter.name!r}"
        f"{through}.{'' if is_reference(raw_child(owner, own_key, None)) else _meant(wrong.value, text)}{hint_of(annotation, is_function(wrong.value))}"
    )
    yield Fault(full_key(owner, own_key), message, where(owner, own_key), about="type")


def _is_like_default(value: Any, default: Any, annotation: Any) -> bool:
    """Whether a value is the default, or of its type and the default itself contradicts the annotation."""
    return bool(value == default) or mismatch(default, annotation) is not None


def _shown(value: Any) -> str:
    if isinstance(value, Node):
        kind = "a partial call" if value.get("_partial_", False) else "a call"
        return f"{kind} of {target_name(value.raw['_target_'])}" if "_target_" in value else "a dict"
    if isinstance(value, Container):
        value = [v for _, v in raw_children(value)]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _meant(value: Any, text: str) -> str:
    """What a string was probably meant to be: null, or a number that YAML or quotes turn into text, as ``1e-3``."""
    if value in ("None", "none"):
        return " Did you mean null?"
    if not isinstance(value, str) or not ("int" in text or "float" in text):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if "float" not in text and not number.is_integer():
        return ""
    return f" Did you mean {number if 'float' in text else int(number)!r}, without quotes?"
