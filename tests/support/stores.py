"""Flows and settlements made by hand, and direct looks into the database."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from dwarf_nats.errors import NotFound
from dwarf_nats.ports import Compensates
from dwarf_nats.rules.claims import ClaimedRow, claimed_step
from dwarf_nats.rules.decide import fail, release
from dwarf_nats.rules.rows import TreeChange
from dwarf_nats.rules.scheduling.values import PageRequest, Share
from dwarf_nats.rules.settlement import FlowEnd, Settlement
from dwarf_nats.rules.state_refs import RefSource
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, NewFlow, NewStep, first_step
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.keys import Tokens
from dwarf_nats.workflow.state import Raw, encode_state, merge, state_from
from dwarf_nats.workflow.status import Status

BUDGET = 120_000
GRAPH = Graph("line")
GRAPH.add_chain("a", "b", "END")
tokens = Tokens()
_flow_ids = itertools.count(1)
_step_ids = itertools.count(1)


def new_flow(state: dict[str, Any] | None = None, *, start: bool = True, **more: Any) -> NewFlow:
    """A flow of `GRAPH` to be created; `more` names fields of `NewFlow` or of its flow."""
    flow_id = next(_flow_ids)
    flow = FlowContext(
        shard=1,
        flow_id=flow_id,
        token=tokens(),
        workflow="line",
        digest=GRAPH.digest(),
        graph=GRAPH,
        baggage=Raw(b"{}"),
        priority=100,
        fairness_key="",
        fairness_weight=1.0,
        time_budget_ms=None,
        notify="",
        thread_id=flow_id,
        created_at=0,
        updated_at=0,
    )
    fields = state_from(state)
    new = NewFlow(
        flow=flow,
        state=fields,
        state_json=encode_state(fields),
        step_id=next(_step_ids),
        step_token=tokens(),
        node="a",
        url="a",
        thread_token=flow.token,
        start=start,
    )
    for name, value in more.items():
        setattr(flow if hasattr(flow, name) else new, name, value)
    return new


def in_flight(row: ClaimedRow) -> ClaimedStep:
    """A claimed row as a step."""
    step = claimed_step(row, 1, RefSource())
    step.flow.graph = GRAPH
    return step


def born(new: NewFlow) -> ClaimedStep:
    """The entry step of a flow created with it running."""
    return first_step(new)


def went_on(
    step: ClaimedStep, changes: dict[str, Any] | None = None, *, eager: bool = False, delay_us: int = 0
) -> Settlement:
    """The step completed; `b` comes next."""
    state = merge(step.state, state_from(changes))
    new = NewStep(
        step_id=next(_step_ids),
        token=tokens(),
        node="b",
        url="b",
        depth=step.depth + 1,
        state=state,
        state_json=encode_state(state),
        delay_us=delay_us,
        eager=eager,
    )
    return Settlement(step, Status.COMPLETED, state_from(changes), attempt=step.attempt, successor=new)


def ended(step: ClaimedStep, changes: dict[str, Any] | None = None) -> Settlement:
    """The step completed, and its flow with it."""
    state = encode_state(merge(step.state, state_from(changes)))
    return Settlement(
        step, Status.COMPLETED, state_from(changes), attempt=step.attempt, end=FlowEnd(Status.COMPLETED, state)
    )


def failed(step: ClaimedStep, message: str = "no") -> Settlement:
    settlement = fail(step, ErrorInfo(message, 500))
    settlement.error_json = '{"message":"' + message + '","code":500}'
    return settlement


returned = release


async def claim_all(store: SqlStore, limit: int, budget_ms: int) -> list[ClaimedRow]:
    """Claim up to `limit` of all steps that are due, key by key."""
    await store.steps.promote_due(limit)
    page = await store.steps.peek(PageRequest(limit=limit))
    shares = [Share(head.priority, head.fairness_key, limit) for head in page.heads]
    return await store.steps.claim(limit, budget_ms, shares)


async def one_claimed(store: SqlStore, state: dict[str, Any] | None = None, **more: Any) -> ClaimedStep:
    """A fresh flow whose entry step `store` has claimed."""
    new = new_flow(state, **more)
    await store.steps.create([new], BUDGET)
    (row,) = [row for row in await claim_all(store, 500, BUDGET) if row.step_id == new.step_id]
    return in_flight(row)


async def next_due(store: SqlStore) -> int | None:
    """Microseconds until the next pending step is due, 0 or less if one is; `None` if there is none."""
    page = await store.steps.peek(PageRequest(limit=1))
    times = [head.due_at for head in page.heads] + ([] if page.next_due_at is None else [page.next_due_at])
    return min(times) - page.now if times else None


async def cancel(
    store: SqlStore,
    flow_id: int,
    reason: str = "",
    final: Any = lambda steps: b"{}",
    compensates: Compensates = lambda flow: False,
) -> TreeChange:
    """Cancel a flow; `final` makes the final state of its steps."""
    flow = await store.flows.by_id(flow_id)
    if flow is None:
        raise NotFound("no such flow")
    return await store.control.cancel(flow, reason, lambda _flow, steps: final(steps), compensates)


async def fingerprint(store: SqlStore, flow_id: int) -> Sequence[Any]:
    flow = await store.flows.by_id(flow_id)
    assert flow is not None
    return await store.flows.fingerprint(flow)


async def is_empty(store: SqlStore, table: str = "dwarf_flows") -> bool:
    """True if a table has no row: the first test of a module with this database is to fill it."""
    return not await look(store, f"select 1 from {table} limit 1")


async def look(store: SqlStore, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await store.database.fetch(sql, *args)]


async def step_status(store: SqlStore, step_id: int) -> str:
    ((status,),) = await look(store, "select status from dwarf_steps where step_id = $1", step_id)
    return str(status)


async def flow_status(store: SqlStore, flow_id: int) -> str:
    ((status,),) = await look(store, "select status from dwarf_flows where flow_id = $1", flow_id)
    return str(status)
