"""Round trips to the NATS server: nats-py's client with another `flush`."""

from __future__ import annotations

import asyncio

import nats.errors
from nats.aio.client import Client


class RoundTrips(Client):
    """A client whose `flush` covers everything sent before it, and ends when its connection is lost.

    Whoever loses a connection calls `end_pings`: the server cannot answer any more, and nats-py would go on waiting.
    """

    async def flush(self, timeout: int = 10) -> None:
        """Return when the server has taken everything sent before.

        nats-py's own writes its PING at once and leaves what is pending to a task, so the PONG may come before the server
        has seen a subscription or its end. One that times out leaves a future behind that its late PONG stumbles over. And it
        waits its whole time for a PONG that got lost with the connection.
        Raises `ConnectionReconnectingError` while the connection is down and when it is lost meanwhile, `FlushTimeoutError`.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self._pending and self.is_connected and self._transport is not None:
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(pending)
        pong = await self._ping(timeout)
        if not pong:
            raise nats.errors.FlushTimeoutError if pong is None else nats.errors.ConnectionReconnectingError

    async def responds(self, seconds: float) -> bool:
        """True if the server answers a PING in that time, and the connection is not lost before."""
        return bool(await self._ping(seconds))

    async def _ping(self, seconds: float) -> bool | None:
        """True if a PONG came, false if the connection is down or was lost before, `None` if there was nothing in time."""
        if not self.is_connected:
            return False
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        await asyncio.wait({pong}, timeout=seconds)
        return pong.result() if pong.done() else None

    def end_pings(self) -> None:
        """End the wait for PONGs of a connection that is lost."""
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            if not pong.done():
                pong.set_result(False)
