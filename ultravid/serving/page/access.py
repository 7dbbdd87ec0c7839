"""Access control of a page: requests for another host, from another origin or without the token are refused, before anything is read.

A web page that is open in the same browser can send requests to 127.0.0.1, and by a name that resolves to 127.0.0.1 (DNS rebinding) even
read the answers. So the Host header must name this server, and the Origin header, which a browser sets and a page can't, must be
this server's. Both count for WebSockets too, to which the browser's same-origin policy does not apply.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

__all__ = ["SECURITY_HEADERS", "Access", "Guard", "is_loopback", "security_headers"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "cache-control": "no-store",
}
_FAILURE_S = 0.3  # that a wrong token costs; a guess of 16 characters takes longer than the universe is old


def security_headers() -> list[tuple[bytes, bytes]]:
    """`SECURITY_HEADERS` as ASGI and HTTP have them."""
    return [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, which no other machine reaches."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """The rules for accepting requests.

    Args:
        host: that the server is bound to.
        token: that is asked for; None: none is, which is for a server of this machine alone.
        names: further names that this server is known by, as behind a proxy.
    """

    def __init__(self, host: str = "127.0.0.1", token: str | None = None, names: Sequence[str] = ()) -> None:
        self._token = token
        self._is_local = is_loopback(host)
        self._names = {"localhost", *(name.lower() for name in names)}
        if not self._is_local:
            self._names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    @property
    def needs_token(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def is_host(self, value: str) -> bool:
        """Whether a Host header names this server. A rebound name is none of ours; an address can't be rebound."""
        try:
            name = urlsplit(f"//{value}").hostname or ""
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback or not self._is_local or name in self._names

    def is_origin(self, origin: str, host: str) -> bool:
        """Whether an Origin header names what the Host header does."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()

    async def is_token(self, given: str) -> bool:
        """Whether this is the token, found in a time that does not depend on how much of it is right."""
        if self._token is None or hmac.compare_digest(given.encode(), self._token.encode()):
            return True
        await asyncio.sleep(_FAILURE_S)
        return False

    def fault(self, scope: Message) -> str | None:
        """Why a request or a WebSocket is refused, whatever it asks for; None if it is let in."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self.is_host(host):
            return "This server is not known by the name that was asked for; --allow-host NAME allows one."
        origin = headers.get("origin")
        if origin is not None and not self.is_origin(origin, host):
            return "Requests of other web pages are refused."
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return "Requests of other web pages are refused."
        return None


class Guard:
    """Asks `Access` before the app is called, and puts the security headers on every answer, errors included.

    Args:
        app: what is called.
        access: what is asked.
    """

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http":
            await self._answer(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            send = _with_refusals(scope, send)
            if self._access.fault(scope) is None:
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        fault = self._access.fault(scope)
        if fault is None:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": fault.encode()})


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(k, v) for k, v in message["headers"] if k.decode("latin-1").lower() not in SECURITY_HEADERS]
            message = {**message, "headers": [*kept, *security_headers()]}
        await send(message)

    return wrapped


def _with_refusals(scope: Message, send: Send) -> Send:
    """A WebSocket that is closed before it is accepted gets an answer of status 403, with the headers of all answers."""
    is_accepted = False

    async def wrapped(message: Message) -> None:
        nonlocal is_accepted
        if message["type"] == "websocket.accept":
            is_accepted = True
        can_answer = "websocket.http.response" in (scope.get("extensions") or {})
        if message["type"] != "websocket.close" or is_accepted or not can_answer:
            await send(message)
            return
        await send({"type": "websocket.http.response.start", "status": 403, "headers": security_headers()})
        await send({"type": "websocket.http.response.body", "body": b""})

    return wrapped
