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
from dwarf_nats.store.columns import column_list, named, numbered, scalars, unnest
from dwarf_nats.store.dialect import NOW, PARKED
from dwarf_nats.store.statements import graphs
from dwarf_nats.store.statements.insert import StepsBatch, insert_batch_sqlite
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import PostgresSession, SqliteSession, Tx


class _FlowColumns(NamedTuple):
    """Flows to be created, column by column: what is written as it is."""

    flow_id: Annotated[list[int], "bigint"]
    token: Annotated[list[str], "text"]
    workflow: Annotated[list[str], "text"]
    graph_digest: Annotated[list[str], "text"]
    thread_id: Annotated[list[int], "bigint"]
    thread_token: Annotated[list[str], "text"]
    priority: Annotated[list[int], "int"]
    fairness_key: Annotated[list[str], "text"]
    fairness_weight: Annotated[list[float], "float8"]
    start_at: Annotated[list[int | None], "bigint"]
    time_budget_ms: Annotated[list[int | None], "bigint"]
    baggage: Annotated[list[str], "text"]
    notify: Annotated[list[str], "text"]
    idempotency_key: Annotated[list[str], "text"]
    request_digest: Annotated[list[str], "text"]
    delete_on_completion: Annotated[list[int], "int"]
    root_id: Annotated[list[int], "bigint"]
    surgraph_flow_id: Annotated[list[int | None], "bigint"]
    surgraph_step_id: Annotated[list[int | None], "bigint"]
    breakpoints: Annotated[list[str | None], "text"]
    trace: Annotated[list[str], "text"]


class _StartColumns(NamedTuple):
    """One column: those that start at once."""

    start: Annotated[list[bool], "bool"]


class _EntryColumns(NamedTuple):
    """Their entry steps, and until when their graphs are kept."""

    running: Annotated[list[bool], "bool"]
    step_id: Annotated[list[int], "bigint"]
    step_token: Annotated[list[str], "text"]
    node: Annotated[list[str], "text"]
    url: Annotated[list[str], "text"]
    state: Annotated[list[str], "text"]
    lease: Annotated[list[int], "bigint"]
    kept_until: Annotated[list[int], "bigint"]


class _KeyColumns(NamedTuple):
    """The number of shards with which the homes of their idempotency keys were found, and whether this database is one."""

    shards: Annotated[list[int], "int"]
    reserves: Annotated[list[bool], "bool"]


_INTO = f"""
  insert into dwarf_flows ({column_list(_FlowColumns)}, status, created_at, started_at, updated_at)"""


def _values(flow: _FlowColumns, start: str, now: str) -> str:
    """The values inserted, in the order of `_INTO`."""
    return f"""{", ".join(map(str, flow))}, case when {start} then 'running' else 'created' end, {now},
    case when {start} then {now} end, {now}"""


# -- PostgreSQL

_MADE = f"{_INTO}\n  select {_values(named(_FlowColumns), 'start', NOW)}\n  from r"
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
(_REPLICA,) = scalars(1, _FlowColumns, _StartColumns, _EntryColumns)
CREATE = f"""
with r as (select * from {unnest(_FlowColumns, _StartColumns, _EntryColumns)}),
made as ({_MADE} where {_KEPT_YET}
  on conflict (fairness_key, idempotency_key) where idempotency_key <> '' do nothing
  returning flow_id),{_entry(_REPLICA)}
  from r where {_KEPT_YET})
select flow_id, {NOW} from made
"""

