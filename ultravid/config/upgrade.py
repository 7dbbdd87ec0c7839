"""Upgrades configs of earlier versions: applies the tables of `ultravid.config.migrations` to a tree and to overrides.

Each change leaves a note at the value that it concerns, which `ultravid.config.check` reports.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ultravid import __version__
from ultravid.config.errors import ConfigError, Fault
from ultravid.config.file_version import VERSION_KEY, is_earlier
from ultravid.config.migrations import (
    ARGUMENTS,
    KEYS,
    PARTS,
    PAST_DEFAULTS,
    PLAIN_VALUES,
    RECOMPOSED,
    REGROUPED,
    PastDefault,
    Regrouped,
    current_target,
    keys_below,
)
from ultravid.config.nodes import Node
from ultravid.config.provenance import where
from ultravid.config.references import REFERENCE, owner_of, referred_key
from ultravid.config.targets import target_name
from ultravid.config.tree import (
    DELETED,
    LEAVES,
    Container,
    Origin,
    child_key,
    ensure_record,
    full_key,
    join_key,
    join_steps,
    key_in_parent,
    raw_child,
    raw_children,
    root_of,
    split_key,
    walk,
)
from ultravid.utils.text import counted

__all__ = ["current_key", "make_parts", "note_override", "regroup", "upgrade", "upgrade_notes", "upgrade_value"]

_OLD_ARGUMENTS = frozenset(old for arguments in ARGUMENTS.values() for old in arguments) | {
    old.partition(".")[0] for today in REGROUPED.values() for old in today.keys
}


def upgrade(root: Container, *, saved_with: Iterable[str] | None = None) -> None:
    """Bring a config of an earlier version up to date, in place.

    Args:
        root: the whole config, or a part of it that another config takes in.
        saved_with: of a config that ultravid saved, the names of all targets and objects in it; without an old one among
            them no call is examined. Names that still work are replaced by those that are saved today, without a note.
    """
    moved: dict[str, str] = {}
    if root._up is None and isinstance(root, Node):
        for old, new in KEYS.items():
            _move_key(root, old, new, moved)
    if saved_with is None or any(
        n in ARGUMENTS or n in RECOMPOSED or n in REGROUPED or current_target(n, kept=True) != n for n in saved_with
    ):
        _upgrade_calls(root, saved_with is not None, moved)
    if moved:
        _redirect_references(root, moved)


def regroup(root: Container) -> None:
    """Write the calls of a user's config as those of a saved one are written (`REGROUPED`), in place, to compare the two."""
    moved: dict[str, str] = {}
    for container in list(walk(root)):
        if isinstance(container, Node):
            _regroup(container, moved)
    if moved:
        _redirect_references(root, moved)


def upgrade_value(container: Container, key: Any) -> None:
    """Bring a value that was set in a config up to date, in place."""
    value = raw_child(container, key)
    if isinstance(value, Container):
        upgrade(value)
    elif key in ("_target_", "_object_"):
        _rename_target(container, key, saved=False)


def upgrade_notes(root: Container) -> list[Fault]:
    """A note for each change that was made in a config, after one on its version if that is earlier; they are not fatal."""
    notes = [
        Fault(full_key(container, key), note, where(container, key), fatal=False)
        for container in walk(root)
        if container._record is not None
        for key, note in container._record.notes.items()
        if raw_child(container, key, DELETED) is not DELETED
    ]
    version = root._record.version if root._record is not None else ""
    if notes and is_earlier(version):
        changed = (
            f"{counted(len(notes), 'setting')} of it {'was' if len(notes) == 1 else 'were'} changed for {__version__}"
        )
        message = f"the config is for ultravid {version}, and {changed}"
        notes.insert(0, Fault(VERSION_KEY, message, where(root, VERSION_KEY), fatal=False))
    return notes


def current_key(cfg: Node, key: str) -> str:
    """Today's key for one of an earlier version; a key that did not change, or that the config has, comes back as it is.

    Raises:
        ConfigError: it is not a key.
    """
    may_be_old = KEYS or not _OLD_ARGUMENTS.isdisjoint(split_key(key))  # a look before the walk, which takes longer
    if not (may_be_old and _is_absent(cfg, key)):
        return key
    node: Any = cfg
    steps: list[str] = []
    rest = list(split_key(_renamed(key)))
    while rest:
        today, rest = _next_steps(node, rest)
        for step in today:
            steps.append(step)
            found = child_key(node, step) if isinstance(node, Container) else None
            node = raw_child(node, found) if found is not None else None
    today_key = ""
    for step in steps:
        today_key = join_key(today_key, int(step) if step.removeprefix("-").isdecimal() else step)
    return key if split_key(today_key) == split_key(key) else today_key


