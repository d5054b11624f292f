"""The connection of a replica to NATS (wire: section 6).

`Connection` is `NatsClient` with one change: nothing is kept for sending after a reconnect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dwarf_nats.nats_client import NatsClient
from dwarf_nats.ports import BusAway
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.connecting import connect_client, retry_while_unavailable

log = logging.getLogger("dwarf_nats.bus")


class Connection(NatsClient):
    """A connection to NATS; make one with `connect`."""

    def __init__(self) -> None:
        super().__init__()
        self.max_message_bytes = 0
        """Longest message to send, where a server on its way takes less than ours; 0: what ours takes."""
        self._on_disconnect: list[Callable[[], None]] = []
        self._on_reconnect: list[Callable[[], None]] = []

    def send(self, subject: str, reply: str, block: bytes, body: bytes) -> None:
        """Send one message, see `put`. The caller has checked the size (`fits`). Raises `BusAway` if the connection is down."""
        if not self.put(subject, reply, block, body):
            raise BusAway("not connected to NATS")

    @property
    def max_payload(self) -> int:
        """Bytes that a message may have: what the server takes, or `max_message_bytes` if that is less."""
        return min(self._max_payload, self.max_message_bytes) if self.max_message_bytes else self._max_payload

    def fits(self, block: bytes, body: bytes) -> bool:
        """True if the server takes a message of this size; a larger one makes it cut the connection."""
        return len(block) + len(body) <= self.max_payload

    # --- coming and going ---

    def on_disconnect(self, call: Callable[[], None]) -> None:
        """Call `call` each time the connection is lost or closed."""
        self._on_disconnect.append(call)

    def on_reconnect(self, call: Callable[[], None]) -> None:
        """Call `call` each time the connection is back."""
        self._on_reconnect.append(call)

    async def on_lost(self) -> None:
        """Drop what is not on the socket yet, and call the listeners of `on_disconnect`."""
        # Messages that are not on the socket yet would be sent after the reconnect, when nobody waits for the answer any more.
        self._pending = []
        self._pending_data_size = 0
        _call_all(self._on_disconnect)

    async def on_back(self) -> None:
        """Call the listeners of `on_reconnect`."""
        _call_all(self._on_reconnect)


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        try:
            call()
        except Exception:
            log.exception("a connection listener failed")


async def connect(
    options: ConnectOptions | None = None, name: str = "dwarf-nats", *, retry: bool = False
) -> Connection:
    """Connect to NATS. A connection that is lost later is made again, however long that takes, with jitter.

    With `retry` the same holds for the first connection. Without, raises `Unavailable`, naming the servers and the reason,
    when each server was tried once. Always raises `Unavailable` if a server refuses the user, and `BadRequest` for options
    that contradict each other.
    """

    async def attempt() -> Connection:
        connection = Connection()
        await connect_client(
            connection,
            options or ConnectOptions(),
            name,
            on_later_error=connection.failed,
            disconnected_cb=connection.on_lost,
            reconnected_cb=connection.on_back,
        )
        return connection

    return await retry_while_unavailable(attempt, retry)
