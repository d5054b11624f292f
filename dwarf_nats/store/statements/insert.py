"""Insert steps: those that follow on others, and the entry steps of flows on SQLite. One text for both databases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.store.columns import PACKED_FIRST, columns, kinds_of, named, numbered, pack, packed, scalars
from dwarf_nats.store.dialect import NOW, UNBEGUN, parked_if_tripped
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.rules.steps import FlowContext, NewStep
    from dwarf_nats.store.commands import StepInsert
    from dwarf_nats.store.database import PostgresSession, SqliteSession

INSERT_STEPS_ROWS = 2_000
"""Rows of one statement on PostgreSQL, at most: a larger group takes several, so that none is a message of many megabytes."""


class StepRow(NamedTuple):
    """A step to be inserted. `step_row` has its values."""

    step_id: Annotated[int, "bigint"]
    flow_id: Annotated[int, "bigint"]
    depth: Annotated[int, "int"]
    token: Annotated[str, "text"]
    node: Annotated[str, "text"]
    url: Annotated[str, "text"]
    state: Annotated[str, "text"]
    status: Annotated[str, "text"]
    not_before: Annotated[int, "bigint"]
    """Due then, or `delay` from now if that is later."""
    delay: Annotated[int, "bigint"]
    predecessor_id: Annotated[int | None, "bigint"]
    spawn_id: Annotated[int, "bigint"]
    ordinal: Annotated[int, "int"]
    changes: Annotated[str, "text"]
    error: Annotated[str | None, "text"]
    successor_id: Annotated[int | None, "bigint"]
    priority: Annotated[int, "int"]
    fairness_key: Annotated[str, "text"]
    fairness_weight: Annotated[float, "float8"]
    lease: Annotated[int, "bigint"]
    """Microseconds; of one that is born running."""
    borrowed: Annotated[str | None, "text"]


def _values(r: StepRow, *, replica_id: str, now: str, greatest: str) -> str:
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
(_REPLICA,) = scalars(1, StepRow, first=PACKED_FIRST)
_KINDS = kinds_of(StepRow)
INSERT_STEPS = f"""{_INTO}
select {_values(named(StepRow), replica_id=f"{_REPLICA}::bigint", now=NOW, greatest="greatest")}
from {packed(StepRow)}
"""


class EagerRow(NamedTuple):
    """A step to be inserted on SQLite that starts eagerly: it is due now and claimed. `eager_row` has its values."""

    step_id: int
    flow_id: int
    depth: int
    token: str
    node: str
    url: str
    state: str
    predecessor_id: int
    spawn_id: int
    ordinal: int
    priority: int
    fairness_key: str
    fairness_weight: float
    lease_expires: int
    borrowed: str | None


def _eager_values(r: EagerRow, replica_id: str, now: str) -> str:
    """As `_values`, without what is the same for all of them."""
    return f"""{r.step_id}, {r.flow_id}, {r.depth}, {r.token}, {r.node}, {r.url}, {r.state}, 'running',
  {now}, {r.predecessor_id}, {r.spawn_id}, {r.ordinal}, '{{}}', null, null, {r.priority}, {r.fairness_key},
  {r.fairness_weight}, 1, {replica_id}, {r.lease_expires}, {now}, {now}, {now}, {r.borrowed}, {Parked.NO:d}"""


class LinkedRow(NamedTuple):
    """A step to be inserted on SQLite that is completed already, as one link of a chain. `linked_row` has its values."""

    step_id: int
    flow_id: int
    depth: int
    token: str
    node: str
    url: str
    state: str
    predecessor_id: int
    spawn_id: int
    ordinal: int
    changes: str
    attempt: int
    successor_id: int | None
    priority: int
    fairness_key: str
    fairness_weight: float
    borrowed: str | None


_INTO_LINKED = _INTO.replace("parked)", "parked, attempt)")


def _linked_values(r: LinkedRow, now: str) -> str:
    """As `_eager_values`, in the order of `_INTO_LINKED`."""
    return f"""{r.step_id}, {r.flow_id}, {r.depth}, {r.token}, {r.node}, {r.url}, {r.state}, 'completed',
  {now}, {r.predecessor_id}, {r.spawn_id}, {r.ordinal}, {r.changes}, null, {r.successor_id}, {r.priority}, {r.fairness_key},
  {r.fairness_weight}, 1, null, null, {now}, {now}, {now}, {r.borrowed}, {Parked.NO:d}, {r.attempt}"""


INSERT_TOGETHER_ROWS = 8
"""Rows that one statement inserts on SQLite: it opens the table and its indexes, twelve or so, once for all of them."""


def _on_sqlite(rows: int) -> str:
    """The statement of so many rows, with replica and time as `?1` and `?2`.

    As `values`, which SQLite inserts at half the cost of a select.
    """
    width = len(StepRow._fields)
    each = (numbered(StepRow, 3 + width * row) for row in range(rows))
    return f"{_INTO}\nvalues " + ", ".join(
        f"({_values(one, replica_id='?1', now='?2', greatest='max')})" for one in each
    )


def _eager_on_sqlite(rows: int) -> str:
    """As `_on_sqlite`, of rows that start eagerly."""
    width = len(EagerRow._fields)
    each = (numbered(EagerRow, 3 + width * row) for row in range(rows))
    return f"{_INTO}\nvalues " + ", ".join(f"({_eager_values(one, '?1', '?2')})" for one in each)


def _linked_on_sqlite(rows: int) -> str:
    """As `_on_sqlite`, of rows that are completed already; `?1` is not used."""
    width = len(LinkedRow._fields)
    each = (numbered(LinkedRow, 3 + width * row) for row in range(rows))
    return f"{_INTO_LINKED}\nvalues " + ", ".join(f"({_linked_values(one, '?2')})" for one in each)


INSERT_STEPS_SQLITE, INSERT_EAGER_SQLITE, INSERT_LINKED_SQLITE = (
    _on_sqlite(1),
    _eager_on_sqlite(1),
    _linked_on_sqlite(1),
)
_TOGETHER = {
    sql: several(INSERT_TOGETHER_ROWS)
    for sql, several in (
        (INSERT_STEPS_SQLITE, _on_sqlite),
        (INSERT_EAGER_SQLITE, _eager_on_sqlite),
        (INSERT_LINKED_SQLITE, _linked_on_sqlite),
    )
}


def step_row(one: StepInsert, budget_ms: int) -> tuple[Any, ...]:
    """The values of a `StepRow`, in its order."""
    flow, step = one.flow, one.step
    return (
        step.step_id,
        flow.flow_id,
        step.depth,
        step.token,
        step.node,
        step.url,
        step.state_json.decode(),
        one.status.value,
        one.not_before,
        step.delay_us,
        one.predecessor_id,
        step.spawn_id,
        step.ordinal,
        one.changes,
        one.error,
        one.successor_id,
        flow.priority,
        flow.fairness_key,
        flow.fairness_weight,
        lease_us(flow.time_budget_ms, budget_ms),
        state_refs.stored(step.refs),
    )


def eager_row(flow: FlowContext, step: NewStep, predecessor_id: int, lease_expires: int) -> tuple[Any, ...]:
    """The values of an `EagerRow`, in its order."""
    return (
        step.step_id,
        flow.flow_id,
        step.depth,
        step.token,
        step.node,
        step.url,
        step.state_json.decode(),
        predecessor_id,
        step.spawn_id,
        step.ordinal,
        flow.priority,
        flow.fairness_key,
        flow.fairness_weight,
        lease_expires,
        state_refs.stored(step.refs) if step.refs else None,
    )


def linked_row(link: Settlement, step: NewStep, predecessor_id: int) -> tuple[Any, ...]:
    """The values of a `LinkedRow`, in its order; `link` completes the step."""
    flow = link.step.flow
    return (
        step.step_id,
        flow.flow_id,
        step.depth,
        step.token,
        step.node,
        step.url,
        step.state_json.decode(),
        predecessor_id,
        step.spawn_id,
        step.ordinal,
        link.changes_json().decode(),
        link.attempt,
        None if link.successor is None else link.successor.step_id,
        flow.priority,
        flow.fairness_key,
        flow.fairness_weight,
        state_refs.stored(step.refs) if step.refs else None,
    )


async def insert_postgres(
    session: PostgresSession, steps: Sequence[StepInsert], replica_id: int, budget_ms: int
) -> None:
    """Insert steps; those that are born running are claimed by the replica."""
    for start in range(0, len(steps), INSERT_STEPS_ROWS):
        rows = [step_row(one, budget_ms) for one in steps[start : start + INSERT_STEPS_ROWS]]
        await session.fetch(INSERT_STEPS, *pack(columns(rows), _KINDS), replica_id)


def insert_sqlite(session: SqliteSession, steps: Sequence[StepInsert], replica_id: int, budget_ms: int) -> None:
    """As `insert_postgres`."""
    insert_rows_sqlite(session, [step_row(one, budget_ms) for one in steps], replica_id)


def insert_rows_sqlite(session: SqliteSession, rows: Sequence[tuple[Any, ...]], replica_id: int) -> None:
    """As `insert_postgres`, of rows as `step_row` makes them."""
    _insert_sqlite(session, INSERT_STEPS_SQLITE, rows, replica_id)


def insert_eager_sqlite(session: SqliteSession, rows: Sequence[tuple[Any, ...]], replica_id: int) -> None:
    """As `insert_postgres`, of rows as `eager_row` makes them."""
    _insert_sqlite(session, INSERT_EAGER_SQLITE, rows, replica_id)


def insert_linked_sqlite(session: SqliteSession, rows: Sequence[tuple[Any, ...]], replica_id: int) -> None:
    """As `insert_postgres`, of rows as `linked_row` makes them."""
    _insert_sqlite(session, INSERT_LINKED_SQLITE, rows, replica_id)


def _insert_sqlite(session: SqliteSession, sql: str, rows: Sequence[tuple[Any, ...]], replica_id: int) -> None:
    scalars_ = (replica_id, session.now)
    together = len(rows) - len(rows) % INSERT_TOGETHER_ROWS
    for start in range(0, together, INSERT_TOGETHER_ROWS):
        values = chain(scalars_, *rows[start : start + INSERT_TOGETHER_ROWS])
        session.connection.execute(_TOGETHER[sql], tuple(values))
    if together < len(rows):
        session.connection.executemany(sql, [scalars_ + row for row in rows[together:]])
