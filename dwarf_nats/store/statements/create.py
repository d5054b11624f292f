"""Create flows with their entry steps (O1).

A flow is created only while its graph is certain to be kept (`graphs`). With an idempotency key whose home is this database,
the key is taken with the flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from dwarf_nats.rules.breakpoints import stored
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.store.columns import column_list, columns, named, numbered, scalars, unnest
from dwarf_nats.store.dialect import NOW, PARKED
from dwarf_nats.store.statements import graphs
from dwarf_nats.store.statements.insert import insert_rows_sqlite
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import PostgresSession, SqliteSession, Tx


class _FlowRow(NamedTuple):
    """A flow to be created: what is written as it is. `_flow_row` has its values."""

    flow_id: Annotated[int, "bigint"]
    token: Annotated[str, "text"]
    workflow: Annotated[str, "text"]
    graph_digest: Annotated[str, "text"]
    thread_id: Annotated[int, "bigint"]
    thread_token: Annotated[str, "text"]
    priority: Annotated[int, "int"]
    fairness_key: Annotated[str, "text"]
    fairness_weight: Annotated[float, "float8"]
    start_at: Annotated[int | None, "bigint"]
    time_budget_ms: Annotated[int | None, "bigint"]
    baggage: Annotated[str, "text"]
    notify: Annotated[str, "text"]
    idempotency_key: Annotated[str, "text"]
    request_digest: Annotated[str, "text"]
    delete_on_completion: Annotated[int, "int"]
    root_id: Annotated[int, "bigint"]
    surgraph_flow_id: Annotated[int | None, "bigint"]
    surgraph_step_id: Annotated[int | None, "bigint"]
    breakpoints: Annotated[str | None, "text"]
    trace: Annotated[str, "text"]


class _StartRow(NamedTuple):
    """One column: whether it starts at once."""

    start: Annotated[bool, "bool"]


class _EntryRow(NamedTuple):
    """Its entry step, and until when its graph is kept. `_entry_row` has its values."""

    running: Annotated[bool, "bool"]
    step_id: Annotated[int, "bigint"]
    step_token: Annotated[str, "text"]
    node: Annotated[str, "text"]
    url: Annotated[str, "text"]
    state: Annotated[str, "text"]
    lease: Annotated[int, "bigint"]
    kept_until: Annotated[int, "bigint"]


class _KeyRow(NamedTuple):
    """The number of shards with which the home of its idempotency key was found, and whether this database is it."""

    shards: Annotated[int, "int"]
    reserves: Annotated[bool, "bool"]


_INTO = f"""
  insert into dwarf_flows ({column_list(_FlowRow)}, status, created_at, started_at, updated_at)"""


def _values(flow: _FlowRow, start: str, now: str) -> str:
    """The values inserted, in the order of `_INTO`."""
    return f"""{", ".join(map(str, flow))}, case when {start} then 'running' else 'created' end, {now},
    case when {start} then {now} end, {now}"""


# -- PostgreSQL

_MADE = f"{_INTO}\n  select {_values(named(_FlowRow), 'start', NOW)}\n  from r"
_KEPT_YET = f"kept_until > {NOW} + {graphs.MIN_LEFT_US}"


def _entry(replica_id: str) -> str:
    return f"""
entry as (
  insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, lease_seq, claimed_by, lease_expires,
    not_before, priority, fairness_key, fairness_weight, created_at, started_at, updated_at, parked)
  select step_id, flow_id, 1, step_token, node, url, state,
    case when not start then 'created' when running then 'running' else 'pending' end,
    case when running then 1 else 0 end, case when running then {replica_id}::bigint end,
    case when running then {NOW} + lease end, greatest(coalesce(start_at, 0), {NOW}), priority, fairness_key,
    fairness_weight, {NOW}, case when running then {NOW} end, {NOW},
    case when start and not running then {PARKED} else {Parked.NO:d} end