def _next_steps(node: Any, rest: list[str]) -> tuple[list[str], list[str]]:
    """The next steps of a key below a node, as they are called today, and those after them."""
    if isinstance(node, Node) and rest[0] not in node:
        if moved := _arguments(node).get(rest[0]):
            return moved.split("."), rest[1:]
        below = keys_below(_target_name(node))
        for count in range(len(rest), 0, -1):
            if moved := below.get(".".join(rest[:count])):
                return moved.split("."), rest[count:]
    return rest[:1], rest[1:]


def key_of_plain_value(cfg: Node, key: str, value: Any) -> str:
    """The key that a plain value means where the config has an object: ``trainer.precision=float16`` sets its ``dtype``."""
    steps = split_key(key)
    name, kind = PLAIN_VALUES.get(steps[-1] if steps else "", ("", object))
    if not name or type(value) is not kind:
        return key
    node: Any = cfg
    for step in steps:
        found = child_key(node, step) if isinstance(node, Container) else None
        node = raw_child(node, found) if found is not None else None
    target = node.raw.get("_target_") if isinstance(node, Node) else None
    is_part = target is not None and target_name(target) == PARTS[steps[-1]]["_target_"]
    return join_key(key, name) if is_part else key


def make_parts(cfg: Node, key: str, origin: Origin) -> None:
    """Make the calls on the way to a key, as ``trainer.accumulation`` for ``trainer.accumulation.num_batches``, if there are none."""
    node: Any = cfg
    for step in split_key(key)[:-1]:
        if step in PARTS and isinstance(node, Node) and dict.get(node, step) is None:
            node.set(step, dict(PARTS[step]), origin)
        found = child_key(node, step)
        if found is None:
            return
        node = node[found]


def note_override(container: Container, key: Any, old: str) -> None:
    """Note that an override set a value by its key of an earlier version."""
    ensure_record(container).notes[key] = f"was set as {old!r}, which is now called {full_key(container, key)!r}"


# --- targets and arguments ------------------------------------------------------------------------------------------------


_TARGETS_WITH_MOVED_ARGUMENTS = frozenset(name.rpartition(".")[2] for name in ARGUMENTS) | {
    today.target.rpartition(".")[2] for today in REGROUPED.values()
}


def _upgrade_calls(root: Container, saved: bool, moved: dict[str, str]) -> None:
    stack: list[Container] = [root]
    while stack:
        container: Any = stack.pop()
        if isinstance(container, dict):
            target = dict.get(container, "_target_")
            if type(target) is str:
                if saved and target in PAST_DEFAULTS:
                    _set_past_default(container, PAST_DEFAULTS[target])
                _rename_target(container, "_target_", saved)
                _move_arguments(container, _arguments(container), moved)
                if saved:
                    _recompose(container, moved)
                    _regroup(container, moved)
            elif target is None:
                if "_object_" in container:
                    _rename_target(container, "_object_", saved)
            elif getattr(target, "__name__", None) in _TARGETS_WITH_MOVED_ARGUMENTS:
                _move_arguments(container, _arguments(container), moved)
        stack.extend(v for _, v in raw_children(container) if type(v) not in LEAVES and isinstance(v, Container))


def _rename_target(container: Any, key: str, saved: bool) -> None:
    name = dict.get(container, key)
    if type(name) is not str or (today := current_target(name, kept=saved)) == name or REFERENCE in name:
        return
    if current_target(name) != name:
        ensure_record(container).notes[key] = f"{name!r} is now called {today!r}"
    dict.__setitem__(container, key, today)


def _set_past_default(node: Any, past: PastDefault) -> None:
    """Write out what a call meant without saying it; see `PAST_DEFAULTS`."""
    given = dict.get(node, past.argument)
    if isinstance(given, str) and REFERENCE not in given:
        dict.__setitem__(node, past.argument, given + past.otherwise)
        ensure_record(node).notes[past.argument] = (
            f"was {given!r}, and the default for all other videos was {past.meaning}; this is now written as {given + past.otherwise!r}"
        )
    if given is not None:
        return
    node.set(past.argument, past.value, (where(node, "_target_"),))
    ensure_record(node).notes[past.argument] = (
        f"was not set, and its default was {past.meaning}; this is now written as {past.value!r}"
    )


def _arguments(node: Any) -> Mapping[str, str]:
    """The arguments of a call's target whose names changed: {old: today's}."""
    return ARGUMENTS.get(_target_name(node), {})


def _target_name(node: Any) -> str:
    target = raw_child(node, "_target_", None)
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"


