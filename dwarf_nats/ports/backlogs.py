"""The port that counts what is due, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.workflow.records import KeyBacklog, PriorityBacklog


class BacklogStore(Protocol):
    """Counts the steps that are due and not taken up (C4)."""

    async def key_backlogs(self, priorities: Sequence[int]) -> Mapping[int, list[KeyBacklog]]:
        """Count the due steps of fairness keys of these priorities: those with most of them among the first 50 keys."""
        ...

    async def backlogs(self, priorities: int, steps: int, keys: int) -> list[PriorityBacklog]:
        """Count the due steps of the best `priorities`; of each at most `steps` steps and `keys` fairness keys.

        The cost is bounded by what is counted, however long the queue is (C4).
        """
        ...
