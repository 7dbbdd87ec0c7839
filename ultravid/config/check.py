"""Finds all errors of a config at once, before anything is built."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ultravid.config.call_faults import call_faults, object_faults
from ultravid.config.errors import ConfigError, Fault, FaultyConfigError, InterpolationError, did_you_mean
from ultravid.config.instantiate import as_packages, locate
from ultravid.config.kinds import load_config
from ultravid.config.lazy import LazyCall
from ultravid.config.loader import config_errors, importable_project, own_project
from ultravid.config.nodes import Node, as_node
from ultravid.config.overrides import override_faults
from ultravid.config.plain_data import to_data
from ultravid.config.provenance import is_override, origin_text, place_made, settings_of, where
from ultravid.config.references import is_reference, owner_of
from ultravid.config.targets import target_name
from ultravid.config.tree import (
    CONTROL_KEYS,
    MISSING,
    PLAIN,
    Container,
    full_key,
    join_key,
    key_in_parent,
    raw_child,
    raw_children,
    split_key,
    walk,
)
from ultravid.config.upgrade import upgrade, upgrade_notes
from ultravid.config.value_types import hint_of, mismatch, parameters_of, resolved_items, type_text
from ultravid.utils.text import nearest
from ultravid.utils.threads import NumThreads

__all__ = [
    "OF_LAUNCHERS",
    "RUN_KEYS",
    "RUN_OBJECTS",
    "all_faults",
    "check",
    "launcher_faults",
    "load_checked",
    "refuse_faults",
    "report_faults",
]

logger = logging.getLogger(__name__)

RUN_KEYS = (
    *("model", "dataloader.test", "dataloader.evaluator", "trainer"),
    *("train.output_dir", "train.device", "train.seed", "train.init_checkpoint"),
)
"""What ``tools/lazyconfig_train.py`` reads of a config."""

RUN_OBJECTS = ("trainer",)
"""Those of them that must describe an object."""

OF_LAUNCHERS: dict[str, Any] = {"num_threads": NumThreads, "deterministic": bool}
"""Values of ``train`` that launchers read and no object takes, with what they accept."""

_REFERRED = re.compile(r"(\.*)([A-Za-z_][\w.]*)[^${}]*\}")


def check(cfg: Any, *, allowed_packages: Iterable[str] | None = None) -> list[Fault]:
    """Walk a config and report everything that can't work.

    It finds targets that can't be imported, arguments that a target doesn't take, required arguments that are missing,
    values that contradict the annotation in the signature, references that lead nowhere or in a circle, and values that
    are still ``???``. It imports the targets, builds nothing and reads no data. Notes, which are not ``fatal``, report
    nodes that were copied because they were put in a second place, settings that were lost when another object replaced
    theirs, names that an earlier version used, and keys that nothing reads and that are spelled almost like one that is read.

    Args:
        cfg: the config's root, which may be a plain dict or an OmegaConf config.
        allowed_packages: report targets outside of these packages; None allows all.

    Returns:
        the faults in the order of the config, then the notes; empty if there are none.
    """
    cfg = as_node(cfg)
    allowed = as_packages(allowed_packages)
    with own_project(cfg):
        found = [
            *_faults(cfg, allowed),
            *launcher_faults(cfg),
            *_circles(cfg),
            *_copies(cfg),
            *_lost_settings(cfg),
            *_unread(cfg),
            *upgrade_notes(cfg),
        ]
    unique: dict[Any, Fault] = {}
    for fault in found:  # a value that several targets refer to is reported once
        unique.setdefault((fault.key, fault.about or fault.message), fault)
    return sorted(unique.values(), key=lambda f: not f.fatal)


def load_checked(
    config_file: str | Path,
    overrides: Sequence[str] = (),
    *,
    required: Iterable[str] = (),
    objects: Iterable[str] = (),
) -> Node:
    """Read a config, apply overrides, check the whole, and log the notes as warnings.

    Args:
        config_file: ``.py`` or ``.yaml``.
        overrides: the overrides of the command line.
        required: keys that the config must have, ``"train.output_dir"``.
        objects: those of them that must describe an object, which nothing else in the config takes: ``"trainer"``.

    Raises:
        ConfigError: with every fault of the overrides and of the config; or an error of a config file's own code, with its
            file, line and traceback.
    """
    with importable_project(config_file):
        with config_errors():
            cfg = load_config(config_file)
            upgrade(cfg)
            faults = override_faults(cfg, overrides)
        faults += all_faults(cfg, required=required, objects=objects)
    report_faults(config_file, faults)
    return cfg


def all_faults(cfg: Node, *, required: Iterable[str] = (), objects: Iterable[str] = ()) -> list[Fault]:
    """What `load_checked` reports of a config, its overrides apart."""
    return [*_missing_keys(cfg, required), *_not_objects(cfg, objects), *check(cfg), *_not_data(cfg)]


def refuse_faults(name: str | Path, cfg: Node, *, required: Iterable[str] = ()) -> None:
    """Check a config that was read already, as `load_checked` does.

    Args:
        name: the config's file, for the message.
        cfg: the config.
        required: keys that the config must have, ``"model"``.

    Raises:
        ConfigError: with every fault.
    """
    report_faults(name, all_faults(cfg, required=required))


def report_faults(name: str | Path, faults: Sequence[Fault]) -> None:
    """Log the notes among faults as warnings.

    Raises:
        ConfigError: with all others.
    """
    for note in faults:
        if not note.fatal:
            logger.warning("%s", note)
    fatal = [f for f in faults if f.fatal]
    if fatal:
        lines = "\n".join(f"  {fault}" for fault in fatal)
        raise FaultyConfigError(f"{name}: {len(fatal)} {'fault' if len(fatal) == 1 else 'faults'}\n{lines}", fatal)


def _not_data(container: Container) -> Iterator[Fault]:
    """Values that a run can't save with its config."""
    for here in walk(container):
        for key, value in raw_children(here):
            if type(value) in PLAIN or isinstance(value, Container):
                continue
            try:
                to_data({"_target_": value} if key == "_target_" else value)
            except ConfigError:
                message = (
                    f"is {value!r}, which can't be saved with the run. Describe it with LazyCall, or define it at the top "
                    "of a module (no lambda, no local class)"
                )
                yield Fault(full_key(here, key), message, where(here, key))


