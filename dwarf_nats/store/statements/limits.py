"""Limits: permits and their counts (shard 1), and on each shard the steps that wait for one (K1).

A step that has to wait is parked, so that no claim meets it, and has a row in `dwarf_limit_waits`, the queue of its slot.
Queues are read by index from their heads, whatever their length and number. Within a priority their order is fair to fairness
keys: each step gets its `turn` when it begins to wait, a virtual time (start-time fair queueing).

A row there whose step does not wait any more, because its flow was cancelled or deleted, is removed when it is met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.rules.limiting import Count, Denied, Exchange, Exchanged, Over, Permit, Root, Waiting, Want
from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.store.columns import select_list
from dwarf_nats.store.commands import Query, QueryMany
from dwarf_nats.store.dialect import LIVE, PARKED
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row, Tx
    from dwarf_nats.workflow.limit import Limit


class StepState(NamedTuple):
    """The columns of a step that tell whether its permit is over, in the order of `STEP_STATES`."""

    step_id: int
    lease_seq: int
    status: str
    parked: int


Queries = Generator[Query | QueryMany, "list[Row]", None]
MAX_STALE_ROWS = 1_000
"""Rows of a queue that are read at once where some of them have to be removed: as many as a transaction writes elsewhere."""
LIGHTEST_WEIGHT = 1e-6
"""Lower weights count as this one, so that a turn stays a number that can be added to."""
WAITS = f"parked = {Parked.LIMIT:d} and status = 'pending'"

# -- permits, in the database of shard 1
#
# Whoever changes permits locks the counts of their slots first, in the order of the slots.

LOCK_COUNTS = """
select slot, running, reserved, tokens, at, {now} from dwarf_limit_counts where slot {in_text:$1} order by slot {for_update}
"""
NEW_COUNT = """
insert into dwarf_limit_counts (slot, name, running, reserved, tokens, at) values ($1, $2, 0, 0, null, {now})
on conflict (slot) do nothing returning slot
"""
PERMITS = f"select {', '.join(Permit._fields)} from dwarf_permits where permit {{in_text:$1}}"
REMOVE_PERMITS = "delete from dwarf_permits where permit {in_text:$1}"
KEEP_PERMIT = f"""
insert into dwarf_permits ({", ".join(Permit._fields)}) values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (permit) do update set slot = excluded.slot, generation = excluded.generation, started = excluded.started
returning permit
"""
SET_COUNT = """
update dwarf_limit_counts set running = $2, reserved = $3, tokens = $4, at = $5 where slot = $1 returning slot
"""
COUNTS = "select slot, running, reserved, tokens, at, {now} from dwarf_limit_counts where slot {in_text:$1}"
RUNNING = "select name, sum(running) from dwarf_limit_counts group by name"
PERMITS_AFTER = f"select {', '.join(Permit._fields)} from dwarf_permits where permit > $1 order by permit limit $2"
PRUNE_COUNTS = """
delete from dwarf_limit_counts where slot in (
  select slot from dwarf_limit_counts where running = 0 and at < {now} - $1 order by at limit $2 {skip_locked})
"""


def exchange(
    over: Sequence[Over], wants: Sequence[Want], limits: Mapping[str, Limit]
) -> Generator[Query | QueryMany, list[Row], Exchanged]:
    """Take permits back and give others, in one transaction."""
    asked = {one.permit for one in over} | {demand.permit for want in wants for demand in want.demands}
    slots = {one.slot for one in over if one.slot} | {demand.slot for want in wants for demand in want.demands}
    while True:
        now = 0
        counts: dict[str, Count] = {}
        if slots:
            now, counts = yield from _locked_counts(slots)
        found = yield Query(PERMITS, (sorted(asked),))
        permits = {one.permit: one for one in (Permit(*values) for values in found)}
        held = {permit.slot for permit in permits.values()}
        if held <= counts.keys():
            break
        slots |= held  # of permits whose slots nobody knew: their counts are locked, too
    before = {slot: (one.running, one.reserved) for slot, one in counts.items()}
    result = Exchange(limits, counts, permits, now).run(over, wants)
    if result.removed:
        yield Query(REMOVE_PERMITS, (sorted(result.removed),))
    if result.changed:
        yield QueryMany(KEEP_PERMIT, [tuple(result.changed[one]) for one in sorted(result.changed)])
    changed = [
        (slot, one.running, one.reserved, one.tokens, one.at)
        for slot, one in sorted(counts.items())
        if before[slot] != (one.running, one.reserved)
    ]
    if changed:
        yield QueryMany(SET_COUNT, changed)
    return result


def _locked_counts(slots: Collection[str]) -> Generator[Query | QueryMany, list[Row], tuple[int, dict[str, Count]]]:
    """Lock the counts of these slots, and make those that are missing."""
    wanted = sorted(slots)
    rows = yield Query(LOCK_COUNTS, (wanted,))
    if len(rows) < len(wanted):
        known = {slot for slot, *_ in rows}
        yield QueryMany(NEW_COUNT, [(slot, slot.partition("/")[0]) for slot in wanted if slot not in known])
        rows = yield Query(LOCK_COUNTS, (wanted,))
    counts = {slot: Count(running, reserved, tokens, at) for slot, running, reserved, tokens, at, _ in rows}
    return max(now for *_, now in rows), counts


# -- steps that wait, on the shard of each

ROOTS = f"select {select_list(Root)} from dwarf_flows where flow_id {{in:$1}}"
# A step that was never at its task is as if it had not been claimed: its age counts from its first dispatch (X5).
PARK = f"""
update dwarf_steps set status = 'pending', parked = {Parked.LIMIT:d}, claimed_by = null, lease_expires = null,
  updated_at = {{now}}, started_at = case when $3 = 1 then null else started_at end
