"""Flows and their steps, read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import NotFound
from dwarf_nats.ports import StoreSize
from dwarf_nats.rules import state_refs
from dwarf_nats.rules.rows import FlowRow, Paused, StepRow, flow_row, step_row
from dwarf_nats.store import lent, listing, steering
from dwarf_nats.store.dialect import UNSTOPPED
from dwarf_nats.workflow.state import encode_state

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database, Row, Tx
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.state import State


class SqlFlows:
    """Implements `ports.FlowStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self.shard = shard
        self._database = database

    # -- flows

    async def get(self, key: Key) -> FlowRow:
        row = await self.by_id(key.id)
        if row is None or row.token != key.token:
            raise _no_such("flow", key)
        return row

    async def thread(self, key: Key) -> FlowRow:
        row = await self.by_id(key.id)
        if row is not None and row.token == key.token:
            return row
        found = await self._one_flow(
            "thread_id = $1 and thread_token = $2 and surgraph_flow_id is null limit 1", key.id, key.token
        )
        if found is None:
            raise _no_such("thread", key)
        return found

    async def by_id(self, flow_id: int) -> FlowRow | None:
        return await self._one_flow("flow_id = $1", flow_id)

    async def by_idempotency_key(self, fairness_key: str, idempotency_key: str) -> FlowRow | None:
        return await self._one_flow(
            "fairness_key = $1 and idempotency_key = $2 and idempotency_key <> ''", fairness_key, idempotency_key
        )

    async def _one_flow(self, condition: str, *args: Any) -> FlowRow | None:
        rows = await self._database.fetch(f"select {FlowRow.columns()} from dwarf_flows where {condition}", *args)
        return flow_row(rows[0]) if rows else None

    async def latest_of_thread(self, thread_id: int) -> FlowRow | None:
        return await self._database.transact(lambda tx: steering.latest_of_thread(tx, thread_id))

    async def tree(self, root_id: int) -> dict[int, FlowRow]:
        return await self._database.transact(lambda tx: steering.tree(tx, root_id))

    async def called(self, flow: FlowRow) -> list[FlowRow]:
        flows = await self.tree(flow.root_id)
        return [flows[one] for one in steering.descendants(flows, flow.flow_id) if one in flows]

    async def oldest_pause(self, flow: FlowRow) -> Paused | None:
        async def work(tx: Tx) -> Paused | None:
            flows = await steering.tree(tx, flow.root_id)
            found = await steering.pauses(tx, steering.descendants(flows, flow.flow_id))
            if not found:
                return None
            found[0].state = encode_state(await lent.whole(tx.fetch, found[0].state, found[0].borrowed)).decode()
            return found[0]

        return await self._database.transact(work)

    async def fingerprint(self, flow: FlowRow) -> Sequence[Any]:
        called = [one.flow_id for one in await self.called(flow)] if flow.surgraph_flow_id is not None else []
        which = "flow_id {in:$2}" if called else "flow_id = $1 or (root_id = $1 and surgraph_flow_id is not null)"
        rows = await self._database.fetch(
            f"with mine as (select * from dwarf_flows where {which})"
            " select f.status, f.updated_at, f.notify, f.breakpoints, t.*, s.* from dwarf_flows f,"
            " (select count(*), coalesce(max(updated_at), 0), coalesce(sum(updated_at % 1000000007), 0),"
            "  coalesce(sum(length(coalesce(breakpoints, ''))), 0) from mine) t,"
            " (select count(*), coalesce(max(updated_at), 0), coalesce(sum(lease_seq), 0), coalesce(sum(attempt), 0),"
            "  coalesce(sum(case when status = 'completed' then 1 when status = 'running' then 1000003"
            "  when status = 'pending' then 2000003 when status = 'interrupted' then 3000017 else 4000037 end), 0)"
            "  from dwarf_steps where flow_id in (select flow_id from mine)) s where f.flow_id = $1",
            flow.flow_id,
            *([called] if called else []),
        )
        return tuple(str(value) for value in rows[0]) if rows else ()

    async def stopped_among(self, flow_ids: Sequence[int]) -> list[int]:
        rows = await self._database.fetch(
            f"select flow_id from dwarf_flows where flow_id {{in:$1}} and status in {UNSTOPPED}", list(flow_ids)
        )
        going = {int(row[0]) for row in rows}
        return [flow_id for flow_id in flow_ids if flow_id not in going]

    async def list_page(self, query: Query, limit: int, thread_id: int | None, cursor: str) -> tuple[list[Row], str]:
        return await listing.page(self._database, self.shard, query, limit, thread_id, cursor)

    async def size(self) -> StoreSize:
        rows = await self._database.fetch(
            "select (select count(*) from dwarf_flows), (select count(*) from dwarf_steps)"
        )
        return StoreSize(*map(int, rows[0]))

    # -- steps

    async def step(self, key: Key) -> StepRow:
        row = await self.step_by_id(key.id)
        if row is None or row.token != key.token:
            raise _no_such("step", key)
        try:
            row.state = encode_state(await self.resolve(row.state, row.borrowed)).decode()
        except state_refs.DanglingRef:
            raise _no_such("step", key) from None
        return row

    async def step_by_id(self, step_id: int) -> StepRow | None:
        rows = await self._database.fetch(f"select {StepRow.columns()} from dwarf_steps where step_id = $1", step_id)
        return step_row(rows[0]) if rows else None

    async def steps(self, flow_ids: Sequence[int]) -> list[StepRow]:
        return await self._steps_of(flow_ids, StepRow.columns(whole=False))

    async def complete_steps(self, flow_ids: Sequence[int]) -> list[StepRow]:
        return await self._steps_of(flow_ids, StepRow.columns())

    async def _steps_of(self, flow_ids: Sequence[int], columns: str) -> list[StepRow]:
        rows = await self._database.fetch(
            f"select {columns} from dwarf_steps where flow_id {{in:$1}} order by depth, step_id", list(flow_ids)
        )
        return [step_row(row) for row in rows]

    async def count_steps(self, flow_ids: Sequence[int], most: int) -> int:
        rows = await self._database.fetch(
            "select count(*) from (select 1 from dwarf_steps where flow_id {in:$1} limit $2) counted",
            list(flow_ids),
            most + 1,
        )
        return int(rows[0][0])

    async def resolve(self, state: str, borrowed: str | None) -> State:
        return await lent.whole(self._database.fetch, state, borrowed)


def _no_such(what: str, key: Key) -> NotFound:
    """Make the refusal of a key: a wrong token looks exactly like an id that does not exist."""
    return NotFound(f"no {what} {key.public_id}: check the key, or it was deleted")