def _missing_keys(cfg: Node, required: Iterable[str]) -> Iterator[Fault]:
    for key in required:
        node: Any = cfg
        place = ""
        for step in split_key(key):
            if not isinstance(node, Node) or step not in node:
                known = list(node) if isinstance(node, Node) else []
                hint = did_you_mean(step, known, f"{place}." if place else "")
                if not place and cfg._record is not None and cfg._record.ignored_names.get(step) == "module":
                    hint = f" {step!r} is an imported file here, not a part of the config: write 'from .{step} import {step}'."
                yield Fault(key, f"is missing, and a run needs it.{hint}")
                break
            place = join_key(place, step)
            try:
                node = node[step]
            except ConfigError:  # check reports it
                break


def _not_objects(cfg: Node, keys: Iterable[str]) -> Iterator[Fault]:
    for key in keys:
        if key not in cfg:  # reported as missing
            continue
        try:
            value = cfg[key]
        except ConfigError:  # check reports it
            continue
        if not (isinstance(value, Node) and "_target_" in value):
            what = "a dict without _target_" if isinstance(value, Node) else repr(value)
            yield Fault(key, f"is {what}, but a run needs an object: L(...)(...)", where(cfg, key))


def _faults(container: Container, allowed: frozenset[str] | None, complete: bool = True) -> Iterator[Fault]:
    if isinstance(container, Node) and "_target_" in container:
        yield from call_faults(container, allowed, complete)
        complete = complete and dict.get(container, "_recursive_", True) is not False
    elif isinstance(container, Node) and len(container) == 1 and "_object_" in container:
        yield from object_faults(container, allowed)
    for key, value in raw_children(container):
        if isinstance(value, Container):
            yield from _faults(value, allowed, complete)
        elif _holds_calls(value):
            message = (
                f"is of {type(value).__name__}, in which calls are not built and references are not resolved; write a plain "
                "dict, list or tuple"
            )
            yield Fault(full_key(container, key), message, where(container, key))
        elif isinstance(value, LazyCall):
            message = f"is a call of {target_name(value.target)} without its arguments: write L(...)(...)"
            yield Fault(full_key(container, key), message, where(container, key))
        elif type(value) is str and value == MISSING:
            yield Fault(full_key(container, key), f"is still {MISSING}: give it a value", where(container, key))
        elif is_reference(value):
            try:
                container[key]
            except ConfigError as error:
                yield Fault(full_key(container, key), f"{error}{_hint(container, key, error)}", where(container, key))


def launcher_faults(cfg: Node) -> Iterator[Fault]:
    """Faults of the values of ``train`` that launchers read and no object takes."""
    train = cfg.get("train") if "train" in cfg and not is_reference(raw_child(cfg, "train", None)) else None
    if not isinstance(train, Node) or "_target_" in train:
        return
    for key, value in resolved_items(train, OF_LAUNCHERS.keys()):
        wrong = mismatch(value, OF_LAUNCHERS[key])
        if wrong is not None:
            message = f"is {value!r}, but must be {type_text(OF_LAUNCHERS[key])}."
            owner, own_key = owner_of(train, key)
            yield Fault(full_key(owner, own_key), message, where(owner, own_key), about="type")