def _move_arguments(node: Any, arguments: Mapping[str, str], moved: dict[str, str]) -> None:
    for old, new in keys_below(_target_name(node)).items():
        part, _, last = new.rpartition(".")
        if old in node and isinstance(goal := dict.get(node, part) if part else node, Node):
            _move(node, old, goal, last, moved)
    old_names = [name for name in arguments if name in node]
    if not old_names:
        return
    for part in {
        new.partition(".")[0] for new in arguments.values() if "." in new
    }:  # complete, as a config of today is
        if dict.get(node, part) is None:
            moved_here = {arguments[name] for name in old_names}
            pairs = [(key, value) for key, value in PARTS[part].items() if f"{part}.{key}" not in moved_here]
            dict.__setitem__(node, part, Node._make(pairs, None))
            raw_child(node, part)._up = node
    for name in old_names:
        *above, last = arguments[name].split(".")
        goal = functools.reduce(operator.getitem, above, node)  # a part may be a reference
        _move(node, name, goal, last, moved)


def _recompose(node: Any, moved: dict[str, str]) -> None:
    """Write a call as a shipped config writes it today; see `RECOMPOSED`."""
    old = dict.get(node, "_target_")
    today = RECOMPOSED.get(old) if isinstance(old, str) else None
    if today is None:
        return
    names = [name for name in today.arguments if name in node]
    values = {name: (where(node, name), dict.pop(node, name)) for name in names}
    part = Node._make([("_target_", today.call)], None)
    dict.__setitem__(node, today.part, part)
    part._up = node
    for name, (place, value) in values.items():
        part.set(today.arguments[name], _detached(value, deeper=1), (place,))
    for name in sorted(
        names, key=lambda name: name != today.part
    ):  # a reference that another leads below it stays there
        moved[full_key(node, name)] = full_key(part, today.arguments[name])
    dict.__setitem__(node, "_target_", today.target)
    ensure_record(node).notes["_target_"] = (
        f"{old!r} is written as {today.target!r} with {today.part}={today.call}(...)"
    )


def _regroup(node: Any, moved: dict[str, str]) -> None:
    """Write a call with its arguments grouped as a shipped config has them today; see `REGROUPED`."""
    target = _target_name(node)
    today = REGROUPED.get(target)
    if today is None or not _is_regroupable(node, today):
        return
    values = {}
    for old in today.keys:
        group, _, name = old.rpartition(".")
        source = dict.get(node, group) if group else node
        if isinstance(source, Node) and name in source:
            values[old] = (where(source, name), full_key(source, old.rpartition(".")[2]), dict.pop(source, name))
    for group in today.groups:
        dict.pop(node, group)
    absent = {part for part, needed in today.optional.items() if values.get(needed, (None, "", None))[2] is None}
    dict.__setitem__(node, "_target_", today.target)
    for old, (place, old_key, value) in values.items():
        goal = _goal(node, today.keys[old], today, absent)
        if goal is None:
            continue
        last = today.keys[old].rpartition(".")[2]
        deeper = today.keys[old].count(".") - old.count(".")
        goal.set(last, _detached(value, deeper=deeper), (place,))
        moved[old_key] = full_key(goal, last)
    for key, value in today.values.items():
        if (goal := _goal(node, key, today, absent)) is not None:
            goal.set(key.rpartition(".")[2], value, (where(node, "_target_"),))
    for part in absent:
        dict.__setitem__(node, part, None)
    ensure_record(node).notes["_target_"] = f"{target!r} is written as {today.target!r}, with its parts as arguments"


def _is_regroupable(node: Any, today: Regrouped) -> bool:
    """Whether a call's groups are what they were when ultravid saved them, without anything that is unknown."""
    for group, targets in today.groups.items():
        inner = dict.get(node, group)
        known = {"_target_", *(old.rpartition(".")[2] for old in today.keys if old.startswith(f"{group}."))}
        if (
            not isinstance(inner, Node)
            or current_target(_target_name(inner)) not in targets
            or not known.issuperset(inner)
        ):
            return False
    return not any(new in node for new in today.parts)


def _goal(node: Any, key: str, today: Regrouped, absent: Iterable[str]) -> Any:
    """The node that holds a key of today below a call, created if it is a part; None if the part is absent."""
    part, dot, _ = key.partition(".")
    if not dot:
        return node
    if part in absent:
        return None
    if part not in node:
        dict.__setitem__(node, part, Node._make([("_target_", today.parts[part])], None))
        raw_child(node, part)._up = node
    return raw_child(node, part)


def _move(source: Any, old: str, goal: Any, new: str, moved: dict[str, str]) -> None:
    """Move a value from one node to another, with the place where it was set."""
    place, old_key, depth = where(source, old), full_key(source, old), _depth(source)
    value = _detached(dict.pop(source, old), deeper=_depth(goal) - depth)
    goal.set(new, value, (place,))
    moved[old_key] = full_key(goal, new)
    ensure_record(goal).notes[new] = f"was called {old_key!r}"


