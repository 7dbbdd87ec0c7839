"""Configs as code: calls that are written now and made later."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, overload

from ultravid.config.errors import ConfigError, UnknownKeyError, did_you_mean
from ultravid.config.instantiate import adopt_alone
from ultravid.config.loader import load_config_file, load_namespace, shipped_config, shipped_root
from ultravid.config.nodes import Node
from ultravid.config.overrides import apply_overrides
from ultravid.config.serialize import dump_yaml, to_py
from ultravid.utils.file_io import replace_file

__all__ = ["LazyCall", "LazyConfig", "LazyPartial", "get_config"]

P = ParamSpec("P")


class LazyCall(Generic[P]):
    """Describe a call without making it: ``LazyCall(torch.optim.SGD)(lr=0.1)`` is a node that `instantiate` calls.

    A type checker sees the target's own signature.

    Args:
        target: a callable, its dotted name, or a node that builds one.
    """

    @overload
    def __init__(self: LazyCall[P], target: Callable[P, Any]) -> None: ...
    @overload
    def __init__(self: LazyCall[...], target: str | Mapping[str, Any]) -> None: ...

    def __init__(self, target: Any) -> None:
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"The target of a LazyCall is a callable, its name or a node, got {target!r}.")
        self._target = target

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The node: ``_target_`` and the arguments as items, positional ones as ``_args_``."""
        frame = sys._getframe(1)
        pairs: list[tuple[str, Any]] = [("_target_", self._target)]
        if args:
            pairs.append(("_args_", list(args)))
        pairs.extend(kwargs.items())
        return Node._make(pairs, (frame.f_code, frame.f_lasti))


class LazyPartial(LazyCall[P]):
    """As `LazyCall`, but building gives a `functools.partial`: for what is called with further arguments later."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """The node, with ``_partial_``."""
        frame = sys._getframe(1)
        pairs: list[tuple[str, Any]] = [("_target_", self._target), ("_partial_", True)]
        if args:
            pairs.append(("_args_", list(args)))
        pairs.extend(kwargs.items())
        return Node._make(pairs, (frame.f_code, frame.f_lasti))


class LazyConfig:
    """Read, change and write configs."""

    @staticmethod
    def load(filename: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """Read a config file.

        Args:
            filename: ``.py`` (its dicts and nodes, by name) or ``.yaml``.
            keys: give these names of the file alone: a value for a string, a tuple for a tuple.

        Raises:
            ConfigError: see `load_config_file`.
        """
        if keys is None:
            return load_config_file(filename)
        path = Path(filename)
        names: Mapping[str, Any] = load_namespace(path) if path.suffix == ".py" else load_config_file(path)
        wanted = (keys,) if isinstance(keys, str) else tuple(keys)
        for key in wanted:
            if key not in names:
                known = [k for k in names if not k.startswith("_")]
                raise UnknownKeyError(f"{filename} has no {key!r}.{did_you_mean(key, known)}")
        values = tuple(names[key] for key in wanted)
        return values[0] if isinstance(keys, str) else values

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """`load` relative to the file that calls."""
        caller = sys._getframe(1).f_code.co_filename
        if caller.startswith("<"):
            raise ConfigError("LazyConfig.load_rel was called from no file, so there is nothing to be relative to.")
        return LazyConfig.load(Path(caller).parent / filename, keys)

    @staticmethod
    def save(cfg: Any, filename: str | Path) -> None:
        """Write a config as YAML that any safe loader reads; `load` gives a config that builds the same objects.

        Raises:
            ConfigError: something can't be written as data; the message names its key.
        """
        text = dump_yaml(adopt_alone(cfg))
        with replace_file(filename) as file:
            file.write(text.encode())

    @staticmethod
    def apply_overrides(cfg: Any, overrides: Sequence[str]) -> Any:
        """Apply overrides in hydra's grammar and return the config; a `Node` is changed in place.

        Raises:
            OverrideError: some do not parse or do not fit; every one of them is told.
        """
        return apply_overrides(adopt_alone(cfg), overrides)

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """The config as Python-like code, for reading."""
        return to_py(adopt_alone(cfg), prefix)


def get_config(name: str) -> Any:
    """A shipped config by its short name, a fresh copy each time: ``get_config("common/train.py").train``.

    Raises:
        ConfigError: there is none of that name.
    """
    path = shipped_config(name)
    if path is None:
        root = shipped_root()
        there = [str(p.relative_to(root)) for p in sorted(root.rglob("*.py"))]
        raise ConfigError(f"No shipped config {name!r}.{did_you_mean(name, there)}")
    return load_config_file(path)
