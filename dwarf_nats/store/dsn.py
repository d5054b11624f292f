"""A PostgreSQL DSN, read once for everything that connects: the engine, and the migrations.

Its parameters are those of libpq. What belongs to the session is set after connecting: a connection pooler refuses start-up
parameters that it does not know.
"""

from __future__ import annotations

import difflib
import os
import random
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import asyncpg

from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url

SCHEME = re.compile(r"(?:postgresql|postgres)(?:\+\w+)?", re.IGNORECASE)
CONNECT_SECONDS = 10.0
"""Seconds that connecting may take, if the DSN has no `connect_timeout`."""
_NO_TIMEOUT_SECONDS = 365 * 86_400.0
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TARGETS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_FILES = ("passfile", "servicefile", "sslcert", "sslkey", "sslrootcert", "sslcrl")
# What asyncpg reads of a DSN by itself.
_PASSED = (
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_ARGUMENTS = ("user", "password", "passfile", "service", "servicefile", "target_session_attrs", "krbsrvname", "gsslib")
_KEEPALIVE = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
_ONLY = {
    "client_encoding": ("utf8", "utf-8", "unicode", "auto"),
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "load_balance_hosts": ("disable", "random"),
    "keepalives": ("0", "1"),
}
_OTHERS = (
    "host",
    "port",
    "dbname",
    "database",
    "connect_timeout",
    "application_name",
    "fallback_application_name",
    "options",
    "sslmode",
    "ssl",
)
_KNOWN = frozenset((*_PASSED, *_ARGUMENTS, *_KEEPALIVE, *_ONLY, *_OTHERS))
_ESCAPE = "special characters of user and password are written as %XX"
_HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::(\d*))?")


@dataclass(slots=True, frozen=True)
class Target:
    """A PostgreSQL database and how to connect to it."""

    label: str
    """For messages: hosts and database, no user and no secret."""
    arguments: Mapping[str, Any]
    """For `asyncpg.connect`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Set in every session."""
    timeout: float = CONNECT_SECONDS
    """Seconds that connecting may take."""
    shuffled: bool = False
    """The hosts are tried in random order."""
    socket_options: Mapping[str, int] = field(default_factory=dict)

    async def connect(self, settings: Mapping[str, str], *, command_timeout: float | None = 60.0) -> Any:
        """Open a connection with these settings of the session; those of the DSN win. `command_timeout`: seconds."""
        arguments = dict(self.arguments)
        if self.shuffled and "host" in arguments:
            places = list(zip(arguments["host"], arguments["port"], strict=True))
            random.shuffle(places)
            arguments |= {"host": [host for host, _ in places], "port": [port for _, port in places]}
        connection = await asyncpg.connect(timeout=self.timeout, command_timeout=command_timeout, **arguments)
        try:
            self._set_socket_options(connection)
            wanted = {**settings, **self.settings}
            sets = (f"set_config({quoted(name)}, {quoted(value)}, false)" for name, value in wanted.items())
            if wanted:  # behind a pooler this waits until it has a session to give
                await connection.execute("select " + ", ".join(sets), timeout=self.timeout)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _set_socket_options(self, connection: Any) -> None:
        raw = connection._transport.get_extra_info("socket")
        if raw is None or raw.family == socket.AF_UNIX:
            return
        for name, value in self.socket_options.items():
            if name == "keepalives":
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, value)
            elif value and hasattr(socket, _KEEPALIVE[name]):
                raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, _KEEPALIVE[name]), value)


def quoted(text: str) -> str:
    """A text as a literal of SQL."""
    plain = text.replace("'", "''")
    return f"'{plain}'" if "\\" not in plain else " E'" + plain.replace("\\", "\\\\") + "'"


def is_postgres(dsn: str) -> bool:
    """Say whether a DSN is for PostgreSQL, valid or not."""
    return SCHEME.fullmatch(dsn.strip().partition("://")[0]) is not None and "://" in dsn


