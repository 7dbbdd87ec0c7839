"""Builds the objects that a config describes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ultravid.config.errors import ConfigError, ConfigImportError
from ultravid.config.loader import namespace_of_file, own_project
from ultravid.config.module_names import is_config_module
from ultravid.config.nodes import ListNode, Node, TupleNode, as_node, as_root
from ultravid.config.projects import plain_name
from ultravid.config.provenance import where
from ultravid.config.references import is_reference
from ultravid.config.targets import attribute_of, locate_dotted, target_name
from ultravid.config.tree import CONTROL_KEYS, MISSING, Container, full_key, value_at
from ultravid.utils.error_origin import error_in_one_line, shown_frames, users_frames
from ultravid.utils.errors import StopTraining, UserError

T = TypeVar("T")

__all__ = ["Builder", "as_packages", "as_user_error", "instantiate", "is_allowed", "locate", "locate_allowed"]

logger = logging.getLogger(__name__)


class Builder:
    """Builds the objects of one config; an object that is referred to twice is built once.

    A builder keeps what it has built: ``build("model")`` returns the same object each time, and the one that
    ``build("trainer")`` uses.

    Args:
        cfg: the config's root.
        allowed_packages: import targets from these packages only, ``["torch", "ultravid"]``; None allows all.
        targets: the allowed targets, as a mapping from name to object: other names are refused, and nothing is imported. None imports
            targets by their names.
    """

    def __init__(
        self,
        cfg: Any,
        *,
        allowed_packages: Iterable[str] | None = None,
        targets: Mapping[str, Any] | None = None,
    ) -> None:
        self.cfg = as_node(cfg)
        self._allowed = as_packages(allowed_packages)
        self._targets = targets
        self._built: dict[int, Any] = {}
        self._under_construction: set[int] = set()

    def build(self, key: str) -> Any:
        """Build the object at a key, ``"dataloader.test"``, and whatever it needs.

        Args:
            key: a full key; "" is the whole config.

        Returns:
            What the target returned; of a node without ``_target_`` a plain dict or list of built values; any other value as it is.

        Raises:
            ConfigError: there is no such key, a target can't be imported, a value is still ``???``, or a reference is
                wrong. An error that a target itself raises passes through, with a note of the key, the target and its
                arguments.
        """
        with own_project(self.cfg):
            return self.build_value(value_at(self.cfg, key))

    def provide(self, key: str, made: T) -> T:
        """Use an existing object for the node at a key, wherever it is referred to.

        Args:
            key: the full key of a node, ``"model"``.
            made: the object, which is not built then.

        Returns:
            the object.

        Raises:
            ConfigError: there is no such key, or its value is not a node.
        """
        node = value_at(self.cfg, key)
        if not isinstance(node, Container):
            raise ConfigError(f"{key} is {node!r}, which describes no object{_in_brackets(where(self.cfg, key))}.")
        self._built[id(node)] = made
        return made

    def build_value(self, value: Any) -> Any:
        """Build the object that a node describes; any other value is returned as it is."""
        if id(value) in self._built and isinstance(value, Container):
            return self._built[id(value)]
        if isinstance(value, Node):
            return self._build_node(value)
        if isinstance(value, ListNode):
            return [self._child(value, i, v) for i, v in enumerate(value)]
        if isinstance(value, TupleNode):
            return tuple([self._child(value, i, v) for i, v in enumerate(value)])
        return value

    def _child(self, parent: Container, key: Any, value: Any) -> Any:
        if type(value) is str and value == MISSING:
            raise ConfigError(
                f"{full_key(parent, key)} is still {MISSING}: give it a value{_in_brackets(where(parent, key))}."
            )
        return self.build_value(value) if isinstance(value, Container) else value

    def _build_node(self, node: Node) -> Any:
        key = id(node)
        is_call = "_target_" in node
        if key in self._under_construction:
            raise ConfigError(f"{full_key(node)} needs itself to be built; pass it on after building instead.")
        self._under_construction.add(key)
        try:
            if is_call:
                made = self._built[key] = self._call(node)
                return made
            if "_object_" in node and len(node) == 1:
                return self._locate(node["_object_"])
            return {k: self._child(node, k, v) for k, v in node.items()}
        finally:
            self._under_construction.discard(key)

    def _call(self, node: Node) -> Any:
        target = node["_target_"]
        if isinstance(target, str):
            target = self._locate(target)
        elif isinstance(target, Node):
            target = self.build_value(target)
        else:
            is_allowed(None, target, self._allowed)
        if not callable(target):
            raise ConfigError(
                f"{full_key(node)}._target_ is {target!r}, which can't be called{_in_brackets(where(node, '_target_'))}."
            )
        built = self._child if node.get("_recursive_", True) else _unbuilt
        positional = node.get("_args_", ())
        if not isinstance(positional, list | tuple):
            raise ConfigError(f"{full_key(node, '_args_')} is {positional!r}, not a list of positional arguments.")
        args = [built(node, "_args_", a) for a in positional]
        kwargs = {key: built(node, key, value) for key, value in node.items() if key not in CONTROL_KEYS}
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

    def _locate(self, name: str) -> Any:
        if self._targets is None:
            return locate_allowed(name, self._allowed)
        if name not in self._targets:
            raise ConfigError(f"Target {name!r} is not in the given targets.")
        return self._targets[name]


def _in_brackets(place: str) -> str:
    return f" ({place})" if place else ""


def _unbuilt(_parent: Container, _key: Any, value: Any) -> Any:
    return value


def is_allowed(name: str | None, target: Any, packages: frozenset[str] | None) -> None:
    """Refuse a target that is not from one of the allowed packages.

    Args:
        name: as the config has it; None for a live object.
        target: the object of that name; None if it is not known yet.
        packages: the allowed ones; None allows all.

    Raises:
        ConfigError: the name, or the module in which the target is defined, is outside of these packages. (A name alone
            may lead out of its package: ``torch.os.system``.)
    """
    if packages is None:
        return
    while isinstance(target, functools.partial):
        target = target.func
    module = getattr(target, "__module__", None) if target is not None else None
    module = plain_name(module) if isinstance(module, str) else module
    if (name is not None and ":" in name) or is_config_module(module):
        raise ConfigError(
            f"Target {name or target_name(target)!r} is in a file, not in an allowed package: {', '.join(sorted(packages))}."
        )
    for place in (name, module):
        if place is not None and not any(place == p or place.startswith(p + ".") for p in packages):
            via = f" (defined in {module})" if place == module and name is not None else ""
            allowed = ", ".join(sorted(packages)) or "none"
            raise ConfigError(f"Target {name or target_name(target)!r}{via} is not in an allowed package: {allowed}.")


def locate_allowed(name: str, packages: frozenset[str] | None) -> Any:
    """`locate` for a target that has to be from the allowed packages; a module outside of them is not even imported.

    Raises:
        ConfigError: it can't be imported, or is not allowed.
    """
    is_allowed(name, None, packages)
    found = locate(name)
    is_allowed(name, found, packages)
    return found


def instantiate(cfg: Any, /, *, allowed_packages: Iterable[str] | None = None) -> Any:
    """Build the objects that a node (or a plain dict or list, or an OmegaConf config) describes.

    The target of a dict with ``_target_`` is called with the other items, which are built first; ``_args_`` are positional
    arguments, ``_partial_`` makes a `functools.partial` instead of the call, ``_recursive_: False`` passes nested nodes on
    unbuilt. References to one call give one object. Targets receive plain lists, tuples and dicts. Any other value is
    returned as it is.

    Args:
        cfg: the description.
        allowed_packages: import targets from these packages only, ``["torch", "ultravid"]``; None allows all.

    Raises:
        ConfigError: a target can't be imported or is not allowed, a value is still ``???``, or a reference is wrong.
    """
    if type(cfg) in (dict, list) and _is_plain_data(cfg):
        return cfg
    root = as_root(cfg)
    builder = Builder(Node(), allowed_packages=allowed_packages)
    if not isinstance(root, Container):
        return builder.build_value(root)
    with own_project(root):
        return builder.build_value(root)


def _is_plain_data(value: Any) -> bool:
    """Whether nothing in a value is to be built, looked up or still to be set."""
    if type(value) is dict:
        return "_target_" not in value and "_object_" not in value and all(map(_is_plain_data, value.values()))
    if type(value) in (list, tuple):
        return all(map(_is_plain_data, value))
    return not (isinstance(value, Container) or is_reference(value) or (type(value) is str and value == MISSING))


def as_packages(allowed: Iterable[str] | None) -> frozenset[str] | None:
    """An allow-list as a set; a single name is a list of one."""
    return None if allowed is None else frozenset([allowed] if isinstance(allowed, str) else allowed)


def locate(name: str) -> Any:
    """The object of a dotted name, ``torch.optim.AdamW``, or of a name in a file, ``path/to/file.py:Name``.

    Args:
        name: the dotted name, or the path of a Python file, a colon and the name in it.

    Raises:
        ConfigImportError: it can't be imported; the message gives the real reason.
    """
    file, colon, attributes = name.rpartition(":")
    if colon and file.endswith(".py"):
        if not Path(file).is_file():
            raise ConfigImportError(
                f"Target {name!r} can't be imported: the file does not exist. If it was moved, put it back or write its new path."
            )
        return attribute_of(namespace_of_file(Path(file)), attributes.split("."), name, file)
    return locate_dotted(name)


def _short(value: Any, most: int = 60) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a half-built object's repr may fail, and must not hide the error that is being reported
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else text[: most - 3] + "..."


@contextmanager
def as_user_error() -> Iterator[None]:
    """A block in which objects are built: an error of one of them is reported as a user's mistake, in one message.

    Raises:
        UserError: instead of what an object raised; it names the key, the target and the place, and the lines in the user's own
            code. The log keeps the traceback.
    """
    try:
        yield
    except (UserError, StopTraining):
        raise
    except Exception as error:
        notes = getattr(error, "__notes__", ())[:1]  # the innermost object
        frames = users_frames(error)
        # What fails while an object is built fails at a value of the config; only an assertion of ultravid's own is a bug.
        if not isinstance(error, ValueError) and (not notes or (isinstance(error, AssertionError) and not frames)):
            raise
        logger.debug("The traceback:", exc_info=True)
        reported = UserError(str(error) if isinstance(error, ValueError) else error_in_one_line(error))
        for note in notes:
            reported.add_note(note)
        if frames:
            reported.add_note(f"In your code:\n{shown_frames(frames)}")
        raise reported from error
