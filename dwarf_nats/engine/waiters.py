"""Who waits for which flow to stop (O4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.records import Outcome


class Waiters:
    """Local waiters of one shard, by flow id."""

    def __init__(self) -> None:
        self._futures: dict[int, set[asyncio.Future[Outcome | None]]] = {}
        self.some = asyncio.Event()
        """Set while somebody waits."""

    def add(self, flow_id: int) -> asyncio.Future[Outcome | None]:
        """A future of the outcome; `None` means: read it from the database."""
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(flow_id, set()).add(future)
        self.some.set()
        return future

    def drop(self, flow_id: int, future: asyncio.Future[Outcome | None]) -> None:
        """Stop waiting."""
        futures = self._futures.get(flow_id)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._futures[flow_id]
                self._thinned()

    def wake(self, flow_id: int, outcome: Outcome | None) -> None:
        """The flow stopped."""
        for future in self._futures.pop(flow_id, ()):
            if not future.done():
                future.set_result(outcome)
        self._thinned()

    def _thinned(self) -> None:
        if not self._futures:
            self.some.clear()

    def refuse(self, error: Exception) -> None:
        """This replica stops: nobody here will hear of it (503)."""
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        self._futures.clear()
        self._thinned()

    def waited_for(self) -> set[int]:
        """The flows."""
        return set(self._futures)
