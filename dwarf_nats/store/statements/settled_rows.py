"""The rows of a group of settlements on SQLite: nobody else writes meanwhile, so the group is read first and then written, each
kind of row in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.rules.lifecycle import FLOW_LIVE
from dwarf_nats.rules.settlement import Applied
from dwarf_nats.store.columns import numbered
from dwarf_nats.store.commands import StepInsert
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.store.statements.insert import (
    eager_row,
    insert_eager_sqlite,
    insert_linked_sqlite,
    insert_sqlite,
    linked_row,
)
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import FlowEnd, Settlement
    from dwarf_nats.rules.steps import NewStep
    from dwarf_nats.store.database import Row, SqliteSession


class _DoneRow(NamedTuple):
    """The new values of a settled step. `_done_row` has them."""

    step_id: int
    status: str
    changes: str
    error: str | None
    attempt: int
    successor_id: int | None
    not_before: int | None
    """`None` where it stays."""
    arrived: bool
    cohort_size: int | None
    now: int


class _EndedRow(NamedTuple):
    """The new values of a flow that ends. `_ended_row` has them."""

    flow_id: int
    status: str
    final_state: str
    final_borrowed: str | None
    error: str | None
    updated_at: int


@dataclass(slots=True)
class SettledFlow:
    """The flow of settled steps as it is before the next of them is settled."""

    status: str
    updated_at: int
    has_breakpoints: bool
    """It has breakpoints."""
    tags: str | None


RUNNING = """
select s.step_id, s.lease_seq, f.flow_id, f.status, f.updated_at, f.breakpoints is not null, f.tags
from json_each($1) j cross join dwarf_steps s on s.step_id = j.value cross join dwarf_flows f on f.flow_id = s.flow_id
where s.status = 'running'
"""
_ROW = numbered(_DoneRow)
_SETTLE_STEPS = f"""
update dwarf_steps set status = {_ROW.status}, changes = {_ROW.changes},
  error = coalesce({_ROW.error}, case when {_ROW.status} = 'pending' then error end),
  attempt = {_ROW.attempt}, claimed_by = null, lease_expires = null, successor_id = {_ROW.successor_id},
  not_before = coalesce({_ROW.not_before}, not_before), arrived = {_ROW.arrived},
  cohort_size = {_ROW.cohort_size}, updated_at = {_ROW.now},
  parked = case when {_ROW.status} = 'pending' then {PARKED} else {Parked.NO:d} end
where step_id = {_ROW.step_id}
"""


class _CompletedRow(NamedTuple):
    """The new values of a step that is simply completed. `DoneRows.add` has them."""

    step_id: int
    changes: str
    error: str | None
    attempt: int
    successor_id: int | None
    now: int


# As most are. Of the columns that indexes look at, only status, lease and time change: it was running, and so not parked.
_STEP = numbered(_CompletedRow)
_COMPLETE_STEPS = f"""
update dwarf_steps set status = 'completed', changes = {_STEP.changes}, error = {_STEP.error}, attempt = {_STEP.attempt},
  claimed_by = null, lease_expires = null, successor_id = {_STEP.successor_id}, arrived = 0, cohort_size = null,
  updated_at = {_STEP.now}
where step_id = {_STEP.step_id}
"""
_FLOW = numbered(_EndedRow)
_END_FLOWS = f"""
update dwarf_flows set status = {_FLOW.status}, final_state = {_FLOW.final_state},
  final_borrowed = {_FLOW.final_borrowed}, error = {_FLOW.error}, updated_at = {_FLOW.updated_at}
