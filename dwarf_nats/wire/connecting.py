"""Where NATS is, who we are there, and how a connection begins and comes back (wire: section 6).

Settings come from the arguments, then from the `nats` CLI's environment (`NATS_URL`, `NATS_CREDS`, `NATS_NKEY`,
`NATS_USER`, `NATS_PASSWORD`, `NATS_TOKEN`, `NATS_CA`, `NATS_CERT`, `NATS_KEY`), then from its context files
(`NATS_CONTEXT`). A context named by argument goes before the environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

import msgspec

from dwarf_nats import __version__
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.redact import shown

log = logging.getLogger("dwarf_nats.connection")

DEFAULT_URL = "nats://127.0.0.1:4222"
PING_SECONDS = 10
SLOWEST_RECONNECT = 2.0
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
_CONTEXT = {"ca": "tls_ca", "cert": "tls_cert", "key": "tls_key"} | {
    name: name for name in ("url", "creds", "nkey", "user", "password", "token", "tls_first", "inbox_prefix")
}
_FILES = {
    "creds": "credentials",
    "nkey": "nkey seed",
    "tls_ca": "TLS CA",
    "tls_cert": "TLS certificate",
    "tls_key": "TLS key",
}
_REFUSALS = ("authorization", "authentication", "user credentials", "permissions violation for connect")


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


@dataclass(slots=True, frozen=True)
class ConnectOptions:
    """How to reach NATS; an empty field means "not given".

    `url`: one server or several, separated by commas. `context`: the name of a context of the `nats` CLI, or a path to
    its file. `creds`: credentials file; `nkey`: file with the seed. `inbox_prefix`: of reply subjects, so that they can
    be private to a user. `connect_seconds` bounds one attempt at the first connection; a lost one is sought for ever.
    """

    url: str = ""
    context: str = ""
    creds: Place = ""
    nkey: Place = ""
    user: str = ""
    password: str = ""
    token: str = ""
    tls_ca: Place = ""
    tls_cert: Place = ""
    tls_key: Place = ""
    tls_first: bool = False
    inbox_prefix: str = ""
    connect_seconds: float = 5.0

    def resolved(self, environ: Mapping[str, str] | None = None) -> ConnectOptions:
        """With the environment and the context filled in. Raises `BadRequest` for a context that cannot be read."""
        env = os.environ if environ is None else environ
        from_env = {ours: env[theirs] for theirs, ours in ENVIRONMENT.items() if env.get(theirs)}
        if self.context and self.url:
            layers = [load_context(self.context, env)]
        elif self.context:
            layers = [load_context(self.context, env), from_env]
        elif env.get("NATS_CONTEXT"):
            layers = [from_env, load_context(env["NATS_CONTEXT"], env)]
        else:
            layers = [from_env]
        merged = self
        for layer in layers:
            merged = replace(merged, **{name: value for name, value in layer.items() if not getattr(merged, name)})
        return merged if merged.url else replace(merged, url=DEFAULT_URL)

    def over(self, others: ConnectOptions) -> ConnectOptions:
        """These options, and where they name nothing the others'."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "connect_seconds"}
        return replace(others, **{name: value for name, value in given.items() if value})

    @property
    def servers(self) -> list[str]:
        """The servers one by one, `nats://` put before a bare `host:port`. Raises `BadRequest` if there are none."""
        urls = [one.strip() for one in self.url.split(",") if one.strip()]
        if not urls:
            raise BadRequest("no NATS server named: give a URL such as nats://127.0.0.1:4222")
        return [one if "://" in one else f"nats://{one}" for one in urls]

    @property
    def shown(self) -> str:
        """The servers without user and password, for messages."""
        parts = shown(self.url).split(",")
        return ",".join(one if "://" in one else f"nats://{one}" for one in parts)

    def arguments(self, name: str) -> dict[str, Any]:
        """As nats-py's `connect` takes them: never buffering, reconnecting for ever with jitter.

        Raises `BadRequest` for files that cannot be read.
        """
        for field, what in _FILES.items():
            path = getattr(self, field)
            if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
                raise BadRequest(f"cannot read the {what} file {path}")
        arguments: dict[str, Any] = {
            "servers": self.servers,
            "name": f"{name}/{__version__}",
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_to_server_handler": next_server,
            "reconnect_time_wait": 0.25,
            "connect_timeout": 2,
            "ping_interval": PING_SECONDS,
            "pending_size": 0,
            "drain_timeout": 30,
            "user_credentials": str(self.creds),
            "nkeys_seed": str(self.nkey),
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "inbox_prefix": self.inbox_prefix,
        }
        tls = self._tls()
        if tls is not None:
            arguments |= {"tls": tls, "tls_handshake_first": self.tls_first}
        return {key: value for key, value in arguments.items() if value != ""}

    def _tls(self) -> ssl.SSLContext | None:
        """The TLS settings asked for, or `None` if nothing asks for TLS."""
        asked = any(one.startswith(("tls://", "wss://")) for one in self.servers)
        if not (asked or self.tls_ca or self.tls_cert or self.tls_first):
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca or None)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key or None)
        except OSError as error:
            raise BadRequest(f"cannot use the TLS files given: {error}") from None
        return context