def read(dsn: str) -> Target:
    """Read a PostgreSQL DSN. Raises `BadRequest` that names what is wrong in it, never with a secret."""
    dsn = dsn.strip()
    address, _, query = dsn.partition("://")[2].partition("?")
    authority, _, path = address.partition("/")
    user, at, hosts = authority.rpartition("@")
    name, _, password = user.partition(":")
    given = _parameters(dsn, query)
    known: dict[str, str | None] = {name: given.pop(name, None) for name in _KNOWN}
    assert not given
    host, port = _addresses(dsn, hosts, known["host"], known["port"])
    arguments: dict[str, Any] = {
        "host": host or None,
        "port": port or None,
        "user": _text(dsn, name) if at and name else None,
        "password": _text(dsn, password) if password else None,
        "database": _text(dsn, path) or known["dbname"] or known["database"] or None,
    }
    arguments |= {argument: known[argument] for argument in _ARGUMENTS if known[argument]}
    _check_choice(dsn, "target_session_attrs", known["target_session_attrs"], _TARGETS)
    for one in _FILES:
        _check_file(dsn, one, known[one])
    settings, startup = _options(dsn, known["options"])
    application = known["application_name"] or known["fallback_application_name"]
    if application:
        settings = {"application_name": application, **settings}
    if startup:
        arguments["server_settings"] = {"options": startup}
    arguments |= _tls(dsn, known)
    return Target(
        label=_shown(dsn, host, port, arguments["database"]),
        arguments={argument: value for argument, value in arguments.items() if value is not None},
        settings=settings,
        timeout=_timeout(dsn, known["connect_timeout"]),
        shuffled=known["load_balance_hosts"] == "random",
        socket_options={
            option: _number(dsn, option, value)
            for option in ("keepalives", *_KEEPALIVE)
            if (value := known[option]) is not None
        },
    )


