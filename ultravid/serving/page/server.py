"""The server of a page: its socket, its start, and its end on SIGTERM and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ultravid.serving.page.access import security_headers
from ultravid.serving.page.app import PageApp, create_app
from ultravid.utils.errors import UserError

__all__ = ["Protocol", "SocketProtocol", "bind", "serve"]

logger = logging.getLogger(__name__)

_GRACE_S = 2  # that requests under way have when the server ends
_MAX_MESSAGE = 1 << 23  # bytes of a WebSocket's message, which is a camera's picture


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address, before anything takes long.

    Args:
        host: name or address.
        port: 0 for any that is free.

    Raises:
        UserError: the port is in use or not allowed, or the address is not this machine's.
    """
    if not 0 <= port <= 65_535:  # some systems would take the rest of a division
        raise UserError(f"--port {port}: is not a port; ports are 1 to 65535, and 0 takes one that is free.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UserError(
            f"--host {host}: is not a name or address that is known here; 127.0.0.1 is this machine."
        ) from None
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        raise UserError(_bind_fault(host, port, error)) from error
    return found


def _bind_fault(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use by another program: choose another one with --port, or --port 0 for any that is free."
    if error.errno == errno.EACCES:
        return f"Port {port} may not be used by this user: choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: is not an address of this machine; 127.0.0.1 is, and 0.0.0.0 means all of them."
    return f"Port {port} of {host} can't be used: {error.strerror}."


class _BoundedWriting(asyncio.Protocol):
    """A bound on how long a client may leave what is sent to it unread: then its connection is dropped.

    Without it a client that never reads keeps its connection, and what waits to send, for as long as it likes; a close would wait too.
    """

    max_unread_s = 60.0
    transport: asyncio.Transport
    _unread_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """As `asyncio.Protocol`."""
        super().pause_writing()
        self._unread_timer = asyncio.get_running_loop().call_later(self.max_unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """As `asyncio.Protocol`."""
        super().resume_writing()
        self._stop_unread_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        super().connection_lost(exc)
        self._stop_unread_timer()

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


class SocketProtocol(_BoundedWriting, WebSocketsSansIOProtocol):
    """WebSockets whose client reads what it is sent."""

    async def send(self, message: Any) -> None:
        """As of uvicorn, which would log each WebSocket that is refused as an error of the application."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True


class Protocol(_BoundedWriting, H11Protocol):
    """HTTP with a bound on the time of a request's head, and with the security headers on answers to what is no HTTP.

    uvicorn waits without end for a head: some hundred silent connections of a stranger, who needs no token for that, would take all
    that the page has.
    """

    max_head_s = 15.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As `asyncio.Protocol`."""
        super().connection_made(transport)
        self._bound_head()

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        super().data_received(data)
        self._bound_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        super().connection_lost(exc)
        self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way
            self.transport.close()
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *security_headers()]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _bound_head(self) -> None:
        """A head that has begun keeps its time; one that is complete has no bound any more."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.max_head_s, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Ends in order on SIGTERM and Ctrl-C, and at once on the second."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As `uvicorn.Server`; signals are heeded by now."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        old = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def serve(page: PageApp, bound: socket.socket, on_start: Callable[[], None]) -> None:
    """Serve a page until SIGTERM or Ctrl-C. Then all that was uploaded is deleted.

    Args:
        page: what is served.
        bound: by `bind`.
        on_start: is called once the page answers, and SIGTERM and Ctrl-C end it in order.
    """
    options: dict[str, Any] = {
        "access_log": False,  # its lines would tell who has looked at what, and when
        "log_config": None,
        "log_level": "warning",
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": _GRACE_S,
        "timeout_keep_alive": 30,
        "limit_concurrency": 32 + 8 * page.bounds.max_viewers,
        "ws_max_size": _MAX_MESSAGE,
        "ws_max_queue": 4,
        "ws_per_message_deflate": False,  # pictures do not shrink, and time does
        "http": Protocol,
        "ws": SocketProtocol,
        "lifespan": "on",
    }
    server = _Server(uvicorn.Config(create_app(page), **options), on_start)
    page.decoders.start()
    old_mask = os.umask(0o077)
    try:
        server.run(sockets=[bound])
    finally:
        os.umask(old_mask)
        page.decoders.close()
        page.folder.remove()