def _detached(value: Any, deeper: int) -> Any:
    """A value that was taken out of its node, for a place so many levels deeper: a relative reference counts from its place."""
    if isinstance(value, Container):
        value._up = None
    elif type(value) is str and value.startswith("${."):
        return "${." + "." * deeper + value[3:]
    return value


def _depth(container: Container) -> int:
    depth = 0
    while container._up is not None:
        container, depth = container._up, depth + 1
    return depth


# --- keys -----------------------------------------------------------------------------------------------------------------


def _renamed(key: str) -> str:
    for old, new in KEYS.items():
        if key == old or key.startswith((f"{old}.", f"{old}[")):
            return new + key[len(old) :]
    return key


def _is_absent(cfg: Node, key: str) -> bool:
    node: Any = cfg
    for step in split_key(key):
        found = child_key(node, step)
        if found is None:
            return True
        node = raw_child(node, found) if isinstance(node, Container) else None
    return False


def _move_key(root: Node, old: str, new: str, moved: dict[str, str]) -> None:
    *above, name = split_key(old)
    source: Any = root
    for step in above:
        source = dict.get(source, step) if isinstance(source, Node) else None
    if not isinstance(source, Node) or name not in source:
        return
    goal: Any = root
    *above, last = split_key(new)
    for step in above:
        if step not in goal:
            goal.set(step, {}, (where(source, name),))
        goal = goal[step]
    _move(source, name, goal, last, moved)


_KEY_IN_REFERENCE = re.compile(r"(?<!\\)\$\{\s*(\.*)([^\s.:${}][^\s:${}]*?)(?=\s*\}|[.\[]\$\{)")


def _redirect_references(root: Container, moved: Mapping[str, str]) -> None:
    """Let references to values that moved lead to their new places."""
    moves = [(split_key(old), split_key(new)) for old, new in moved.items()]
    for container in walk(root):
        redirected = {}
        for key, value in raw_children(container):
            if type(value) is str and REFERENCE in value:
                new = _KEY_IN_REFERENCE.sub(functools.partial(_redirected, container, moves), value)
                if new != value:
                    redirected[key] = new
        if redirected:
            _replace(container, redirected)


def _redirected(container: Container, moves: Iterable[tuple[list[str], list[str]]], match: re.Match[str]) -> str:
    """The beginning of a reference, ``${`` and a key, for the place where the value is today."""
    dots, key = match.groups()
    base: Any = container if dots else root_of(container)
    for _ in dots[1:]:
        base = base._up if base is not None else None
    if base is None:  # it leads above the root; whoever reads it reports that
        return match[0]
    above = split_key(full_key(base))
    written = steps = _steps_to(base, key)
    for old, new in moves:
        if steps[: len(old)] == old:  # once for each: the new key may begin with the old one
            steps = new + steps[len(old) :]
    if steps == written:
        return match[0]
    is_below = bool(dots) and steps[: len(above)] == above
    names = steps[len(above) :] if is_below else steps
    return f"{REFERENCE}{dots if is_below else ''}{join_steps(names)}"


def _steps_to(node: Any, key: str) -> list[str]:
    """The steps from the root to a key below a node, with indices from the start and by way of the references on it.

    There are none if the text is not a key, or a reference on the way leads nowhere.
    """
    steps = split_key(full_key(node))
    place: tuple[Container, Any] | None = None
    try:
        for step in split_key(key):
            if place is not None and referred_key(raw_child(*place)) is not None:
                place = owner_of(*place)
                steps, node = split_key(full_key(*place)), raw_child(*place)
            found = child_key(node, step)
            steps.append(str(range(len(node))[found]) if type(found) is int and not isinstance(node, dict) else step)
            place = (node, found) if found is not None and isinstance(node, Container) else None
            node = raw_child(*place) if place is not None else None
    except ConfigError:
        return []
    return steps


def _replace(container: Container, values: Mapping[Any, Any]) -> None:
    """Replace raw values of a container; a tuple is itself replaced in the container that holds it."""
    if isinstance(container, dict):
        dict.update(container, values)
    elif isinstance(container, list):
        for index, value in values.items():
            list.__setitem__(container, index, value)
    else:
        items = [(index, values.get(index, value)) for index, value in raw_children(container)]
        for _, item in items:
            if isinstance(item, Container):
                item._up = None
        new = type(container)._make(items, container._origin)
        new._up, new._record = container._up, container._record
        if container._up is not None:
            _replace(container._up, {key_in_parent(container): new})
