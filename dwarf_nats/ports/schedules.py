"""The port to the schedules of a deployment, which the first shard keeps (R3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.rules.schedules import ScheduleRow


class ClaimedSchedules(NamedTuple):
    """Schedules to be looked at now.

    `now`: the time of the database. `next_in`: microseconds until the next is to be looked at; `None`: there is none.
    """

    rows: Sequence[ScheduleRow]
    now: int
    next_in: int | None


class ScheduleStore(Protocol):
    """Keeps schedules with what they fired last. A row is written as it was read, or not at all."""

    async def claim(self, limit: int, lease_us: int) -> ClaimedSchedules:
        """Claim up to `limit` schedules that are due, longest first.

        Nobody else gets them for `lease_us`, unless they are saved before.
        """
        ...

    async def get(self, name: str) -> tuple[ScheduleRow | None, int]:
        """Return a schedule, and the time of the database."""
        ...

    async def add(self, row: ScheduleRow) -> bool:
        """Add a schedule; return whether its name was free."""
        ...

    async def save(self, row: ScheduleRow) -> bool:
        """Write a schedule unless it was changed since it was read; return whether it was written. Its version rises."""
        ...

    async def remove(self, row: ScheduleRow) -> bool:
        """Remove a schedule unless it was changed since it was read; return whether it was removed."""
        ...

    async def page(self, after: str, limit: int, workflow: str | None) -> Sequence[ScheduleRow]:
        """Return up to `limit` schedules by name, those behind the name `after`; only of a `workflow` if one is given."""
        ...

    async def late(self, late_us: int, limit: int) -> int:
        """Return how many schedules should have fired `late_us` ago and did not, counted up to `limit`."""
        ...
