"""Containers in pickles: a worker process gets the config with its provenance, but without code objects."""

from __future__ import annotations

import itertools
from types import CodeType, MappingProxyType
from typing import Any

from ultravid.config.tree import DELETED, PLAIN, Container, Origin, ensure_record, raw_children

__all__ = ["reduced", "restored"]


def reduced(container: Container) -> tuple[Any, ...]:
    """What ``__reduce__`` of a container gives."""
    pairs = [(k, _Proxy(v) if type(v) is MappingProxyType else v) for k, v in raw_children(container)]
    values = dict(pairs) if isinstance(container, dict) else [value for _, value in pairs]
    return restored, (type(container), values, _portable(container._origin), _portable_record(container))


def restored(kind: type[Container], values: Any, origin: Origin | None, record: Any) -> Container:
    """The container that a pickle describes."""
    container = kind._make(values.items() if isinstance(values, dict) else enumerate(values), origin)
    if record is not None:
        kept = ensure_record(container)
        kept.settings, kept.via = record
    return container


class _Proxy:
    """Stands for a mapping proxy, which Python does not pickle, and is read as one."""

    def __init__(self, value: MappingProxyType[Any, Any]) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _proxy_of, (dict(self._value),)


def _proxy_of(value: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(value)  # pickle does not find the class itself


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
