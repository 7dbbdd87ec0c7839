"""The differences between two configs: keys, values and targets, not text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.config.file_version import BESIDE_THE_RUN
from ultravid.config.nodes import ListNode, Node, TupleNode, as_node
from ultravid.config.plain_data import same
from ultravid.config.project_names import naming_folders, with_project_names
from ultravid.config.serialize import py_text, target_text
from ultravid.config.tree import join_key, raw_children, split_key

__all__ = ["ABSENT", "Difference", "diff", "same_as_written"]

ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "(absent)"})()  # noqa: ARG005
"""The value of a difference for a key that one of the two configs does not have."""

_Folders = tuple[list[Path], list[Path]]


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        key: full key.
        old: the first config's value as written, or `ABSENT`.
        new: the second's.
    """

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.old is ABSENT:
            return f"+ {self.key} = {_text(self.key, self.new)}"
        if self.new is ABSENT:
            return f"- {self.key} = {_text(self.key, self.old)}"
        return f"~ {self.key}: {_text(self.key, self.old)} -> {_text(self.key, self.new)}"


def diff(old: Any, new: Any) -> list[Difference]:
    """The differences between two configs as written: a reference equals a reference to the same key.

    The order of keys does not matter, nor whether a target is a name or the object itself, nor where the project is whose files
    define a function or a class. What a saved config records beside the run (``project_folders``, ``cfg_node``, the keys of its
    YAML file, and the version of ultravid) is ignored.

    Args:
        old: a config, or a node of one.
        new: the config to compare with it.
    """
    first, second = as_node(old), as_node(new)
    folders = naming_folders(first), naming_folders(second)
    found = _differences(first, second, "", folders)
    return [d for d in found if split_key(d.key)[0] not in BESIDE_THE_RUN]


def _differences(old: Any, new: Any, key: str, folders: _Folders) -> Iterator[Difference]:
    lists = (ListNode, TupleNode)
    both_nodes = isinstance(old, Node) and isinstance(new, Node) and ("_target_" in old) == ("_target_" in new)
    both_lists = isinstance(old, lists) and isinstance(new, lists) and type(old) is type(new)
    if both_nodes or both_lists:
        a, b = dict(raw_children(old)), dict(raw_children(new))
        for step in [*a, *(k for k in b if k not in a)]:
            yield from _differences(a.get(step, ABSENT), b.get(step, ABSENT), join_key(key, step), folders)
    elif old is ABSENT or new is ABSENT:
        yield Difference(key, old, new)
    else:
        step = key.rpartition(".")[2]
        is_target = step == "_target_"
        if not same_as_written(old, new, is_target=is_target):
            named = (with_project_names(value, each, step) for value, each in zip((old, new), folders, strict=True))
            if not same_as_written(*named, is_target=is_target):
                yield Difference(key, old, new)


def same_as_written(old: Any, new: Any, *, is_target: bool = False) -> bool:
    """Whether two raw values say the same; a target may be a name or the object itself."""
    return same({"_target_": old}, {"_target_": new}) if is_target else same(old, new)


def _text(key: str, value: Any) -> str:
    return target_text(value) if key.rpartition(".")[2] == "_target_" else py_text(value)
