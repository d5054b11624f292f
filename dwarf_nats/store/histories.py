"""Histories page by page: the steps of a flow in order, and the beginnings of those its steps called (O7).

Every statement reads by `dwarf_steps_flow` or `dwarf_flows_tree` and no more than it returns, however long a history is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import Called, StepRow, step_row

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database, Row
    from dwarf_nats.workflow.cursors import Place

_COLUMNS = StepRow.columns(whole=False)
PAGE = (
    f"select {_COLUMNS} from dwarf_steps where flow_id = $1 and (depth, step_id) > ($2, $3)"
    " order by depth, step_id limit $4"
)
CALLED = (
    "select surgraph_step_id, flow_id, token, workflow from dwarf_flows"
    " where root_id = $1 and surgraph_step_id {in:$2} and surgraph_flow_id is not null"
)
ENTRY = (
    f"select {_COLUMNS} from dwarf_steps where flow_id = $1 and predecessor_id is null order by depth, step_id limit 1"
)
# A step that leads nowhere is among the last ones, so that few are looked at.
LAST = (
    f"select {_COLUMNS} from dwarf_steps where flow_id = $1 and successor_id is null and cohort_size is null"
    " order by depth desc, step_id desc limit 1"
)
FIRST_BRANCH = (
    f"select {_COLUMNS} from dwarf_steps where spawn_id = $1 and spawn_id <> 0 and ordinal = 0 and predecessor_id = $1"
)
SIZES = (1, 8, 64)
"""For so many flows there is a statement."""
NOBODY = -1
"""No flow has this id: it fills up a statement for more flows than there are."""


def beginnings(flows: int) -> str:
    """The first `$1` steps of each of so many flows, `$2` and the following."""
    parts = (
        f"select * from (select {_COLUMNS} from dwarf_steps where flow_id = ${number}"
        f" order by depth, step_id limit $1) flow{number}"
        for number in range(2, flows + 2)
    )
    return " union all ".join(parts)


class Histories:
    """Reads the histories of one shard. Every method raises `Unavailable` while the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, flow_id: int, after: Place, limit: int) -> list[StepRow]:
        """At most `limit` steps of the flow that come after a place in its history."""
        return [step_row(row) for row in await self._database.fetch(PAGE, flow_id, *after, limit)]

    async def called(self, root_id: int, step_ids: Sequence[int]) -> dict[int, Called]:
        """The flows that steps of a tree called, by the ids of these steps."""
        rows = await self._database.fetch(CALLED, root_id, list(step_ids))
        return {int(row[0]): Called(*row[1:]) for row in rows}

    async def first_steps(self, flow_ids: Sequence[int], limit: int) -> dict[int, list[StepRow]]:
        """The first `limit` steps of each flow."""
        found: dict[int, list[StepRow]] = {flow_id: [] for flow_id in flow_ids}
        at = 0
        while at < len(flow_ids):
            size = next((one for one in SIZES if one >= len(flow_ids) - at), SIZES[-1])
            some = list(flow_ids[at : at + size])
            at += size
            rows = await self._database.fetch(beginnings(size), limit, *some, *[NOBODY] * (size - len(some)))
            for row in map(step_row, rows):
                found[row.flow_id].append(row)
        for steps in found.values():
            steps.sort(key=lambda step: (step.depth, step.step_id))
        return found

    async def entry(self, flow_id: int) -> StepRow | None:
        """The step a flow began with."""
        return _first(await self._database.fetch(ENTRY, flow_id))

    async def last(self, flow_id: int) -> StepRow | None:
        """The youngest step that leads nowhere."""
        return _first(await self._database.fetch(LAST, flow_id))

    async def first_branch(self, step_id: int) -> StepRow | None:
        """The first branch of a step that fanned out."""
        return _first(await self._database.fetch(FIRST_BRANCH, step_id))


def _first(rows: Sequence[Row]) -> StepRow | None:
    return step_row(rows[0]) if rows else None
