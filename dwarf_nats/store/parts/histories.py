"""Histories page by page: the steps of a flow in order, and the first steps of flows that its steps called (O7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import Called, FanOut, StepRow, step_row
from dwarf_nats.store.statements import histories

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database, Row
    from dwarf_nats.workflow.cursors import Place


class SqlHistories:
    """Implements `ports.HistoryStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self.shard = shard
        self._database = database

    async def page(self, flow_id: int, after: Place, limit: int) -> list[StepRow]:
        return [step_row(row) for row in await self._database.fetch(histories.PAGE, flow_id, *after, limit)]

    async def called(self, root_id: int, step_ids: Sequence[int]) -> dict[int, Called]:
        rows = await self._database.fetch(histories.CALLED, root_id, list(step_ids))
        return {step_id: Called(*flow) for step_id, *flow in rows}

    async def fan_outs(self, step_ids: Sequence[int]) -> dict[int, FanOut]:
        rows = await self._database.fetch(histories.FAN_OUTS, list(step_ids))
        return {step_id: FanOut(*fan_out) for step_id, *fan_out in rows}

    async def first_steps(self, flow_ids: Sequence[int], limit: int) -> dict[int, list[StepRow]]:
        found: dict[int, list[StepRow]] = {flow_id: [] for flow_id in flow_ids}
        at = 0
        while at < len(flow_ids):
            size = next(
                (one for one in histories.FIRST_STEPS_BATCH_FLOWS if one >= len(flow_ids) - at),
                histories.FIRST_STEPS_BATCH_FLOWS[-1],
            )
            some = list(flow_ids[at : at + size])
            at += size
            rows = await self._database.fetch(
                histories.first_steps(size), limit, *some, *[histories.NO_FLOW] * (size - len(some))
            )
            for row in map(step_row, rows):
                found[row.flow_id].append(row)
        for steps in found.values():
            steps.sort(key=lambda step: (step.depth, step.step_id))
        return found

    async def entry(self, flow_id: int) -> StepRow | None:
        return _first(await self._database.fetch(histories.ENTRY, flow_id))

    async def last(self, flow_id: int) -> StepRow | None:
        return _first(await self._database.fetch(histories.LAST, flow_id))

    async def first_branch(self, step_id: int) -> StepRow | None:
        return _first(await self._database.fetch(histories.FIRST_BRANCH, step_id))


def _first(rows: Sequence[Row]) -> StepRow | None:
    return step_row(rows[0]) if rows else None
