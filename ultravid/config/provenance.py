"""Where a node or a value was set: file and line, worked out only on request.

While a config is read, a node keeps the code object and the instruction that made it, which costs a fraction of a
microsecond. The line of one argument of a call that spans many lines is found in the file's syntax tree, by the position
that the instruction has in the source.
"""

from __future__ import annotations

import ast
import functools
import itertools
from pathlib import Path
from types import CodeType
from typing import Any

import yaml

from ultravid.config.packages import parsing
from ultravid.config.tree import Container, Origin, key_in_parent, raw_child

__all__ = ["is_override", "origin_text", "place_made", "settings_of", "where"]


def where(container: Container, key: Any = None) -> str:
    """``file:line`` or the override that set a value last (or made the node); "" if it is not known."""
    if key is not None and (settings := settings_of(container, key)) and settings[-1][0] is not None:
        return origin_text(settings[-1][0])
    value = container if key is None else raw_child(container, key, None)
    if isinstance(value, Container) and value._origin is not None:
        return place_made(value)
    return place_made(container, *(() if key is None else (key,)))


def settings_of(container: Container, key: Any) -> list[tuple[Origin | None, Any]]:
    """(origin, value) of each setting of a key, the oldest first; empty if nothing was set after the node was made."""
    record = container._record
    return record.settings.get(key, []) if record is not None else []


def is_override(origin: Origin | None) -> bool:
    """Whether an origin is the command line."""
    return origin is not None and type(origin[0]) is str and origin[0].startswith("override ")


def place_made(container: Container, *steps: Any) -> str:
    """``file:line`` of the code that made a node, or the value in it that ``steps`` lead to, before anything was set in it."""
    node: Container = container
    while node._origin is None:  # made as a part of another node
        parent = node._up
        if parent is None:
            return ""
        step = key_in_parent(node)
        if (settings := settings_of(parent, step)) and settings[-1][0] is not None:
            return origin_text(settings[-1][0])
        steps = (step, *steps)
        node = parent
    return origin_text(node._origin, steps)


def origin_text(origin: Origin, steps: tuple[Any, ...] = ()) -> str:
    """``file:line`` of an origin, or of the value that ``steps`` lead to from it."""
    first = origin[0]
    if isinstance(first, CodeType):
        positions = next(itertools.islice(first.co_positions(), origin[1] // 2, None), (None,) * 4)
        line = positions[0] or first.co_firstlineno
        found = _call_at(first.co_filename, positions[0], positions[2], positions[1], positions[3])
        return f"{first.co_filename}:{_descend(found, steps, line)}"
    if first == "yaml":  # a YAML file: ("yaml", file)
        return f"{origin[1]}:{_yaml_line(origin[1], steps)}"
    if first == "assigned":  # a plain dict of a config file: ("assigned", file, name)
        if steps and (set_at := _item_line(origin[1], origin[2], steps[0])) is not None:
            return f"{origin[1]}:{set_at}"
        statement = _assignment(origin[1], origin[2])
        if statement is None:
            return str(origin[1])
        return f"{origin[1]}:{_descend(statement.value, steps, statement.lineno)}"
    return str(first)


def _yaml_line(file: str, steps: tuple[Any, ...]) -> int:
    """Line of the value that the steps lead to in a YAML file, or of the nearest one above it."""
    node, line = _yaml_tree(file), 1
    for step in steps:
        if isinstance(node, yaml.MappingNode) and any(k.value == "_tuple_" for k, _ in node.value):
            node = node.value[0][1]
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line


@functools.lru_cache(maxsize=16)
def _yaml_tree(file: str) -> yaml.Node | None:
    try:
        return yaml.compose(Path(file).read_text(encoding="utf-8-sig"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, ValueError):  # changed since it was read
        return None


@functools.lru_cache(maxsize=64)
def _tree(file: str) -> ast.Module | None:
    try:
        with parsing:
            return ast.parse(Path(file).read_bytes())  # which knows a file's encoding
    except (OSError, SyntaxError, ValueError):
        return None


def _call_at(
    file: str, line: int | None, column: int | None, end_line: int | None, end_column: int | None
) -> ast.AST | None:
    return _calls(file).get((line, column, end_line, end_column))


@functools.lru_cache(maxsize=64)
def _calls(file: str) -> dict[tuple[int | None, ...], ast.Call]:
    """The calls of a file by the positions of their beginning and end."""
    tree = _tree(file)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)] if tree is not None else []
    return {(n.lineno, n.col_offset, n.end_lineno, n.end_col_offset): n for n in calls}


def _assignment(file: str, name: str) -> ast.Assign | ast.AnnAssign | None:
    """The last statement at a file's top level that assigns a name."""
    tree = _tree(file)
    found = None
    for statement in tree.body if tree is not None else []:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and any(
            isinstance(t, ast.Name) and t.id == name for t in _targets(statement)
        ):
            found = statement
    return found


def _item_line(file: str, name: str, item: Any) -> int | None:
    """The line of the last ``name["item"] = ...`` at a file's top level."""
    tree = _tree(file)
    line = None
    for statement in tree.body if tree is not None else []:
        for target in _targets(statement):
            if (
                isinstance(target, ast.Subscript)
                and isinstance(target.value, ast.Name)
                and target.value.id == name
                and isinstance(target.slice, ast.Constant)
                and target.slice.value == item
            ):
                line = statement.lineno
    return line


def _targets(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


def _descend(node: ast.AST | None, steps: tuple[Any, ...], line: int) -> int:
    """Line of the value that the steps lead to, or of the nearest one above it."""
    for step in steps:
        child: ast.AST | None = None
        if isinstance(node, ast.Call):
            child = next((k.value for k in node.keywords if k.arg == step), None)
            line = next((k.lineno for k in node.keywords if k.arg == step), line)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            child = next((v for k, v in pairs if isinstance(k, ast.Constant) and k.value == step), None)
        elif isinstance(node, ast.List | ast.Tuple) and isinstance(step, int) and step < len(node.elts):
            child = node.elts[step]
        if child is None:
            return line
        if not isinstance(node, ast.Call):
            line = getattr(child, "lineno", line)
        node = child
    return line
