"""Settle a group of steps: their rows, successors, ends of their flows, and what follows from that (design note 0001)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.rules.settlement import Applied, SettleResult
from dwarf_nats.store.columns import PACKED_FIRST, kinds_of, pack, packed, scalars
from dwarf_nats.store.commands import Cascade, Command, InsertFlows, InsertSteps, Query, QueryMany
from dwarf_nats.store.dialect import LIVE, NOW, PARKED, parked_if_tripped
from dwarf_nats.store.statements.cascade import cascade, defer_to_breakpoints, needs_cascade, next_wave
from dwarf_nats.store.statements.create import CreateFlows
from dwarf_nats.store.statements.events import LOCK_ALL, locks_of
from dwarf_nats.store.statements.insert import insert_postgres, insert_sqlite
from dwarf_nats.store.statements.settle_chains import are_straight, settle_chains
from dwarf_nats.store.statements.settle_next import SETTLE_NEXT, goes_on, next_row
from dwarf_nats.store.statements.settled_rows import RUNNING, DoneRows, running
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.rules.steps import NewIds
    from dwarf_nats.store.database import PostgresSession, Row, SqliteSession
    from dwarf_nats.workflow.limits import Limits

# -- PostgreSQL


class SettleBatch(NamedTuple):
    """A group of settlements, column by column: the step, its successor if it has one, and the end of its flow."""

    step_id: Annotated[list[int], "bigint"]
    lease_seq: Annotated[list[int], "int"]
    status: Annotated[list[str], "text"]
    changes: Annotated[list[str], "text"]
    error: Annotated[list[str | None], "text"]
    attempt: Annotated[list[int], "int"]
    delay: Annotated[list[int], "bigint"]
    flow_id: Annotated[list[int], "bigint"]
    arrives: Annotated[list[bool], "bool"]
    cohort_size: Annotated[list[int | None], "int"]
    next_id: Annotated[list[int | None], "bigint"]
    next_token: Annotated[list[str | None], "text"]
    next_node: Annotated[list[str | None], "text"]
    next_url: Annotated[list[str | None], "text"]
    next_state: Annotated[list[str | None], "text"]
    next_borrowed: Annotated[list[str | None], "text"]
    next_running: Annotated[list[bool], "bool"]
    next_delay: Annotated[list[int], "bigint"]
    lease: Annotated[list[int], "bigint"]
    end_status: Annotated[list[str | None], "text"]
    final_state: Annotated[list[str | None], "text"]
    final_borrowed: Annotated[list[str | None], "text"]


(_REPLICA,) = scalars(1, SettleBatch, first=PACKED_FIRST)
_KINDS = kinds_of(SettleBatch)
SETTLE = f"""
with r as (select * from {packed(SettleBatch)}),
-- Fenced by the lease generation (X1). The group's own columns come back through `returning`, so nothing is joined twice.
done as (
  update dwarf_steps s set
    status = case when f.status in {LIVE} then r.status else f.status end,
    changes = r.changes, attempt = r.attempt, claimed_by = null, lease_expires = null,
    -- The last error of a step that waits for its next attempt is kept until that is over (L3).
    error = coalesce(r.error, case when r.status = 'pending' then s.error end),
    successor_id = case when f.status in {LIVE} then r.next_id end,
    not_before = case when r.status = 'pending' or r.arrives then {NOW} + r.delay else s.not_before end,
    arrived = r.arrives::int, cohort_size = r.cohort_size, updated_at = {NOW},
    parked = case when r.status = 'pending' and f.status in {LIVE} then {PARKED} else {Parked.NO:d} end
  from r join dwarf_flows f on f.flow_id = r.flow_id
  -- `|| ''` hides the status from the partial indexes: a plan made while the table was empty would read all that runs.
  where s.step_id = r.step_id and s.lease_seq = r.lease_seq and s.status || '' = 'running'
  returning s.step_id, s.flow_id, s.depth, s.priority, s.fairness_key, s.fairness_weight, s.spawn_id, s.ordinal,
    r.error, r.next_id,
    r.next_token, r.next_node, r.next_url, r.next_state, r.next_borrowed, r.next_running, r.next_delay, r.lease, r.end_status,
    r.final_state, r.final_borrowed, f.status in {LIVE} as alive, f.breakpoints is not null as has_breakpoints,
    f.updated_at as flow_updated_at, f.tags),
