"""What explanations read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.store.statements import explain

if TYPE_CHECKING:
    from dwarf_nats.rules.living import FailedStep, Living, LivingStep, Moment
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.store.database import Database


class SqlExplanations:
    """Implements `ports.ExplanationStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def living(self, flow: FlowRow, *, limit: int, replica_timeout_ms: int) -> Living:
        return await self._database.transact_by_index(
            lambda tx: explain.living(tx, flow, limit=limit, replica_timeout_us=replica_timeout_ms * 1000)
        )

    async def oldest(self, flow_ids: Sequence[int]) -> tuple[Moment | None, list[LivingStep]]:
        return await self._database.transact_by_index(lambda tx: explain.oldest(tx, flow_ids))

    async def failure(self, flow: FlowRow) -> list[FailedStep]:
        return await self._database.transact_by_index(lambda tx: explain.failure(tx, flow.flow_id, flow.root_id))
