"""Flows and their steps, for readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import NotFound
from dwarf_nats.ports import StoreSize
from dwarf_nats.rules.rows import FlowRow, PausedFlow, StepRow, SummaryRow, flow_row, step_row
from dwarf_nats.rules.state_refs import DanglingRef
from dwarf_nats.store.statements import counting, flows, listing, shown_pauses, state_refs, threads, trees
from dwarf_nats.workflow.state import encode_state

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.records import FlowCounts
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
        found = await self._one_flow(flows.OF_THREAD, key.id, key.token)
        if found is None:
            raise _no_such("thread", key)
        return found

    async def by_id(self, flow_id: int) -> FlowRow | None:
        return await self._one_flow(flows.BY_ID, flow_id)

    async def by_idempotency_key(self, fairness_key: str, idempotency_key: str) -> FlowRow | None:
        return await self._one_flow(flows.BY_IDEMPOTENCY_KEY, fairness_key, idempotency_key)

    async def _one_flow(self, statement: str, *args: Any) -> FlowRow | None:
        rows = await self._database.fetch(statement, *args)
        return flow_row(rows[0]) if rows else None

    async def latest_of_thread(self, thread_id: int) -> FlowRow | None:
        return await self._database.transact(lambda tx: threads.latest_of_thread(tx, thread_id))

    async def tree(self, root_id: int) -> dict[int, FlowRow]:
        return await self._database.transact(lambda tx: trees.tree(tx, root_id))

    async def called(self, flow: FlowRow) -> list[FlowRow]:
        tree = await self.tree(flow.root_id)
        return [tree[one] for one in trees.descendants(tree, flow.flow_id) if one in tree]

    async def paused_by(self, flow: FlowRow) -> PausedFlow | None:
        return await self._database.transact(lambda tx: shown_pauses.paused_by(tx, self.shard, flow))

    async def fingerprint(self, flow: FlowRow) -> Sequence[Any]:
        if flow.surgraph_flow_id is None:
            rows = await self._database.fetch(flows.TREE_FINGERPRINT, flow.flow_id)
        else:
            called = [one.flow_id for one in await self.called(flow)]
            rows = await self._database.fetch(flows.FLOWS_FINGERPRINT, flow.flow_id, called)
        return tuple(str(value) for row in rows for value in row)

    async def stopped_among(self, flow_ids: Sequence[int]) -> list[int]:
        going = {flow_id for (flow_id,) in await self._database.fetch(flows.UNSTOPPED_AMONG, list(flow_ids))}
        return [flow_id for flow_id in flow_ids if flow_id not in going]

    async def counts(self, query: Query, thread_id: int | None) -> FlowCounts:
        return await counting.counts(self._database, self.shard, query, thread_id)

    async def list_page(
        self, query: Query, limit: int, thread_id: int | None, cursor: str
    ) -> tuple[list[SummaryRow], str]:
        return await listing.page(self._database, self.shard, query, limit=limit, thread_id=thread_id, cursor=cursor)

    async def size(self) -> StoreSize:
        (row,) = await self._database.fetch(flows.SIZE)
        return StoreSize(*row)

    # -- steps

    async def step(self, key: Key) -> StepRow:
        row = await self.step_by_id(key.id)
        if row is None or row.token != key.token:
            raise _no_such("step", key)
        try:
            row.state = encode_state(await self.resolve(row.state, row.borrowed)).decode()
        except DanglingRef:
            raise _no_such("step", key) from None
        return row

    async def step_by_id(self, step_id: int) -> StepRow | None:
        rows = await self._database.fetch(flows.STEP_BY_ID, step_id)
        return step_row(rows[0]) if rows else None

    async def steps(self, flow_ids: Sequence[int]) -> list[StepRow]:
        return [step_row(row) for row in await self._database.fetch(flows.STEPS, list(flow_ids))]

    async def complete_steps(self, flow_ids: Sequence[int]) -> list[StepRow]:
        return [step_row(row) for row in await self._database.fetch(flows.COMPLETE_STEPS, list(flow_ids))]

    async def count_steps(self, flow_ids: Sequence[int], most: int) -> int:
        ((count,),) = await self._database.fetch(flows.COUNT_STEPS, list(flow_ids), most + 1)
        return int(count)

    async def resolve(self, state: str, borrowed: str | None) -> State:
        return await state_refs.resolve(self._database.fetch, state, borrowed)


def _no_such(what: str, key: Key) -> NotFound:
    """Make the refusal of a key: a wrong token looks exactly like an id that does not exist."""
    return NotFound(f"no {what} {key.public_id}: check the key, or it was deleted")