# The home of a key is worked out with the number of shards agreed on, which stays as it is until the transaction ends. A key is
# taken with its flow; one that was taken before, on another shard, brings an id that may have been used meanwhile.
# `is true` keeps the subquery a hashed one; as a join it would compare each with each.
(_REPLICA,) = scalars(1, _FlowColumns, _StartColumns, _EntryColumns, _KeyColumns)
CREATE_KEYED = f"""
with r as (select * from {unnest(_FlowColumns, _StartColumns, _EntryColumns, _KeyColumns)}),
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
_SCALAR = len(_FlowColumns._fields) + 1
# As `values`, which SQLite inserts at half the cost of a select.
_INSERT_FLOW = f"{_INTO}\n  values ({_values(numbered(_FlowColumns), start=f'?{_SCALAR}', now=f'?{_SCALAR + 1}')})"
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
        flows = self.flows
        columns = [*_flow_columns(flows), *_start_columns(flows), *_entry_columns(flows, self.budget_ms)]
        if any(new.idempotency_key for new in flows):
            rows = await session.fetch(CREATE_KEYED, *columns, *_key_columns(flows), self.replica_id)
        else:
            rows = await session.fetch(CREATE, *columns, self.replica_id)
        return {int(flow_id): int(created_at) for flow_id, created_at in rows}

    def on_sqlite(self, session: SqliteSession) -> dict[int, int]:
        flows = [new for new in self.flows if new.kept_until > session.now + graphs.MIN_LEFT_US]
        columns = [*_flow_columns(flows), *_start_columns(flows), [session.now] * len(flows)]
        rows = zip(*columns, strict=True)
        if any(new.idempotency_key for new in flows):
            flows = [new for new, row in zip(flows, rows, strict=True) if _insert_keyed(session, new, row)]
        else:
            session.connection.executemany(_INSERT_FLOW, rows)
        if flows:
            insert_batch_sqlite(session, _entry_steps(flows, self.budget_ms), self.replica_id)
        return {new.flow.flow_id: session.now for new in flows}


async def create_one(tx: Tx, new: NewFlow) -> int | None:
    """Insert a flow with its entry step, not running; its creation time, or nothing if its idempotency key was there."""
    made = await tx.run(CreateFlows(flows=[new]))
    return made.get(new.flow.flow_id)


def _flow_columns(flows: Sequence[NewFlow]) -> _FlowColumns:
    contexts = [new.flow for new in flows]
    return _FlowColumns(
        flow_id=[one.flow_id for one in contexts],
        token=[one.token for one in contexts],
        workflow=[one.workflow for one in contexts],
        graph_digest=[one.digest for one in contexts],
        thread_id=[one.thread_id for one in contexts],
        thread_token=[new.thread_token for new in flows],
        priority=[one.priority for one in contexts],
        fairness_key=[one.fairness_key for one in contexts],
        fairness_weight=[one.fairness_weight for one in contexts],
        start_at=[new.start_at for new in flows],
        time_budget_ms=[one.time_budget_ms for one in contexts],
        baggage=[bytes(one.baggage).decode() for one in contexts],
        notify=[one.notify for one in contexts],
        idempotency_key=[new.idempotency_key for new in flows],
        request_digest=[new.request_digest for new in flows],
        delete_on_completion=[int(new.delete_on_completion) for new in flows],
        root_id=[one.root_id or one.flow_id for one in contexts],
        surgraph_flow_id=[one.surgraph_flow_id for one in contexts],
        surgraph_step_id=[one.surgraph_step_id for one in contexts],
        breakpoints=[stored(one.breakpoints) for one in contexts],
        trace=[one.trace for one in contexts],
    )


def _start_columns(flows: Sequence[NewFlow]) -> _StartColumns:
    return _StartColumns(start=[new.start for new in flows])


def _entry_columns(flows: Sequence[NewFlow], budget_ms: int) -> _EntryColumns:
    return _EntryColumns(
        running=[new.eager for new in flows],
        step_id=[new.step_id for new in flows],
        step_token=[new.step_token for new in flows],
        node=[new.node for new in flows],
        url=[new.url for new in flows],
        state=[new.state_json.decode() for new in flows],
        lease=[lease_us(new.flow.time_budget_ms, budget_ms) for new in flows],
        kept_until=[new.kept_until for new in flows],
    )


def _key_columns(flows: Sequence[NewFlow]) -> _KeyColumns:
    return _KeyColumns(shards=[new.shards for new in flows], reserves=[new.reserves for new in flows])


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


def _entry_steps(flows: Sequence[NewFlow], budget_ms: int) -> StepsBatch:
    count = len(flows)
    contexts = [new.flow for new in flows]
    return StepsBatch(
        step_id=[new.step_id for new in flows],
        flow_id=[one.flow_id for one in contexts],
        depth=[1] * count,
        token=[new.step_token for new in flows],
        node=[new.node for new in flows],
        url=[new.url for new in flows],
        state=[new.state_json.decode() for new in flows],
        status=["created" if not new.start else "running" if new.eager else "pending" for new in flows],
        not_before=[new.start_at or 0 for new in flows],
        delay=[0] * count,
        predecessor_id=[None] * count,
        spawn_id=[0] * count,
        ordinal=[0] * count,
        changes=["{}"] * count,
        error=[None] * count,
        successor_id=[None] * count,
        priority=[one.priority for one in contexts],
        fairness_key=[one.fairness_key for one in contexts],
        fairness_weight=[one.fairness_weight for one in contexts],
        lease=[lease_us(one.time_budget_ms, budget_ms) for one in contexts],
        borrowed=[None] * count,
    )
