"""The connection of a client or a worker (wire: section 6)."""

from __future__ import annotations

from nats.aio.client import Client as Nats

from dwarf_nats.wire.connecting import ConnectOptions, Hook, begin, begin_patiently


async def connect(
    options: ConnectOptions,
    name: str,
    *,
    disconnected: Hook | None = None,
    closed: Hook | None = None,
    retry: bool = False,
) -> Nats:
    """A connection that reconnects for ever and never buffers what is sent while it is down.

    Raises `Unavailable` if no server answers (with `retry` that is logged and tried again) or if the server refuses who
    we are, and `BadRequest` for options that cannot be right.
    """

    async def attempt() -> Nats:
        nc = Nats()
        await begin(nc, options, name, disconnected_cb=disconnected, closed_cb=closed)
        return nc

    return await begin_patiently(attempt, retry)
