"""Time limits for live sources: how long to wait, and how often to reconnect."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LiveOptions"]


@dataclass(frozen=True)
class LiveOptions:
    """Patience with a camera or a network stream.

    Attributes:
        open_timeout_s: until an address must answer.
        read_timeout_s: without data, after which a stream counts as stopped.
        tries: how often a stream that stopped is looked for; any frame restarts the count.
        first_wait_s: before the first of these tries; twice as long before each next one.
    """

    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    tries: int = 5
    first_wait_s: float = 0.5
