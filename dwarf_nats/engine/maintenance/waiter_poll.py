"""The waiter poll: finds flows that stopped without a signal while somebody here waits for them (B1, O4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.waiters import Waiters
    from dwarf_nats.ports import FlowStore

WAITER_POLL_SECONDS = 2.0
"""Between two polls: a caller whose signal was lost waits for two of them at most."""


class WaiterPoll(Duty):
    """Asks the database about flows that have been waited for since the last poll at least."""

    def __init__(self, flows: FlowStore, waiters: Waiters) -> None:
        self._flows = flows
        self._waiters = waiters
        self._before: set[int] = set()
        self.wanted = waiters.some

    def begin(self) -> None:
        """Know of no waiters yet."""
        self._before = set()

    def interval(self) -> float:
        return WAITER_POLL_SECONDS

    async def run_once(self) -> None:
        """Wake the waiters of flows that have stopped."""
        now = self._waiters.waited_for()
        since_before, self._before = self._before & now, now
        if since_before:
            for flow_id in await self._flows.stopped_among(sorted(since_before)):
                self._waiters.wake(flow_id, None)
