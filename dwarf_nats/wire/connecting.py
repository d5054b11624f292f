"""Where NATS is, who we are there, and how a connection begins and comes back (wire: section 6).

Settings come from the arguments, then from the `nats` CLI's environment (`NATS_URL`, `NATS_CREDS`, `NATS_NKEY`,
`NATS_USER`, `NATS_PASSWORD`, `NATS_TOKEN`, `NATS_CA`, `NATS_CERT`, `NATS_KEY`), then from its context files
(`NATS_CONTEXT`). A context named by argument goes before the environment. If none of them names a server or a context, the
context that `nats context select` chose is used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.redact import redacted_url, scrubbed
from dwarf_nats.summed import Repeats
from dwarf_nats.version import __version__

from .connection_errors import explained, for_good
from .contexts import load_context, selected_context
from .credentials import read_credentials
from .servers import Identity, Server, parse_servers

log = logging.getLogger("dwarf_nats.connection")

DEFAULT_URL = "nats://127.0.0.1:4222"
PING_SECONDS = 10
RECONNECT_BACKOFF = Backoff(0.05, 2, 2.0, jitter=1.0)
"""Pauses before the next attempt to reach a server."""
SHORT_LIVED_BACKOFF = Backoff(0.2, 2, 5.0, jitter=0.5)
"""Pauses before a server that accepts connections and closes them soon."""
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
_PREFIX = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")
_SILENCE = ("no answer in time", "empty response")
_TLS_FIRST = "if the server begins with TLS, use tls_first (--tls-first)"


Place = str | os.PathLike[str]


class ConnectArguments(TypedDict, total=False):
    """`ConnectOptions` without `url`, as keyword arguments of those who connect."""

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
    """How to reach NATS; an empty field means "not given".

    `url`: one server or several, separated by commas; user, password and token in it are percent-encoded, and go to that
    server only. `context`: the name of a context of the `nats` CLI, or a path to its file. `creds`: credentials file;
    `nkey`: file with the seed. `inbox_prefix`: of reply subjects, so that they can be private to a user. `tls_…` insist on
    TLS, as `tls://` does. `user_jwt`, `user_seed`: what a credentials file has in it. `environment`:
    whether variables and contexts fill in what is not given. `connect_seconds` bounds one attempt
    at the first connection; a lost one is sought for ever.
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
        """With the environment and the context filled in. Raises `BadRequest` for a context that cannot be read."""
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
        """These options, and where they name nothing the others'."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _NOT_EMPTY}
        return replace(others, **{name: value for name, value in given.items() if value})

    @property
    def servers(self) -> list[Server]:
        """The servers one by one. Raises `BadRequest` if there are none, or for what is no NATS URL."""
        return parse_servers(self.url)

    @property
    def label(self) -> str:
        """The servers without user and password, for messages."""
        parts = redacted_url(self.url).split(",")
        return ",".join(one if "://" in one else f"nats://{one}" for one in parts)

    @property
    def who(self) -> str:
        """Who we are, for messages."""
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
        """Whether TLS is asked for, and so insisted on."""
        asked = any(one.scheme in ("tls", "wss") for one in self.servers)
        return bool(asked or self.tls_ca or self.tls_cert or self.tls_key or self.tls_first)

    def arguments(self, name: str) -> dict[str, Any]:
        """As the `connect` of our client takes them: never buffering, reconnecting for ever with jitter.

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
        """Who we are on each server by its place, and under "" on all others. What a URL says goes before the options."""
        anywhere = Identity(self.user, self.password, self.token)
        return {"": anywhere} | {one.place: one.identity or anywhere for one in servers}

    def _tls(self) -> ssl.SSLContext:
        """The TLS settings asked for. The server's certificate and its name are always checked."""
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
    # OpenSSL would ask for it on the terminal.
    raise ValueError("the key is encrypted: decrypt it, there is nobody to ask for its password")


class ServerTried(Protocol):
    """A server as nats-py keeps it: how often it was tried since it was last there."""

    reconnects: int


S = TypeVar("S", bound=ServerTried)
T = TypeVar("T")
CANCEL_AGAIN_SECONDS = 0.1


