"""Events: signalled, kept, and handed to the steps that wait for them (E1-E3).

A step that waits is running, `parked` as for an event, with `wait_event` and `wait_key`. Everything about one topic takes the
topic's lock first, before any row (X10): a signal that finds no step and a step that finds no event never miss each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports.events import Delivered, Signalled
from dwarf_nats.rules.events import Ask, EventState, NewEvent, StoredEvent, Topic, event_text, visits_text
from dwarf_nats.rules.settlement import Settlement, SettleResult, WokenStep
from dwarf_nats.store.commands import Cascade, Query, QueryMany, queried
from dwarf_nats.store.dialect import PARKED, Statement
from dwarf_nats.store.statements.keys import check_count
from dwarf_nats.store.statements.trees import ready_steps
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row, Tx

OWN = 0
"""The home of an event among the shards that were visited."""
COLUMNS = ", ".join(StoredEvent.__struct_fields__)
TOPIC = "event = $1 and key = $2"
ONE = f"{TOPIC} and number = $3"
REMOVAL_MARGIN_US = 60_000_000
"""Microseconds after its time at which an event is removed: longer than any transaction."""
# SQLite has one transaction at a time.
LOCK = Statement(postgres="select pg_advisory_xact_lock($1)", sqlite="select $1")
LOCK_ALL = "select pg_advisory_xact_lock(one) from unnest($1::bigint[]) one"

# -- steps that wait

WAITING = f"parked = {Parked.EVENT:d} and wait_event = $1 and wait_key = $2"


# Materialized, here and below: a sub-select with a limit may be run once for each row, and pick other rows each time.
def _wake(limit: str) -> str:
    return f"""
with found as materialized (
  select step_id from dwarf_steps where {WAITING} order by step_id {limit} {{for_update}})
update dwarf_steps set status = 'pending', parked = {PARKED}, event = $3, wait_until = null,
  not_before = {{now}}, updated_at = {{now}}
where parked = {Parked.EVENT:d} and step_id in (select step_id from found)
returning step_id, priority, not_before
"""


WAKE_ALL = _wake("")
WAKE_ONE = _wake("limit 1")
WAITS_SINCE = f"select updated_at from dwarf_steps where {WAITING} order by step_id limit 1"
# The generation moves on, so that the same settlement written twice does not wait twice (X1).
PARK = f"""
update dwarf_steps set parked = {Parked.EVENT:d}, lease_seq = lease_seq + 1, event = null,
  wait_event = $1, wait_key = $2, wait_until = {{now}} + $4
where step_id = $3 returning step_id, lease_seq
"""
RECEIVE = f"""
update dwarf_steps set status = '{Status.PENDING}', parked = {PARKED}, lease_seq = lease_seq + 1, event = $4,
  wait_event = $1, wait_key = $2, wait_until = null, not_before = {{now}}, updated_at = {{now}}
where step_id = $3 returning step_id, priority
"""

# -- events

KEPT = f"from dwarf_events where {TOPIC} and state = '{EventState.KEPT}' and keep_until > {{now}}"
ANY_KEPT = f"select event, key {KEPT} order by number limit 1"
OLDEST_KEPT = f"select {COLUMNS} {KEPT} order by number limit 1"
COUNTS = "(keep_until > {now} or touched_at is not null)"
KNOWN = f"select {COLUMNS} from dwarf_events where {TOPIC} and id = $3 and {COUNTS}"
FORGET = f"delete from dwarf_events where {TOPIC} and id = $3 and not {COUNTS}"
NEXT_NUMBER = (
    f"select {{now}}, coalesce((select number from dwarf_events where {TOPIC} order by number desc limit 1), 0) + 1"
)
INSERT = f"""
insert into dwarf_events ({COLUMNS}, touched_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, null, case when $13 = 1 then {{now}} end)
"""
DELETE = f"delete from dwarf_events where {ONE}"
DONE = f"update dwarf_events set state = '{EventState.DONE}', data = '', touched_at = null where {ONE}"
# Whoever found an event in time has long handed it out, so nobody finds one and loses it to this.
REMOVE_OLD = f"""
with old as materialized (
  select event, key, number from dwarf_events where keep_until <= {{now}} - {REMOVAL_MARGIN_US} and touched_at is null
  order by keep_until limit $1 {{skip_locked}})