"""


# Without idempotency keys nothing can conflict, and the entry steps need no join with what was made.
(_REPLICA,) = scalars(1, _FlowRow, _StartRow, _EntryRow)
CREATE = f"""
with r as (select * from {unnest(_FlowRow, _StartRow, _EntryRow)}),
made as ({_MADE} where {_KEPT_YET}
  on conflict (fairness_key, idempotency_key) where idempotency_key <> '' do nothing
  returning flow_id),{_entry(_REPLICA)}
  from r where {_KEPT_YET})
select flow_id, {NOW} from made
"""

# The home of a key is worked out with the number of shards agreed on, which stays as it is until the transaction ends. A key is
# taken with its flow; one that was taken before, on another shard, brings an id that may have been used meanwhile.
# `is true` keeps the subquery a hashed one; as a join it would compare each with each.
(_REPLICA,) = scalars(1, _FlowRow, _StartRow, _EntryRow, _KeyRow)
CREATE_KEYED = f"""
with r as (select * from {unnest(_FlowRow, _StartRow, _EntryRow, _KeyRow)}),
agreed as materialized (select shards from dwarf_deployment where one = 1 for share),
kept as (
  insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)
  select r.fairness_key, r.idempotency_key, 0, r.flow_id, r.token, r.request_digest, {NOW}
  from r where r.reserves and r.shards = (select shards from agreed) and {_KEPT_YET}
  on conflict do nothing
  returning flow_id),
made as ({_MADE}
  where {_KEPT_YET} and (not reserves or (flow_id in (select flow_id from kept)) is true)
  on conflict do nothing
  returning flow_id),{_entry(_REPLICA)}
  from r where (flow_id in (select flow_id from made)) is true)
select flow_id, {NOW} from made
"""

# -- SQLite


class _Key(NamedTuple):
    """An idempotency key and the flow that takes it."""

    fairness_key: str
    idempotency_key: str
    flow_id: int
    token: str
    request_digest: str
    created_at: int


_KEY = numbered(_Key)
_SCALAR = len(_FlowRow._fields) + 1
# As `values`, which SQLite inserts at half the cost of a select.
_INSERT_FLOW = f"{_INTO}\n  values ({_values(numbered(_FlowRow), start=f'?{_SCALAR}', now=f'?{_SCALAR + 1}')})"
_INSERT_KEYED = f"{_INSERT_FLOW} on conflict do nothing"
_AGREED_SHARDS = "select shards from dwarf_deployment where one = 1"
_TAKE_KEY = f"""
insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)
values ({_KEY.fairness_key}, {_KEY.idempotency_key}, 0, {_KEY.flow_id}, {_KEY.token}, {_KEY.request_digest},
  {_KEY.created_at})
