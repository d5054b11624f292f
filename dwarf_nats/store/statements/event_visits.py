"""Events between several shards (E1): visits of signals, reservations of kept events, and what is left to do after a crash.

An event lies at its home. An open one visits the other shards. Each records the visit in the transaction that hands out the
event. A kept one is reserved before a step of another shard receives it. So whatever was begun can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports.events import Delivered
from dwarf_nats.rules.events import Ask, EventState, StoredEvent, Topic, visits_text
from dwarf_nats.store.commands import queried
from dwarf_nats.store.dialect import Statement
from dwarf_nats.store.statements.events import (
    COLUMNS,
    LOCK,
    OLDEST_KEPT,
    ONE,
    TOPIC,
    WAKE_ALL,
    WAKE_ONE,
    consume,
    stored_event,
)
from dwarf_nats.store.statements.trees import ready_steps

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx


def _taken(table: str, where: str, columns: str) -> Statement:
    """Take up rows that nobody has taken up lately, those left longest first. They are found again by where they lie."""
    text = f"""
with found as materialized (
  select {{row}} as place from {table} where {where} and touched_at <= {{{{now}}}} - $1
  order by touched_at limit $2 {{{{skip_locked}}}})
update {table} set touched_at = {{{{now}}}} where {{row}} {{again}} returning {columns}
"""
    return Statement(
        postgres=text.format(row="ctid", again="= any(array(select place from found))"),
        sqlite=text.format(row="rowid", again="in (select place from found)"),
    )


GET = f"select {COLUMNS} from dwarf_events where {ONE} and id = $4"
ANSWER = f"""
update dwarf_events set visited = $4, delivered = coalesce(delivered, $5), kept = coalesce(kept, $6), touched_at = {{now}}
where {ONE} and state = '{EventState.OPEN}'
"""
KEEP = f"""
update dwarf_events set state = '{EventState.KEPT}', delivered = coalesce(delivered, 0), kept = coalesce(kept, 1),
  touched_at = {{now}}
where {ONE}
"""
RESERVE = f"""
update dwarf_events set state = '{EventState.RESERVED}', turn = turn + 1, shard = $4, touched_at = {{now}}
where {ONE} and state = '{EventState.KEPT}' and keep_until > {{now}} returning {COLUMNS}
"""
RESERVED = f"select repeatable from dwarf_events where {ONE} and state = '{EventState.RESERVED}' and turn = $4"
KEEP_AGAIN = f"update dwarf_events set state = '{EventState.KEPT}', shard = null, touched_at = {{now}} where {ONE}"
MATCHED = f"update dwarf_events set touched_at = null where {ONE} and turn = $4 and state = '{EventState.KEPT}'"
TAKE_UNFINISHED = _taken("dwarf_events", "touched_at is not null", COLUMNS)
VISITED = f"select delivered from dwarf_event_visits where {TOPIC} and id = $3 and turn = $4"
VISIT = "insert into dwarf_event_visits (event, key, id, turn, delivered, at) values ($1, $2, $3, $4, $5, {now})"
OLD_VISITS = (
    "select event, key, id, turn from dwarf_event_visits where at <= {now} - $1"
    " order by at, event, key, id, turn limit $2"
)
REMOVE_VISIT = f"delete from dwarf_event_visits where {TOPIC} and id = $3 and turn = $4"
REPEATABLE = f"""
select 1 from dwarf_events where {TOPIC} and id = $3 and turn = $4
  and state = case when $4 = 0 then '{EventState.OPEN}' else '{EventState.RESERVED}' end