where step_id = $1 and lease_seq = $2 and status = 'running' and parked = {Parked.NO:d} returning step_id
"""
GIVE_BACK = f"""
update dwarf_steps set status = 'pending', parked = {PARKED}, claimed_by = null, lease_expires = null, updated_at = {{now}},
  not_before = {{now}} + $4, started_at = case when $3 = 1 then null else started_at end
where step_id = $1 and lease_seq = $2 and status = 'running' and parked = {Parked.NO:d} returning step_id
"""
# `name` leads the index: a query without it would read the queue of another order.
FIRST_TURN = """
select slot, priority, turn from dwarf_limit_waits where name = $1 and slot = $2 and priority = $3 order by turn limit 1
"""
LAST_TURN = """
select slot, priority, fairness_key, turn from dwarf_limit_waits
where slot = $1 and priority = $2 and fairness_key = $3 order by turn desc limit 1
"""
QUEUE = """
insert into dwarf_limit_waits (step_id, name, slot, because, priority, fairness_key, turn, since)
values ($1, $2, $3, $4, $5, $6, $7, {now})
on conflict (step_id) do update set name = excluded.name, slot = excluded.slot, because = excluded.because,
  priority = excluded.priority, fairness_key = excluded.fairness_key, turn = excluded.turn
returning step_id
"""
BECAUSE = "update dwarf_limit_waits set because = $2 where step_id = $1 and because <> $2 returning step_id"
_HEAD = """select * from dwarf_limit_waits where name = $1 and slot = $2 order by priority, turn, step_id limit $3"""
HEADS = f"""
select w.step_id, w.slot, w.priority, w.turn, s.lease_seq, s.url, f.fairness_key, f.fairness_weight,
  r.flow_id, r.workflow, r.updated_at, r.tags
from ({_HEAD}) w
left join dwarf_steps s on s.step_id = w.step_id and s.{WAITS.replace(" and ", " and s.")}
left join dwarf_flows f on f.flow_id = s.flow_id
left join dwarf_flows r on r.flow_id = f.root_id
order by w.priority, w.turn, w.step_id
"""
REMOVE_WAITS = "delete from dwarf_limit_waits where step_id {in:$1}"
UNPARK = f"""
update dwarf_steps set parked = {PARKED}, updated_at = {{now}} where step_id {{in:$1}} and {WAITS}
returning step_id, priority, not_before
"""
_NEXT = "from dwarf_limit_waits w where (w.name, w.slot) > ({after}) order by w.name, w.slot, w.priority limit 1"
# From one queue to the next through the index, however long they are.
QUEUES_AFTER = f"""
with recursive q(name, slot, n) as (
  select * from (select w.name, w.slot, 1 {_NEXT.format(after="$1, $2")}) a
  union all
  select (select w.name {_NEXT.format(after="q.name, q.slot")}), (select w.slot {_NEXT.format(after="q.name, q.slot")}), q.n + 1
  from q where q.n < $3 and q.name is not null)
