"""Callers that wait for flows to stop (O4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.records import Outcome


class Waiters:
    """The local waiters of one shard, by flow id."""

    def __init__(self) -> None:
        self._futures: dict[int, set[asyncio.Future[Outcome | None]]] = {}
        self.some = asyncio.Event()
        """Set while there is a waiter."""

    def add(self, flow_id: int) -> asyncio.Future[Outcome | None]:
        """Return a future of the outcome of a flow; the result `None` means: read it from the database."""
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(flow_id, set()).add(future)
        self.some.set()
        return future

    def drop(self, flow_id: int, future: asyncio.Future[Outcome | None]) -> None:
        """Remove a waiter; one that is not there any more is ignored."""
        futures = self._futures.get(flow_id)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._futures[flow_id]
                self._clear_if_none()

    def wake(self, flow_id: int, outcome: Outcome | None) -> None:
        """Give the waiters of a flow that stopped its outcome, or have them read it."""
        for future in self._futures.pop(flow_id, ()):
            if not future.done():
                future.set_result(outcome)
        self._clear_if_none()

    def refuse(self, error: Exception) -> None:
        """Raise an error to every waiter: this replica stops, and learns of no flow any more."""
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        self._futures.clear()
        self._clear_if_none()

    def waited_for(self) -> set[int]:
        """Return the ids of the flows that are waited for."""
        return set(self._futures)

    def _clear_if_none(self) -> None:
        if not self._futures:
            self.some.clear()
