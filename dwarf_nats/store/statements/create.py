"""Create flows with their entry steps (O1).

A flow is created only while its graph is certain to be kept (`graphs`), and an assumed graph only if it is the one that is
registered. With an idempotency key whose home is this database, the key is taken with the flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from dwarf_nats.rules.breakpoints import stored
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.store.columns import (
    PACKED_FIRST,
    column_list,
    columns,
    kinds_of,
    numbered,
    pack,
    packed,
    scalars,
    unnest,
)
from dwarf_nats.store.dialect import NOW, PARKED
from dwarf_nats.store.statements import graphs
from dwarf_nats.store.statements.insert import insert_rows_sqlite
from dwarf_nats.workflow import tags as t
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
    """Its entry step, and what must be true of its graph. `_entry_row` has its values."""

    running: Annotated[bool, "bool"]
    step_id: Annotated[int, "bigint"]
    step_token: Annotated[str, "text"]
    node: Annotated[str, "text"]
    url: Annotated[str, "text"]
    state: Annotated[str, "text"]
    lease: Annotated[int, "bigint"]
    kept_until: Annotated[int, "bigint"]
    assumed: Annotated[bool, "bool"]


class _KeyRow(NamedTuple):
    """The number of shards with which the home of its idempotency key was found, and whether this database is it."""

    shards: Annotated[int, "int"]
    reserves: Annotated[bool, "bool"]


class _TagsRow(NamedTuple):
    """One column: its tags, as they are stored. Only of groups in which a flow has tags."""

    tags: Annotated[str | None, "text"]


class _TagRow(NamedTuple):
    """One tag of a flow."""

    tagged_id: Annotated[int, "bigint"]
    tag: Annotated[str, "text"]


def _into(*rows: type[Any]) -> str:
    return f"""
  insert into dwarf_flows ({column_list(*rows)}, status, created_at, started_at, updated_at)"""


def _values(flow: str, start: str, now: str) -> str:
    """The values inserted, in the order of `_into`."""
    return f"""{flow}, case when {start} then 'running' else 'created' end, {now},
    case when {start} then {now} end, {now}"""


# -- PostgreSQL

# A subquery for a value is an index look-up; one in `exists` may become a hash of the whole registry.
_CERTAIN = f"""kept_until > {NOW} + {graphs.MIN_LEFT_US}
    and (not assumed or (select g.digest from dwarf_registry g where g.name = workflow) = graph_digest)"""


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


def _batches(*, keyed: bool, tagged: bool) -> list[type[Any]]:
    """The rows of a group, side by side."""
    return [_FlowRow, *([_TagsRow] if tagged else []), _StartRow, _EntryRow, *([_KeyRow] if keyed else [])]


def _create(*, keyed: bool, tagged: bool) -> str:
    """The statement for a group; without keys and tags it has no part for them."""
    flow_rows: list[Any] = [_FlowRow, _TagsRow] if tagged else [_FlowRow]
    batches = _batches(keyed=keyed, tagged=tagged)
    parameters = PACKED_FIRST + len(kinds_of(*batches))
    names = column_list(*flow_rows)
    made = f"{_into(*flow_rows)}\n  select {_values(names, 'start', NOW)}\n  from r"
    (replica_id,) = scalars(1, *batches, *([_TagRow] if tagged else []), first=PACKED_FIRST)
    tags = _TAGGED.format(rows=unnest(_TagRow, alias="g", first=parameters)) if tagged else ""
    text = _KEYED if keyed else _PLAIN
    return text.format(rows=packed(*batches), made=made, tags=tags, entry=_entry(replica_id))


# Without idempotency keys nothing can conflict, and the entry steps need no join with what was made.
_PLAIN = f"""
with r as (select * from {{rows}} where {_CERTAIN}),
made as ({{made}}
  on conflict (fairness_key, idempotency_key) where idempotency_key <> '' do nothing
  returning flow_id),{{tags}}{{entry}}
  from r)
select flow_id, {NOW} from made
"""

# The home of a key is worked out with the number of shards agreed on, which stays as it is until the transaction ends. A key is
# taken with its flow; one that was taken before, on another shard, brings an id that may have been used meanwhile.
# `is true` keeps the subquery a hashed one; as a join it would compare each with each.
_KEYED = f"""
with r as (select * from {{rows}} where {_CERTAIN}),
agreed as materialized (select shards from dwarf_deployment where one = 1 for share),
kept as (
  insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)
  select r.fairness_key, r.idempotency_key, 0, r.flow_id, r.token, r.request_digest, {NOW}
  from r where r.reserves and r.shards = (select shards from agreed)
  on conflict do nothing
  returning flow_id),
