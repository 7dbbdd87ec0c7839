"""Configs as code: calls that are described now and made later."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Generic, ParamSpec, overload

from ultravid.config.addresses import config_path, refuse_neighbours
from ultravid.config.errors import ConfigError, UnknownKeyError, did_you_mean
from ultravid.config.kinds import load_config
from ultravid.config.loader import load_config_file, load_namespace, note_import
from ultravid.config.nodes import Node, as_root
from ultravid.config.overrides import apply_overrides
from ultravid.config.plain_data import as_call
from ultravid.config.serialize import dump_yaml, to_py
from ultravid.config.shipped import shipped_config, shipped_names
from ultravid.config.targets import importable_name
from ultravid.config.tree import Container, raw_children
from ultravid.config.upgrade import upgrade_notes

__all__ = ["LazyCall", "LazyConfig", "LazyPartial", "get_config", "to_omegaconf"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")


class LazyCall(Generic[P]):
    """Describe a call without making it: ``LazyCall(torch.optim.SGD)(lr=0.1)`` is a node, and `instantiate` makes the call.

    A type checker sees the signature of the target. If that is overloaded it sees the first form; for dict, list and range
    it accepts any arguments.

    Args:
        target: a callable, its dotted name, or a node that describes one.
    """

    @overload
    def __init__(self: LazyCall[...], target: type[dict[Any, Any]] | type[list[Any]] | type[range]) -> None: ...
    @overload
    def __init__(self: LazyCall[P], target: Callable[P, Any]) -> None: ...
    @overload
    def __init__(self: LazyCall[...], target: str | Mapping[str, Any]) -> None: ...

    def __init__(self, target: Any) -> None:
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"The target of a LazyCall is a callable, its name or a node, got {target!r}.")
        self.target = target

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The node that describes the call: ``_target_``, and ``args`` (as ``_args_``) and ``kwargs`` of the target. Nothing is called."""
        frame = sys._getframe(1)
        pairs: list[tuple[str, Any]] = [("_target_", self.target)]
        if args:
            pairs.append(("_args_", list(args)))
        pairs.extend(kwargs.items())
        return Node._make(pairs, (frame.f_code, frame.f_lasti))


class LazyPartial(LazyCall[...]):
    """As `LazyCall`, but it builds a `functools.partial`, which is called with further arguments later.

    A type checker accepts any arguments, because it can't know which ones are still to come.
    """

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """The node that describes the partial call, as `LazyCall.__call__`, with ``_partial_``."""
        frame = sys._getframe(1)
        pairs: list[tuple[str, Any]] = [("_target_", self.target), ("_partial_", True)]
        if args:
            pairs.append(("_args_", list(args)))
        pairs.extend(kwargs.items())
        return Node._make(pairs, (frame.f_code, frame.f_lasti))


