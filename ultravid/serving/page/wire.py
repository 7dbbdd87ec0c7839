"""Messages between the server and a process that decodes: a header in JSON and bytes, never pickles, which would run code."""

from __future__ import annotations

import json
import math
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["MAX_MESSAGE_BYTES", "receive", "receive_bytes", "send"]

MAX_MESSAGE_BYTES = 1 << 28
"""Of one part: above a frame of `MAX_PIXELS` in RGB."""


def send(connection: Connection, header: dict[str, Any], *parts: bytes | memoryview) -> None:
    """Send a header, then the parts that it announces."""
    connection.send_bytes(json.dumps(header).encode())
    for part in parts:
        connection.send_bytes(part)


def receive(connection: Connection, timeout_s: float = math.inf) -> dict[str, Any]:
    """A header.

    Raises:
        EOFError: the other end is closed.
        TimeoutError: nothing came in time.
        ValueError: it is no header.
    """
    return _object(receive_bytes(connection, timeout_s))


def receive_bytes(connection: Connection, timeout_s: float = math.inf) -> bytes:
    """A part.

    Raises:
        EOFError: the other end is closed.
        TimeoutError: nothing came in time.
        OSError: it is larger than `MAX_MESSAGE_BYTES`.
    """
    if not connection.poll(None if timeout_s == math.inf else timeout_s):
        raise TimeoutError
    return connection.recv_bytes(MAX_MESSAGE_BYTES)


def _object(content: bytes) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("a header is an object")
    return value
