"""From a description to objects."""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultravid.config.errors import ConfigError, ConfigImportError
from ultravid.config.loader import MODULE_PREFIX, load_namespace
from ultravid.config.migrations import current_target
from ultravid.config.nodes import (
    CONTAINERS,
    MISSING,
    Container,
    ListNode,
    Node,
    TupleNode,
    adopt,
    full_key,
    value_at,
)
from ultravid.config.provenance import where
from ultravid.utils.errors import UserError

__all__ = [
    "CONTROL_KEYS",
    "Builder",
    "as_node",
    "as_packages",
    "as_root",
    "as_user_error",
    "instantiate",
    "is_allowed",
    "locate",
    "locate_allowed",
    "target_name",
]

logger = logging.getLogger(__name__)

CONTROL_KEYS = frozenset({"_target_", "_args_", "_partial_", "_recursive_", "_check_", "_convert_"})


class Builder:
    """Builds objects of one config; what is referred to twice is built once.

    A builder keeps what it has built: ``build("model")`` gives the same object each time, and the one that
    ``build("trainer")`` used.

    Args:
        cfg: the config's root.
        allowed_packages: import targets of these packages alone, ``["torch", "ultravid"]``; None allows all.
    """

    def __init__(self, cfg: Any, *, allowed_packages: Iterable[str] | None = None) -> None:
        self.cfg = as_node(cfg)
        self._allowed = as_packages(allowed_packages)
        self._built: dict[int, Any] = {}
        self._under_construction: set[int] = set()

    def build(self, key: str) -> Any:
        """The object at a key, as ``"dataloader.test"``, and whatever it needs.

        Raises:
            ConfigError: there is no such key, a target can't be imported, a value is still ``???``, or a reference is
                wrong. What a target itself raises passes on, with a note of the key, the target and its arguments.
        """
        return self.build_value(value_at(self.cfg, key))

    def build_value(self, value: Any) -> Any:
        """The object that a node describes; anything that describes nothing comes back as it is."""
        if isinstance(value, Node):
            return self._build_node(value)
        if isinstance(value, ListNode):
            return [self._child(value, i, v) for i, v in enumerate(value)]
        if isinstance(value, TupleNode):
            return tuple([self._child(value, i, v) for i, v in enumerate(value)])
        return value

    def _child(self, parent: Container, key: Any, value: Any) -> Any:
        if type(value) is str and value == MISSING:
            raise ConfigError(f"{full_key(parent, key)} is still {MISSING}: give it a value{_at(where(parent, key))}.")
        return self.build_value(value) if isinstance(value, CONTAINERS) else value

    def _build_node(self, node: Node) -> Any:
        key = id(node)
        is_call = "_target_" in node
        if is_call and key in self._built:
            return self._built[key]
        if key in self._under_construction:
            raise ConfigError(f"{full_key(node)} needs itself to be built; hand it over after building instead.")
        self._under_construction.add(key)
        try:
            if is_call:
                made = self._built[key] = self._call(node)
                return made
            if "_object_" in node and len(node) == 1:
                return locate_allowed(node["_object_"], self._allowed)
            return {k: self._child(node, k, v) for k, v in node.items()}
        finally:
            self._under_construction.discard(key)

    def _call(self, node: Node) -> Any:
        target = node["_target_"]
        if isinstance(target, str):
            target = locate_allowed(target, self._allowed)
        elif isinstance(target, Node):
            target = self.build_value(target)
        else:
            is_allowed(None, target, self._allowed)
        if not callable(target):
            raise ConfigError(
                f"{full_key(node)}._target_ is {target!r}, which can't be called{_at(where(node, '_target_'))}."
            )
        take = self._child if node.get("_recursive_", True) else _as_it_is
        positional = node.get("_args_", ())
        if not isinstance(positional, list | tuple):
            raise ConfigError(f"{full_key(node, '_args_')} is {positional!r}, not a list of positional arguments.")
        args = [take(node, "_args_", a) for a in positional]
        kwargs = {key: take(node, key, value) for key, value in node.items() if key not in CONTROL_KEYS}
        if node.get("_partial_", False):
            return functools.partial(target, *args, **kwargs)
        try:
            return target(*args, **kwargs)
        except Exception as error:
            given = ", ".join([*map(_short, args), *(f"{k}={_short(v)}" for k, v in kwargs.items())])
            place = full_key(node) or "the config"
            error.add_note(
                f"While building {place} as {target_name(target)}({given}), set at {where(node) or 'unknown'}"
            )
            raise


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _as_it_is(_parent: Container, _key: Any, value: Any) -> Any:
    return value


def is_allowed(name: str | None, target: Any, packages: frozenset[str] | None) -> None:
    """Refuse a target outside of some packages.

    Args:
        name: as the config has it; None for a live object.
        target: what the name led to; None where that is not known yet.
        packages: allowed; None allows all.

    Raises:
        ConfigError: the name or the module that the target was defined in is of none of these packages. (A name alone
            may lead out of its package: ``torch.os.system``.)
    """
    if packages is None:
        return
    while isinstance(target, functools.partial):
        target = target.func
    module = getattr(target, "__module__", None) if target is not None else None
    if name is not None and ":" in name:
        raise ConfigError(
            f"Target {name!r} is a file's, which is of no allowed package: {', '.join(sorted(packages))}."
        )
    for place in (name, module):
        if place is not None and not any(place == p or place.startswith(p + ".") for p in packages):
            via = f" (defined in {module})" if place == module and name is not None else ""
            allowed = ", ".join(sorted(packages)) or "none"
            raise ConfigError(f"Target {name or target_name(target)!r}{via} is of no allowed package: {allowed}.")