def load_context(name: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of a `nats` CLI context as `ConnectOptions` fields; `name` may be a path to a context file.

    A name stands for `$XDG_CONFIG_HOME/nats/context/<name>.json`. Raises `BadRequest` if that is no context.
    """
    env = os.environ if environ is None else environ
    if os.sep in name or name.endswith(".json"):
        path = Path(name).expanduser()
    else:
        base = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME") or "~").expanduser() / ".config")
        path = base / "nats" / "context" / f"{name}.json"
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise BadRequest(
            f"cannot read the NATS context {name!r} at {path}: {error.strerror or error};"
            " see `nats context ls` for those there are"
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the NATS context file {path} is not a JSON object: {error}") from None
    found = {ours: values[theirs] for theirs, ours in _CONTEXT.items() if values.get(theirs)}
    for field, value in found.items():
        wanted = bool if field == "tls_first" else str
        if not isinstance(value, wanted):
            raise BadRequest(f"the NATS context file {path} has a {field} that is no {wanted.__name__}")
        if field in _FILES:
            found[field] = os.path.expanduser(str(value))
    return found


class ServerTried(Protocol):
    """A server as nats-py keeps it: how often it was tried since it was last there."""

    reconnects: int


S = TypeVar("S", bound=ServerTried)
T = TypeVar("T")
CANCEL_AGAIN_SECONDS = 0.1


def next_server(servers: Sequence[S], _info: Mapping[str, Any]) -> tuple[S, float]:
    """Which server to try next and after how many seconds: the one tried least, with jitter."""
    fewest = min(server.reconnects for server in servers)
    return random.choice([server for server in servers if server.reconnects == fewest]), pause(fewest)


def pause(failures: int) -> float:
    """Seconds to wait after so many failures: any number up to a bound that doubles, at most 2."""
    return random.uniform(0, min(SLOWEST_RECONNECT, 0.05 * 2 ** min(failures, 6)))


Hook = Callable[[], Awaitable[None]]


class Connectable(Protocol):
    """nats-py's client, or one made of it."""

    @property
    def connect(self) -> Callable[..., Coroutine[Any, Any, None]]: ...


async def begin(client: Connectable, options: ConnectOptions, name: str, **hooks: Hook | None) -> None:
    """Connect a fresh client, trying each server once. `hooks` are nats-py's: `disconnected_cb` and the like.

    Raises `Unavailable` if no server answers or if one refuses who we are (`details["refused"]`), `BadRequest` for options
    that cannot be right. The client is of no use then.
    """
    options = options.resolved()
    arguments = options.arguments(name)
    failed: asyncio.Future[Unavailable] = asyncio.get_running_loop().create_future()
    tries = 0

    async def on_error(error: Exception) -> None:
        nonlocal tries
        tries += 1
        reason = _reason(error)
        if failed.done():
            log.log(logging.ERROR if "permissions violation" in reason.lower() else logging.DEBUG, "NATS: %s", reason)
        elif any(word in reason.lower() for word in _REFUSALS):
            failed.set_result(Unavailable(f"NATS at {options.shown} refused the connection: {reason}", refused=True))
        elif tries >= len(options.servers):
            failed.set_result(_nobody(options, reason))

    connecting = asyncio.ensure_future(client.connect(**arguments, **hooks, error_cb=on_error))
    try:
        both: set[asyncio.Future[Any]] = {connecting, failed}
        await asyncio.wait(both, timeout=options.connect_seconds, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
            # From now on errors are told, not counted.
            failed.cancel()
            return
    except (OSError, EOFError, TimeoutError) as error:
        raise _nobody(options, _reason(error)) from None
    except Exception as error:
        # What nats-py does not take for a failed try is no matter of trying again: credentials that are none, say.
        raise BadRequest(f"cannot connect to NATS at {options.shown}: {_reason(error)}") from None
    finally:
        await _given_up(connecting)
    raise failed.result() if failed.done() else _nobody(options, "no answer in time")


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
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            if not retry or error.details.get("refused"):
                raise
            log.log(logging.DEBUG if failures else logging.WARNING, "%s; trying again", error)
        failures += 1
        await asyncio.sleep(pause(failures))


def _nobody(options: ConnectOptions, reason: str) -> Unavailable:
    return Unavailable(f"no NATS server answers at {options.shown}: {reason}; is a nats-server running there?")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer in time"
    text = str(error) or type(error).__name__
    return text.removeprefix("nats: ").strip("'")
