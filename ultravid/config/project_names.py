"""What the definitions of a project's files are called wherever the project is: by the file's path in the project.

A saved config names a function of a config file by the file's absolute path, so that it is found again. Where configs are compared,
that path would say no more than where the project was: ``/projects/own/configs/mine.py:build`` is ``configs/mine.py:build`` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from ultravid.config.errors import ConfigError
from ultravid.config.loader import own_folders
from ultravid.config.module_names import is_config_module
from ultravid.config.nodes import Node
from ultravid.config.plain_data import to_data
from ultravid.config.projects import owner_of
from ultravid.config.shipped import shipped_root
from ultravid.config.tree import PLAIN, Container, raw_children, root_of
from ultravid.config.yaml_files import from_data

__all__ = ["name_definitions", "naming_folders", "with_project_names"]

_NAMES = ("_target_", "_object_")


def naming_folders(cfg: Container) -> list[Path]:
    """The folders in which files are named: those of the config's project, outermost first, and that of the shipped configs."""
    root = root_of(cfg)
    saved = root.raw.get("project_folders") if isinstance(root, Node) else None
    # A saved config may be anywhere, even in a folder that holds the project.
    folders = saved if isinstance(saved, list) else own_folders(root)
    return sorted({Path(folder) for folder in [*folders, shipped_root()]}, key=lambda path: len(path.parts))


def name_definitions(container: Container, folders: Sequence[Path]) -> None:
    """Replace what files in these folders define, and the names of it, by `with_project_names`, in place."""
    for key, value in list(raw_children(container)):
        if isinstance(value, Container) and not isinstance(value, tuple):
            name_definitions(value, folders)
        elif _may_be_of_a_file(key, value):
            new = with_project_names(value, folders, key)
            if new is not value:
                if isinstance(new, Container):
                    new._up = container
                kind: Any = dict if isinstance(container, dict) else list
                kind.__setitem__(container, key, new)


def with_project_names(value: Any, folders: Sequence[Path], key: Any = "") -> Any:
    """A raw value in which what files define is named by the path in the outermost of these folders that holds the file.

    Args:
        value: a node or any value.
        folders: see `naming_folders`.
        key: the key under which it stands: below ``_target_`` and ``_object_``, a text is a name.

    Returns:
        the value itself if there is nothing to name in it.
    """
    step = key if key in _NAMES else "value"
    try:
        data = to_data({step: value})
    except ConfigError:  # an object without a name
        return value
    named = _named(data, folders)
    return value if named == data else from_data(named).raw[step]


def _may_be_of_a_file(key: Any, value: Any) -> bool:
    """Whether a value may name what a file defines. Finding the name of a library's class would take long and lead nowhere."""
    if type(value) in PLAIN:
        return isinstance(value, str) and key in _NAMES
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return is_config_module(value.__module__) or owner_of(value.__module__) is not None
    return True


def _named(data: Any, folders: Sequence[Path]) -> Any:
    if isinstance(data, dict):
        return {
            key: _in_project(value, folders) if key in _NAMES and isinstance(value, str) else _named(value, folders)
            for key, value in data.items()
        }
    return [_named(value, folders) for value in data] if isinstance(data, list) else data


def _in_project(name: str, folders: Sequence[Path]) -> str:
    """``configs/mine.py:build`` for ``/projects/own/configs/mine.py:build``; the name itself if no folder holds the file."""
    path, colon, within = name.rpartition(":")
    if not (colon and path.endswith(".py")):
        return name
    folder = next((folder for folder in folders if Path(path).is_relative_to(folder)), None)
    return name if folder is None else f"{Path(path).relative_to(folder).as_posix()}:{within}"
