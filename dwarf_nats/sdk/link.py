"""The connection that a worker serves on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from dwarf_nats.raw_messages import RawMessages
from dwarf_nats.wire import headers as h

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats

LINK_POLL_SECONDS = 0.02
"""Pause between two looks whether there is a connection again."""
MAX_UNSENT_BYTES = 2 * 1024 * 1024
"""Bytes on their way to the socket from which on answers wait for it."""


@dataclass(slots=True)
class Link:
    """The connection that a worker serves on, and the private subject at which it is asked what it runs, if there is one.

    `nc` may be closed, or missing between one connection and the next. `last`: no further one is made.
    """

    nc: Nats | None = None
    private: str = ""
    last: bool = False

    async def until_connected(self, seconds: float) -> None:
        """Wait at most `seconds` for a connection: the present one that comes back, or the next."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.nc is None or not self.nc.is_connected:
            if loop.time() >= end or (self.last and (self.nc is None or self.nc.is_closed)):
                return
            await asyncio.sleep(LINK_POLL_SECONDS)

    def put(self, subject: str, body: bytes, headers: Mapping[str, str]) -> bool:
        """Send a message without waiting; false if it has to be published in the general way.

        That is so on a connection that the user made, while it is down or does not keep up, and for what no message can hold.
        `headers`: of few different values, since they are kept as written.
        """
        nc = self.nc
        if not isinstance(nc, RawMessages) or nc.pending_data_size > MAX_UNSENT_BYTES or nc.is_draining:
            return False
        block = _written(tuple(headers.items())) if headers else b""
        return len(block) + len(body) <= nc.max_payload and nc.put(subject, "", block, body)


@lru_cache(maxsize=128)
def _written(headers: tuple[tuple[str, str], ...]) -> bytes:
    return h.write_headers(headers)
