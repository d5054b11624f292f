"""Insert steps: those that follow on others, and the entry steps of flows on SQLite. One text for both databases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.store.columns import named, numbered, scalars, unnest
from dwarf_nats.store.dialect import NOW, UNBEGUN, parked_if_tripped
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.store.commands import StepInsert
    from dwarf_nats.store.database import PostgresSession, SqliteSession

INSERT_STEPS_ROWS = 2_000
"""Rows of one statement on PostgreSQL, at most: a larger group takes several, so that none is a message of many megabytes."""


class StepsBatch(NamedTuple):
    """Steps to be inserted, column by column."""

    step_id: Annotated[list[int], "bigint"]
    flow_id: Annotated[list[int], "bigint"]
    depth: Annotated[list[int], "int"]
    token: Annotated[list[str], "text"]
    node: Annotated[list[str], "text"]
    url: Annotated[list[str], "text"]
    state: Annotated[list[str], "text"]
    status: Annotated[list[str], "text"]
    not_before: Annotated[list[int], "bigint"]
    """Due then, or `delay` from now if that is later."""
    delay: Annotated[list[int], "bigint"]
    predecessor_id: Annotated[Sequence[int | None], "bigint"]
    spawn_id: Annotated[list[int], "bigint"]
    ordinal: Annotated[list[int], "int"]
    changes: Annotated[list[str], "text"]
    error: Annotated[Sequence[str | None], "text"]
    successor_id: Annotated[Sequence[int | None], "bigint"]
    priority: Annotated[list[int], "int"]
    fairness_key: Annotated[list[str], "text"]
    fairness_weight: Annotated[list[float], "float8"]
    lease: Annotated[list[int], "bigint"]
    """Microseconds; of one that is born running."""
    borrowed: Annotated[Sequence[str | None], "text"]


def _values(r: StepsBatch, *, replica_id: str, now: str, greatest: str) -> str:
    """The values inserted, in the order of `_INTO`."""
    return f"""{r.step_id}, {r.flow_id}, {r.depth}, {r.token}, {r.node}, {r.url}, {r.state}, {r.status},
  {greatest}({r.not_before}, {now} + {r.delay}), {r.predecessor_id}, {r.spawn_id}, {r.ordinal}, {r.changes}, {r.error},
  {r.successor_id}, {r.priority}, {r.fairness_key}, {r.fairness_weight},
  case when {r.status} = 'running' then 1 else 0 end, case when {r.status} = 'running' then {replica_id} end,
  case when {r.status} = 'running' then {now} + {r.lease} end, {now},
  case when {r.status} not in {UNBEGUN} then {now} end, {now}, {r.borrowed},
  case when {r.status} = 'pending' then {parked_if_tripped(str(r.url))} else {Parked.NO:d} end"""


_INTO = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, predecessor_id, spawn_id,
  ordinal, changes, error, successor_id, priority, fairness_key, fairness_weight, lease_seq, claimed_by, lease_expires,
  created_at, started_at, updated_at, borrowed, parked)"""
(_REPLICA,) = scalars(1, StepsBatch)
INSERT_STEPS = f"""{_INTO}
select {_values(named(StepsBatch), replica_id=f"{_REPLICA}::bigint", now=NOW, greatest="greatest")}
from {unnest(StepsBatch)}
"""
# As `values`, which SQLite inserts at half the cost of a select.
_SCALAR = len(StepsBatch._fields) + 1
INSERT_STEPS_SQLITE = f"""{_INTO}
values ({_values(numbered(StepsBatch), replica_id=f"?{_SCALAR}", now=f"?{_SCALAR + 1}", greatest="max")})
"""


def _batch(steps: Sequence[StepInsert], budget_ms: int) -> StepsBatch:
    return StepsBatch(
        step_id=[one.step.step_id for one in steps],
        flow_id=[one.flow.flow_id for one in steps],
        depth=[one.step.depth for one in steps],
        token=[one.step.token for one in steps],
        node=[one.step.node for one in steps],
        url=[one.step.url for one in steps],
        state=[one.step.state_json.decode() for one in steps],
        status=[one.status.value for one in steps],
        not_before=[one.not_before for one in steps],
        delay=[one.step.delay_us for one in steps],
        predecessor_id=[one.predecessor_id for one in steps],
        spawn_id=[one.step.spawn_id for one in steps],
        ordinal=[one.step.ordinal for one in steps],
        changes=[one.changes for one in steps],
        error=[one.error for one in steps],
        successor_id=[one.successor_id for one in steps],
        priority=[one.flow.priority for one in steps],
        fairness_key=[one.flow.fairness_key for one in steps],
        fairness_weight=[one.flow.fairness_weight for one in steps],
        lease=[lease_us(one.flow.time_budget_ms, budget_ms) for one in steps],
        borrowed=[state_refs.stored(one.step.refs) for one in steps],
    )


async def insert_postgres(
    session: PostgresSession, steps: Sequence[StepInsert], replica_id: int, budget_ms: int
) -> None:
    """Insert steps; those that are born running are claimed by the replica."""
    for start in range(0, len(steps), INSERT_STEPS_ROWS):
        batch = _batch(steps[start : start + INSERT_STEPS_ROWS], budget_ms)
        await session.fetch(INSERT_STEPS, *batch, replica_id)


def insert_sqlite(session: SqliteSession, steps: Sequence[StepInsert], replica_id: int, budget_ms: int) -> None:
    """As `insert_postgres`."""
    insert_batch_sqlite(session, _batch(steps, budget_ms), replica_id)


def insert_batch_sqlite(session: SqliteSession, batch: StepsBatch, replica_id: int) -> None:
    """As `insert_postgres`, with the columns as they are."""
    # The columns are as long as each other: only what is repeated has no end.
    rows = zip(*batch, repeat(replica_id), repeat(session.now), strict=False)
    session.connection.executemany(INSERT_STEPS_SQLITE, rows)
