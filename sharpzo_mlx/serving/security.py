"""Answer only whom the server is for: the names it is called by, its own page's requests, and bearers of its token.

A page of another site can make a browser send requests here, and by changing what its name resolves to (DNS rebinding)
even read the answers. So a request must name one of the server's own hosts with its port, and a POST that says where it
comes from must come from there. No header lets other sites in. Beyond the loopback every request needs the token.

>>> Guard(app, hosts=frozenset(), token=None)  # doctest: +SKIP
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
STANDARD_PORT = 80
COOKIE = "sharpzo-mlx"
SAFE_METHODS = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Stands before an application, refuses requests of strangers, and adds headers to every answer.

    Args:
        app: the application.
        hosts: names by which the server may be called beside the loopback's: as they are, and with its own port.
        token: what every request must bear; None for none.
        any_address: whether it may be called by any IP address; a name that an attacker holds is no address.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str] = (), token: str | None = None, any_address: bool = False
    ) -> None:
        self._app, self._token, self._any_address = app, token, any_address
        self._whole = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        headers, secured = Headers(scope=scope), _secured(send)
        if refusal := self._refuse_host(headers, scope) or _refuse_origin(headers, scope):
            return await _answer(secured, *refusal)
        if self._token is not None and self._brings_token(scope):  # which then leaves the address bar
            cookie = f"{_cookie_name(scope)}={self._token}; HttpOnly; SameSite=Lax; Path=/"
            return await _answer(secured, 303, "", {"location": "/", "set-cookie": cookie})
        if self._token is None or _bears(headers, scope, self._token):
            return await self._app(scope, receive, secured)
        challenge = {"www-authenticate": "Bearer"}
        await _answer(secured, 401, "open the address that was printed, or send Authorization: Bearer TOKEN", challenge)

    def _refuse_host(self, headers: Headers, scope: Scope) -> tuple[int, str] | None:
        given = headers.getlist("host")
        host = given[0].lower() if len(given) == 1 else ""
        name, port = _split_port(host)
        own = (scope.get("server") or (None, None))[1]
        known = name in LOOPBACK | self._whole or (self._any_address and _is_address(name))
        if host and (host in self._whole or (known and port == own)):
            return None
        return 421, "Host: not a name of this server; call it by the address that was printed, or see --allow-host"

    def _brings_token(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        return scope["method"] in SAFE_METHODS and _equal(given, self._token or "")


def _refuse_origin(headers: Headers, scope: Scope) -> tuple[int, str] | None:
    """Refuse a request that changes or costs something and comes from a page of another site."""
    if scope["method"] in SAFE_METHODS:
        return None
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    foreign = origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}")
    if foreign or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return 403, "Origin: only this server's own page may send images from a browser"
    return None


def _bears(headers: Headers, scope: Scope, token: str) -> bool:
    """Return whether a request bears the token, in a header or in the page's cookie."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and _equal(given.strip(), token):
        return True
    name = _cookie_name(scope)
    pairs = (part.strip().partition("=") for one in headers.getlist("cookie") for part in one.split(";"))
    return any(key == name and _equal(value, token) for key, _, value in pairs)


def _equal(given: str, token: str) -> bool:
    """Compare in a time that tells nothing about the token."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _cookie_name(scope: Scope) -> str:
    """Return the cookie's name; browsers share cookies between the ports of a host."""
    return f"{COOKIE}-{(scope.get('server') or (None, 0))[1]}"


def _split_port(host: str) -> tuple[str, int | None]:
    """Return the name and the port of a Host header; without a port it is that of HTTP."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host, STANDARD_PORT
    return name, int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _secured(send: Send) -> Send:
    """Return what sends answers with the headers of security, which an answer's own do not lose."""

    async def send_secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_secured


async def _answer(send: Send, status: int, error: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"error": error}).encode() if error else b""
    given = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
