"""Connect to NATS, and choose the server and the pause of each reconnect (wire section 6)."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.redact import scrubbed
from dwarf_nats.summed import Repeats

from .connect_options import ConnectOptions
from .connection_errors import describe_connection_error, is_permanent

log = logging.getLogger("dwarf_nats.connection")

RECONNECT_BACKOFF = Backoff(0.05, 2, 2.0, jitter=1.0)
"""Pauses before the next attempt to reach a server."""
SHORT_LIVED_BACKOFF = Backoff(0.2, 2, 5.0, jitter=0.5)
"""Pauses before a server that accepts connections and closes them soon."""
_SILENCE = ("no answer in time", "empty response")
_TLS_FIRST = "if the server begins with TLS, use tls_first (--tls-first)"


class ServerTried(Protocol):
    """A server as nats-py keeps it. `reconnects`: attempts since it was last connected."""

    reconnects: int


S = TypeVar("S", bound=ServerTried)
T = TypeVar("T")
CANCEL_AGAIN_SECONDS = 0.1
"""Pause before an attempt that has not ended is cancelled once more."""


def next_server(servers: Sequence[S], _info: Mapping[str, Any], short_lived: int = 0) -> tuple[S, float]:
    """Choose the server to try next, one of those tried least, and the seconds to wait before that.

    `short_lived`: the number of connections in a row that were lost soon after they had begun. Each makes the pause longer, so
    that a server that accepts connections only to close them is not overloaded.
    """
    fewest = min(server.reconnects for server in servers)
    chosen = random.choice([server for server in servers if server.reconnects == fewest])
    seconds = RECONNECT_BACKOFF.delay(fewest)
    return chosen, max(seconds, SHORT_LIVED_BACKOFF.delay(short_lived - 1)) if short_lived else seconds


Hook = Callable[[], Awaitable[None]]


class Connectable(Protocol):
    """A client of nats-py, or of a subclass."""

    @property
    def connect(self) -> Callable[..., Coroutine[Any, Any, None]]: ...


async def connect_client(
    client: Connectable,
    options: ConnectOptions,
    name: str,
    *,
    on_later_error: Callable[[Exception], None] | None = None,
    **hooks: Hook | None,
) -> None:
    """Connect a new client, trying each server once. `hooks` are nats-py's: `disconnected_cb` and so on.

    `on_later_error` is called with errors that occur after the client has been connected. Raises `Unavailable` if no server
    answers or if each refuses the user (`details["refused"]`: trying again does not help), `BadRequest` for options that cannot
    be right. The client cannot be used then.
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
            if on_later_error is not None:
                on_later_error(error)
            return
        tries += 1
        refusal = error if is_permanent(error) else refusal
        if tries >= most and not failed.done():
            failed.set_result(
                _refused_error(options, refusal)
                if refusal is not None
                else _unreachable(options, describe_connection_error(error))
            )

    connecting = asyncio.ensure_future(client.connect(**arguments, **hooks, error_cb=on_error))
    try:
        both: set[asyncio.Future[Any]] = {connecting, failed}
        await asyncio.wait(both, timeout=options.connect_seconds, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
            connected = True
            return
    except (OSError, EOFError, TimeoutError) as error:
        raise _unreachable(options, describe_connection_error(error)) from None
    except Exception as error:
        # nats-py raises what trying again cannot mend, such as malformed credentials.
        raise BadRequest(f"cannot connect to NATS at {options.label}: {_without_secrets(options, error)}") from None
    finally:
        await _end_attempt(connecting)
    if failed.done():
        raise failed.result()
    raise _refused_error(options, refusal) if refusal is not None else _unreachable(options, "no answer in time")


async def _end_attempt(connecting: asyncio.Future[Any]) -> None:
    """End an attempt. A single cancellation may get lost, and the attempt would go on for ever.

    (`wait_for` drops a cancellation that coincides with a result before Python 3.12.)
    """
    while not connecting.done():
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=CANCEL_AGAIN_SECONDS)
    if not connecting.cancelled():
        connecting.exception()  # read, so that asyncio does not log it: the attempt is over


async def retry_while_unavailable(attempt: Callable[[], Awaitable[T]], retry: bool) -> T:
    """Return the result of `attempt`; with `retry`, repeat it for ever while no server answers.

    Raises the `Unavailable` of a refusal in any case, and without `retry` that of the first attempt.
    """
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


def _unreachable(options: ConnectOptions, reason: str) -> Unavailable:
    if options.tls_required and not options.tls_first and reason.startswith(_SILENCE):
        reason = f"{reason} ({_TLS_FIRST})"
    return Unavailable(f"no NATS server answers at {options.label}: {reason}; is a nats-server running there?")


def _refused_error(options: ConnectOptions, error: Exception) -> Unavailable:
    reason = describe_connection_error(error)
    if isinstance(error, ssl.SSLError) or getattr(error, "permanent", False):
        return Unavailable(f"no TLS with NATS at {options.label}: {reason}", refused=True)
    return Unavailable(f"NATS at {options.label} refused the connection: {reason}", refused=True)


def _without_secrets(options: ConnectOptions, error: Exception) -> str:
    """The text of an error about credentials, without their content."""
    for what, path in (("credentials", options.creds), ("nkey seed", options.nkey)):
        if path:
            return f"the {what} file {path} is not one: {type(error).__name__}"
    return scrubbed(str(error).removeprefix("nats: ") or type(error).__name__, options.url)
