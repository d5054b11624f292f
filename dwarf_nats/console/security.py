"""The protection of the console in a browser: headers, host check, login, and the check of requests that change something.

Three lines of defence against forged requests: cookies of this site only (`SameSite=Strict`), the origin that the browser
states, and a token that only pages of the console have.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .login import Login, LoginRequired
from .settings import ConsoleSettings

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send `Origin: null` with our own forms
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response."""
COOKIE = "dwarf_console"
"""Cookie that the token of a form belongs to. It logs nobody in."""
TOKEN_FIELD = "csrf"
_SAFE = frozenset({"GET", "HEAD"})


class Guard:
    """The outermost layer of the application. `scope["state"]` gets `user` and `visitor`, the value of the cookie."""

    def __init__(self, app: ASGIApp, settings: ConsoleSettings) -> None:
        self._app = app
        self._login = Login(settings)
        self._hosts = allowed_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        visitor = _cookie(headers) or secrets.token_urlsafe(24)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(message, scope, known=visitor == _cookie(headers), visitor=visitor)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        scope.setdefault("state", {})["visitor"] = visitor
        await self._app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The response to a request that goes no further. Notes the user of one that does."""
        host = headers.get("host", "")
        if self._hosts and _name_of(host) not in self._hosts and not _is_ip(_name_of(host)):
            return PlainTextResponse(
                f"This console does not answer to the name {_name_of(host)[:80]!r}. If it should, add it with --hosts.\n",
                status_code=421,
            )
        if scope["method"] not in _SAFE and not same_origin(headers):
            return PlainTextResponse("This request comes from another site: refused.\n", status_code=403)
        peer = scope["client"][0] if scope.get("client") else ""
        try:
            scope.setdefault("state", {})["user"] = self._login.user_of(headers, peer)
        except LoginRequired as error:
            more = {"WWW-Authenticate": error.challenge} if error.challenge else {}
            return PlainTextResponse(f"{error}\n", status_code=401 if more else 403, headers=more)
        return None

    def _add_headers(self, message: Message, scope: Scope, *, known: bool, visitor: str) -> None:
        headers = MutableHeaders(raw=message.setdefault("headers", []))
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "no-store")
        if not known and "immutable" not in headers["Cache-Control"]:
            secure = "; Secure" if scope.get("scheme") == "https" else ""
            headers.append("Set-Cookie", f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Strict{secure}")


class FormTokens:
    """Makes and checks the tokens of forms. They are good for one visitor, as long as this process runs."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def token(self, visitor: str) -> str:
        """The token that the pages of a visitor have."""
        return hmac.new(self._secret, visitor.encode(), sha256).hexdigest()

    def is_good(self, request: Request, fields: Mapping[str, object]) -> bool:
        """True if a form, or the header `X-CSRF`, has the token of the visitor who sends it."""
        given = fields.get(TOKEN_FIELD) or request.headers.get("x-csrf") or ""
        known = request.cookies.get(COOKIE, "")
        return bool(known) and isinstance(given, str) and hmac.compare_digest(given, self.token(known))


def same_origin(headers: Headers) -> bool:
    """False if the browser says that another site sends the request. Clients that are no browsers say nothing."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def allowed_hosts(settings: ConsoleSettings) -> frozenset[str]:
    """The names by which a browser may reach the console; empty: any.

    Without this check, a page of another site could let its own name lead here (DNS rebinding), and read what we answer.
    """
    names = {one.strip().lower() for one in settings.hosts.split(",") if one.strip()}
    if not names and settings.has_login and not settings.is_local:
        return frozenset()  # a page of another site has neither the password nor the proxy
    return frozenset({*names, "localhost", settings.address[0]})


def _name_of(host: str) -> str:
    """The name in a `Host` header, without the port."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_ip(name: str) -> bool:
    """True for an address in place of a name: no name was asked for, so none could lead here."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _cookie(headers: Headers) -> str:
    for one in headers.get("cookie", "").split(";"):
        name, _, value = one.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
