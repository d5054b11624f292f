"""Read what the living steps of flows wait for (Q2).

Living steps are found through `dwarf_steps_flow`: an index of their own would have to be written with every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.living import FailedStep, Living, LivingFlow, LivingGroup, LivingStep, Moment, SeenReplica
from dwarf_nats.rules.pauses import with_payload
from dwarf_nats.store.columns import select_list
from dwarf_nats.store.dialect import ENDED, UNFINISHED
from dwarf_nats.store.statements.ready import READY, READY_ORDER
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.store.database import Row, Tx

MAX_FLOWS = 20_000
"""Flows of a tree that are looked at: beyond that, steps are left out, and the explanation says so."""
RECENT_STEPS = 200
"""Steps of a flow, from its last one backwards, among which a page of flows looks for living ones first."""
MAX_LEVELS = 50
"""Levels of sub-workflows through which the cause of a failure is followed."""
# A compensation whose turn has not come waits for the one that is under way, and is no wait of its own.
_LIVES = f"s.status in {UNFINISHED} and (s.compensates is null or s.status <> 'created')"
_SLEPT = "case when s.event is null then 0 else 1 end"
_STEP = select_list(LivingStep, "s", payload_size="{size:s.interrupt_payload}", slept=_SLEPT)
_BESIDE = """
left join dwarf_replicas r on r.replica_id = s.claimed_by
left join dwarf_tripped t on t.url = s.url
left join dwarf_limit_waits w on w.step_id = s.step_id
left join dwarf_steps p on p.step_id = s.spawn_id and s.spawn_id <> 0
"""
_BEST = f"(select priority from dwarf_steps where {READY} order by {READY_ORDER} limit 1)"
MOMENT = f"select {{now}}, {_BEST}"
REPLICAS = "select name, seen_at from dwarf_replicas where seen_at > {now} - $1 order by replica_id"
# Said so, the index of living flows, of the whole shard, does not serve it: only that of the tree does.
FLOWS = f"""
select {select_list(LivingFlow)} from dwarf_flows
where root_id = $1 and surgraph_flow_id is not null and status not in {ENDED} order by surgraph_step_id limit $2
"""
# A step that waits for a flow that lives, one of `$2`, is explained by the steps of that flow.
_LEAVES = f"""
from dwarf_steps s {_BESIDE}
where s.flow_id {{in:$1}} and {_LIVES} and (s.parked <> {Parked.CHILD:d} or not (s.step_id {{in:$2}}))
"""
STEPS = f"select {_STEP} {_LEAVES} order by s.updated_at, s.step_id limit $3"
_IS_DUE = "case when s.not_before > {now} then 1 else 0 end"
GROUPS = f"""
select s.url, s.status, s.parked, max(s.not_before), max(s.attempt), max({{size:s.interrupt_payload}}), max({_SLEPT}),
  max(t.cause), count(*)
{_LEAVES}
group by s.url, s.status, s.parked, {_IS_DUE}, case when s.attempt > 0 then 1 else 0 end, {_SLEPT},
  case when s.interrupt_payload is null then 0 else 1 end
"""
CALLERS = f"select {_STEP} from dwarf_steps s {_BESIDE} where s.step_id {{in:$1}}"
PAYLOADS = "select step_id, interrupt_payload from dwarf_steps where step_id {in:$1} and interrupt_payload is not null"


def _oldest(steps: str) -> str:
    """The oldest living step of each of the flows `$1`, among `steps` of it."""
    return f"""
