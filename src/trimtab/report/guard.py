"""Who may ask the server what: reading alone, by a known name, with the token where there is one."""

from __future__ import annotations

import hmac
import platform
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode

from trimtab.errors import InputError

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LEAST_TOKEN = 8
"""Characters of a token at least."""

READING = ("GET", "HEAD")
"""The methods that are answered."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""What every answer tells the browser: scripts and data come from this server alone, and nobody frames it. Plotly sets
styles of elements itself, which is why those are allowed."""


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_token(host: str, token: str | None) -> None:
    """See that whoever can reach the server needs a token, unless that is this machine alone.

    Raises:
        InputError: if the address is reached from elsewhere and there is no token, or it is too short.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            f"serve: {host!r} can be reached from other machines, which takes a token; "
            "give --token, or leave --host out and come through ssh"
        )
    if token is not None and (len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable())):
        raise InputError(f"serve: a token has at least {LEAST_TOKEN} characters, all of them ASCII")


class Guard:
    """Answers for a web application what it must not be asked, and adds `HEADERS` to what it answers.

    Args:
        app: the application.
        host: the address it is bound to.
        token: what has to be shown, as `Authorization: Bearer`, as `?token=` or as the cookie that this one leaves;
            None for nothing.
    """

    def __init__(self, app: App, host: str, token: str | None) -> None:
        self._app = app
        self._token = token
        self._is_local = is_loopback(host)
        self._names = {"localhost"}
        if not self._is_local:
            self._names |= {each.lower() for each in (host, platform.node(), socket.getfqdn())}
        key = b"" if token is None else token.encode()
        self._cookie = hmac.new(key, b"the cookie of trimtab serve", sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application."""
        if scope["type"] != "http":
            raise RuntimeError(f"this server knows no {scope['type']}")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        sender = _add_headers(send, HEADERS.items())
        if scope["method"] not in READING:
            await _refuse(sender, 405, "This server can only be read.", [("allow", ", ".join(READING))])
        elif not self._knows(headers):
            await _refuse(sender, 403, "This server does not go by that name; use its address.")
        elif self._token is None or self._is_shown(scope, headers):
            await self._app(scope, receive, sender)
        else:
            await self._ask(scope, receive, sender)

    def _knows(self, headers: list[tuple[str, str]]) -> bool:
        """True if the server was asked by a name of its own: a page elsewhere may have had its name point here."""
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1:
            return False
        name = hosts[0].rpartition("]")[0].strip("[") if hosts[0].startswith("[") else hosts[0].partition(":")[0]
        try:
            address = ip_address(name)
        except ValueError:
            return name.lower().rstrip(".") in self._names
        return address.is_loopback or not self._is_local

    def _is_shown(self, scope: Scope, headers: list[tuple[str, str]]) -> bool:
        """True if the token or its cookie is among the headers."""
        for name, value in headers:
            if name == "authorization" and value[:7].lower() == "bearer " and self._is_token(value[7:]):
                return True
            if name == "cookie":
                shown = _read_cookie(value, _name_cookie(scope))
                if hmac.compare_digest(shown.encode("utf-8", errors="replace"), self._cookie.encode()):
                    return True
        return False

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the token from the address, and leave a cookie in its place; refuse where there is none."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not any(name == "token" and self._is_token(value) for name, value in query):
            asked = [("www-authenticate", 'Bearer realm="trimtab"')]
            await _refuse(send, 401, "This server asks for its token: open it with ?token= and the token.", asked)
            return
        cookie = f"{_name_cookie(scope)}={self._cookie}; HttpOnly; SameSite=Lax; Path=/"
        sender = _add_headers(send, [("set-cookie", cookie)])
        if not any(name == b"accept" and b"text/html" in value for name, value in scope["headers"]):
            await self._app(scope, receive, sender)
            return
        left = urlencode([(name, value) for name, value in query if name != "token"])
        target = "/" + quote(scope["path"].lstrip("/")) + (f"?{left}" if left else "")
        await _refuse(sender, 303, "", [("location", target)])

    def _is_token(self, shown: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(shown.encode("utf-8", errors="replace"), self._token.encode())


def _name_cookie(scope: Scope) -> str:
    """The name of the cookie; browsers keep those of all ports of a machine together."""
    return f"trimtab_{(scope.get('server') or ('', 0))[1]}"


def _read_cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _add_headers(send: Send, headers: Iterable[tuple[str, str]]) -> Send:
    added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_more


async def _refuse(send: Send, status: int, sentence: str, headers: Iterable[tuple[str, str]] = ()) -> None:
    content = f"{sentence}\n".encode() if sentence else b""
    told = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"), *headers]
    told.append(("content-length", str(len(content))))
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})