where flow_id = {_FLOW.flow_id}
"""


def running(rows: Sequence[Row]) -> tuple[dict[int, int], dict[int, SettledFlow]]:
    """The lease generations of steps, by their ids, and their flows."""
    lease_seqs = {}
    flows: dict[int, SettledFlow] = {}
    for step_id, lease_seq, flow_id, status, updated_at, has_breakpoints, tags in rows:
        lease_seqs[step_id] = lease_seq
        if flow_id not in flows:
            flows[flow_id] = SettledFlow(status, updated_at, bool(has_breakpoints), tags)
    return lease_seqs, flows


class DoneRows:
    """Collects the rows to be written of a group, and writes them."""

    def __init__(self, now: int, budget_ms: int) -> None:
        self._now = now
        self._budget_ms = budget_ms
        self._steps: list[tuple[Any, ...]] = []
        self._completed: list[tuple[Any, ...]] = []
        self._eager: list[tuple[Any, ...]] = []
        self._born: list[StepInsert] = []
        self._linked: list[tuple[Any, ...]] = []
        self._ended: list[tuple[Any, ...]] = []

    def add(self, one: Settlement, flow: SettledFlow) -> Applied:
        """A settlement that is not fenced off; what becomes of it, and of its flow for those that follow."""
        now, step = self._now, one.step
        if flow.status not in FLOW_LIVE:
            self._steps.append(_done_row(one, flow.status, None, now))
            return Applied(alive=False, at=now)
        new = one.successor
        if one.status is Status.COMPLETED and not one.arrives and not one.branches:
            next_id = None if new is None else new.step_id
            changes = one.changes_json().decode()
            self._completed.append((step.step_id, changes, one.error_json, one.attempt, next_id, now))
        else:
            self._steps.append(_done_row(one, one.status.value, new, now))
        self._add_successor(one, flow)
        return self._end(one, flow)

    def add_chain(self, head: Settlement, flow: SettledFlow) -> dict[int, Applied]:
        """As `add`, with the straight chain that is linked to it, in a flow without breakpoints."""
        head_id = head.step.step_id
        if flow.status not in FLOW_LIVE:
            return {head_id: self.add(head, flow)}
        line = list(head.chain())
        changes = head.changes_json().decode()
        next_id = line[1].step.step_id
        self._completed.append((head_id, changes, head.error_json, head.attempt, next_id, self._now))
        applied = {head_id: Applied(alive=True, at=self._now)}
        for before, link in pairwise(line):
            new = before.successor
            assert new is not None
            self._linked.append(linked_row(link, new, before.step.step_id))
            applied[link.step.step_id] = self._end(link, flow)
        self._add_successor(line[-1], flow)
        return applied

    def _add_successor(self, one: Settlement, flow: SettledFlow) -> None:
        """The row of the step that follows on a settlement, if there is one."""
        step, new = one.step, one.successor
        if new is None:
            return
        if new.eager and not flow.has_breakpoints and not new.delay_us:
            lease_expires = self._now + lease_us(step.flow.time_budget_ms, self._budget_ms)
            self._eager.append(eager_row(step.flow, new, step.step_id, lease_expires))
        else:
            self._born.append(StepInsert(step.flow, new, step.step_id, Status.PENDING))

    def _end(self, one: Settlement, flow: SettledFlow) -> Applied:
        """The outcome of a settlement that took effect, with the row of the flow that it ends, if it does."""
        now, end = self._now, one.end
        if end is None:
            return Applied(alive=True, at=now)
        at = max(now, flow.updated_at + 1)
        flow.status, flow.updated_at = end.status.value, at
        self._ended.append(_ended_row(one, end, at))
        return Applied(alive=True, at=at, tags=flow.tags)

    def write(self, session: SqliteSession, replica_id: int) -> None:
        """Write the rows of the steps, of those that follow on them, and of the flows that end."""
        if self._completed:
            session.connection.executemany(_COMPLETE_STEPS, self._completed)
        if self._steps:
            session.connection.executemany(_SETTLE_STEPS, self._steps)
        if self._linked:
            insert_linked_sqlite(session, self._linked, replica_id)
        if self._eager:
            insert_eager_sqlite(session, self._eager, replica_id)
        if self._born:
            insert_sqlite(session, self._born, replica_id, self._budget_ms)
        if self._ended:
            session.connection.executemany(_END_FLOWS, self._ended)


def _done_row(one: Settlement, status: str, new: NewStep | None, now: int) -> tuple[Any, ...]:
    """The values of a `_DoneRow`, in its order."""
    return (
        one.step.step_id,
        status,
        one.changes_json().decode(),
        one.error_json,
        one.attempt,
        None if new is None else new.step_id,
        now + one.delay_us if one.status is Status.PENDING or one.arrives else None,
        one.arrives,
        len(one.branches) or None,
        now,
    )


def _ended_row(one: Settlement, end: FlowEnd, at: int) -> tuple[Any, ...]:
    """The values of an `_EndedRow`, in its order."""
    return (
        one.step.flow.flow_id,
        end.status.value,
        end.stored_json.decode(),
        state_refs.stored(end.refs),
        one.error_json if end.status is Status.FAILED else None,
        at,
    )
