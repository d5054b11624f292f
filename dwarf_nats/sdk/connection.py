"""Connections to NATS: where the server is, who we are, and how a lost connection comes back (wire section 6).

Settings come from the arguments, then from the `nats` CLI's environment (`NATS_URL`, `NATS_CREDS`, `NATS_NKEY`,
`NATS_USER`, `NATS_PASSWORD`, `NATS_CA`, `NATS_CERT`, `NATS_KEY`), then from its context files (`NATS_CONTEXT`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nats.aio.client import Client as Nats
from nats.aio.client import Server

from dwarf_nats import __version__
from dwarf_nats.errors import BadRequest, Unavailable

log = logging.getLogger("dwarf_nats.sdk")

DEFAULT_URL = "nats://127.0.0.1:4222"
PING_SECONDS = 10
_REFUSED = ("authorization", "authentication", "user credentials", "permissions violation for connect")


@dataclass(slots=True, frozen=True)
class ConnectOptions:
    """How to reach NATS. `url` may list several servers, separated by commas; empty fields mean "not given".

    `creds` is a credentials file, `nkey` a seed file, `context` the name of a `nats` CLI context (or a path to one).
    `connect_seconds` bounds the first connection; a lost one is sought for ever.
    """

    url: str = ""
    context: str = ""
    creds: str | os.PathLike[str] = ""
    nkey: str | os.PathLike[str] = ""
    user: str = ""
    password: str = ""
    token: str = ""
    tls_ca: str | os.PathLike[str] = ""
    tls_cert: str | os.PathLike[str] = ""
    tls_key: str | os.PathLike[str] = ""
    tls_first: bool = False
    inbox_prefix: str = ""
    connect_seconds: float = 5.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Passed to nats-py's `connect` as they are."""

    def resolved(self, environ: Mapping[str, str] | None = None) -> ConnectOptions:
        """These options with the environment and the context filled in.

        A context named by argument beats the environment; one named by `NATS_CONTEXT` is beaten by `NATS_URL` and its
        like. Raises `BadRequest` if the context does not exist or is no context.
        """
        env = os.environ if environ is None else environ
        from_env = {ours: env[theirs] for theirs, ours in _ENVIRONMENT.items() if env.get(theirs)}
        if self.context:
            layers = [load_context(self.context, env)] if self.url else [load_context(self.context, env), from_env]
        elif env.get("NATS_CONTEXT"):
            layers = [from_env, load_context(env["NATS_CONTEXT"], env)]
        else:
            layers = [from_env]
        merged = self
        for layer in layers:
            merged = replace(merged, **{k: v for k, v in layer.items() if not getattr(merged, k)})
        return merged if merged.url else replace(merged, url=DEFAULT_URL)