select name, slot from q where name is not null
"""
OF_LIMIT = "select step_id from dwarf_limit_waits where name = $1 order by slot, priority, turn, step_id limit $2"
WAITING = "select name, count(*), {greatest}(0, {now} - min(since)) from dwarf_limit_waits group by name"
STALE_WAITS = f"""
select w.step_id, case when s.step_id is null then 1 else 0 end
from (select step_id from dwarf_limit_waits where step_id > $1 order by step_id limit $2) w
left join dwarf_steps s on s.step_id = w.step_id and s.{WAITS.replace(" and ", " and s.")}
order by w.step_id
"""
STEP_STATES = f"select {', '.join(StepState._fields)} from dwarf_steps where step_id {{in:$1}}"
LIVING_FLOWS = f"select flow_id from dwarf_flows where flow_id {{in:$1}} and status in {LIVE}"


def is_over(permit: Permit, step: StepState | None) -> bool:
    """Tell whether a step can never again be in the claim that a permit is for."""
    if step is None:
        return True
    if step.status == Status.PENDING:
        return step.lease_seq != permit.generation - 1
    return step.status != Status.RUNNING or bool(step.parked) or step.lease_seq != permit.generation


def park(denied: Sequence[Denied]) -> Generator[Query | QueryMany, list[Row], list[int]]:
    """Put claimed steps into the queues of the slots that denied them; return those that were still claimed so."""
    rows = sorted((one.step_id, one.lease_seq, int(one.fresh)) for one in denied)  # X10
    parked = {step_id for (step_id,) in (yield QueryMany(PARK, list(rows)))}
    yield from _queue([one for one in denied if one.step_id in parked])
    return sorted(parked)


def move(waiting: Sequence[Denied]) -> Queries:
    """Move steps that wait to the queues of other slots, or note another reason in their own."""
    if waiting:
        yield from _queue(waiting)


def _queue(denied: Sequence[Denied]) -> Queries:
    if not denied:
        return
    lines = sorted({(one.name, one.slot, one.priority) for one in denied})
    keys = sorted({(one.slot, one.priority, one.fairness_key) for one in denied})
    found = yield QueryMany(FIRST_TURN, list(lines))
    first = {(slot, priority): turn for slot, priority, turn in found}
    found = yield QueryMany(LAST_TURN, list(keys))
    last = {(slot, priority, fairness_key): turn for slot, priority, fairness_key, turn in found}
    rows = []
    for one in denied:
        key = (one.slot, one.priority, one.fairness_key)
        turn = first.get((one.slot, one.priority), 0.0)
        if key in last:
            turn = max(turn, last[key] + 1.0 / max(one.weight, LIGHTEST_WEIGHT))
        last[key] = turn
        rows.append((one.step_id, one.name, one.slot, one.because, one.priority, one.fairness_key, turn))
    yield QueryMany(QUEUE, rows)


def give_back(steps: Sequence[tuple[int, int, bool]], delay_us: int) -> Queries:
    """Make claimed steps, `(step id, lease generation, fresh)`, pending again after a delay."""
    yield QueryMany(GIVE_BACK, [(step_id, seq, int(fresh), delay_us) for step_id, seq, fresh in sorted(steps)])


def heads(wanted: Mapping[str, int]) -> Generator[Query | QueryMany, list[Row], list[Waiting]]:
    """Read the heads of queues, up to so many of each slot. Rows whose steps wait no more are removed and passed over."""
    found: list[Waiting] = []
    left = dict(wanted)
    while left:
        rows = yield QueryMany(HEADS, [(slot.partition("/")[0], slot, number) for slot, number in left.items()])
        read = [Waiting(*values) for values in rows]
        stale = [one for one in read if one.lease_seq is None]
        if stale:
            yield Query(REMOVE_WAITS, (sorted(one.step_id for one in stale),))
        again = {one.slot for one in stale}
        found += [one for one in read if one.slot not in again]
        # More at a time, as whole queues may have been cancelled.
        left = {slot: min(2 * left[slot], MAX_STALE_ROWS) for slot in again}
    return _first_of_each(found, wanted)


def _first_of_each(found: Sequence[Waiting], wanted: Mapping[str, int]) -> list[Waiting]:
    taken: Counter[str] = Counter()
    kept = []
    for one in found:
        taken[one.slot] += 1
        if taken[one.slot] <= wanted[one.slot]:
            kept.append(one)
    return kept


def unpark(step_ids: Sequence[int]) -> Generator[Query | QueryMany, list[Row], list[ReadyStep]]:
    """Make waiting steps ready; return them."""
    ids = sorted(step_ids)
    rows = yield Query(UNPARK, (ids,))
    yield Query(REMOVE_WAITS, (ids,))
    return [ReadyStep(*row) for row in rows]


async def release(tx: Tx, name: str, number: int) -> tuple[int, list[ReadyStep]]:
    """Make up to `number` steps ready that wait for a limit which is no more: how many rows went, and the steps."""
    ids = sorted(step_id for (step_id,) in await tx.fetch(OF_LIMIT, name, number))
    if not ids:
        return 0, []
    rows = await tx.fetch(UNPARK, ids)
    await tx.fetch(REMOVE_WAITS, ids)
    return len(ids), [ReadyStep(*row) for row in rows]


async def clear_stale(tx: Tx, after: int, number: int) -> int:
    """Look through some queue rows by their steps, and remove those that wait no more; where to go on, 0 at the end."""
    rows = await tx.fetch(STALE_WAITS, after, number)
    stale = [step_id for step_id, gone in rows if gone]
    if stale:
        await tx.fetch(REMOVE_WAITS, stale)
    return max(step_id for step_id, _ in rows) if len(rows) == number else 0
