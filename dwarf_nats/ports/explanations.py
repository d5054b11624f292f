"""The port to what explanations read of one database (Q2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.rules.living import FailedStep, Living, LivingStep, Moment
    from dwarf_nats.rules.rows import FlowRow


class ExplanationStore(Protocol):
    """Reads living steps, by index and without their states."""

    async def living(self, flow: FlowRow, *, limit: int, replica_timeout_ms: int) -> Living:
        """Return the living part of a tree below a flow, that flow included, with at most `limit` of the oldest steps.

        Steps that wait for a flow of the tree come beside that. Replicas that are silent for the time-out are left out.
        """
        ...

    async def oldest(self, flow_ids: Sequence[int]) -> tuple[Moment | None, list[LivingStep]]:
        """Return the oldest living step of each of these flows that has one; no moment if none has."""
        ...

    async def failure(self, flow: FlowRow) -> list[FailedStep]:
        """Return the first step that failed in a flow, then that of the failed flow which it called, and so on."""
        ...