select {{now}}, {_BEST}, {_STEP} from dwarf_flows f
join dwarf_steps s on s.step_id = (
  select s.step_id from ({steps}) s where {_LIVES} order by s.updated_at, s.step_id limit 1)
{_BESIDE}
where f.flow_id {{in:$1}}
"""


_OF_FLOW = "select step_id, status, compensates, updated_at from dwarf_steps where flow_id = f.flow_id"
OLDEST_RECENT = _oldest(f"{_OF_FLOW} order by depth desc, step_id desc limit {RECENT_STEPS}")
OLDEST = _oldest(_OF_FLOW)
FAILED_STEP = """
select step_id, token, node, error, count(*) over () from dwarf_steps
where flow_id = $1 and status = 'failed' and compensates is null order by updated_at, step_id limit 1
"""
FAILED_CHILD = """
select flow_id from dwarf_flows
where root_id = $1 and surgraph_step_id = $2 and surgraph_flow_id is not null and status = 'failed' limit 1
"""


async def living(tx: Tx, flow: FlowRow, *, limit: int, replica_timeout_us: int) -> Living:
    """Read the living part of a tree below a flow, with at most `limit` steps beside those that called others."""
    ((now, best),) = await tx.fetch(MOMENT)
    rows = [LivingFlow(*row) for row in await tx.fetch(FLOWS, flow.root_id, MAX_FLOWS + 1)]
    flows = {one.flow_id: one for one in _below(flow, rows[:MAX_FLOWS])}
    called = [one.surgraph_step_id for one in flows.values() if one.flow_id != flow.flow_id]
    found = _steps(await tx.fetch(STEPS, list(flows), called, limit + 1))
    more = len(found) > limit or len(rows) > MAX_FLOWS
    steps = found[:limit]
    above = _above(flows, steps)
    callers = _steps(await tx.fetch(CALLERS, above)) if above else []
    shown = _with_payload(steps)
    payloads = await tx.fetch(PAYLOADS, shown) if shown else []
    return Living(
        moment=Moment(now, best),
        flows=flows,
        steps=steps,
        callers={one.step_id: one for one in callers},
        payloads={step_id: text for step_id, text in payloads if text is not None},
        replicas=[SeenReplica(*row) for row in await tx.fetch(REPLICAS, replica_timeout_us)],
        groups=[LivingGroup(*row) for row in await tx.fetch(GROUPS, list(flows), called)] if more else [],
        more=more,
    )


def _below(flow: FlowRow, rows: Sequence[LivingFlow]) -> list[LivingFlow]:
    """The flow, and those of its tree that it called, directly or not."""
    called: dict[int | None, list[LivingFlow]] = {}
    for row in rows:
        called.setdefault(row.surgraph_flow_id, []).append(row)
    own = LivingFlow(
        flow_id=flow.flow_id,
        token=flow.token,
        workflow=flow.workflow,
        graph_digest=flow.graph_digest,
        surgraph_flow_id=flow.surgraph_flow_id,
        surgraph_step_id=flow.surgraph_step_id,
        start_at=flow.start_at,
        time_budget_ms=flow.time_budget_ms,
    )
    order = [own]
    for one in order:
        order += called.get(one.flow_id, ())
    return order


def _above(flows: dict[int, LivingFlow], steps: Iterable[LivingStep]) -> list[int]:
    """The steps that wait for the flows of these steps, directly or not."""
    above: dict[int, None] = {}
    for step in steps:
        at = flows.get(step.flow_id)
        while at is not None and at.surgraph_step_id is not None and at.surgraph_flow_id in flows:
            if at.surgraph_step_id in above:
                break
            above[at.surgraph_step_id] = None
            at = flows[at.surgraph_flow_id]
    return list(above)


def _with_payload(steps: Sequence[LivingStep]) -> list[int]:
    """The steps whose payloads are shown: all of them together are no larger than those of an outcome."""
    paused = [step for step in steps if step.payload_size is not None]
    shown = with_payload(step.payload_size or 0 for step in paused)
    return [step.step_id for step, whole in zip(paused, shown, strict=True) if whole]


async def oldest(tx: Tx, flow_ids: Sequence[int]) -> tuple[Moment | None, list[LivingStep]]:
    """Read the oldest living step of each flow, if it has one; no moment if none has.

    One statement reads the last steps of each flow. Only for flows of which none of these lives, a second one reads all.
    """
    rows = list(await tx.fetch(OLDEST_RECENT, list(flow_ids)))
    steps = _steps(row[2:] for row in rows)
    missing = set(flow_ids) - {step.flow_id for step in steps}
    if missing:
        more = await tx.fetch(OLDEST, sorted(missing))
        rows += more
        steps += _steps(row[2:] for row in more)
    return (Moment(*rows[0][:2]) if rows else None), steps


async def failure(tx: Tx, flow_id: int, root_id: int) -> list[FailedStep]:
    """Read the first step that failed in a flow, then that of the flow which it had called, and so on."""
    path: list[FailedStep] = []
    at: int | None = flow_id
    while at is not None and len(path) < MAX_LEVELS:
        rows = await tx.fetch(FAILED_STEP, at)
        if not rows:
            break
        path.append(FailedStep(*rows[0]))
        children = await tx.fetch(FAILED_CHILD, root_id, path[-1].step_id)
        at = children[0][0] if children else None
    return path


def _steps(rows: Iterable[Row]) -> list[LivingStep]:
    return [LivingStep(*row) for row in rows]
