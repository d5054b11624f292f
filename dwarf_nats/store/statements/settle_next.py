"""Settle one step that is completed and goes on at once, with values instead of columns.

A flow that runs alone does this for nearly each of its steps, and waits for it. `settle.SETTLE` takes any group, and so costs
a lone step twice as much: in the driver, which encodes 22 arrays, and in PostgreSQL, which unpacks them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.store.columns import typed
from dwarf_nats.store.dialect import LIVE, NOW, parked_if_tripped
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement


class NextRow(NamedTuple):
    """A completed step and the one that follows it. `next_row` has its values."""

    step_id: Annotated[int, "bigint"]
    lease_seq: Annotated[int, "int"]
    flow_id: Annotated[int, "bigint"]
    changes: Annotated[str, "text"]
    attempt: Annotated[int, "int"]
    next_id: Annotated[int, "bigint"]
    token: Annotated[str, "text"]
    node: Annotated[str, "text"]
    url: Annotated[str, "text"]
    state: Annotated[str, "text"]
    borrowed: Annotated[str | None, "text"]
    lease: Annotated[int, "bigint"]
    replica_id: Annotated[int, "bigint"]


_P = typed(NextRow)
SETTLE_NEXT = f"""
with done as (
  -- As in `settle`; the errors of earlier attempts are over.
  update dwarf_steps s set
    status = case when f.status in {LIVE} then 'completed' else f.status end,
    changes = {_P.changes}, attempt = {_P.attempt}, claimed_by = null, lease_expires = null, error = null,
    successor_id = case when f.status in {LIVE} then {_P.next_id} end,
    arrived = 0, cohort_size = null, updated_at = {NOW}, parked = {Parked.NO:d}
  from dwarf_flows f
  where f.flow_id = {_P.flow_id} and s.step_id = {_P.step_id} and s.lease_seq = {_P.lease_seq} and s.status || '' = 'running'
  returning s.step_id, s.flow_id, s.depth, s.priority, s.fairness_key, s.fairness_weight, s.spawn_id, s.ordinal,
    f.status in {LIVE} as alive, f.breakpoints is not null as stops),
born as (
  insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, lease_seq, claimed_by, lease_expires,
    not_before, predecessor_id, spawn_id, ordinal, priority, fairness_key, fairness_weight, created_at, started_at,
    updated_at, borrowed, parked)
  -- A flow with breakpoints has its steps born pending: their claim looks at the breakpoints (O12).
  select {_P.next_id}, flow_id, depth + 1, {_P.token}, {_P.node}, {_P.url}, {_P.state},
    case when stops then 'pending' else 'running' end, case when stops then 0 else 1 end,
    case when not stops then {_P.replica_id} end, case when not stops then {NOW} + {_P.lease} end, {NOW},
    step_id, spawn_id, ordinal, priority, fairness_key, fairness_weight, {NOW},
    case when not stops then {NOW} end, {NOW}, {_P.borrowed},
    case when stops then {parked_if_tripped(_P.url)} else {Parked.NO:d} end
  from done where alive)
select step_id, alive, {NOW}, stops, null::text from done
"""


def goes_on(one: Settlement) -> bool:
    """Tell whether a settlement is of this kind. It has no consequences (`cascade.needs_cascade`)."""
    new = one.successor
    return (
        new is not None
        and new.eager
        and not new.delay_us
        and one.status is Status.COMPLETED
        and one.end is None
        and one.error_json is None
        and not one.arrives
        and not one.branches
    )


def next_row(one: Settlement, replica_id: int, budget_ms: int) -> tuple[Any, ...]:
    """The values of a `NextRow`, in its order."""
    step, new = one.step, one.successor
    assert new is not None
    return (
        step.step_id,
        step.lease_seq,
        step.flow.flow_id,
        one.changes_json().decode(),
        one.attempt,
        new.step_id,
        new.token,
        new.node,
        new.url,
        new.state_json.decode(),
        state_refs.stored(new.refs) if new.refs else None,
        lease_us(step.flow.time_budget_ms, budget_ms),
        replica_id,
    )