born as (
  insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, lease_seq, claimed_by, lease_expires,
    not_before, predecessor_id, spawn_id, ordinal, priority, fairness_key, fairness_weight, created_at, started_at,
    updated_at, borrowed, parked)
  select next_id, flow_id, depth + 1, next_token, next_node, next_url, next_state,
    case when next_running then 'running' else 'pending' end, case when next_running then 1 else 0 end,
    case when next_running then {_REPLICA}::bigint end, case when next_running then {NOW} + lease end, {NOW} + next_delay,
    step_id, spawn_id, ordinal, priority, fairness_key, fairness_weight, {NOW},
    case when next_running then {NOW} end, {NOW}, next_borrowed,
    case when next_running then {Parked.NO:d} else {parked_if_tripped("next_url")} end
  from (
    -- A flow with breakpoints has its steps born pending: their claim looks at the breakpoints (O12).
    select step_id, flow_id, depth, priority, fairness_key, fairness_weight, spawn_id, ordinal, next_id, next_token,
      next_node, next_url, next_state, next_borrowed, next_running and not has_breakpoints as next_running, next_delay, lease
    from done where next_id is not null and alive) d),
ended as (
  update dwarf_flows f set status = d.end_status, final_state = d.final_state, final_borrowed = d.final_borrowed,
    updated_at = greatest({NOW}, f.updated_at + 1), error = case when d.end_status = 'failed' then d.error end
  from done d
  where d.end_status is not null and d.alive and f.flow_id = d.flow_id and f.status in {LIVE}
  returning f.flow_id)
select d.step_id, d.alive and (d.end_status is null or d.flow_id in (select flow_id from ended)),
  case when d.end_status is null then {NOW} else greatest({NOW}, d.flow_updated_at + 1) end, d.has_breakpoints,
  -- Of a flow that ends with it, for its outcome.
  case when d.end_status is not null then d.tags end
