"""The port to the limits: permits on shard 1, and on each shard the steps that wait for one (K1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.rules.limiting import Count, Denied, Exchanged, Over, Permit, Root, Waiting, Want
    from dwarf_nats.rules.steps import ReadyStep
    from dwarf_nats.workflow.limit import Limit


class LimitWaits(NamedTuple):
    """The steps of one shard that wait for a limit, and the age of the oldest of these waits in microseconds."""

    steps: int
    oldest_us: int


class LimitStore(Protocol):
    """Permits and queues. Every method raises `Unavailable` while the database is away."""

    async def exchange(self, over: Sequence[Over], wants: Sequence[Want], by_name: Mapping[str, Limit]) -> Exchanged:
        """Take permits back and give others, in one transaction. Shard 1 only, as the four that follow."""
        ...

    async def counts(self, slots: Collection[str]) -> dict[str, tuple[Count, int]]:
        """Return the counts of these slots, as far as there are any, each with the database's time; nothing is locked."""
        ...

    async def running(self) -> dict[str, int]:
        """Return the number of permits of each limit that has some."""
        ...

    async def permits(self, after: str, number: int) -> list[Permit]:
        """Return up to `number` permits in the order of their ids, behind the id `after`."""
        ...

    async def prune_counts(self, age_us: int, number: int) -> None:
        """Remove up to `number` counts of slots that had no permit for so long."""
        ...

    async def roots(self, flow_ids: Collection[int]) -> dict[int, Root]:
        """Return these root flows, as far as they exist."""
        ...

    async def park(self, denied: Sequence[Denied]) -> list[int]:
        """Put claimed steps into the queues of the slots that denied them; the ids of those that were still claimed so."""
        ...

    async def move(self, waiting: Sequence[Denied]) -> None:
        """Move steps that wait to the end of other queues."""
        ...

    async def give_back(self, steps: Sequence[tuple[int, int, bool]], delay_us: int) -> None:
        """Make claimed steps, `(step id, lease generation, fresh)`, pending again after a delay."""
        ...

    async def heads(self, wanted: Mapping[str, int]) -> list[Waiting]:
        """Return the heads of the queues of these slots, up to so many of each, in the order of their turns."""
        ...

    async def unpark(self, step_ids: Sequence[int]) -> list[ReadyStep]:
        """Make steps ready that wait; return them."""
        ...

    async def release(self, name: str, number: int) -> tuple[int, list[ReadyStep]]:
        """Make up to `number` steps ready that wait for a limit which is no more: how many rows went, and the steps."""
        ...

    async def waiting(self) -> dict[str, LimitWaits]:
        """Return how many steps wait for each limit for which some do, and how long the oldest does."""
        ...

    async def queues(self, after: tuple[str, str], number: int) -> list[tuple[str, str]]:
        """Return up to `number` queues, as names of limits and slots in their order, behind `after`."""
        ...

    async def clear_stale(self, after: int, number: int) -> int:
        """Look through some queues' rows in the order of their steps, and remove those that wait no more.

        `after`: the step behind which to begin. Returns where to go on, 0 at the end.
        """
        ...

    async def ended(self, permits: Sequence[Permit]) -> tuple[list[Permit], list[int]]:
        """Return those of these permits that are over, and the steps with a permit that are still parked."""
        ...
