"""Checks Host and Origin of every request, against DNS rebinding and CSRF.

Otherwise another site could reach a dashboard on this machine through the visitor's browser: with a host name that
resolves to 127.0.0.1 (visible in the Host header), or by posting blindly (visible in the Origin header).
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from urllib.parse import urlsplit

import psutil

from lsprism.ui.texts import common as texts

Scope = MutableMapping
Send = Callable[[MutableMapping], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    address = _parse_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_any(host: str) -> bool:
    """Whether it means all addresses of this machine."""
    address = _parse_address(host)
    return not host if address is None else address.is_unspecified


def list_hosts(host: str) -> frozenset[str]:
    """The host names that are valid for a dashboard that listens on `host`."""
    if not is_any(host):
        return frozenset({*LOOPBACK, normalize_host(host)})
    own = {normalize_host(a.address.partition("%")[0]) for group in psutil.net_if_addrs().values() for a in group}
    return frozenset({*LOOPBACK, *own, socket.gethostname().lower(), socket.getfqdn().lower()})


def normalize_host(host: str) -> str:
    """A host without brackets, an IPv6 address in its short form: '[0:0:0:0:0:0:0:1]' -> '::1'."""
    address = _parse_address(host)
    return host.lower() if address is None else str(address)


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(inner)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # ::ffff:127.0.0.1 is 127.0.0.1


class Guard:
    """ASGI middleware: 400 for a foreign Host, 403 for a foreign Origin."""

    def __init__(self, app: Callable, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Callable, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if extract_host(headers.get("host", "")) not in self.hosts:
            return await _send_refusal(send, 400, texts.WRONG_HOST)
        origin = headers.get("origin", "")
        if origin and _extract_origin_host(origin) not in self.hosts:
            return await _send_refusal(send, 403, texts.WRONG_ORIGIN)
        return await self.app(scope, receive, send)


def extract_host(host: str) -> str:
    """'localhost:7860' -> 'localhost', '[::1]:7860' -> '::1'."""
    if host.startswith("["):
        return normalize_host(host[1:].partition("]")[0])
    return normalize_host(host.rpartition(":")[0] or host if host.count(":") == 1 else host)


def _extract_origin_host(origin: str) -> str:
    """'http://[::1]:7860' -> '::1'; empty if it is not an address."""
    try:
        return extract_host(urlsplit(origin).netloc)
    except ValueError:  # an unmatched bracket
        return ""


async def _send_refusal(send: Send, status: int, text: str) -> None:
    body = text.encode()
    kind = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": body})