def _hint(container: Container, key: Any, error: ConfigError) -> str:
    """What the parameter that takes a value says of wrong values; "" if nothing."""
    try:
        target = container["_target_"] if isinstance(container, Node) and "_target_" in container else None
        takes = parameters_of(locate(target) if isinstance(target, str) else target) if target is not None else None
    except ConfigError:  # reported with the target
        return ""
    is_function = isinstance(error, InterpolationError) and error.found == "function"
    return hint_of(takes.annotations.get(key), is_function) if takes is not None else ""


def _holds_calls(value: Any) -> bool:
    """Whether a collection that is no container of the config holds a call or a reference."""
    if isinstance(value, Mapping | SimpleNamespace):
        inner: Iterable[Any] = (value if isinstance(value, Mapping) else vars(value)).values()
    elif isinstance(value, deque | list | tuple | set | frozenset):
        inner = value
    else:
        return False
    return any(isinstance(v, Node) or is_reference(v) or _holds_calls(v) for v in inner)


def _circles(cfg: Node) -> Iterator[Fault]:
    """Objects that need themselves to be built, through calls and plain containers alike."""
    done: set[int] = set()
    above: dict[int, Container] = {}  # the containers on the way to this one, from the root down

    def circles_from(container: Container) -> Iterator[Fault]:
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
            if is_reference(value):
                try:
                    value = container[key]
                except ConfigError:  # reported already
                    continue
            if isinstance(value, Container):
                yield from circles_from(value)
        del above[id(container)]
        done.add(id(container))

    yield from circles_from(cfg)


def _copies(cfg: Node) -> Iterator[Fault]:
    """Notes of nodes that were copied because they were put in a second place."""
    places: dict[int, Container] = {}
    for container in walk(cfg):
        source = container._record.copied_from if container._record is not None else None
        if source is None:
            continue
        first = places.setdefault(id(source), container)
        if first is not container:
            message = f'is a copy of {full_key(first)!r}: the two are built separately. To share one object, write ref("{full_key(first)}").'
            yield Fault(full_key(container), message, _put_at(container), fatal=False)


def _put_at(container: Container) -> str:
    """``file:line`` of the code that put a node in its place, which is not the code that made it."""
    parent = container._up
    if parent is None:
        return where(container)
    key = key_in_parent(container)
    settings = settings_of(parent, key)
    set_there = settings[-1][0] if settings else None
    return origin_text(set_there) if set_there is not None else place_made(parent, key)


def _unread(cfg: Node) -> Iterator[Fault]:
    """Notes of keys that no reference names, beside a key of almost the same name that one does: ``train.max_itr``.

    Python may set any key of a node, so a config file's typing error adds one.
    """
    read: set[str] = set()  # whole keys; of a relative reference its last step
    for container in walk(cfg):
        for _, value in raw_children(container):
            for dots, key in _REFERRED.findall(value) if is_reference(value) else ():
                read.add(key.rpartition(".")[2] if dots else key)

    def is_read(node: Node, key: Any) -> bool:
        return key in read or full_key(node, key) in read

    def unread_below(node: Node) -> Iterator[Fault]:
        for key, value in raw_children(node):
            if is_read(node, key):  # and with it all that is below
                continue
            if isinstance(value, Node) and "_target_" not in value:
                yield from unread_below(value)
                continue
            letters = re.sub(r"\d", "", str(key))  # names that differ in a number are names of several things
            known = [k for k in map(str, node) if is_read(node, k) and re.sub(r"\d", "", k) != letters]
            if not isinstance(value, Container) and (near := nearest(str(key), known, 0.8)):
                message = f"is set, but nothing reads it. Did you mean {full_key(node, near)!r}?"
                yield Fault(full_key(node, key), message, where(node, key), fatal=False)

    yield from unread_below(cfg)


def _lost_settings(cfg: Node) -> Iterator[Fault]:
    """Notes of the settings of an object that an override replaced by another."""
    for container in walk(cfg):
        for key, settings in container._record.settings.items() if container._record is not None else ():
            if key == "_target_" or len(settings) < 2 or not is_override(settings[-1][0]):
                continue
            old, new = settings[-2][1], settings[-1][1]
            if not (isinstance(old, Node) and isinstance(new, Node) and "_target_" in old and "_target_" in new):
                continue
            yield from _differences(full_key(container, key), old, new, where(container, key))


def _differences(key: str, old: Node, new: Node, place: str) -> Iterator[Fault]:
    try:
        target = new["_target_"]
        takes = parameters_of(locate(target) if isinstance(target, str) else target)
    except ConfigError:  # reported already
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
        yield Fault(key, f"replaced an object together with what was set in it: {'; '.join(lost)}", place, fatal=False)