def _parameters(dsn: str, query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if "@" in query:  # a question mark in a password: what follows is part of it
        raise _bad(dsn, f"there is an @ behind the question mark; {_ESCAPE}")
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        name = _text(dsn, name)
        if name not in _KNOWN:
            raise _unknown(dsn, name)
        if not equals:
            raise _bad(dsn, f"parameter {name} has no value: write {name}=…")
        found[name] = _text(dsn, value)
        allowed = _ONLY.get(name)
        if allowed is not None and found[name].lower() not in allowed:
            raise _bad(dsn, f"{name} can only be {' or '.join(allowed)} here")
    return found


def _unknown(dsn: str, name: str) -> BadRequest:
    safe = name if re.fullmatch(r"\w{1,40}", name) else "…"
    near = difflib.get_close_matches(safe, sorted(_KNOWN), 1, 0.8)
    guess = f"did you mean {near[0]}? " if near else ""
    return _bad(
        dsn, f"there is no parameter {safe}: {guess}a setting of the session is written options=-c%20{safe}%3Dvalue"
    )


def _addresses(dsn: str, authority: str, host: str | None, port: str | None) -> tuple[list[str], list[int]]:
    """Hosts and their ports: of the address, or of the parameters if the address names none."""
    hosts: list[str] = []
    ports: list[str] = []
    for one in (authority or host or "").split(",") if authority or host else []:
        match = _HOST.fullmatch(one.strip())
        if match is None:
            raise _bad(dsn, f"its hosts cannot be read: write host:port,host:port; {_ESCAPE}")
        hosts.append(match[1] if match[1] is not None else _text(dsn, match[2]) if authority else match[2])
        ports.append(match[3] or "")
    if authority and host:
        if not all(one == "" for one in hosts):
            raise _bad(dsn, "it names hosts twice: in the address and as host=")
        return _addresses(dsn, "", host, port or ",".join(ports))
    wanted = (port or "").split(",")
    if port and len(wanted) not in (1, len(hosts) or 1):
        raise _bad(dsn, f"it has {len(hosts)} hosts and {len(wanted)} ports: give one port, or one for each host")
    if port and not hosts:
        hosts, ports = ["localhost"], [""]
    chosen = [own or (wanted[at] if len(wanted) > 1 else wanted[0]) or "5432" for at, own in enumerate(ports)]
    return [one or "localhost" for one in hosts], [_port(dsn, one) for one in chosen]


def _port(dsn: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise _bad(dsn, f"a port must be a number from 1 to 65535; {_ESCAPE}")
    return int(text)


def _options(dsn: str, text: str | None) -> tuple[dict[str, str], str]:
    """The settings in `options=-c name=value …`, or the whole text for the server to read if it says anything else."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", text or "")]
    settings: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith(("-c", "--")):
            word = word[2:]
        else:
            return {}, text or ""
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", name):
            raise _bad(dsn, "options cannot be read: write options=-c%20name%3Dvalue")
        settings[name.replace("-", "_")] = value
    return settings, ""


def _tls(dsn: str, known: Mapping[str, str | None]) -> dict[str, Any]:
    mode = known["sslmode"] or known["ssl"]
    if known["sslmode"] is None and mode is not None:
        mode = {"true": "require", "1": "require", "false": "disable", "0": "disable"}.get(mode.lower(), mode)
    _check_choice(dsn, "sslmode", mode, _SSLMODES)
    if known["sslnegotiation"] == "direct" and mode not in _SSLMODES[3:]:
        raise _bad(dsn, "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
    passed = {name: value for name in _PASSED if (value := known[name])}
    if passed.get("sslrootcert") == "system":
        return {"ssl": _system_tls(dsn, mode, passed)}
    # asyncpg reads these of a DSN only; without a host in it, the arguments have the say.
    text = "&".join(f"{name}={_escaped(value)}" for name, value in passed.items())
    return ({"dsn": f"postgresql://?{text}"} if text else {}) | ({"ssl": mode} if mode else {})


def _system_tls(dsn: str, mode: str | None, passed: Mapping[str, str]) -> ssl.SSLContext:
    """Trust the certificates that the operating system trusts, and always check the host name, as libpq does."""
    if mode not in (None, "verify-full"):
        raise _bad(dsn, "sslrootcert=system needs sslmode=verify-full")
    context = ssl.create_default_context()
    if "sslcert" in passed:
        try:
            context.load_cert_chain(passed["sslcert"], passed.get("sslkey"), lambda: passed.get("sslpassword", ""))
        except (OSError, ValueError):
            raise _bad(
                dsn, "sslcert and sslkey cannot be used: they must be a certificate and its key in PEM"
            ) from None
    return context


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _check_file(dsn: str, name: str, path: str | None) -> None:
    if not path or (name == "sslrootcert" and path == "system"):
        return
    try:
        with open(os.path.expanduser(path), "rb"):
            return
    except OSError as error:
        raise _bad(dsn, f"the file of {name} cannot be read: {path}: {error.strerror}") from None


def _check_choice(dsn: str, name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise _bad(dsn, f"{name} must be one of {', '.join(allowed)}")


def _timeout(dsn: str, value: str | None) -> float:
    if value is None:
        return CONNECT_SECONDS
    seconds = _number(dsn, "connect_timeout", value)
    return float(seconds) if seconds > 0 else _NO_TIMEOUT_SECONDS


def _number(dsn: str, name: str, value: str) -> int:
    if not re.fullmatch(r"-?\d{1,9}", value):
        raise _bad(dsn, f"{name} must be a whole number")
    return int(value)


def _text(dsn: str, text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _bad(dsn, "what is written as %XX in it must be UTF-8") from None


def _shown(dsn: str, hosts: list[str], ports: list[int], database: str | None) -> str:
    if not hosts:
        return redacted_url(dsn).rpartition("://")[2].partition("?")[0]
    places = ",".join(
        host if host.startswith("/") else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in zip(hosts, ports, strict=True)
    )
    return f"{places}/{database}" if database else places


def _bad(dsn: str, what: str) -> BadRequest:
    return BadRequest(f"the DSN {redacted_url(dsn)} is not understood: {what}")
