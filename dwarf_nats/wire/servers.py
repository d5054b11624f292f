"""The servers in a NATS URL, and the identity on each of them (wire section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url

SCHEMES = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
"""The schemes of a NATS URL and their ports."""
_ESCAPE = "in a user or password write @ / : # ? % , as %40 %2F %3A %23 %3F %25 %2C"


@dataclass(slots=True, frozen=True)
class Identity:
    """User and password, or a token; all empty for a connection without credentials."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.user or self.token)


@dataclass(slots=True, frozen=True)
class Server:
    """One server: `url` without user and password, its `place` (host and port), and the identity its URL names."""

    url: str
    place: str
    identity: Identity

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]


def parse_servers(urls: str) -> list[Server]:
    """Parse one URL or several separated by commas. User, password and token are percent-decoded.

    A server without a scheme gets `nats://`. Raises `BadRequest` for text that is no URL of a NATS server; the message has no
    secret in it.
    """
    found = [_parse(one.strip(), urls) for one in urls.split(",") if one.strip()]
    if not found:
        raise BadRequest("no NATS server named: give a URL such as nats://127.0.0.1:4222")
    sockets = {one.scheme in ("ws", "wss") for one in found}
    if len(sockets) > 1:
        raise BadRequest(f"the NATS servers {redacted_url(urls)} mix WebSocket URLs and others: use one kind")
    return found


def _parse(text: str, urls: str) -> Server:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "nats", text
    scheme = scheme.lower()
    if scheme not in SCHEMES or (not separator and "//" in text):
        raise BadRequest(f"{redacted_url(urls)!r} is no NATS URL: use nats://, tls://, ws:// or wss://; {_ESCAPE}")
    who, at, place = rest.rpartition("@")
    path = ""
    if "/" in place:
        place, _, path = place.partition("/")
    host, port = _host_and_port(place, urls)
    if (path and scheme in ("nats", "tls")) or set(place + path) & set("?#"):
        raise BadRequest(f"{redacted_url(urls)!r} is no NATS URL: nothing follows host and port; {_ESCAPE}")
    known = f"{host}:{port or SCHEMES[scheme]}" if port or scheme in ("nats", "tls") else host
    return Server(f"{scheme}://{known}" + (f"/{path}" if path else ""), known, _identity(who) if at else Identity())


def _identity(who: str) -> Identity:
    user, colon, password = who.partition(":")
    return Identity(unquote(user), unquote(password)) if colon else Identity(token=unquote(user))


def _host_and_port(place: str, urls: str) -> tuple[str, int | None]:
    try:
        split = urlsplit(f"//{place}")
        host, port = split.hostname, split.port
    except ValueError:
        host = port = None
    if not host or any(character.isspace() for character in place) or port == 0:
        raise BadRequest(
            f"{redacted_url(urls)!r} is no NATS URL: host and port are not of the form nats://host:4222; {_ESCAPE}"
        )
    return (f"[{host}]" if ":" in host else host), port
