"""Connect a client or a worker to NATS (wire section 6)."""

from __future__ import annotations

from dwarf_nats.nats_client import NatsClient
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.connecting import Hook, connect_client, retry_while_unavailable


async def connect(
    options: ConnectOptions,
    name: str,
    *,
    disconnected: Hook | None = None,
    closed: Hook | None = None,
    retry: bool = False,
) -> NatsClient:
    """Connect; the connection reconnects for ever, and does not buffer messages while it is down.

    Raises `Unavailable` if no server answers (with `retry` that is logged and tried again) or if the server refuses the
    user, and `BadRequest` for options that cannot be right.
    """

    async def attempt() -> NatsClient:
        nc = NatsClient()
        await connect_client(
            nc, options, name, on_later_error=nc.failed, disconnected_cb=disconnected, closed_cb=closed
        )
        return nc

    return await retry_while_unavailable(attempt, retry)
