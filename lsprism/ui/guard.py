"""Who may talk to the dashboard: requests that name another host, or come from another site's page, are refused.

A page of a foreign site could else reach a dashboard on this machine through the visitor's own browser: by a name that
resolves to 127.0.0.1 (the Host header betrays it), or by posting blindly (the Origin header does).
"""

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from urllib.parse import urlsplit

import psutil

Scope = MutableMapping
Send = Callable[[MutableMapping], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = ("0.0.0.0", "::", "")


def is_loopback(host: str) -> bool:
    return host in LOOPBACK or host.startswith("127.")


def hosts_of(host: str) -> frozenset[str]:
    """The names by which a dashboard that listens on `host` may be addressed."""
    if host not in ANY:
        return frozenset({*LOOPBACK, host.lower()})
    own = {a.address.partition("%")[0] for group in psutil.net_if_addrs().values() for a in group}
    return frozenset({*LOOPBACK, *own, socket.gethostname().lower(), socket.getfqdn().lower()})


class Guard:
    """ASGI middleware: 400 for a foreign Host, 403 for a foreign Origin."""

    def __init__(self, app: Callable, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Callable, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if name_of(headers.get("host", "")) not in self.hosts:
            return await _refuse(send, 400, "This dashboard is not known under that name.")
        origin = headers.get("origin", "")
        if origin and name_of(urlsplit(origin).netloc) not in self.hosts:
            return await _refuse(send, 403, "Pages of other sites may not use this dashboard.")
        return await self.app(scope, receive, send)


def name_of(host: str) -> str:
    """'localhost:7860' -> 'localhost', '[::1]:7860' -> '::1'."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return (host.rpartition(":")[0] or host).lower() if host.count(":") == 1 else host.lower()


async def _refuse(send: Send, status: int, text: str) -> None:
    body = text.encode()
    kind = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": body})
