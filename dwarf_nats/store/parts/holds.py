"""Steps on hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.holds import HoldCandidate
from dwarf_nats.store.statements import holds

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import ReadyStep
    from dwarf_nats.store.database import Database
    from dwarf_nats.store.parts.replicas import SqlReplicas


class SqlHolds:
    """Implements `ports.HoldStore`."""

    def __init__(self, database: Database, replicas: SqlReplicas) -> None:
        self._database = database
        self._replicas = replicas

    async def ready_page(self, after: HoldCandidate | None, limit: int) -> list[HoldCandidate]:
        at = after if after is not None else holds.FIRST_PAGE
        place = (at.priority, at.fairness_key, at.not_before, at.step_id)
        return [HoldCandidate(*row) for row in await self._database.fetch_by_index(holds.PAGE, *place, limit)]

    async def park_ready(self, hold: str, step_ids: Sequence[int]) -> int:
        return await self._database.transact_by_index(lambda tx: holds.park_ready(tx, hold, step_ids))

    async def park_claimed(self, hold: str, step_ids: Sequence[int]) -> None:
        await self._database.transact_by_index(
            lambda tx: holds.park_claimed(tx, hold, step_ids, self._replicas.replica_id)
        )

    async def holds_with_steps(self) -> list[str]:
        return [hold for (hold,) in await self._database.fetch_by_index(holds.HOLDS)]

    async def release(self, hold: str, limit: int) -> tuple[list[ReadyStep], bool]:
        return await self._database.transact_by_index(lambda tx: holds.release(tx, hold, limit))

    async def counts(self, names: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, count in await self._database.fetch_by_index(holds.COUNTS, list(names)):
            found[name] = count
        return found