def next_server(servers: Sequence[S], _info: Mapping[str, Any], short_lived: int = 0) -> tuple[S, float]:
    """Which server to try next and after how many seconds: the one tried least, with jitter.

    `short_lived`: how many connections in a row were lost soon after they had begun. Each makes the pause longer, so that a
    server that takes connections only to close them is not run down.
    """
    fewest = min(server.reconnects for server in servers)
    chosen = random.choice([server for server in servers if server.reconnects == fewest])
    seconds = RECONNECT_BACKOFF.delay(fewest)
    return chosen, max(seconds, SHORT_LIVED_BACKOFF.delay(short_lived - 1)) if short_lived else seconds


Hook = Callable[[], Awaitable[None]]


class Connectable(Protocol):
    """nats-py's client, or one made of it."""

    @property
    def connect(self) -> Callable[..., Coroutine[Any, Any, None]]: ...


async def begin(
    client: Connectable,
    options: ConnectOptions,
    name: str,
    *,
    failed_later: Callable[[Exception], None] | None = None,
    **hooks: Hook | None,
) -> None:
    """Connect a fresh client, trying each server once. `hooks` are nats-py's: `disconnected_cb` and the like.
    `failed_later` is called with what goes wrong once it has been connected.

    Raises `Unavailable` if no server answers or if each refuses us (`details["refused"]`: trying again does not help),
    `BadRequest` for options that cannot be right. The client is of no use then.
    """
    options = options.resolved()
    arguments = options.arguments(name)
    most = len(options.servers)
    failed: asyncio.Future[Unavailable] = asyncio.get_running_loop().create_future()
    tries = 0
    refusal: Exception | None = None
    connected = False

    async def on_error(error: Exception) -> None:
        nonlocal tries, refusal
        if connected:
            if failed_later is not None:
                failed_later(error)
            return
        tries += 1
        refusal = error if for_good(error) else refusal
        if tries >= most and not failed.done():
            failed.set_result(_refused(options, refusal) if refusal is not None else _nobody(options, explained(error)))

    connecting = asyncio.ensure_future(client.connect(**arguments, **hooks, error_cb=on_error))
    try:
        both: set[asyncio.Future[Any]] = {connecting, failed}
        await asyncio.wait(both, timeout=options.connect_seconds, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
            connected = True
            return
    except (OSError, EOFError, TimeoutError) as error:
        raise _nobody(options, explained(error)) from None
    except Exception as error:
        # What nats-py does not take for a failed try is no matter of trying again: credentials that are none, say.
        raise BadRequest(f"cannot connect to NATS at {options.label}: {_unreadable(options, error)}") from None
    finally:
        await _given_up(connecting)
    if failed.done():
        raise failed.result()
    raise _refused(options, refusal) if refusal is not None else _nobody(options, "no answer in time")


async def _given_up(connecting: asyncio.Future[Any]) -> None:
    """End an attempt. One cancellation may get lost in it (`wait_for` drops one that meets a result before Python 3.12), and it
    would go on trying for ever."""
    while not connecting.done():
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=CANCEL_AGAIN_SECONDS)
    if not connecting.cancelled():
        connecting.exception()  # whatever it was, the attempt is over


async def begin_patiently(attempt: Callable[[], Awaitable[T]], retry: bool) -> T:
    """What `attempt` returns; with `retry` it is made again for ever while no server answers. A refusal always stands."""
    failures = 0
    repeats = Repeats(log, burst=1)
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            if not retry or error.details.get("refused"):
                raise
            repeats.say(logging.WARNING, f"{error}; trying again")
        failures += 1
        await asyncio.sleep(RECONNECT_BACKOFF.delay(failures))


def _nobody(options: ConnectOptions, reason: str) -> Unavailable:
    if options.tls_required and not options.tls_first and reason.startswith(_SILENCE):
        reason = f"{reason} ({_TLS_FIRST})"
    return Unavailable(f"no NATS server answers at {options.label}: {reason}; is a nats-server running there?")


def _refused(options: ConnectOptions, error: Exception) -> Unavailable:
    reason = explained(error)
    if isinstance(error, ssl.SSLError) or getattr(error, "for_good", False):
        return Unavailable(f"no TLS with NATS at {options.label}: {reason}", refused=True)
    return Unavailable(f"NATS at {options.label} refused the connection: {reason}", refused=True)


def _unreadable(options: ConnectOptions, error: Exception) -> str:
    """An error about credentials, without what stands in them."""
    for what, path in (("credentials", options.creds), ("nkey seed", options.nkey)):
        if path:
            return f"the {what} file {path} is not one: {type(error).__name__}"
    return scrubbed(str(error).removeprefix("nats: ") or type(error).__name__, options.url)
