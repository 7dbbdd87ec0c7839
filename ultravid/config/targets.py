"""Targets: the dotted name of an object, and the object of a dotted name."""

from __future__ import annotations

import enum
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from ultravid.config.definitions import name_in_file
from ultravid.config.errors import ConfigImportError
from ultravid.config.migrations import current_target
from ultravid.config.module_names import parse_module_name
from ultravid.config.projects import Project, active_projects, owner_of, plain_name, real_name
from ultravid.utils import registry

__all__ = ["attribute_of", "importable_name", "locate_dotted", "target_name"]

logger = logging.getLogger(__name__)


def locate_dotted(name: str) -> Any:
    """The object of a dotted name, ``torch.optim.AdamW``; an earlier version's name gives today's object, with a warning.

    Raises:
        ConfigImportError: it can't be imported; the message gives the real reason.
    """
    return _locate(name, active_projects())


@functools.lru_cache(maxsize=1024)
def _locate(name: str, projects: tuple[Project, ...]) -> Any:
    if (current := current_target(name)) != name:
        logger.warning("The target %r is now called %r.", name, current)
        return _locate(current, projects)
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigImportError(f"Target {name!r} is neither a dotted name nor file.py:Name.")
    try:
        return registry.locate(name, lambda module: real_name(module, projects))
    except ImportError as error:
        raise ConfigImportError(str(error)) from error.__cause__


def attribute_of(holder: Any, names: Sequence[str], target: str, holder_name: str) -> Any:
    """Follow attribute names from a module, or from a dict of names.

    Raises:
        ConfigImportError: one of them does not exist; the message names ``target`` and the nearest name.
    """
    try:
        return registry.attribute_of(holder, names, target, holder_name)
    except ImportError as error:
        raise ConfigImportError(str(error)) from None


def target_name(target: Callable[..., Any] | str) -> str:
    """The dotted name of a target for messages; it may not be importable."""
    if isinstance(target, str):
        return target
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if isinstance(target, functools.partial):
        return f"partial({target_name(target.func)})"
    if module and name and (file := parse_module_name(module)):
        return f"{file.path}:{name}"
    return f"{plain_name(module)}.{name}" if module and name else name or repr(target)


def importable_name(value: Any) -> str | None:
    """The name by which `ultravid.config.locate` finds this very object again; None if it has no such name."""
    if isinstance(value, ModuleType):
        return plain_name(value.__name__)
    module: Any
    qualname: Any
    owner = getattr(value, "__self__", None)
    if isinstance(owner, type):  # a class method: its own module's name may be that of a base class
        module, qualname = owner.__module__, f"{owner.__qualname__}.{value.__name__}"
    elif isinstance(value, enum.Enum):
        if value.name not in type(value).__members__:  # a combination of flags
            return None
        module, qualname = type(value).__module__, f"{type(value).__qualname__}.{value.name}"
    elif type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "layout", "memory_format"):
        module, _, qualname = str(value).rpartition(".")
    else:
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if module is None and hasattr(value, "__objclass__"):  # a method of a class in C
            module = value.__objclass__.__module__
        if not isinstance(module, str) or not isinstance(qualname, str):
            return _name_in_loaded_package(value)
    if (file := parse_module_name(module)) is not None:  # defined in a config file, or in one that it imports
        holder = owner if isinstance(owner, type) else type(value) if isinstance(value, enum.Enum) else value
        found_as = name_in_file(module, holder)
        return None if found_as is None else f"{file.path}:{found_as}{qualname.removeprefix(holder.__qualname__)}"
    owning = owner_of(module)
    if owning is not None and not owning.is_of_a_config:  # a saved config would not say where to look for the module
        return None if "<" in qualname else f"{sys.modules[module].__file__}:{qualname}"
    projects = active_projects() if owning is None else (owning,)
    name = f"{plain_name(module)}.{qualname}"
    private = any(part.startswith("_") for part in name.split("."))
    # Each once: what can't be found gets a message with the nearest name, and that takes milliseconds.
    for candidate in dict.fromkeys((_name_in_loaded_package(value) if private else None, _public_name(name), name)):
        if candidate is None:
            continue
        try:
            found = _locate(candidate, projects)
        except ConfigImportError:
            continue
        if found is value or (isinstance(owner, type) and found == value):
            return candidate
    return _name_in_loaded_package(value)


def _public_name(name: str) -> str:
    """``torch.optim.AdamW`` for ``torch.optim.adamw.AdamW``: the shortest package that exports the same object."""
    try:
        return registry.shortest_name(locate_dotted(name), name)
    except ConfigImportError:
        return name


def _name_in_loaded_package(value: Any) -> str | None:
    """The name of an object that does not know its module: ``torch.relu``, ``numpy.add``, ``types.NoneType``, ``...``."""
    name = "Ellipsis" if value is ... else getattr(value, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        return None
    for package in ("builtins", "types", "operator", "torch", "torch.nn.functional", "numpy"):
        module = sys.modules.get(package)
        if module is not None and vars(module).get(name) is value:
            return f"{package}.{name}"
    return None