class LazyConfig:
    """Read, change and write configs."""

    @staticmethod
    def load(filename: str | Path, keys: str | tuple[str, ...] | None = None, *, allow_pickle: bool = False) -> Any:
        """Read a config file.

        Args:
            filename: path or address of a ``.py`` file (its dicts and nodes, by name) or a ``.yaml`` file.
            keys: return only these names of the file: a value for a string, a tuple for a tuple.
            allow_pickle: unpickle what a YAML file holds as pickles, which may run any code.

        Raises:
            ConfigError: the file does not exist, is neither Python nor YAML, has a syntax error, or is for a later version of
                ultravid.
        """
        return _load(filename, keys, sys._getframe(1), allow_pickle)

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """As `load`, with a path relative to the calling file.

        Args:
            filename: the config's path, from the folder of the calling file.
            keys: as of `load`.
        """
        frame = sys._getframe(1)
        caller = frame.f_code.co_filename
        if caller.startswith("<"):
            raise ConfigError("LazyConfig.load_rel needs a file to be relative to, and the calling code is not in one.")
        refuse_neighbours(Path(caller), filename)
        return _load(Path(caller).parent / filename, keys, frame, False)

    @staticmethod
    def save(cfg: Any, filename: str | Path, *, allow_pickle: bool = False) -> None:
        """Write a config as YAML that any safe loader reads. `load` returns a config that builds the same objects.

        The file states ultravid's version below the key ``ultravid_version``, which is not a part of the config that `load` returns.

        Args:
            cfg: a node, a plain dict or an OmegaConf config.
            filename: the file to write.
            allow_pickle: write what can't be written as data as a pickle; `load` needs the same argument to read it.

        Raises:
            ConfigError: something can't be written as data; the message names its key.
        """
        from ultravid.utils.file_io import replace_file  # only here: reading a config starts faster without it

        text = dump_yaml(as_root(cfg), allow_pickle=allow_pickle, with_version=True)
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{filename}: a string of the config is not valid Unicode: {error}") from error
        try:
            with replace_file(filename) as file:
                file.write(content)
        except OSError as error:
            raise ConfigError(
                f"{filename} can't be written: {error.strerror}." if error.strerror else str(error)
            ) from error

    @staticmethod
    def apply_overrides(cfg: Any, overrides: Sequence[str]) -> Any:
        """Apply overrides in hydra's grammar and return the config; a `Node` is changed in place.

        For an OmegaConf config the result is a new OmegaConf config.

        Args:
            cfg: the config.
            overrides: ``"optimizer.lr=0.01"``, ``"+key=value"`` to add a key, ``"~key"`` to remove one.

        Raises:
            OverrideError: some do not parse or do not fit; the message names all of them. It is an `UnknownKeyError` too
                if one of them sets a key that the config does not have.
        """
        changed = apply_overrides(as_root(cfg), overrides)
        return changed if isinstance(cfg, dict) else to_omegaconf(changed)

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """The config as Python-like code, for reading.

        Args:
            cfg: the config.
            prefix: text that each key begins with.
        """
        return to_py(as_root(cfg), prefix)


def _load(filename: str | Path, keys: str | tuple[str, ...] | None, caller: FrameType, allow_pickle: bool) -> Any:
    path = config_path(filename)
    names: Mapping[str, Any]
    if keys is None or path.suffix != ".py":
        names = load_config(path, allow_pickle=allow_pickle)
    else:
        names = load_namespace(path)
    if isinstance(names, Node) and path.suffix != ".py":
        for note in upgrade_notes(names):
            logger.warning("%s", note)
    note_import(dict.values(names) if isinstance(names, dict) else names.values(), caller)
    if keys is None:
        return names
    wanted = (keys,) if isinstance(keys, str) else tuple(keys)
    for key in wanted:
        if key not in names:
            known = [k for k in names if not k.startswith("_")]
            raise UnknownKeyError(f"{filename} has no {key!r}.{did_you_mean(key, known)}")
    values = tuple(names[key] for key in wanted)
    return values[0] if isinstance(keys, str) else values


def get_config(name: str) -> Any:
    """A shipped config by its short name, a fresh copy each time: ``get_config("common/train.py").train``.

    The name may also be an address of a config, ``https://...``.

    Args:
        name: the file's path below ``configs_py``, ``"common/train.py"``, or an address.

    Raises:
        ConfigError: there is no shipped config of that name, or the address can't be read.
    """
    path = shipped_config(name)
    if path is None and "://" in name:
        path = config_path(name)
    if path is None:
        raise ConfigError(f"No shipped config {name!r}.{did_you_mean(name, shipped_names())}")
    cfg = load_config_file(path)
    note_import(dict.values(cfg), sys._getframe(1))
    return cfg


def to_omegaconf(cfg: Any) -> Any:
    """A config as an OmegaConf ``DictConfig``, for code that needs one. References stay strings.

    Live objects are kept (OmegaConf's ``allow_objects``); tuples become lists, as always in OmegaConf.

    Args:
        cfg: a config, or a node of one, which becomes the root.
    """
    from omegaconf import DictConfig

    return DictConfig(_plain(as_root(cfg)), flags={"allow_objects": True})


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        named = {k: importable_name(v) for k, v in raw_children(value) if k == "_target_" and callable(v)}
        return {k: named.get(k) or _plain(v) for k, v in raw_children(value)}
    if isinstance(value, Container):
        return [_plain(v) for _, v in raw_children(value)]
    if dataclasses.is_dataclass(value) and not isinstance(
        value, type
    ):  # OmegaConf would make a structured config of it
        call = as_call(value) or {}
        return {k: importable_name(v) if k == "_target_" else _plain(v) for k, v in call.items()}
    return value
