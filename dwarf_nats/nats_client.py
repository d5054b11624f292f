"""The NATS client of replica, worker, SDK and command line: nats-py's, with methods overridden (wire section 6).

Five things differ. Round trips: see `RoundTrips`. Raw messages: see `RawMessages`. Connecting: if the options ask for TLS,
nothing is sent before it is on, also to servers that the cluster announces later; each server gets the user and password of
its own URL; reconnects slow down while connections are short-lived. Errors: every error of the server ends in a reconnect,
never in a closed connection. Permissions: a refusal is reported to the code that sent the refused message or subscription.

This module, `raw_messages`, `round_trips` and `bus.connection` are the only ones that use private names of nats-py
(docs/design/0012-connections.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.parser import ERR_RE

from dwarf_nats.errors import Forbidden
from dwarf_nats.raw_messages import RawMessages
from dwarf_nats.redact import redacted_url
from dwarf_nats.summed import Repeats
from dwarf_nats.wire.connecting import ServerTried, next_server
from dwarf_nats.wire.connection_errors import describe_connection_error
from dwarf_nats.wire.credentials import credentials_in, credentials_text, read_credentials
from dwarf_nats.wire.servers import Identity
from dwarf_nats.wire.violations import Violation

log = logging.getLogger("dwarf_nats.connection")

STEADY_SECONDS = 10.0
"""Life of a connection from which on it counts as good: the next reconnect begins without a pause."""
ASK_AGAIN_SECONDS = 15.0
"""Pause before refused subscriptions are made again, since permissions may change while this process runs."""
_LAST_WORDS = re.compile(rb"-ERR\s+'([^\r\n]+)'")
S = TypeVar("S", bound=ServerTried)


class TlsRefused(nats.errors.Error):
    """Client and server do not agree about TLS; trying again does not change that."""

    permanent = True


class _Transport(TcpTransport):
    """nats-py's transport without the warnings that asyncio would log.

    It tells asyncio that TLS is on, and writes nothing to a connection that is lost: nats-py makes every subscription again
    with a write of its own.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __bool__(self) -> bool:
        return True  # otherwise nats-py would replace it before it connects

    def write(self, payload: bytes) -> None:
        writer = self._io_writer
        if writer is not None and not writer.transport.is_closing():
            writer.write(payload)

    def writelines(self, payload: Sequence[bytes]) -> None:
        writer = self._io_writer
        if writer is not None and not writer.transport.is_closing():
            writer.writelines(payload)

    async def connect_tls(self, *args: Any, **options: Any) -> None:
        await super().connect_tls(*args, **options)
        assert self._io_writer is not None
        vars(self._io_writer.transport.get_protocol())["_over_ssl"] = True


RefusalListener = Callable[[Violation], bool]
"""Called with an operation that permissions refused; returns true if it reports that to somebody, so that it is not logged."""