from done d
"""


@dataclass(slots=True, kw_only=True)
class Settle:
    """Write settlements and what follows from them (see `SettleResult`), in one transaction."""

    group: Sequence[Settlement]
    replica_id: int
    budget_ms: int
    """The time budget of flows that have none of their own."""
    new_step: NewIds
    limits: Limits
    several_shards: bool = False
    """The replicas know of more than this shard."""

    async def on_postgres(self, session: PostgresSession) -> SettleResult:
        if not needs_cascade(self.group):
            return await self._settle_postgres(session, self.group)
        if are_straight(self.group):
            return await settle_chains(session, self.group, self.replica_id, self.budget_ms)
        async with session.transaction():
            if locks := locks_of([one for head in self.group for one in head.chain()]):
                await session.fetch(LOCK_ALL, locks)
            result, wave = await self._wave_postgres(session, self.group)
            while wave:
                later, wave = await self._wave_postgres(session, wave)
                result.add(later)
        return result

    async def _wave_postgres(
        self, session: PostgresSession, group: Sequence[Settlement]
    ) -> tuple[SettleResult, Sequence[Settlement]]:
        """Write settlements and their consequences; also the links that come next (N8)."""
        result = await self._settle_postgres(session, group)
        commands = cascade(group, result, self.new_step, self.limits, several_shards=self.several_shards)
        command = _next(commands, None)
        while command is not None:
            command = _next(commands, await self._execute_postgres(session, command))
        return result, next_wave(group, result)

    async def _settle_postgres(self, session: PostgresSession, group: Sequence[Settlement]) -> SettleResult:
        if len(group) == 1 and goes_on(group[0]):
            rows = await session.fetch(SETTLE_NEXT, *next_row(group[0], self.replica_id, self.budget_ms))
        else:
            rows = await session.fetch(SETTLE, *pack(_batch(group, self.budget_ms), _KINDS), self.replica_id)
        result = SettleResult(
            applied={step_id: Applied(alive, at, tags) for step_id, alive, at, _, tags in rows},
            with_breakpoints=frozenset(step_id for step_id, _, _, has_breakpoints, _ in rows if has_breakpoints),
        )
        defer_to_breakpoints(group, result)
        return result

    async def _execute_postgres(self, session: PostgresSession, command: Command) -> list[Row]:
        match command:
            case Query():
                return await session.fetch(command.text, *command.args)
            case QueryMany():
                return await session.fetch_many(command.text, command.rows)
            case InsertSteps():
                await insert_postgres(session, command.steps, self.replica_id, self.budget_ms)
            case InsertFlows():
                await self._creating(command).on_postgres(session)
        return []

    def on_sqlite(self, session: SqliteSession) -> SettleResult:
        if not needs_cascade(self.group):
            return self._settle_sqlite(session, self.group)
        if are_straight(self.group):
            return self._settle_sqlite(session, self.group, straight=True)
        result, wave = self._wave_sqlite(session, self.group)
        while wave:
            later, wave = self._wave_sqlite(session, wave)
            result.add(later)
        return result

    def _wave_sqlite(
        self, session: SqliteSession, group: Sequence[Settlement]
    ) -> tuple[SettleResult, Sequence[Settlement]]:
        """As `_wave_postgres`."""
        result = self._settle_sqlite(session, group)
        commands = cascade(group, result, self.new_step, self.limits, several_shards=self.several_shards)
        command = _next(commands, None)
        while command is not None:
            command = _next(commands, self._execute_sqlite(session, command))
        return result, next_wave(group, result)

    def _settle_sqlite(
        self, session: SqliteSession, group: Sequence[Settlement], *, straight: bool = False
    ) -> SettleResult:
        """Write settlements; with those linked to them, if their chains are straight."""
        lease_seqs, flows = running(session.fetch(RUNNING, [one.step.step_id for one in group]))
        result = SettleResult()
        done = DoneRows(session.now, self.budget_ms)
        with_breakpoints = set()
        for one in group:
            step_id = one.step.step_id
            if lease_seqs.get(step_id) != one.step.lease_seq:  # fenced off (X1)
                continue
            flow = flows[one.step.flow.flow_id]
            if straight and one.links and not flow.has_breakpoints:
                result.applied.update(done.add_chain(one, flow))
            else:
                result.applied[step_id] = done.add(one, flow)
            if flow.has_breakpoints:
                with_breakpoints.add(step_id)
        done.write(session, self.replica_id)
        result.with_breakpoints = frozenset(with_breakpoints)
        defer_to_breakpoints(group, result)
        return result

    def _execute_sqlite(self, session: SqliteSession, command: Command) -> list[Row]:
        match command:
            case Query():
                return session.fetch(command.text, *command.args)
            case QueryMany():
                return [row for args in command.rows for row in session.fetch(command.text, *args)]
            case InsertSteps():
                insert_sqlite(session, command.steps, self.replica_id, self.budget_ms)
            case InsertFlows():
                self._creating(command).on_sqlite(session)
        return []

    def _creating(self, command: InsertFlows) -> CreateFlows:
        return CreateFlows(flows=command.flows, replica_id=self.replica_id, budget_ms=self.budget_ms)


def _next(commands: Cascade, rows: list[Row] | None) -> Command | None:
    """Send a cascade the rows of its last command; its next command, or nothing at its end."""
    try:
        return next(commands) if rows is None else commands.send(rows)
    except StopIteration:
        return None


def _batch(group: Sequence[Settlement], budget_ms: int) -> SettleBatch:
    steps = [one.step for one in group]
    nexts = [one.successor for one in group]
    ends = [one.end for one in group]
    any_ends = any(ends)
    return SettleBatch(
        step_id=[step.step_id for step in steps],
        lease_seq=[step.lease_seq for step in steps],
        status=[one.status.value for one in group],
        changes=[one.changes_json().decode() for one in group],
        error=_or_nulls([one.error_json for one in group]),
        attempt=[one.attempt for one in group],
        delay=[one.delay_us for one in group],
        flow_id=[step.flow.flow_id for step in steps],
        arrives=[one.arrives for one in group],
        cohort_size=_or_nulls([len(one.branches) or None for one in group]),
        next_id=[new.step_id if new else None for new in nexts],
        next_token=[new.token if new else None for new in nexts],
        next_node=[new.node if new else None for new in nexts],
        next_url=[new.url if new else None for new in nexts],
        next_state=[new.state_json.decode() if new else None for new in nexts],
        next_borrowed=_or_nulls([state_refs.stored(new.refs) if new else None for new in nexts]),
        next_running=[new is not None and new.eager for new in nexts],
        next_delay=[new.delay_us if new else 0 for new in nexts],
        lease=[lease_us(step.flow.time_budget_ms, budget_ms) for step in steps],
        end_status=[end.status.value if end else None for end in ends] if any_ends else [],
        final_state=[end.stored_json.decode() if end else None for end in ends] if any_ends else [],
        final_borrowed=_or_nulls([state_refs.stored(end.refs) if end else None for end in ends]) if any_ends else [],
    )


def _or_nulls(column: list[Any]) -> list[Any]:
    """A column of nulls may be passed empty: `unnest` fills it up, and nothing has to be encoded."""
    return column if any(value is not None for value in column) else []
