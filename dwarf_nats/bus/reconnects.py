"""The comings and goings of a connection: who serves a subject is known only some time after it came back."""

from __future__ import annotations

import asyncio

from .connection import Connection

GRACE_SECONDS = 10.0
"""Time after a reconnect in which a subject without a listener counts as the bus being away: services may come back later."""


class Reconnects:
    """Follows one connection. `back` is set while it is there."""

    def __init__(self, connection: Connection) -> None:
        self.back = asyncio.Event()
        self.back.set()
        self._back_at = -GRACE_SECONDS
        connection.on_disconnect(self.back.clear)
        connection.on_reconnect(self._on_reconnect)

    @property
    def just_back(self) -> bool:
        """True for a while after a reconnect."""
        return asyncio.get_running_loop().time() - self._back_at < GRACE_SECONDS

    def _on_reconnect(self) -> None:
        self._back_at = asyncio.get_running_loop().time()
        self.back.set()
