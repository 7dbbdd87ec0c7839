"""Every fault of a config at once, before anything is built."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ultravid.config.errors import ConfigError, Fault, InterpolationError, did_you_mean
from ultravid.config.instantiate import CONTROL_KEYS, is_allowed, locate, target_name
from ultravid.config.loader import importable_project, load_config_file, told_with_its_place
from ultravid.config.nodes import (
    CONTAINERS,
    DELETED,
    MISSING,
    Container,
    Node,
    full_key,
    join_key,
    owner_of,
    raw_children,
    split_key,
)
from ultravid.config.overrides import override_faults
from ultravid.config.provenance import is_override, settings_of, where
from ultravid.config.value_types import Parameters, mismatch, parameters_of, type_text

__all__ = ["check", "load_checked"]

logger = logging.getLogger(__name__)


def check(cfg: Node, *, allowed_packages: Iterable[str] | None = None) -> list[Fault]:
    """Walk a config and report what can't work.

    Found are: targets that can't be imported, arguments that a target doesn't take, required arguments that are missing,
    values that can't be what the signature's annotation says, references that lead nowhere or in a circle, and values
    still ``???``. Targets are imported; nothing is built and no data is read. Notes, which are not ``fatal``, tell of
    nodes that were copied because they were put in a second place, and of what a swapped object left behind.

    Args:
        cfg: the config's root.
        allowed_packages: report targets outside of these packages; None allows all.

    Returns:
        faults in the order of the config, then the notes; empty where there is none.
    """
    allowed = None if allowed_packages is None else frozenset(allowed_packages)
    found = [*_faults(cfg, allowed), *_circles(cfg), *_copies(cfg), *_left_behind(cfg)]
    unique = {(f.key, f.message): f for f in found}  # a value that several targets refer to is told once
    return sorted(unique.values(), key=lambda f: not f.fatal)


def load_checked(config_file: str | Path, overrides: Sequence[str] = (), *, required: Iterable[str] = ()) -> Node:
    """Read a config, apply overrides, check the whole, and log the notes as warnings.

    Args:
        config_file: ``.py`` or ``.yaml``.
        overrides: of the command line.
        required: keys that have to be there, ``"train.output_dir"``.

    Raises:
        ConfigError: with every fault of the overrides and of the config; what a config file's own code raised, with its
            file, line and traceback.
    """
    with importable_project(config_file):
        try:
            cfg = load_config_file(config_file)
            faults = override_faults(cfg, overrides)
        except Exception as error:
            told = told_with_its_place(error)
            if told is None:
                raise
            raise told from error
        faults += [*_lacking(cfg, required), *check(cfg)]
    for note in faults:
        if not note.fatal:
            logger.warning("%s", note)
    fatal = [f for f in faults if f.fatal]
    if fatal:
        lines = "\n".join(f"  {fault}" for fault in fatal)
        raise ConfigError(f"{config_file}: {len(fatal)} {'fault' if len(fatal) == 1 else 'faults'}\n{lines}")
    return cfg


def _lacking(cfg: Node, required: Iterable[str]) -> Iterator[Fault]:
    for key in required:
        node: Any = cfg
        place = ""
        for step in split_key(key):
            if not isinstance(node, Node) or step not in node:
                known = list(node) if isinstance(node, Node) else []
                hint = did_you_mean(step, known, f"{place}." if place else "")
                yield Fault(key, f"is not there, and a run needs it.{hint}")
                break
            place = join_key(place, step)
            try:
                node = node[step]
            except ConfigError:  # told by check
                break


def _faults(container: Container, allowed: frozenset[str] | None) -> Iterator[Fault]:
    if isinstance(container, Node) and "_target_" in container:
        yield from _call_faults(container, allowed)
    elif isinstance(container, Node) and len(container) == 1 and "_object_" in container:
        yield from _object_faults(container, allowed)
    for key, value in raw_children(container):
        if isinstance(value, CONTAINERS):
            yield from _faults(value, allowed)
        elif type(value) is str and value == MISSING:
            yield Fault(full_key(container, key), f"is still {MISSING}: give it a value", where(container, key))
        elif type(value) is str and "${" in value:
            try:
                container[key]
            except ConfigError as error:
                yield Fault(full_key(container, key), str(error), where(container, key))


def _circles(cfg: Node) -> Iterator[Fault]:
    """Objects that need themselves to be built, through calls and plain containers alike."""
    done: set[int] = set()
    above: dict[int, Container] = {}  # what is being looked at, from the root down

    def walk(container: Container) -> Iterator[Fault]:
        if id(container) in above:
            chain = list(above.values())
            circle = [*chain[list(above).index(id(container)) :], container]
            names = " -> ".join(full_key(c) or "the config" for c in circle)
            yield Fault(full_key(container), f"needs itself to be built: {names}", where(container))
            return
        if id(container) in done:
            return
        above[id(container)] = container
        for key, value in raw_children(container):
            if type(value) is str and "${" in value:
                try:
                    value = container[key]
                except ConfigError:  # told already
                    continue
            if isinstance(value, CONTAINERS):
                yield from walk(value)
        del above[id(container)]
        done.add(id(container))

    yield from walk(cfg)


def _object_faults(node: Node, allowed: frozenset[str] | None) -> Iterator[Fault]:
    name = node.raw["_object_"]
    try:
        if not isinstance(name, str):
            raise ConfigError(f"_object_ is {name!r}, not the name of an object.")
        is_allowed(name, None, allowed)
        is_allowed(name, locate(name), allowed)
    except ConfigError as error:
        yield Fault(full_key(node), str(error), where(node))


def _call_faults(node: Node, allowed: frozenset[str] | None) -> Iterator[Fault]:
    try:
        target = node["_target_"]
        name = target if isinstance(target, str) else None
        if name is not None:
            is_allowed(name, None, allowed)  # before its module is run
            target = locate(name)
        if not isinstance(target, Node):
            is_allowed(name, target, allowed)
    except InterpolationError:  # told where the value is looked at
        return
    except ConfigError as error:
        yield Fault(full_key(node), str(error), where(node, "_target_"))
        return
    if isinstance(target, Node):  # built first; what it takes is known then
        return
    if not callable(target):
        message = f"_target_ is {target!r}, which can't be called"
        yield Fault(full_key(node), message, where(node, "_target_"))
        return
    parameters = parameters_of(target)
    if parameters is not None:
        yield from _signature_faults(node, target, parameters)
        if node.get("_recursive_", True):
            yield from _type_faults(node, target, parameters)


def _positional(node: Node) -> list[Any]:
    """The positional arguments as read; ??? for one whose reference is wrong."""
    return [value for _, value in _read(node["_args_"])] if "_args_" in node else []


def _read(container: Container) -> Iterator[tuple[Any, Any]]:
    for key, value in raw_children(container):
        if type(value) is str and "${" in value:
            try:
                value = container[key]
            except ConfigError:  # told where the value is looked at
                value = MISSING
        yield key, value


def _signature_faults(node: Node, target: Callable[..., Any], takes: Parameters) -> Iterator[Fault]:
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
    if node.get("_partial_", False):
        return
    for parameter in takes.by_name.values():
        required = parameter.default is parameter.empty and parameter.name not in by_position
        if required and parameter.name not in given:
            yield Fault(full_key(node), f"{name} needs an argument {parameter.name!r}", where(node))


def _swapped(node: Node, key: str) -> str:
    """What to do about an argument that was meant for another target than the one that took its place."""
    swaps = [(origin, value) for origin, value in settings_of(node, "_target_") if value is not DELETED]
    if len(swaps) < 2 or (settings_of(node, key) and settings_of(node, key)[-1][0] is not None):
        return ""
    return f" It was meant for {target_name(swaps[-2][1])}; '~{full_key(node, key)}' takes it out."


def _type_faults(node: Node, target: Callable[..., Any], takes: Parameters) -> Iterator[Fault]:
    if not takes.annotations:
        return
    for index, value in enumerate(_positional(node)):
        parameter = takes.positional[index] if index < len(takes.positional) else takes.any_number
        if parameter is not None:
            yield from _type_fault(node["_args_"], index, value, target, parameter, takes)
    for key, value in _read(node):
        if key not in CONTROL_KEYS:
            parameter = takes.by_name.get(key, takes.any_name)
            if parameter is not None:
                yield from _type_fault(node, key, value, target, parameter, takes)


def _type_fault(
    container: Container, key: Any, value: Any, target: Callable[..., Any], parameter: Any, takes: Parameters
) -> Iterator[Fault]:
    annotation = takes.annotations.get(parameter.name)
    if annotation is None or value is parameter.default:
        return
    wrong = mismatch(value, annotation)
    if wrong is None or (type(value) is type(parameter.default) and value == parameter.default):
        return
    owner, own_key = owner_of(container, key)
    for step in wrong.steps:
        inner = owner[own_key]
        if not isinstance(inner, CONTAINERS):
            break
        owner, own_key = owner_of(inner, step)
    text = type_text(wrong.annotation)
    told = wrong.value is None or isinstance(wrong.value, CONTAINERS)  # they say what they are
    what = "" if told else _article(type_text(type(wrong.value)))
    shown = f"{_shown(wrong.value)}{f', {what},' if what else ''}"
    message = (
        f"is {shown} where {target_name(target)} takes {text} for {parameter.name!r}.{_as_number(wrong.value, text)}"
    )
    yield Fault(full_key(owner, own_key), message, where(owner, own_key))


def _shown(value: Any) -> str:
    if isinstance(value, Node):
        return f"a call of {target_name(value['_target_'])}" if "_target_" in value else "a dict"
    if isinstance(value, CONTAINERS):
        value = [v for _, v in raw_children(value)]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _as_number(value: Any, text: str) -> str:
    """The number that a string means, which YAML and quotes make of ``1e-3``."""
    if not isinstance(value, str) or not ("int" in text or "float" in text):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if "float" not in text and not number.is_integer():
        return ""
    return f" Did you mean {number if 'float' in text else int(number)!r}, without quotes?"


def _copies(cfg: Node) -> Iterator[Fault]:
    """Notes of nodes that were put in a second place and so were copied."""
    places: dict[int, Container] = {}
    for container in _walk(cfg):
        twin = container._record.twin if container._record is not None else None
        if twin is None:
            continue
        first = places.setdefault(id(twin), container)
        if first is not container:
            message = f"is a copy of {full_key(first)!r}: the two are built apart. To share one object, write ref({full_key(first)!r})."
            yield Fault(full_key(container), message, where(container), fatal=False)


def _left_behind(cfg: Node) -> Iterator[Fault]:
    """Notes of what an override that put another object in a key's place did not take over."""
    for container in _walk(cfg):
        for key, settings in container._record.settings.items() if container._record is not None else ():
            if key == "_target_" or len(settings) < 2 or not is_override(settings[-1][0]):
                continue
            old, new = settings[-2][1], settings[-1][1]
            if not (isinstance(old, Node) and isinstance(new, Node) and "_target_" in old and "_target_" in new):
                continue
            yield from _not_taken(full_key(container, key), old, new, where(container, key))


def _not_taken(key: str, old: Node, new: Node, place: str) -> Iterator[Fault]:
    try:
        target = new["_target_"]
        takes = parameters_of(locate(target) if isinstance(target, str) else target)
    except ConfigError:  # told already
        return
    arguments = [k for k, _ in raw_children(old) if k not in CONTROL_KEYS]
    unknown = [k for k in arguments if takes is not None and takes.any_name is None and k not in takes.by_name]
    if unknown:
        names = ", ".join(map(repr, unknown))
        message = (
            f"was {target_name(old.raw['_target_'])}, whose {names} {target_name(new.raw['_target_'])} does not take"
        )
        yield Fault(key, message, place, fatal=False)
    lost = [where(old, k) for k in arguments if settings_of(old, k) and is_override(settings_of(old, k)[-1][0])]
    if lost:
        yield Fault(key, f"was put whole in the place of what was set before: {'; '.join(lost)}", place, fatal=False)


def _walk(container: Container) -> Iterator[Container]:
    stack = [container]
    while stack:
        here = stack.pop()
        yield here
        stack.extend(reversed([v for _, v in raw_children(here) if isinstance(v, CONTAINERS)]))
