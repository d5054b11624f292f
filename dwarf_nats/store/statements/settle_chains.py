"""Settle straight chains in one statement: results that follow one on the other, each of a step that is not written yet.

The results of a pipelined flow are such a chain, and so are most of those that the engine carries out at once. Their steps are
inserted as they are in the end, completed, instead of one wave of statements for each of them. What else may follow from a
result, such as branches or a pause, is left to the waves (`settle.Settle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.rules.settlement import Applied, SettleResult
from dwarf_nats.store.columns import PACKED_FIRST, kinds_of, pack, packed, scalars
from dwarf_nats.store.dialect import LIVE, NOW, PARKED, parked_if_tripped
from dwarf_nats.store.statements.cascade import defer_to_breakpoints, needs_cascade
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.store.database import PostgresSession


def are_straight(group: Sequence[Settlement]) -> bool:
    """Tell whether nothing follows from a group but the links of its chains, each of which is straight."""
    members = [one for head in group for one in head.chain()]
    return not needs_cascade(members, but_links=True) and all(_is_straight(one) for one in members if one.links)


def _is_straight(one: Settlement) -> bool:
    """Tell whether a settlement is followed by one link, which completes the step that it creates running."""
    new, link = one.successor, one.links[0]
    return (
        len(one.links) == 1
        and new is not None
        and new.eager
        and not new.delay_us
        and new.step_id == link.step.step_id
        and link.status is Status.COMPLETED
        and link.error_json is None
        and (link.end is None or link.end.status is Status.COMPLETED)
    )


class ChainBatch(NamedTuple):
    """The first settlement of each chain, column by column, with the end of its flow, which the last one brings."""

    step_id: Annotated[list[int], "bigint"]
    lease_seq: Annotated[list[int], "int"]
    status: Annotated[list[str], "text"]
    changes: Annotated[list[str], "text"]
    error: Annotated[list[str | None], "text"]
    attempt: Annotated[list[int], "int"]
    delay: Annotated[list[int], "bigint"]
    flow_id: Annotated[list[int], "bigint"]
    next_id: Annotated[list[int | None], "bigint"]
    linked: Annotated[list[bool], "bool"]
    end_status: Annotated[list[str | None], "text"]
    final_state: Annotated[list[str | None], "text"]
    final_borrowed: Annotated[list[str | None], "text"]


class BornBatch(NamedTuple):
    """The steps that chains create, column by column: completed ones, and the last of each, if it does not end its flow.

    `first_of`: the step whose settlement begins the chain. `direct`: that one creates it.
    """

    first_of: Annotated[list[int], "bigint"]
    direct: Annotated[list[bool], "bool"]
    born_id: Annotated[list[int], "bigint"]
    of_flow: Annotated[list[int], "bigint"]
    depth: Annotated[list[int], "int"]
    token: Annotated[list[str], "text"]
    node: Annotated[list[str], "text"]
    url: Annotated[list[str], "text"]
    state: Annotated[list[str], "text"]
    borrowed: Annotated[list[str | None], "text"]
    born_status: Annotated[list[str], "text"]
    born_delay: Annotated[list[int], "bigint"]
    lease: Annotated[list[int], "bigint"]
    predecessor_id: Annotated[list[int], "bigint"]
    successor_id: Annotated[list[int | None], "bigint"]
    born_changes: Annotated[list[str], "text"]
    born_attempt: Annotated[list[int], "int"]
    spawn_id: Annotated[list[int], "bigint"]
    ordinal: Annotated[list[int], "int"]
    priority: Annotated[list[int], "int"]
    fairness_key: Annotated[list[str], "text"]
    fairness_weight: Annotated[list[float], "float8"]


(_REPLICA,) = scalars(1, ChainBatch, BornBatch, first=PACKED_FIRST)
_KINDS = kinds_of(ChainBatch, BornBatch)
SETTLE_CHAINS = f"""
with r as (select * from {packed(ChainBatch)}),
n as (select * from {packed(BornBatch, alias="n", first=PACKED_FIRST + len(ChainBatch._fields))}),
-- As in `settle`.
done as (
  update dwarf_steps s set
    status = case when f.status in {LIVE} then r.status else f.status end,
    changes = r.changes, attempt = r.attempt, claimed_by = null, lease_expires = null,
    error = coalesce(r.error, case when r.status = 'pending' then s.error end),
    successor_id = case when f.status in {LIVE} then r.next_id end,
    not_before = case when r.status = 'pending' then {NOW} + r.delay else s.not_before end,
    arrived = 0, cohort_size = null, updated_at = {NOW},
    parked = case when r.status = 'pending' and f.status in {LIVE} then {PARKED} else {Parked.NO:d} end
  from r join dwarf_flows f on f.flow_id = r.flow_id
  where s.step_id = r.step_id and s.lease_seq = r.lease_seq and s.status || '' = 'running'
  returning s.step_id, s.flow_id, r.error, r.linked, r.end_status, r.final_state, r.final_borrowed,
    f.status in {LIVE} as alive, f.breakpoints is not null as has_breakpoints, f.updated_at as flow_updated_at, f.tags),
