"""Configs in YAML files, as `ultravid.config.LazyConfig.save` writes them. Reading one imports nothing and runs no code."""

from __future__ import annotations

import base64
import gc
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ultravid import __version__
from ultravid.config.errors import ConfigError
from ultravid.config.file_version import VERSION_KEY, accepted_version
from ultravid.config.migrations import current_target
from ultravid.config.nodes import Node
from ultravid.config.targets import locate_dotted
from ultravid.config.tree import RESERVED_KEYS, ensure_record, join_key
from ultravid.config.upgrade import upgrade

__all__ = ["from_data", "gc_paused", "load_yaml", "load_yaml_data"]

_MAX_VALUES = 1_000_000


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses a duplicate key; YAML's own silently takes the last one.

    ``12:30`` is a text, as in YAML 1.2; in 1.1 it is 750, twelve times sixty and thirty.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return mapping


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(f"(?!.*:)(?:{pattern.pattern})$", pattern.flags) if tag in _NUMBERS else pattern)
        for tag, pattern in resolvers
    ]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class _ListLoader(_Loader):
    """Reads ``1e-4`` as the number that YAML 1.2 has it for; in 1.1 it is a text, as a number there needs a dot."""


_ListLoader.yaml_implicit_resolvers = {k: list(v) for k, v in _Loader.yaml_implicit_resolvers.items()}
_ListLoader.add_implicit_resolver(_NUMBERS[1], re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection in the block.

    PyYAML makes a tree of small objects, which the collector walks again and again: this took a third of the time of
    reading a file with 5,000 calls.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load_yaml(path: Path, allow_pickle: bool) -> Node:
    """The content of a YAML file; one that an earlier version saved is brought up to date.

    Args:
        path: the path of the file, which exists.
        allow_pickle: unpickle what the file holds as pickles, which may run any code.

    Raises:
        ConfigError: it is not YAML, or not a config, or for a later version of ultravid; the message names file and line.
    """
    data = _content(path, _Loader)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}, not a mapping.")
    version = _take_version(data, path)
    reader = _Reader(allow_pickle)
    try:
        node = reader.node(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path}: a value holds itself, or is nested too deep.") from None
    node._origin = ("yaml", str(path))
    if version:
        ensure_record(node).version = version
    upgrade(node, saved_with=reader.names)
    return node


def load_yaml_data(path: Path) -> Any:
    """The plain data of a YAML file that is no config, as a list of jobs; ``1e-4`` is a number.

    Raises:
        ConfigError: it is not YAML; the message names file and line.
    """
    return _content(path, _ListLoader)


def _content(path: Path, loader: Any) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        with gc_paused():
            return yaml.load(text, Loader=loader)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}.") from error
    except Exception as error:  # PyYAML lets errors of all kinds through, as the ValueError of an impossible date
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: is not YAML: {getattr(error, 'problem', None) or error}") from error


def _take_version(data: dict[Any, Any], path: Path) -> str:
    """The version that a file states, which is taken out of its data; "" if it states none."""
    if VERSION_KEY not in data:
        return ""
    stated = data.pop(VERSION_KEY)
    if stated == __version__:
        return __version__
    tree = yaml.compose(path.read_text(encoding="utf-8-sig"), _Loader)
    pairs = tree.value if isinstance(tree, yaml.MappingNode) else ()
    key, value = next(pair for pair in pairs if pair[0].value == VERSION_KEY)
    if isinstance(value, yaml.ScalarNode):  # YAML reads 0.10 as the number 0.1
        stated = value.value
    return accepted_version(stated, f"{path}:{key.start_mark.line + 1}")


def from_data(data: dict[Any, Any], *, allow_pickle: bool = False) -> Node:
    """The node that `ultravid.config.plain_data.to_data` wrote as plain data; nothing is imported.

    Raises:
        ConfigError: a pickle although ``allow_pickle`` is false, a reserved word with a wrong value, or more than a million
            values (a file's aliases can describe far more than the file holds).
    """
    return _Reader(allow_pickle).node(data)


class _Reader:
    """Turns plain data into values; remembers the names of targets and objects."""

    def __init__(self, allow_pickle: bool) -> None:
        self.allow_pickle = allow_pickle
        self.remaining = _MAX_VALUES
        self.names: set[str] = set()

    def node(self, data: dict[Any, Any]) -> Node:
        return Node._make(((k, self.value(v, join_key("", k))) for k, v in data.items()), None)

    def value(self, value: Any, key: str) -> Any:
        self.remaining -= 1
        if self.remaining < 0:
            raise ConfigError(f"It describes more than {_MAX_VALUES:,} values.")
        if isinstance(value, dict):
            if len(value) == 1 and not RESERVED_KEYS.isdisjoint(value):
                ((word, inner),) = value.items()
                if word == "_tuple_" and isinstance(inner, list):
                    return tuple(self.value(v, f"{key}[{i}]") for i, v in enumerate(inner))
                if word == "_pickle_":
                    return _unpickled(inner, key, self.allow_pickle)
                if word == "_tuple_" or not isinstance(inner, str):
                    raise ConfigError(f"{key}.{word} holds {inner!r}.")
                self.names.add(inner)
            elif isinstance(target := value.get("_target_"), str):
                self.names.add(target)
            return {k: self.value(v, join_key(key, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self.value(v, f"{key}[{i}]") for i, v in enumerate(value)]
        return value


def _unpickled(text: Any, key: str, allow_pickle: bool) -> Any:
    if not allow_pickle:
        raise ConfigError(
            f"{key} is a pickle, which may run any code when it is read; LazyConfig.load(..., allow_pickle=True) reads it."
        )
    import pickle  # only here: few configs hold one

    class Unpickler(pickle.Unpickler):
        """Finds classes and functions that were renamed since."""

        def find_class(self, module: str, name: str) -> Any:
            old = f"{module}.{name}"
            today = current_target(old)
            return super().find_class(module, name) if today == old else locate_dotted(today)

    try:
        return Unpickler(io.BytesIO(base64.b64decode(text))).load()
    except Exception as error:  # whatever an object's own unpickling raises
        raise ConfigError(f"{key} is a pickle that can't be read: {type(error).__name__}: {error}") from error
