"""Objects by name: detectron2's `Registry`, and `locate`, which imports the object of a dotted name.

New code needs no registry, because a config names the object itself; `Registry` is for code that brings its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ultravid.utils.text import nearest

if TYPE_CHECKING:
    from fvcore.common.registry import Registry

__all__ = ["Registry", "attribute_of", "locate", "public_name", "shortest_name"]


def __getattr__(name: str) -> Any:
    """Import `Registry` from fvcore on first use: that takes 70 ms, and no start of a tool should wait for it."""
    if name == "Registry":
        from fvcore.common.registry import Registry

        return Registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def locate(name: str, module_called: Callable[[str], str] = str) -> Any:
    """The object of a dotted name, such as ``torch.optim.AdamW``; classes inside of classes are found too.

    Args:
        name: the dotted name.
        module_called: gives the name under which a module is imported, if that is another one.

    Raises:
        ImportError: the name leads nowhere, or a module on the way can't be imported; the message gives the real reason.
    """
    parts = name.split(".")
    if not all(p.isidentifier() for p in parts):
        raise ImportError(f"Target {name!r} is not a dotted name.")
    for length in range(len(parts), 0, -1):
        module_name = module_called(".".join(parts[:length]))
        try:
            module = sys.modules.get(module_name) or importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only the name itself may be missing: a module that lacks one of its own imports is broken, not absent.
            if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
                missing = error.name
                continue
            raise ImportError(f"Target {name!r} can't be imported: {type(error).__name__}: {error}") from error
        except Exception as error:
            raise ImportError(f"Target {name!r} can't be imported: {type(error).__name__}: {error}") from error
        return attribute_of(module, parts[length:], name, ".".join(parts[:length]))
    raise ImportError(f"Target {name!r} can't be imported: there is no module {missing!r}.")


def attribute_of(holder: Any, names: Sequence[str], target: str, holder_name: str) -> Any:
    """Follow attribute names from a module, or from a dict of names.

    Args:
        holder: the module or dict.
        names: attributes, each of the one before it.
        target: the whole name, for the message.
        holder_name: the name of ``holder``, for the message.

    Raises:
        ImportError: an attribute does not exist; the message gives the nearest name that does.
    """
    value: Any = holder
    for i, name in enumerate(names):
        try:
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        except (KeyError, AttributeError):
            place = ".".join([holder_name, *names[:i]])
            close = nearest(name, list(value) if isinstance(value, dict) else dir(value))
            hint = f" Did you mean {close!r}?" if close else ""
            raise ImportError(f"Target {target!r} can't be imported: {place!r} has no {name!r}.{hint}") from None
    return value


def public_name(target: Any) -> str:
    """The dotted name by which `locate` finds a class or a function, as short as can be: ``torch.optim.AdamW``.

    Args:
        target: a class or a function.
    """
    return shortest_name(target, f"{target.__module__}.{target.__qualname__}")


def shortest_name(target: Any, name: str) -> str:
    """The name of an object through the outermost package that exports it; ``name`` if none does.

    Args:
        target: the object.
        name: its full name: ``torch.optim.adamw.AdamW`` gives ``torch.optim.AdamW``.
    """
    *modules, last = name.split(".")
    for length in range(1, len(modules)):
        package = sys.modules.get(".".join(modules[:length]))
        if package is not None and getattr(package, last, None) is target:
            return ".".join([*modules[:length], last])
    return name


_convert_target_to_string = public_name  # detectron2's name; code outside uses it in spite of the underscore