_ENVIRONMENT = {
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
_CONTEXT = {
    "url": "url",
    "creds": "creds",
    "nkey": "nkey",
    "user": "user",
    "password": "password",
    "token": "token",
    "ca": "tls_ca",
    "cert": "tls_cert",
    "key": "tls_key",
    "tls_first": "tls_first",
    "inbox_prefix": "inbox_prefix",
}


def load_context(name: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of a `nats` CLI context as `ConnectOptions` fields; `name` may be a path to a context file."""
    env = os.environ if environ is None else environ
    if os.sep in name or name.endswith(".json"):
        path = Path(name)
    else:
        base = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config")
        path = base / "nats" / "context" / f"{name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(
            f"cannot read the NATS context {name!r} at {path}: {error.strerror or error};"
            " see `nats context ls` for those there are"
        ) from None
    except ValueError as error:
        raise BadRequest(f"the NATS context file {path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise BadRequest(f"the NATS context file {path} must hold a JSON object")
    found = {ours: values[theirs] for theirs, ours in _CONTEXT.items() if values.get(theirs)}
    for path_field in ("creds", "nkey", "tls_ca", "tls_cert", "tls_key"):
        if path_field in found:
            found[path_field] = str(Path(str(found[path_field])).expanduser())
    return found


Hook = Callable[[], Awaitable[None]]


async def connect(
    options: ConnectOptions,
    name: str,
    *,
    disconnected: Hook | None = None,
    reconnected: Hook | None = None,
    closed: Hook | None = None,
    wait_for_ever: bool = False,
) -> Nats:
    """A connection that reconnects for ever and never buffers what is sent while it is down.

    Raises `Unavailable` if no server answers within `options.connect_seconds` (with `wait_for_ever` that is logged and
    tried again) or if the server refuses who we are, and `BadRequest` for options that cannot be right.
    """
    options = options.resolved()
    while True:
        try:
            return await _connect_once(options, name, disconnected, reconnected, closed)
        except Unavailable as error:
            if not wait_for_ever or error.details.get("refused"):
                raise
            log.warning("%s; trying again", error)


async def _connect_once(
    options: ConnectOptions, name: str, disconnected: Hook | None, reconnected: Hook | None, closed: Hook | None
) -> Nats:
    nc = Nats()
    last: list[Exception] = []
    refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        last[:] = [error]
        if not refused.done() and any(word in str(error).lower() for word in _REFUSED):
            refused.set_result(error)
        log.debug("NATS: %s", error)

    connecting = asyncio.ensure_future(
        nc.connect(
            **_arguments(options),
            name=f"{name}/{__version__}",
            error_cb=on_error,
            disconnected_cb=disconnected,
            reconnected_cb=reconnected,
            closed_cb=closed,
        )
    )
    try:
        both: set[asyncio.Future[Any]] = {connecting, refused}
        await asyncio.wait(both, timeout=options.connect_seconds, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
            return nc
    except ValueError as error:
        raise BadRequest(f"cannot connect to NATS at {shown(options.url)}: {error}") from None
    except Exception as error:
        last[:] = [error]
    finally:
        if not connecting.done():
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
    why = _reason(last)
    if refused.done():
        raise Unavailable(f"NATS at {shown(options.url)} refused the connection: {why}", refused=True)
    raise Unavailable(f"no NATS server answers at {shown(options.url)}: {why}")


def _arguments(options: ConnectOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "servers": servers_of(options.url),
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,
        "reconnect_to_server_handler": pick_server,
        "reconnect_time_wait": 0.25,
        "connect_timeout": 2,
        "ping_interval": PING_SECONDS,
        "pending_size": 0,
        "drain_timeout": 30,
    }
    if options.creds:
        arguments["user_credentials"] = str(options.creds)
    if options.nkey:
        arguments["nkeys_seed"] = str(options.nkey)
    for what, path in (("credentials", options.creds), ("nkey seed", options.nkey), ("TLS CA", options.tls_ca)):
        if path and not Path(path).is_file():
            raise BadRequest(f"there is no {what} file {path}")
    for name in ("user", "password", "token", "inbox_prefix"):
        if value := getattr(options, name):
            arguments[name] = value
    if context := tls_context(options):
        arguments["tls"] = context
        arguments["tls_handshake_first"] = options.tls_first
    return {**arguments, **options.extra}


def servers_of(url: str) -> list[str]:
    """The servers of a comma-separated list, `nats://` put before a bare `host:port`."""
    servers = [one if "://" in one else f"nats://{one}" for one in (part.strip() for part in url.split(",")) if one]
    if not servers:
        raise BadRequest("no NATS server named: give a URL such as nats://127.0.0.1:4222")
    return servers


def tls_context(options: ConnectOptions) -> ssl.SSLContext | None:
    """The TLS settings asked for, or `None` if nothing asks for TLS."""
    asks = any(one.startswith(("tls://", "wss://")) for one in servers_of(options.url))
    if not (asks or options.tls_ca or options.tls_cert or options.tls_first):
        return None
    try:
        context = ssl.create_default_context(cafile=str(options.tls_ca) if options.tls_ca else None)
        if options.tls_cert:
            context.load_cert_chain(str(options.tls_cert), str(options.tls_key) if options.tls_key else None)
    except OSError as error:
        raise BadRequest(f"cannot use the TLS files given: {error}") from None
    return context


def pick_server(servers: Sequence[Server], _info: Mapping[str, Any]) -> tuple[Server, float]:
    """Which server to try next and after how many seconds: the one tried least, with growing jitter, at most 2 s."""
    fewest = min(server.reconnects for server in servers)
    chosen = random.choice([server for server in servers if server.reconnects == fewest])
    return chosen, random.uniform(0, min(2.0, 0.05 * 2 ** min(fewest, 6)))


def shown(url: str) -> str:
    """The URL without user and password, for messages."""
    parts = []
    for one in url.split(","):
        split = urlsplit(one.strip())
        parts.append(f"{split.scheme}://{split.netloc.rpartition('@')[2]}" if "@" in split.netloc else one.strip())
    return ",".join(parts)


def _reason(last: list[Exception]) -> str:
    if not last:
        return "no answer in time"
    text = str(last[0]) or type(last[0]).__name__
    return text.removeprefix("nats: ").strip("'")


__all__ = ["ConnectOptions", "connect", "load_context", "pick_server", "servers_of", "shown", "tls_context"]
