"""The port to the removal of old flows (M2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.rules.retention import Candidate

Place = tuple[int, int]
"""Creation time and id of a flow: its place among all, which never changes."""


class Found(NamedTuple):
    """Flows, oldest first, and the time of the database."""

    now: int
    flows: list[Candidate]


class Removal(NamedTuple):
    """Flows that a rule has removed on this shard, and when it was last carried out to the end here."""

    removed: int
    last_run: int | None


class RetentionStore(Protocol):
    """Finds flows by age, and removes those that have ended."""

    async def look(self, after: Place, age_us: int, limit: int) -> Found:
        """Return at most `limit` flows after a place that were created at least `age_us` ago, oldest first, by index."""
        ...

    async def remove(self, flow_ids: Sequence[int], rule_for: Callable[[Candidate, int], str]) -> int:
        """Remove those of these root flows for which `rule_for` names a rule while they are locked; return how many.

        It is given a flow and the time of the database. What each rule removes is counted in the same transaction.
        """
        ...

    async def note_run(self, names: Sequence[str]) -> None:
        """Note that these rules were carried out to the end, and forget all others."""
        ...

    async def removals(self) -> dict[str, Removal]:
        """Return what the rules have removed here, by their names."""
        ...

    async def forget(self, name: str) -> None:
        """Forget what a rule has removed."""
        ...