class NatsClient(RawMessages):
    """A connection to NATS; connect it with `wire.connecting.connect_client`. `who` names its user in messages."""

    def __init__(self) -> None:
        super().__init__()
        self.who = "this connection"
        self.refused: dict[tuple[str, str], Violation] = {}
        """Subscriptions that the server refused, by subject and queue group."""
        self._refusal_listeners: list[RefusalListener] = []
        self._tls_required = False
        self._identities: dict[str, Identity] = {}
        self._connected_at = 0.0
        self._judged = 0.0
        self._short_lived = 0
        self._close_reason = ""
        self._repeats = Repeats(log)
        self._violations = Repeats(log, burst=1)
        self._asking_again: asyncio.Task[None] | None = None

    async def connect(self, *args: Any, **options: Any) -> None:
        """Connect with the options of nats-py, and with `tls_required`, `identities` (by host and port) and `who`.

        Raises what nats-py raises.
        """
        self._tls_required = options.pop("tls_required", False)
        self._identities = dict(options.pop("identities", {}))
        self.who = options.pop("who", self.who)
        self.options["tls_certificate"] = options.pop("tls_certificate", False)
        if "user_jwt" in options:
            options["user_credentials"] = RawCredentials(credentials_text(*options.pop("user_jwt")))
        options.setdefault("reconnect_to_server_handler", self._next_server)
        connected = False
        try:
            await super().connect(*args, **options)
            connected = True
        finally:
            if not connected:
                self._drop_sockets()

    # --- where to, and as whom ---

    def _next_server(self, servers: Sequence[S], info: Mapping[str, Any]) -> tuple[S, float]:
        if self._judged != self._connected_at:  # the first attempt after a connection that was there
            self._judged = self._connected_at
            lived = asyncio.get_running_loop().time() - self._connected_at
            self._short_lived = self._short_lived + 1 if lived < STEADY_SECONDS else 0
        return next_server(servers, info, self._short_lived)

    def _drop_sockets(self) -> None:
        """Close the sockets of a failed attempt: nats-py forgets them, and the event loop would keep them open."""
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()

    async def _connect_to_server(self, s: Any) -> None:
        self._drop_sockets()
        if not self._transport and s.uri.scheme in ("nats", "tls"):
            self._transport = _Transport()
        try:
            await super()._connect_to_server(s)
        except (TimeoutError, OSError, nats.errors.Error):
            raise
        except Exception as error:  # of the WebSocket library, say: nats-py would stop trying
            raise nats.errors.Error(f"nats: {type(error).__name__}: {error}") from error
        if self.is_closed:  # meanwhile: `wait_for` hands over a connection that is ready, although it was cancelled
            self._drop_sockets()
            raise asyncio.CancelledError

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        current = self._current_server
        assert current is not None
        known = {server.uri.netloc for server in self._server_pool}
        await super()._process_info(info, initial_connection)
        for server in self._server_pool:
            if server.uri.netloc in known:
                continue
            # A server that the cluster has announced: use the scheme, the certificate name and the identity of the server
            # that announced it.
            if current.uri.scheme != server.uri.scheme:
                server.uri = server.uri._replace(scheme=current.uri.scheme)
            if current.tls_name is not None and self._host_is_ip(server.uri.hostname):
                server.tls_name = current.tls_name
            self._identities.setdefault(server.uri.netloc, self._identity(current))
        if initial_connection:
            self._insist_on_tls(current, info)

    def _insist_on_tls(self, server: Any, info: dict[str, Any]) -> None:
        """Turn TLS on before CONNECT is sent, which holds user and password. Raises `TlsRefused` if the server has none."""
        if not self._tls_required or server.uri.scheme == "wss" or self.options.get("tls_handshake_first"):
            return
        if info.get("tls_available"):
            info["tls_required"] = True  # makes nats-py begin TLS
        if not info.get("tls_required"):
            raise TlsRefused(
                "nats: the server does not offer TLS, which is asked for by tls:// or a TLS option, so nothing was sent to it:"
                " turn TLS on there, or use nats:// without TLS options"
            )

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            raise self._last_words() or self._certificate_missing(error) or error from None
        except Exception as error:  # a line that is too long, say: nats-py would stop trying
            raise nats.errors.Error(f"nats: not the beginning of a NATS server: {type(error).__name__}") from error
        self._connected_at = asyncio.get_running_loop().time()
        self.refused.clear()  # the subscriptions are made again now

    def _last_words(self) -> nats.errors.Error | None:
        """The error that a server sent before it closed the connection, which may be unread when a write fails."""
        reader = getattr(self._transport, "_io_reader", None)
        found = _LAST_WORDS.search(bytes(getattr(reader, "_buffer", b"")))
        return nats.errors.Error(f"nats: {found[1].decode('utf-8', 'replace')}") if found is not None else None

    def _certificate_missing(self, error: Exception) -> TlsRefused | None:
        """The reason for a lost connection if it is a missing client certificate, which TLS 1.3 does not report otherwise."""
        if not self._server_info.get("tls_verify") or getattr(error, "permanent", False):
            return None
        text = str(error).lower()
        if self.options.get("tls_certificate") or "certificate_verify_failed" in text or "authorization" in text:
            return None
        return TlsRefused(
            "nats: the server asks for a client certificate: give one with tls_cert and tls_key (--tls-cert, --tls-key)"
        )

    def _identity(self, server: Any) -> Identity:
        return self._identities.get(server.uri.netloc) or self._identities.get("") or Identity()

    def _connect_command(self) -> bytes:
        identity = self._identity(self._current_server)
        self._auth_configured = self._auth_configured or bool(identity)
        self.options["user"] = identity.user or None
        self.options["password"] = identity.password if identity.user else None
        self.options["token"] = identity.token or None
        return super()._connect_command()

    def _read_creds_user_jwt(self, creds: Any) -> bytearray:
        # nats-py's own never returns from a file without a JWT, and a file may be rewritten while this process runs.
        return bytearray(_credentials(creds)[0].encode())

    def _read_creds_user_nkey(self, creds: Any) -> bytearray:
        return bytearray(_credentials(creds)[1].encode())

    # --- errors ---

    def on_refused(self, call: RefusalListener) -> Callable[[], None]:
        """Call `call` with each operation that permissions refuse; returns a function that ends this."""
        self._refusal_listeners.append(call)
        return lambda: self._refusal_listeners.remove(call)

    def failed(self, error: Exception) -> None:
        """Log that an attempt to reconnect failed, or another error after which nats-py goes on."""
        reason = describe_connection_error(error)
        if self.is_connected:
            log.debug("NATS: %s", reason)
        else:
            self._repeats.say(logging.WARNING, f"cannot connect to NATS again yet: {reason}")

    async def _process_err(self, err_msg: str) -> None:
        if self.is_connecting:
            await super()._process_err(err_msg)
            return
        violation = raw_violation(self, err_msg)
        if violation is not None:
            self._report(violation)
            return
        self._close_reason = err_msg.strip("'")
        await self._process_op_err(nats.errors.Error(f"nats: {self._close_reason}"))

    def _report(self, violation: Violation) -> None:
        if not violation.publish:
            self.refused[violation.subject, violation.queue] = violation
            if self._asking_again is None or self._asking_again.done():
                self._asking_again = asyncio.get_running_loop().create_task(self._ask_again())
        reported = False
        for call in tuple(self._refusal_listeners):
            try:
                reported = call(violation) or reported
            except Exception:
                log.exception("a listener for refused permissions failed")
        if not reported:
            self._violations.say(logging.ERROR, f"NATS permissions do not let {self.who} {violation}")

    async def _ask_again(self) -> None:
        """Make refused subscriptions again every `ASK_AGAIN_SECONDS`, until the server accepts them."""
        while self.refused and not self.is_closed:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            before, self.refused = self.refused, {}
            wanted = [sub for sub in self._subs.values() if (sub._subject, sub._queue or "") in before]
            if not wanted or not self.is_connected:
                continue
            try:
                for sub in wanted:
                    await self._send_subscribe(sub)
                await self.flush()
            except nats.errors.Error:
                continue
            for sub in wanted:
                if (sub._subject, sub._queue or "") not in self.refused:
                    log.info("NATS takes the subscription to %s again", sub._subject)

    async def _attempt_reconnect(self) -> None:
        reason = f": {self._close_reason}" if self._close_reason else ""
        self._close_reason = ""
        self.end_pings()
        self._repeats.say(logging.WARNING, f"connection to NATS lost, reconnecting{reason}")
        await super()._attempt_reconnect()
        if self.is_connected:
            at = redacted_url(self.connected_url.geturl()) if self.connected_url else "?"
            self._repeats.say(logging.INFO, f"connected to NATS again at {at}")

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if status == Client.CLOSED and self._asking_again is not None:
            self._asking_again.cancel()
        self.end_pings()
        if self._pending_data_size > 0:
            # nats-py would send the rest itself, and raise in the middle of closing if the server is gone.
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            transport: Any = self._transport
            if self.is_connected and transport:
                with contextlib.suppress(OSError, RuntimeError):
                    transport.writelines(pending)
                    await transport.drain()
        await super()._close(status, do_cbs)