"""
TAKE_ASKS = _taken("dwarf_event_asks", "true", "step_id, lease_seq, event, key")
CLOSE_ASK = "delete from dwarf_event_asks where step_id = $1 and lease_seq = $2"


async def deliver(tx: Tx, event: StoredEvent, turn: int) -> Delivered:
    """Hand an event of another shard to the steps here, and record it (see `ports.events`)."""
    topic = event.topic
    await tx.fetch(LOCK, topic.lock)
    for (delivered,) in await tx.fetch(VISITED, *topic, event.id, turn):
        return Delivered(delivered, ())
    due = ready_steps(await tx.fetch(WAKE_ONE if turn else WAKE_ALL, *topic, event.text))
    await tx.fetch(VISIT, *topic, event.id, turn, len(due))
    return Delivered(len(due), due)


async def answer(tx: Tx, event: StoredEvent, visits: dict[int, int], *, kept: bool) -> StoredEvent | None:
    """Note the visits so far and, unless it was noted before, the answer."""
    await tx.fetch(LOCK, event.topic.lock)
    await tx.fetch(ANSWER, *_one(event), visits_text(visits), sum(visits.values()), int(kept))
    return await _found(tx, event)


async def finish(tx: Tx, event: StoredEvent, visits: dict[int, int]) -> StoredEvent | None:
    """Close an open event that has visited all shards (see `ports.events`)."""
    await tx.fetch(LOCK, event.topic.lock)
    found = await _found(tx, event)
    if found is None or found.state != EventState.OPEN:
        return found
    delivered = sum(visits.values())
    stays = found.keep_until > found.at
    kept = not delivered and stays
    await tx.fetch(ANSWER, *_one(event), visits_text(visits), delivered, int(kept))
    found = await _found(tx, event)
    assert found is not None
    if kept:
        await tx.fetch(KEEP, *_one(event))
        found.state = EventState.KEPT
        return found
    found.repeatable = int(found.repeatable and stays)
    await queried(tx, consume(found))
    found.state = EventState.DONE
    return found


async def _found(tx: Tx, event: StoredEvent) -> StoredEvent | None:
    return next((stored_event(row) for row in await tx.fetch(GET, *_one(event), event.id)), None)


async def oldest_kept(tx: Tx, topic: Topic) -> StoredEvent | None:
    """Return the kept event that is to be handed out next, once all transactions about its topic have ended."""
    await tx.fetch(LOCK, topic.lock)
    return next((stored_event(row) for row in await tx.fetch(OLDEST_KEPT, *topic)), None)


async def reserve(tx: Tx, event: StoredEvent, shard: int) -> StoredEvent | None:
    """Reserve a kept event for a step of another shard; `None` if it is not kept any more."""
    await tx.fetch(LOCK, event.topic.lock)
    return next((stored_event(row) for row in await tx.fetch(RESERVE, *_one(event), shard)), None)


async def close_reservation(tx: Tx, event: StoredEvent, *, delivered: bool) -> None:
    """End a reservation: a step has the event, or it is kept again. One that has ended already is left alone."""
    await tx.fetch(LOCK, event.topic.lock)
    if not await tx.fetch(RESERVED, *_one(event), event.turn):
        return
    if delivered:
        await queried(tx, consume(event))
    else:
        await tx.fetch(KEEP_AGAIN, *_one(event))


async def close_asks(tx: Tx, asks: Sequence[Ask]) -> None:
    """Forget asks."""
    for ask in asks:
        await tx.fetch(CLOSE_ASK, ask.step_id, ask.lease_seq)


async def unfinished_among(tx: Tx, visits: Sequence[tuple[Topic, str, int]]) -> list[tuple[Topic, str, int]]:
    """Return those of these deliveries whose event is at home here, and which may be repeated."""
    return [one for one in visits if await tx.fetch(REPEATABLE, *one[0], *one[1:])]


async def remove_visits(tx: Tx, visits: Sequence[tuple[Topic, str, int]]) -> None:
    """Remove records of deliveries."""
    for topic, event_id, turn in visits:
        await tx.fetch(REMOVE_VISIT, *topic, event_id, turn)


def _one(event: StoredEvent) -> tuple[str, str, int]:
    return event.event, event.key, event.number
