"""Containers in pickles: a worker process gets the config with its provenance, but without code objects."""

from __future__ import annotations

import itertools
from types import CodeType
from typing import Any

from ultravid.config.targets import MODULE_PREFIX, importable_name
from ultravid.config.tree import DELETED, PLAIN, Container, Origin, ensure_record, raw_children

__all__ = ["reduced", "restored"]


def reduced(container: Container) -> tuple[Any, ...]:
    """What ``__reduce__`` of a container gives."""
    pairs = [(key, _by_name(value, as_target=key == "_target_")) for key, value in raw_children(container)]
    values = dict(pairs) if isinstance(container, dict) else [value for _, value in pairs]
    return restored, (type(container), values, _portable(container._origin), _portable_record(container))


def restored(kind: type[Container], values: Any, origin: Origin | None, record: Any) -> Container:
    """The container that a pickle describes."""
    container = kind._make(values.items() if isinstance(values, dict) else enumerate(values), origin)
    if record is not None:
        kept = ensure_record(container)
        kept.settings, kept.via = record
    return container


def _by_name(value: Any, as_target: bool) -> Any:
    """A value for a pickle: what a config file defines goes by name, because pickle finds it in no module."""
    if type(value) in PLAIN or isinstance(value, Container):
        return value
    module = getattr(value, "__module__", None)
    if not (isinstance(module, str) and module.startswith(MODULE_PREFIX)):
        return value
    name = importable_name(value)
    if name is None:
        return value
    return name if as_target else {"_object_": name}


def _portable_record(container: Container) -> Any:
    """A record for a pickle: settings with their values, if these are plain."""
    if container._record is None:
        return None

    def plain(value: Any) -> Any:
        kept = type(value) in PLAIN or value is DELETED or isinstance(value, Container)
        return value if kept else f"<{type(value).__name__}>"

    record = container._record
    settings = {k: [(_portable(o), plain(v)) for o, v in entries] for k, entries in record.settings.items()}
    return settings, record.via


def _portable(origin: Origin | None) -> Origin | None:
    """An origin for a pickle, which can't hold a code object: its file and line."""
    if origin is None or not isinstance(origin[0], CodeType):
        return origin
    positions = next(itertools.islice(origin[0].co_positions(), origin[1] // 2, None), (None,))
    return (f"{origin[0].co_filename}:{positions[0]}",)