on conflict do nothing
"""
_FREE_KEY = "delete from dwarf_keys where fairness_key = ? and idempotency_key = ? and flow_id = ?"


@dataclass(slots=True, kw_only=True)
class CreateFlows:
    """Insert flows with their entry steps; flow id → creation time of those whose idempotency key was new."""

    flows: Sequence[NewFlow]
    replica_id: int = 0
    """The replica that claims the entry steps of an eager start."""
    budget_ms: int = 0
    """The time budget of flows that have none of their own."""

    async def on_postgres(self, session: PostgresSession) -> dict[int, int]:
        rows = [_flow_row(new) + _start_row(new) + _entry_row(new, self.budget_ms) for new in self.flows]
        if any(new.idempotency_key for new in self.flows):
            rows = [row + _key_row(new) for row, new in zip(rows, self.flows, strict=True)]
            made = await session.fetch(CREATE_KEYED, *columns(rows), self.replica_id)
        else:
            made = await session.fetch(CREATE, *columns(rows), self.replica_id)
        return {int(flow_id): int(created_at) for flow_id, created_at in made}

    def on_sqlite(self, session: SqliteSession) -> dict[int, int]:
        now = session.now
        flows = [new for new in self.flows if new.kept_until > now + graphs.MIN_LEFT_US]
        rows = [(*_flow_row(new), *_start_row(new), now) for new in flows]
        if any(new.idempotency_key for new in flows):
            flows = [new for new, row in zip(flows, rows, strict=True) if _insert_keyed(session, new, row)]
        else:
            session.connection.executemany(_INSERT_FLOW, rows)
        insert_rows_sqlite(session, [_entry_step_row(new, self.budget_ms) for new in flows], self.replica_id)
        return {new.flow.flow_id: now for new in flows}


async def create_one(tx: Tx, new: NewFlow) -> int | None:
    """Insert a flow with its entry step, not running; its creation time, or nothing if its idempotency key was there."""
    made = await tx.run(CreateFlows(flows=[new]))
    return made.get(new.flow.flow_id)


def _flow_row(new: NewFlow) -> tuple[Any, ...]:
    """The values of a `_FlowRow`, in its order."""
    flow = new.flow
    return (
        flow.flow_id,
        flow.token,
        flow.workflow,
        flow.digest,
        flow.thread_id,
        new.thread_token,
        flow.priority,
        flow.fairness_key,
        flow.fairness_weight,
        new.start_at,
        flow.time_budget_ms,
        bytes(flow.baggage).decode(),
        flow.notify,
        new.idempotency_key,
        new.request_digest,
        int(new.delete_on_completion),
        flow.root_id or flow.flow_id,
        flow.surgraph_flow_id,
        flow.surgraph_step_id,
        stored(flow.breakpoints),
        flow.trace,
    )


def _start_row(new: NewFlow) -> tuple[Any, ...]:
    return (new.start,)


def _entry_row(new: NewFlow, budget_ms: int) -> tuple[Any, ...]:
    """The values of an `_EntryRow`, in its order."""
    return (
        new.eager,
        new.step_id,
        new.step_token,
        new.node,
        new.url,
        new.state_json.decode(),
        lease_us(new.flow.time_budget_ms, budget_ms),
        new.kept_until,
    )


def _key_row(new: NewFlow) -> tuple[Any, ...]:
    return (new.shards, new.reserves)


def _insert_keyed(session: SqliteSession, new: NewFlow, row: tuple[Any, ...]) -> bool:
    """Insert one flow, and take its key if this database is the key's home; whether it was inserted."""
    if new.reserves and not _take_key(session, new):
        return False
    if session.connection.execute(_INSERT_KEYED, row).rowcount:
        return True
    if new.reserves:
        session.connection.execute(_FREE_KEY, (new.flow.fairness_key, new.idempotency_key, new.flow.flow_id))
    return False


def _take_key(session: SqliteSession, new: NewFlow) -> bool:
    """Take the key of a flow, if so many shards are agreed on as its home was worked out with; whether it was free."""
    connection = session.connection
    if connection.execute(_AGREED_SHARDS).fetchone() != (new.shards,):
        return False
    key = _Key(
        fairness_key=new.flow.fairness_key,
        idempotency_key=new.idempotency_key,
        flow_id=new.flow.flow_id,
        token=new.flow.token,
        request_digest=new.request_digest,
        created_at=session.now,
    )
    return connection.execute(_TAKE_KEY, key).rowcount == 1


def _entry_step_row(new: NewFlow, budget_ms: int) -> tuple[Any, ...]:
    """The values of its entry step as a `StepRow`, in its order."""
    flow = new.flow
    return (
        new.step_id,
        flow.flow_id,
        1,  # depth
        new.step_token,
        new.node,
        new.url,
        new.state_json.decode(),
        "created" if not new.start else "running" if new.eager else "pending",
        new.start_at or 0,
        0,  # delay
        None,  # predecessor_id
        0,  # spawn_id
        0,  # ordinal
        "{}",  # changes
        None,  # error
        None,  # successor_id
        flow.priority,
        flow.fairness_key,
        flow.fairness_weight,
        lease_us(flow.time_budget_ms, budget_ms),
        None,  # borrowed
    )