delete from dwarf_events where (event, key, number) in (select event, key, number from old) returning number
"""
ASK = (
    "insert into dwarf_event_asks (step_id, lease_seq, event, key, touched_at) values ($1, $2, $3, $4, {now})"
    " returning step_id"
)


async def signal(tx: Tx, new: NewEvent, *, shards: int) -> Signalled:
    """Hand an event to every step that waits for it (see `ports.events`). Raises `keys.OtherCount`."""
    topic = new.topic
    await tx.fetch(LOCK, topic.lock)
    if shards > 1:
        await check_count(tx, shards)
    if new.repeatable:
        for row in await tx.fetch(KNOWN, *topic, new.id):
            return Signalled(stored_event(row), ())
        await tx.fetch(FORGET, *topic, new.id)
    ((now, number),) = await tx.fetch(NEXT_NUMBER, *topic)
    due = ready_steps(await tx.fetch(WAKE_ALL, *topic, event_text(new.id, new.data, now)))
    event = _first_state(new, now, number, delivered=len(due), shards=shards)
    is_open = event.state == EventState.OPEN
    if is_open or event.state == EventState.KEPT or (new.repeatable and new.keep_ms):
        values = [getattr(event, name) for name in StoredEvent.__struct_fields__ if name not in ("turn", "shard")]
        await tx.fetch(INSERT, *values, int(is_open))
    return Signalled(event, due)


def _first_state(new: NewEvent, now: int, number: int, *, delivered: int, shards: int) -> StoredEvent:
    """Return an event as it is once the shard's own steps have it."""
    event = StoredEvent(
        event=new.topic.event,
        key=new.topic.key,
        number=number,
        id=new.id,
        repeatable=int(new.repeatable),
        data=new.data,
        at=now,
        keep_until=now + new.keep_ms * 1000,
        state=EventState.OPEN,
        delivered=None,
        kept=None,
        visited=visits_text({OWN: delivered}),
        turn=0,
        shard=None,
    )
    if shards > 1:
        return event
    event.delivered, event.kept = delivered, int(not delivered and new.keep_ms > 0)
    event.state = EventState.KEPT if event.kept else EventState.DONE
    if event.state == EventState.DONE:
        event.data = ""
    return event


async def find(tx: Tx, topic: Topic, event_id: str) -> StoredEvent | None:
    """Return the event whose id counts already."""
    return next((stored_event(row) for row in await tx.fetch(KNOWN, *topic, event_id)), None)


async def hand_out(tx: Tx, topic: Topic) -> Delivered:
    """Hand the oldest kept event to one step that waits, if there are both."""
    await tx.fetch(LOCK, topic.lock)
    for row in await tx.fetch(OLDEST_KEPT, *topic):
        event = stored_event(row)
        due = ready_steps(await tx.fetch(WAKE_ONE, *topic, event.text))
        if due:
            await queried(tx, consume(event))
        return Delivered(len(due), due)
    return Delivered(0, ())


def consume(event: StoredEvent) -> Cascade:
    """Remove an event that was handed out, or only its data if its id may be repeated."""
    yield Query(DONE if event.repeatable else DELETE, (event.event, event.key, event.number))


def stored_event(row: Row) -> StoredEvent:
    """Return a row of an event as a value."""
    return StoredEvent(**dict(zip(StoredEvent.__struct_fields__, row, strict=True)))


# -- in a settlement


def locks_of(group: Sequence[Settlement]) -> list[int]:
    """Return the locks of what a group begins to wait for, in the order in which everybody takes them."""
    return sorted({Topic(one.event_wait.event, one.event_wait.key).lock for one in group if one.event_wait is not None})


def begin_waits(group: Sequence[Settlement], settled: SettleResult, *, several_shards: bool) -> Cascade:
    """Hand the oldest kept event to each step that begins to wait, or park the step until one comes (E2, E3).

    With several shards, it is noted that the others are to be asked for kept events.
    """
    if not group:
        return
    topics = sorted({_topic(one) for one in group})
    with_events = {Topic(*row) for row in (yield QueryMany(ANY_KEPT, [tuple(topic) for topic in topics]))}
    parked: dict[int, tuple[object, ...]] = {}
    for one in sorted(group, key=lambda one: one.step.step_id):
        topic, step_id = _topic(one), one.step.step_id
        found = (yield Query(OLDEST_KEPT, tuple(topic))) if topic in with_events else ()
        if found:
            event = stored_event(found[0])
            yield from consume(event)
            rows = yield Query(RECEIVE, (*topic, step_id, event.text))
            settled.woken += [WokenStep(*row) for row in rows]
        else:
            parked[step_id] = (*topic, step_id, one.wait_us)
    if not parked:
        return
    rows = yield QueryMany(PARK, list(parked.values()))
    if several_shards:
        topic_of = {one.step.step_id: _topic(one) for one in group}
        yield QueryMany(ASK, [(step_id, lease_seq, *topic_of[step_id]) for step_id, lease_seq in rows])
        settled.asking += [Ask(step_id, lease_seq, topic_of[step_id]) for step_id, lease_seq in rows]


def _topic(one: Settlement) -> Topic:
    assert one.event_wait is not None
    return Topic(one.event_wait.event, one.event_wait.key)