def locate_allowed(name: str, packages: frozenset[str] | None) -> Any:
    """`locate`, for a target of some packages; a module outside of them is not even run.

    Raises:
        ConfigError: see `locate` and `is_allowed`.
    """
    is_allowed(name, None, packages)
    found = locate(name)
    is_allowed(name, found, packages)
    return found


def instantiate(cfg: Any, /, *, allowed_packages: Iterable[str] | None = None) -> Any:
    """Build what a node (or a plain dict or list, or an OmegaConf config) describes.

    A dict with ``_target_`` is called with its other items, nested ones first; ``_args_`` are positional arguments,
    ``_partial_`` makes a `functools.partial` instead of the call, ``_recursive_: False`` hands nested nodes over unbuilt.
    References to one call give one object. Targets receive plain lists, tuples and dicts. Anything else comes back as it is.

    Args:
        cfg: what describes it.
        allowed_packages: import targets of these packages alone, ``["torch", "ultravid"]``; None allows all.

    Raises:
        ConfigError: see `Builder.build`; a target is of no allowed package.
    """
    return Builder(Node(), allowed_packages=allowed_packages).build_value(as_root(cfg))


def as_root(value: Any) -> Any:
    """A value as a root of its own: plain containers and OmegaConf's become nodes; a node stays itself."""
    if isinstance(value, CONTAINERS):
        return value
    if type(value).__module__.startswith("omegaconf.") and value._get_parent() is not None:
        return value_at(as_root(value._get_root()), value._get_full_key(None))  # its references may lead outside of it
    adopted = adopt(value, ListNode())
    if isinstance(adopted, CONTAINERS):
        adopted._up = None
    return adopted


def as_packages(allowed: Iterable[str] | None) -> frozenset[str] | None:
    """An allow-list as a set; one name alone is a list of one."""
    return None if allowed is None else frozenset([allowed] if isinstance(allowed, str) else allowed)


def as_node(cfg: Any) -> Node:
    """A config's root as a node: a plain dict or an OmegaConf config becomes one.

    Raises:
        ConfigError: it is no mapping.
    """
    node = as_root(cfg)
    if not isinstance(node, Node):
        raise ConfigError(f"A config is a mapping, got {type(cfg).__name__}.")
    return node


def locate(name: str) -> Any:
    """The object of a dotted name, ``torch.optim.AdamW``, or of a file, ``path/to/file.py:Name``.

    Raises:
        ConfigImportError: it can't be imported, with the real reason.
    """
    file, colon, attributes = name.rpartition(":")
    if colon and file.endswith(".py"):
        path = Path(file).absolute()
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        return _attributes(_namespace_of_file(path, changed), attributes.split("."), name, file)
    return _located(name)


@functools.lru_cache(maxsize=1024)
def _located(name: str) -> Any:
    if (current := current_target(name)) != name:
        logger.warning("Target %r is named %r today.", name, current)
        return _located(current)
    parts = name.split(".")
    if not all(p.isidentifier() for p in parts):
        raise ConfigImportError(f"Target {name!r} is no dotted name and no file.py:Name.")
    for length in range(len(parts), 0, -1):
        module_name = ".".join(parts[:length])
        try:
            module = sys.modules.get(module_name) or importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only the name itself may be missing: a module that lacks one of its own imports is broken, not absent.
            if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
                missing = error.name
                continue
            raise ConfigImportError(f"Target {name!r} can't be imported: {type(error).__name__}: {error}") from error
        except Exception as error:
            raise ConfigImportError(f"Target {name!r} can't be imported: {type(error).__name__}: {error}") from error
        return _attributes(module, parts[length:], name, module_name)
    raise ConfigImportError(f"Target {name!r} can't be imported: there is no module {missing!r}.")


@functools.lru_cache(maxsize=64)
def _namespace_of_file(path: Path, changed: int) -> dict[str, Any]:
    """A file's names, run once as long as it does not change: two classes of it that are named apart know each other."""
    del changed
    return load_namespace(path)


def _attributes(module: Any, names: list[str], full: str, module_name: str) -> Any:
    value: Any = module
    for i, name in enumerate(names):
        try:
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        except (KeyError, AttributeError):
            place = ".".join([module_name, *names[:i]])
            close = difflib.get_close_matches(name, list(value) if isinstance(value, dict) else dir(value), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigImportError(f"Target {full!r} can't be imported: {place!r} has no {name!r}.{hint}") from None
    return value


def target_name(target: Callable[..., Any] | str) -> str:
    """Dotted name of a target for messages; it need not be importable."""
    if isinstance(target, str):
        return target
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if isinstance(target, functools.partial):
        return f"partial({target_name(target.func)})"
    if module and name and module.startswith(MODULE_PREFIX):
        return f"{module.removeprefix(MODULE_PREFIX)}:{name}"
    return f"{module}.{name}" if module and name else name or repr(target)


def _short(value: Any, most: int = 60) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a half-built object's repr may fail, and must not hide the error that is being told
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else text[: most - 3] + "..."


@contextmanager
def as_user_error() -> Iterator[None]:
    """A block in which objects are built: a value that one of them refuses is a mistake in the config, told in one message.

    Raises:
        UserError: instead of a ValueError; it names key, target and place, and the log keeps the traceback.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        logger.debug("The traceback:", exc_info=True)
        told = UserError(str(error))
        for note in getattr(error, "__notes__", ())[:1]:  # the innermost object
            told.add_note(note)
        raise told from error