made as ({{made}}
  where (not reserves or (flow_id in (select flow_id from kept)) is true)
  on conflict do nothing
  returning flow_id),{{tags}}{{entry}}
  from r where (flow_id in (select flow_id from made)) is true)
select flow_id, {NOW} from made
"""

_TAGGED = f"""
tagged as (
  insert into dwarf_tags (tag, created_at, flow_id)
  select g.tag, {NOW}, g.tagged_id from {{rows}} where (g.tagged_id in (select flow_id from made)) is true),"""

_KINDS = {
    (keyed, tagged): kinds_of(*_batches(keyed=keyed, tagged=tagged))
    for keyed in (False, True)
    for tagged in (False, True)
}
CREATE = _create(keyed=False, tagged=False)
CREATE_KEYED = _create(keyed=True, tagged=False)
CREATE_TAGGED = _create(keyed=False, tagged=True)
CREATE_KEYED_TAGGED = _create(keyed=True, tagged=True)

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
_GIVEN = ", ".join(map(str, numbered(_FlowRow)))
_INSERT_FLOW = f"{_into(_FlowRow)}\n  values ({_values(_GIVEN, start=f'?{_SCALAR}', now=f'?{_SCALAR + 1}')})"
_INSERT_KEYED = f"{_INSERT_FLOW} on conflict do nothing"
_AGREED_SHARDS = "select shards from dwarf_deployment where one = 1"
_TAKE_KEY = f"""
insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)
values ({_KEY.fairness_key}, {_KEY.idempotency_key}, 0, {_KEY.flow_id}, {_KEY.token}, {_KEY.request_digest},
  {_KEY.created_at})
on conflict do nothing
"""
_SET_TAGS = "update dwarf_flows set tags = ? where flow_id = ?"
_INSERT_TAG = "insert into dwarf_tags (tag, created_at, flow_id) values (?, ?, ?)"
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
        keyed = any(new.idempotency_key for new in self.flows)
        tagged = any(new.tags for new in self.flows)
        if tagged:
            rows = [
                _flow_row(new) + _tags_row(new) + _start_row(new) + _entry_row(new, self.budget_ms)
                for new in self.flows
            ]
            tags: Iterable[Any] = columns([row for new in self.flows for row in _tag_rows(new)])
            text = CREATE_KEYED_TAGGED if keyed else CREATE_TAGGED
        else:
            rows = [_flow_row(new) + _start_row(new) + _entry_row(new, self.budget_ms) for new in self.flows]
            tags, text = (), CREATE_KEYED if keyed else CREATE
        if keyed:
            rows = [row + _key_row(new) for row, new in zip(rows, self.flows, strict=True)]
        made = await session.fetch(text, *pack(columns(rows), _KINDS[keyed, tagged]), *tags, self.replica_id)
        return {int(flow_id): int(created_at) for flow_id, created_at in made}

    def on_sqlite(self, session: SqliteSession) -> dict[int, int]:
        now = session.now
        flows = graphs.of_certain_graphs(session, self.flows)
        rows = [(*_flow_row(new), *_start_row(new), now) for new in flows]
        if any(new.idempotency_key for new in flows):
            flows = [new for new, row in zip(flows, rows, strict=True) if _insert_keyed(session, new, row)]
        else:
            session.connection.executemany(_INSERT_FLOW, rows)
        if any(new.tags for new in flows):
            _tag_flows(session, flows)
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


def _tags_row(new: NewFlow) -> tuple[Any, ...]:
    return (t.stored(new.tags) if new.tags else None,)


def _tag_rows(new: NewFlow) -> list[tuple[Any, ...]]:
    """The values of its `_TagRow`s, in their order."""
    return [(new.flow.flow_id, tag) for tag in t.tag_texts(new.tags)] if new.tags else []


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
        new.assumed,
    )


def _key_row(new: NewFlow) -> tuple[Any, ...]:
    return (new.shards, new.reserves)


def _tag_flows(session: SqliteSession, flows: Sequence[NewFlow]) -> None:
    """Enter the tags of flows that were just inserted."""
    tagged = [new for new in flows if new.tags]
    session.connection.executemany(_SET_TAGS, [(*_tags_row(new), new.flow.flow_id) for new in tagged])
    rows = [(tag, session.now, flow_id) for new in tagged for flow_id, tag in _tag_rows(new)]
    session.connection.executemany(_INSERT_TAG, rows)


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
