"""The port to the numbers of one database that people watch (T1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.workflow.status import Status


class StoreSize(NamedTuple):
    """Rows of a shard."""

    flows: int
    steps: int


class FlowCount(NamedTuple):
    """Root flows of one workflow in one status, and how long the first of them have been in it."""

    workflow: str
    flows: int
    oldest_us: int


class StatisticsStore(Protocol):
    """Counts by index and up to a bound, whatever the size of the tables."""

    async def flows(self, status: Status, limit: int) -> Sequence[FlowCount]:
        """Count up to `limit` root flows of a status by workflow: the oldest that have not ended, the newest that failed
        or were cancelled. Completed flows cannot be counted in this way."""
        ...
