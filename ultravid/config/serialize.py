"""Configs as text: YAML to save and reload, Python-like code to read, and a hash to compare."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import yaml

from ultravid import __version__
from ultravid.config.file_version import VERSION_KEY
from ultravid.config.nodes import Node, as_root
from ultravid.config.plain_data import to_data
from ultravid.config.references import is_reference
from ultravid.config.targets import target_name
from ultravid.config.tree import CONTROL_KEYS, Container, raw_child, raw_children
from ultravid.config.yaml_files import gc_paused

__all__ = ["config_hash", "dump_yaml", "py_text", "resolved", "resolved_child", "target_text", "to_py"]

_LINE_LENGTH = 88  # black's, as detectron2 prints configs


def config_hash(cfg: Any) -> str:
    """SHA-256 (hex) of a config as written: the same in every process, for keys in any order, and after saving.

    Args:
        cfg: the config's root, or a node, which is taken as a root.

    Raises:
        ConfigError: something can't be written as data; the message names its key.
    """
    data = to_data(as_root(cfg))
    if isinstance(data, dict):
        data.pop(VERSION_KEY, None)  # read by another loader, which keeps it
    return hashlib.sha256(_canonical(data).encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(data: Any) -> str:
    if isinstance(data, dict):
        return "{" + ",".join(sorted(f"{k!r}:{_canonical(v)}" for k, v in data.items())) + "}"
    if isinstance(data, list):
        return "[" + ",".join(map(_canonical, data)) + "]"
    return repr(data)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Safe YAML without anchors: only references express sharing."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text; in quotes also if only YAML 1.2 reads it as a number, as OmegaConf and other readers do: ``1e3``, ``0o10``."""
        is_number = text[:1] in _BEGINS_A_NUMBER and _NUMBER_OF_YAML_1_2.fullmatch(text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if is_number else None)


_BEGINS_A_NUMBER = frozenset("+-.0123456789")
_NUMBER_OF_YAML_1_2 = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?|0o[0-7]+|0x[0-9a-fA-F]+")
_Dumper.add_representer(str, _Dumper.represent_text)


def dump_yaml(node: Any, *, allow_pickle: bool = False, with_version: bool = False) -> str:
    """A config as YAML, keys in their order.

    Args:
        node: a config or a part of one.
        allow_pickle: write what can't be written as data as a pickle.
        with_version: state first the version of ultravid, as a file does that is read again.

    Raises:
        ConfigError: something can't be written as data; the message names its key.
    """
    data = to_data(node, allow_pickle=allow_pickle)
    if with_version and isinstance(data, dict):
        data.pop(VERSION_KEY, None)
        data = {VERSION_KEY: __version__, **data}
    with gc_paused():
        text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def to_py(node: Any, prefix: str = "cfg.") -> str:
    """A config as Python-like code in black's style, a statement for each plain value and for each call; for reading."""
    return "\n".join(_py_lines(node, prefix)) + "\n"


def _py_lines(node: Any, prefix: str) -> Iterable[str]:
    for key, value in raw_children(node):
        name = f"{prefix}{key}"
        if isinstance(value, Node) and "_target_" not in value and value and not _is_object(value):
            yield from _py_lines(value, f"{name}.")
        else:
            yield f"{name} = {py_text(value, _LINE_LENGTH - len(name) - 3)}"


def _is_object(node: Node) -> bool:
    return len(node) == 1 and isinstance(node.raw.get("_object_"), str)


def py_text(value: Any, width: int | None = None, indent: str = "") -> str:
    """One value as Python-like code: on one line, or on several if it has more than ``width`` characters."""
    opening, parts, closing = _py_parts(value)
    inner = indent + "    "
    texts = [name + py_text(part) for name, part in parts]
    line = f"{opening}{', '.join(texts)}{',' if opening == '(' and len(texts) == 1 else ''}{closing}"
    if width is None or len(line) <= width or not parts:
        return line
    inner_width = _LINE_LENGTH - len(inner) - 1
    lines = "".join(f"{inner}{name}{py_text(part, inner_width - len(name), inner)},\n" for name, part in parts)
    return f"{opening}\n{lines}{indent}{closing}"


def _py_parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """The text before a value's parts, the parts with their names, and the text after them."""
    if isinstance(value, Node):
        items = dict(raw_children(value))
        if _is_object(value):
            return items["_object_"], [], ""
        if "_target_" not in items:
            return "{", [(f"{_literal(k)}: ", v) for k, v in items.items()], "}"
        positional = items.get("_args_", ())
        if isinstance(positional, Container):
            arguments = [("", v) for _, v in raw_children(positional)]
        else:
            arguments = [("*", positional)] if positional else []
        arguments += [(f"{k}=", v) for k, v in items.items() if k not in CONTROL_KEYS]
        name = target_text(items["_target_"])
        return (
            (f"partial({name}, " if arguments else f"partial({name}") if items.get("_partial_") else f"{name}(",
            arguments,
            ")",
        )
    if isinstance(value, Container) or type(value) is tuple:
        held = raw_children(value) if isinstance(value, Container) else enumerate(value)
        brackets = "()" if isinstance(value, tuple) else "[]"
        return brackets[0], [("", v) for _, v in held], brackets[1]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}") and value.count("${") == 1:
        return f"ref({_literal(value[2:-1])})", [], ""
    return target_name(value) if callable(value) else _literal(value), [], ""


def _literal(value: Any) -> str:
    """As `repr`, with double quotes around a string that has none in it."""
    text = repr(value)
    if type(value) is str and text[0] == "'" and '"' not in text:
        return f'"{text[1:-1]}"'
    return text


def target_text(target: Any) -> str:
    """A target for people: its dotted name, or the call that makes it."""
    return py_text(target) if isinstance(target, Node) else target_name(target)


def resolved(container: Container) -> Any:
    """A copy with values in the place of references. A reference to a call stays, because it means one shared object.

    Raises:
        InterpolationError: a reference leads nowhere or in a circle.
    """
    pairs = [(key, resolved_child(container, key)) for key, _ in raw_children(container)]
    if isinstance(container, Node):
        return Node(pairs)
    return type(container)._make(pairs, None)


def resolved_child(container: Container, key: Any) -> Any:
    """One value of a container as `resolved` has it."""
    value = raw_child(container, key)
    if is_reference(value):
        found = container[key]
        if isinstance(found, Node) and "_target_" in found:
            return value
        return resolved(found) if isinstance(found, Container) else found
    return resolved(value) if isinstance(value, Container) else value
