"""The port to the steps of one database that are on hold (K2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.rules.holds import HoldCandidate
    from dwarf_nats.rules.steps import ReadyStep


class HoldStore(Protocol):
    """Parks steps aside for holds, known here by their names, and releases them.

    A parked step is out of the ready queue. Which hold it is parked for is kept apart from the steps.
    """

    async def ready_page(self, after: HoldCandidate | None, limit: int) -> list[HoldCandidate]:
        """Return the ready steps that follow one in the order of the queue, from the first on for `None`."""
        ...

    async def park_ready(self, hold: str, step_ids: Sequence[int]) -> int:
        """Park those of these steps that are ready and not just being claimed; return how many."""
        ...

    async def park_claimed(self, hold: str, step_ids: Sequence[int]) -> None:
        """Park those of these steps that this replica has claimed, as if they had not been claimed."""
        ...

    async def holds_with_steps(self) -> list[str]:
        """Return the names of the holds for which steps may be parked."""
        ...

    async def release(self, hold: str, limit: int) -> tuple[list[ReadyStep], bool]:
        """Release up to `limit` steps of a hold; return those that are in the queue again, and whether there may be more."""
        ...

    async def counts(self, holds: Sequence[str]) -> dict[str, int]:
        """Return how many steps are parked for each of these holds that has some."""
        ...