born as (
  insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, lease_seq, claimed_by, lease_expires,
    not_before, predecessor_id, successor_id, changes, attempt, spawn_id, ordinal, priority, fairness_key, fairness_weight,
    created_at, started_at, updated_at, borrowed, parked)
  select born_id, of_flow, depth, token, node, url, state,
    case when stops then 'pending' else born_status end, case when waits then 0 else 1 end,
    case when born_status = 'running' and not stops then {_REPLICA}::bigint end,
    case when born_status = 'running' and not stops then {NOW} + lease end, {NOW} + born_delay,
    predecessor_id, case when not stops then successor_id end, case when stops then '{{}}' else born_changes end,
    case when stops then 0 else born_attempt end, spawn_id, ordinal, priority, fairness_key, fairness_weight, {NOW},
    case when not waits then {NOW} end, {NOW}, borrowed,
    case when waits then {parked_if_tripped("url")} else {Parked.NO:d} end
  from (
    -- A flow with breakpoints goes no further than the first of the steps, which is born pending: its claim looks at the
    -- breakpoints (O12).
    select n.*, stops, stops or born_status = 'pending' as waits
    from n cross join lateral (
      -- In the list of a query of its own, where each is a hash that is filled once: as conditions they would become joins.
      select n.first_of in (select step_id from done where alive) as lives,
        n.first_of in (select step_id from done where has_breakpoints) as stops offset 0) b
    where lives and (n.direct or not stops)) x),
ended as (
  update dwarf_flows f set status = d.end_status, final_state = d.final_state, final_borrowed = d.final_borrowed,
    updated_at = greatest({NOW}, f.updated_at + 1), error = case when d.end_status = 'failed' then d.error end
  from done d
  where d.end_status is not null and d.alive and not (d.linked and d.has_breakpoints) and f.flow_id = d.flow_id
    and f.status in {LIVE}
  returning f.flow_id)
select d.step_id, d.alive, {NOW}, d.has_breakpoints, d.flow_id in (select flow_id from ended),
  greatest({NOW}, d.flow_updated_at + 1), case when d.end_status is not null then d.tags end
from done d
"""


async def settle_chains(
    session: PostgresSession, group: Sequence[Settlement], replica_id: int, budget_ms: int
) -> SettleResult:
    """Write a group of straight chains on PostgreSQL."""
    lines = [list(head.chain()) for head in group]
    columns = (*_chain_batch(lines), *_born_batch(lines, budget_ms))
    rows = await session.fetch(SETTLE_CHAINS, *pack(columns, _KINDS), replica_id)
    found = {step_id: tuple(values) for step_id, *values in rows}
    result = SettleResult()
    with_breakpoints = set()
    for line in lines:
        step_id = line[0].step.step_id
        if step_id not in found:  # fenced off (X1)
            continue
        alive, at, has_breakpoints, has_ended, ended_at, tags = found[step_id]
        if has_breakpoints:
            with_breakpoints.add(step_id)
        for one in line if alive and not has_breakpoints else line[:1]:
            result.applied[one.step.step_id] = (
                Applied(alive, at) if one.end is None else Applied(alive and has_ended, ended_at, tags)
            )
    result.with_breakpoints = frozenset(with_breakpoints)
    defer_to_breakpoints(group, result)
    return result


def _chain_batch(lines: Sequence[Sequence[Settlement]]) -> ChainBatch:
    heads = [line[0] for line in lines]
    ends = [line[-1].end for line in lines]
    return ChainBatch(
        step_id=[one.step.step_id for one in heads],
        lease_seq=[one.step.lease_seq for one in heads],
        status=[one.status.value for one in heads],
        changes=[one.changes_json().decode() for one in heads],
        error=[one.error_json for one in heads],
        attempt=[one.attempt for one in heads],
        delay=[one.delay_us for one in heads],
        flow_id=[one.step.flow.flow_id for one in heads],
        next_id=[one.successor.step_id if one.successor else None for one in heads],
        linked=[len(line) > 1 for line in lines],
        end_status=[end.status.value if end else None for end in ends],
        final_state=[end.stored_json.decode() if end else None for end in ends],
        final_borrowed=[state_refs.stored(end.refs) if end else None for end in ends],
    )


def _born_batch(lines: Sequence[Sequence[Settlement]], budget_ms: int) -> BornBatch:
    born = BornBatch(*([] for _ in BornBatch._fields))
    for line in lines:
        for one, link in zip(line, [*line[1:], None], strict=True):
            new = one.successor
            if new is None:
                continue
            flow = one.step.flow
            born.first_of.append(line[0].step.step_id)
            born.direct.append(one is line[0])
            born.born_id.append(new.step_id)
            born.of_flow.append(flow.flow_id)
            born.depth.append(new.depth)
            born.token.append(new.token)
            born.node.append(new.node)
            born.url.append(new.url)
            born.state.append(new.state_json.decode())
            born.borrowed.append(state_refs.stored(new.refs))
            born.born_status.append("pending" if not new.eager else "running" if link is None else "completed")
            born.born_delay.append(new.delay_us)
            born.lease.append(lease_us(flow.time_budget_ms, budget_ms))
            born.predecessor_id.append(one.step.step_id)
            born.successor_id.append(link.successor.step_id if link is not None and link.successor else None)
            born.born_changes.append("{}" if link is None else link.changes_json().decode())
            born.born_attempt.append(0 if link is None else link.attempt)
            born.spawn_id.append(new.spawn_id)
            born.ordinal.append(new.ordinal)
            born.priority.append(flow.priority)
            born.fairness_key.append(flow.fairness_key)
            born.fairness_weight.append(flow.fairness_weight)
    return born
