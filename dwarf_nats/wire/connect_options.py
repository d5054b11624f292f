"""The options of a connection: the servers, and the credentials for them (wire section 6).

Settings come from the arguments, then from the environment of the `nats` CLI (`NATS_URL`, `NATS_CREDS`, `NATS_NKEY`,
`NATS_USER`, `NATS_PASSWORD`, `NATS_TOKEN`, `NATS_CA`, `NATS_CERT`, `NATS_KEY`), then from its context files
(`NATS_CONTEXT`). A context named by argument goes before the environment. If none of them names a server or a context, the
context that `nats context select` chose is used.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url
from dwarf_nats.version import __version__

from .contexts import load_context, selected_context
from .credentials import read_credentials
from .servers import Identity, Server, parse_servers

DEFAULT_URL = "nats://127.0.0.1:4222"
PING_SECONDS = 10
"""Pause between two PINGs to the server, by which a dead connection is noticed."""
ENVIRONMENT = {
    "NATS_URL": "url",
    "NATS_CREDS": "creds",
    "NATS_NKEY": "nkey",
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CA": "tls_ca",
    "NATS_CERT": "tls_cert",
    "NATS_KEY": "tls_key",
}
"""The variables of the `nats` command line, and the fields of `ConnectOptions` they fill."""
_FILES = {
    "creds": "credentials",
    "nkey": "nkey seed",
    "tls_ca": "TLS CA",
    "tls_cert": "TLS certificate",
    "tls_key": "TLS key",
}
_NOT_EMPTY = ("connect_seconds", "environment")
"""Fields that have no empty value, so that `over` cannot tell whether they were given."""
_PREFIX = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")

Place = str | os.PathLike[str]


class ConnectArguments(TypedDict, total=False):
    """The fields of `ConnectOptions` without `url`, as keyword arguments of `Client` and `Worker`."""

    context: str
    creds: Place
    nkey: Place
    user: str
    password: str
    token: str
    tls_ca: Place
    tls_cert: Place
    tls_key: Place
    tls_first: bool
    inbox_prefix: str
    connect_seconds: float
    environment: bool


@dataclass(slots=True, frozen=True)
class ConnectOptions:
    """The options of a connection to NATS; an empty field means "not given".

    `url`: one server or several, separated by commas; user, password and token in it are percent-encoded, and go to that
    server only. `context`: the name of a context of the `nats` CLI, or a path to its file. `creds`: a credentials file.
    `nkey`: a file with the seed. `inbox_prefix`: the prefix of reply subjects, so that they can be private to a user.
    `tls_ca`, `tls_cert`, `tls_key`, `tls_first`: require TLS, as `tls://` does. `user_jwt`, `user_seed`: the content of a
    credentials file. `environment`: let variables and contexts fill in what is not given. `connect_seconds` bounds one
    attempt at the first connection; a lost connection is sought for ever.
    """

    url: str = field(default="", repr=False)
    context: str = ""
    creds: Place = ""
    nkey: Place = ""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    tls_ca: Place = ""
    tls_cert: Place = ""
    tls_key: Place = ""
    tls_first: bool = False
    inbox_prefix: str = ""
    connect_seconds: float = 5.0
    user_jwt: str = field(default="", repr=False)
    user_seed: str = field(default="", repr=False)
    environment: bool = True

    def resolved(self, environ: Mapping[str, str] | None = None) -> ConnectOptions:
        """The options with environment and context filled in. Raises `BadRequest` for a context that cannot be read."""
        if not self.environment:
            return self if self.url else replace(self, url=DEFAULT_URL)
        env = os.environ if environ is None else environ
        from_env = {ours: env[theirs] for theirs, ours in ENVIRONMENT.items() if env.get(theirs)}
        if self.context and self.url:
            layers = [load_context(self.context, env)]
        elif self.context:
            layers = [load_context(self.context, env), from_env]
        elif env.get("NATS_CONTEXT"):
            layers = [from_env, load_context(env["NATS_CONTEXT"], env)]
        elif not self.url and not from_env.get("url") and (selected := selected_context(env)):
            layers = [from_env, load_context(selected, env)]
        else:
            layers = [from_env]
        merged = self
        for layer in layers:
            merged = replace(merged, **{name: value for name, value in layer.items() if not getattr(merged, name)})
        return merged if merged.url else replace(merged, url=DEFAULT_URL)

    def over(self, others: ConnectOptions) -> ConnectOptions:
        """These options, with empty fields taken from `others`."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _NOT_EMPTY}
        return replace(others, **{name: value for name, value in given.items() if value})

    @property
    def servers(self) -> list[Server]:
        """The servers one by one. Raises `BadRequest` if there are none, or for text that is no NATS URL."""
        return parse_servers(self.url)

    @property
    def label(self) -> str:
        """The servers without user and password, for messages."""
        parts = redacted_url(self.url).split(",")
        return ",".join(one if "://" in one else f"nats://{one}" for one in parts)

    @property
    def who(self) -> str:
        """The user of the connection, for messages."""
        names = [one.identity.user for one in self.servers if one.identity.user] or [self.user]
        if self.creds:
            return f"the user of {self.creds}"
        if self.nkey:
            return f"the nkey of {self.nkey}"
        if names[0]:
            return f"the user {names[0]}"
        if self.token or any(one.identity.token for one in self.servers):
            return "the user of this token"
        return "a client without a user"

    @property
    def tls_required(self) -> bool:
        """True if the options ask for TLS; then nothing is sent without it."""
        asked = any(one.scheme in ("tls", "wss") for one in self.servers)
        return bool(asked or self.tls_ca or self.tls_cert or self.tls_key or self.tls_first)

    def arguments(self, name: str) -> dict[str, Any]:
        """The arguments of `NatsClient.connect`: no buffering, and reconnecting for ever. `name` names the client.

        Raises `BadRequest` for files that cannot be read.
        """
        servers = self.servers
        for name_of, what in _FILES.items():
            path = getattr(self, name_of)
            if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
                raise BadRequest(f"cannot read the {what} file {path}")
        if self.creds:
            read_credentials(self.creds)
        if self.inbox_prefix and not _PREFIX.fullmatch(self.inbox_prefix):
            raise BadRequest(
                f"the inbox prefix {self.inbox_prefix!r} is no subject: use tokens without blanks and wildcards, joined by"
                " single dots, such as _INBOX.me"
            )
        arguments: dict[str, Any] = {
            "servers": [one.url for one in servers],
            "identities": self._identities(servers),
            "who": self.who,
            "name": f"{name}/{__version__}",
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "connect_timeout": 2,
            "ping_interval": PING_SECONDS,
            "pending_size": 0,
            "drain_timeout": 30,
            "user_credentials": str(self.creds),
            "nkeys_seed": str(self.nkey),
            "inbox_prefix": self.inbox_prefix,
        }
        if self.user_jwt:
            arguments["user_jwt"] = (self.user_jwt, self.user_seed or self._seed())
        if self.tls_required:
            arguments |= {"tls": self._tls(), "tls_required": True, "tls_handshake_first": self.tls_first}
            arguments["tls_certificate"] = bool(self.tls_cert)
        if servers[0].scheme in ("ws", "wss") and find_spec("aiohttp") is None:
            raise BadRequest(f"{servers[0].scheme}:// needs the package aiohttp: pip install aiohttp")
        return {key: value for key, value in arguments.items() if value != ""}

    def _seed(self) -> str:
        if not self.nkey:
            raise BadRequest("a user_jwt without its seed: give user_seed, or a file with the seed in nkey")
        return Path(self.nkey).read_text(encoding="utf-8", errors="replace").strip()

    def _identities(self, servers: Sequence[Server]) -> dict[str, Identity]:
        """The identity for each server by host and port, and under "" for all others; a URL goes before the options."""
        anywhere = Identity(self.user, self.password, self.token)
        return {"": anywhere} | {one.place: one.identity or anywhere for one in servers}

    def _tls(self) -> ssl.SSLContext:
        """The TLS context. The server's certificate and its name are always checked."""
        if any(one.scheme == "ws" for one in self.servers):
            raise BadRequest(f"TLS options do not go together with ws:// ({self.label}): use wss://")
        if self.tls_key and not self.tls_cert:
            raise BadRequest("a TLS key without a certificate: give both, tls_cert and tls_key (--tls-cert, --tls-key)")
        try:
            context = ssl.create_default_context(cafile=self.tls_ca or None)
        except OSError as error:
            raise BadRequest(f"cannot use the TLS files given: {self.tls_ca} holds no certificate ({error})") from None
        if self.tls_cert:
            try:
                context.load_cert_chain(self.tls_cert, self.tls_key or None, password=_no_password)
            except (OSError, ValueError) as error:
                what = (
                    f"{self.tls_cert} and {self.tls_key}"
                    if self.tls_key
                    else f"{self.tls_cert} without a key of its own"
                )
                raise BadRequest(f"cannot use the TLS files given: {what}: {error}") from None
        return context


def _no_password() -> str:
    # Without this, OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted: decrypt it, there is nobody to ask for its password")
