"""The overrides that turn one config into another. They are tried: the result has exactly the values of the second config."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ultravid.config.diff import ABSENT, Difference, diff, same_as_written
from ultravid.config.errors import ConfigError
from ultravid.config.file_version import BESIDE_THE_RUN
from ultravid.config.nodes import ListNode, Node, TupleNode, as_node
from ultravid.config.override_values import quoted_value
from ultravid.config.overrides import override_faults
from ultravid.config.plain_data import to_data
from ultravid.config.tree import Container, raw_child, raw_children

__all__ = ["overrides_between"]

_Steps = tuple[Any, ...]
_LISTS = (ListNode, TupleNode)
_WORD = re.compile(r"(?:\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./@-]*|\$\{[\w.]+\}")
_NOT_WORDS = frozenset({"true", "false", "null", "inf", "nan", "none"})


def overrides_between(old: Any, new: Any) -> list[str]:
    """The overrides that give one config the values of another, in the order in which they are applied, without shell quotes.

    What the two record beside the run is left alone, and so is the order of keys.

    Raises:
        ConfigError: some differences can't be written as overrides; the message names them.
    """
    goal = as_node(new)
    state = as_node(old).copy()
    found: list[str] = []
    for steps in list(_changes(state, goal, ())):
        for length in range(len(steps), 0, -1):  # what can't be set by itself is set with what holds it
            place = steps[:length]
            step = _first_that_works(state, goal, place)
            if step is not None:
                overrides, state = step
                found += overrides
                break
    left = diff(state, goal)
    if left:
        rows = "\n".join(f"  {_shortened(difference)}" for difference in left)
        raise ConfigError(
            f"{'This difference' if len(left) == 1 else 'These differences'} can't be written as overrides:\n{rows}\n"
            "Save the config as a file instead (LazyConfig.save, or --print --format yaml)."
        )
    return found


def _shortened(difference: Difference) -> str:
    text = str(difference)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _changes(old: Any, new: Any, steps: _Steps) -> Iterator[_Steps]:
    """Where two configs differ, as deep as each difference can be set by itself."""
    both_nodes = isinstance(old, Node) and isinstance(new, Node) and ("_target_" in old) == ("_target_" in new)
    if both_nodes or _item_by_item(old, new):
        a, b = dict(raw_children(old)), dict(raw_children(new))
        names = [*a, *(k for k in b if k not in a)]
        for step in sorted(names, key=lambda name: name != "_target_"):  # which decides what values the others may have
            if steps or step not in BESIDE_THE_RUN:
                yield from _changes(a.get(step, ABSENT), b.get(step, ABSENT), (*steps, step))
    elif old is ABSENT or new is ABSENT or not same_as_written(old, new, is_target=steps[-1:] == ("_target_",)):
        yield steps


def _item_by_item(old: Any, new: Any) -> bool:
    """Whether lists are compared by their items: they hold dicts or calls, and no item is taken out."""
    if not (isinstance(old, _LISTS) and type(old) is type(new) and len(old) <= len(new)):
        return False
    return any(isinstance(v, Container) for v in (*dict(raw_children(old)).values(), *dict(raw_children(new)).values()))


def _first_that_works(state: Node, goal: Node, steps: _Steps) -> tuple[list[str], Node] | None:
    """The first overrides that give a place its value in the goal, with the config after them; None if none do."""
    wanted = _at(goal, steps)
    if _is_same(_at(state, steps), wanted, steps):
        return [], state
    for overrides in _ways(state, steps, wanted):
        after = state.copy()
        if not override_faults(after, overrides) and _is_same(_at(after, steps), wanted, steps):
            return overrides, after
    return None


def _is_same(value: Any, wanted: Any, steps: _Steps) -> bool:
    if value is ABSENT or wanted is ABSENT:
        return value is wanted
    return same_as_written(value, wanted, is_target=steps[-1] == "_target_")


def _at(cfg: Node, steps: _Steps) -> Any:
    value: Any = cfg
    for step in steps:
        value = raw_child(value, step, ABSENT) if isinstance(value, Container) else ABSENT
    return value


def _ways(state: Node, steps: _Steps, wanted: Any) -> Iterator[list[str]]:
    """Overrides that may set a place, the shortest first."""
    key = ".".join(map(str, steps))
    if wanted is ABSENT:
        yield [f"~{key}"]
        return
    is_new = _at(state, steps) is ABSENT
    try:
        texts = list(dict.fromkeys(_texts(wanted, is_target=steps[-1] == "_target_")))
    except ConfigError:  # a live object without a name
        return
    for text in texts:
        yield [f"{'++' if is_new else ''}{key}={text}"]
    if not is_new:
        for text in texts:
            yield [f"~{key}", f"++{key}={text}"]


# --- values -----------------------------------------------------------------------------------------------------------------


def _texts(value: Any, is_target: bool) -> Iterator[str]:
    """A value in hydra's grammar: as short as can be, then with its texts in quotes, then with the kinds of all values named."""
    data: Any = to_data(Node(_target_=value))["_target_"] if is_target else to_data(value)
    forms = [data["_tuple_"], data] if isinstance(data, dict) and list(data) == ["_tuple_"] else [data]
    for form in forms:  # a list becomes a tuple where one was
        for style in ("short", "quoted", "cast"):
            yield _text(form, style)


def _text(data: Any, style: str) -> str:
    if isinstance(data, dict):
        return f"{{{', '.join(f'{_key_text(key)}: {_text(value, style)}' for key, value in data.items())}}}"
    if isinstance(data, list):
        return f"[{', '.join(_text(value, style) for value in data)}]"
    if data is None:
        return "null"
    if isinstance(data, str):
        if style == "short" and _is_word(data):
            return data
        return f"str({quoted_value(data)})" if style == "cast" else quoted_value(data)
    text = str(data).lower() if isinstance(data, bool) else repr(data)
    return f"{type(data).__name__}({text})" if style == "cast" else text


def _is_word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None and text.lower() not in _NOT_WORDS


def _key_text(key: Any) -> str:
    if isinstance(key, str):
        return re.sub(r"[\\()\[\]{}:=, \t]", r"\\\g<0>", key)  # the grammar has no quotes for keys
    return "null" if key is None else str(key).lower() if isinstance(key, bool) else repr(key)