def _credentials(creds: Any) -> tuple[str, str]:
    if isinstance(creds, RawCredentials):
        return credentials_in(creds.data, "what the NATS context has in user_jwt and user_seed")
    return read_credentials(creds)


def raw_violation(nc: Client, text: str) -> Violation | None:
    """The refused operation of an error that nats-py is handling; `None` for other errors.

    nats-py passes the error on in lower case; its parser still has the original.
    """
    if "permissions violation" not in text.lower():
        return None
    found = ERR_RE.match(bytes(nc._ps.buf))
    raw = Violation.read(found[1].decode("utf-8", "replace")) if found is not None and found[1] else None
    return raw or Violation.read(text, lowered=True)


def watch_refusals(nc: Client, call: RefusalListener) -> Callable[[], None]:
    """Call `call` with each operation that permissions refuse on a connection, also on one that nats-py made.

    Refusals that no listener reports are logged. Returns a function that ends the watch.
    """
    if isinstance(nc, NatsClient):
        return nc.on_refused(call)
    before = nc._error_cb
    watching = True

    async def on_error(error: Exception) -> None:
        violation = raw_violation(nc, str(error))
        if violation is not None and watching:
            call(violation)
        await before(error)

    def end() -> None:
        nonlocal watching
        watching = False
        if nc._error_cb is on_error:
            nc._error_cb = before

    nc._error_cb = on_error
    return end


async def send_unsubscribe(nc: Client, subscription: Subscription) -> None:
    """Tell the server to send no more messages of a subscription. Messages on their way still find their handler."""
    await nc._send_unsubscribe(subscription._id)


async def drain_subscription(nc: Client, subscription: Subscription) -> None:
    """Unsubscribe, and handle every message the server sent before it knew.

    nats-py's `drain` alone would lose messages: it forgets the subscription after a `flush`, which may come before the UNSUB.
    So the UNSUB is sent first.
    """
    await send_unsubscribe(nc, subscription)
    await nc.flush()
    await subscription.drain()  # type: ignore[no-untyped-call]


def forbidden(nc: Client, violation: Violation, remedy: str = "") -> Forbidden:
    """The 403 for an operation that permissions refused. `remedy`: what to do, if that is not to grant the permission."""
    who = getattr(nc, "who", "the user of this connection")
    remedy = remedy or "grant it in the permissions of that user, or connect as another"
    return Forbidden(f"NATS permissions do not let {who} {violation}: {remedy}", subject=violation.subject)


INBOX_REMEDY = "choose an inbox prefix that this user may subscribe to (--inbox-prefix, inbox_prefix)"
"""The remedy if the refused operation is the subscription of an inbox."""
