"""Events of one shard: kept, handed out, and under way to other shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.events import Ask, Topic
from dwarf_nats.store.statements import event_visits, events, keys

if TYPE_CHECKING:
    from dwarf_nats.ports.events import Delivered, Signalled
    from dwarf_nats.rules.events import NewEvent, StoredEvent
    from dwarf_nats.store.database import Database


class SqlEvents:
    """Implements `ports.EventStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def signal(self, new: NewEvent, *, shards: int) -> Signalled | None:
        try:
            return await self._database.transact_by_index(lambda tx: events.signal(tx, new, shards=shards))
        except keys.OtherCount:
            return None

    async def find(self, topic: Topic, event_id: str) -> StoredEvent | None:
        return await self._database.transact_by_index(lambda tx: events.find(tx, topic, event_id))

    async def deliver(self, event: StoredEvent, *, turn: int) -> Delivered:
        return await self._database.transact_by_index(lambda tx: event_visits.deliver(tx, event, turn))

    async def answer(self, event: StoredEvent, visits: dict[int, int], *, kept: bool) -> StoredEvent | None:
        return await self._database.transact_by_index(lambda tx: event_visits.answer(tx, event, visits, kept=kept))

    async def finish(self, event: StoredEvent, visits: dict[int, int]) -> StoredEvent | None:
        return await self._database.transact_by_index(lambda tx: event_visits.finish(tx, event, visits))

    async def oldest_kept(self, topic: Topic) -> StoredEvent | None:
        return await self._database.transact_by_index(lambda tx: event_visits.oldest_kept(tx, topic))

    async def waits_since(self, topic: Topic) -> int | None:
        rows = await self._database.transact_by_index(lambda tx: tx.fetch(events.WAITS_SINCE, *topic))
        return next((int(since) for (since,) in rows), None)

    async def hand_out(self, topic: Topic) -> Delivered:
        return await self._database.transact_by_index(lambda tx: events.hand_out(tx, topic))

    async def reserve(self, event: StoredEvent, shard: int) -> StoredEvent | None:
        return await self._database.transact_by_index(lambda tx: event_visits.reserve(tx, event, shard))

    async def close_reservation(self, event: StoredEvent, *, delivered: bool) -> None:
        await self._database.transact_by_index(
            lambda tx: event_visits.close_reservation(tx, event, delivered=delivered)
        )

    async def matched(self, event: StoredEvent) -> None:
        await self._database.fetch(event_visits.MATCHED, event.event, event.key, event.number, event.turn)

    async def take_unfinished(self, age_ms: int, limit: int) -> Sequence[StoredEvent]:
        rows = await self._database.fetch(event_visits.TAKE_UNFINISHED, age_ms * 1000, limit)
        return [events.stored_event(row) for row in rows]

    async def take_asks(self, age_ms: int, limit: int) -> Sequence[Ask]:
        rows = await self._database.fetch(event_visits.TAKE_ASKS, age_ms * 1000, limit)
        return [Ask(step_id, lease_seq, Topic(event, key)) for step_id, lease_seq, event, key in rows]

    async def close_asks(self, asks: Sequence[Ask]) -> None:
        await self._database.transact(lambda tx: event_visits.close_asks(tx, asks))

    async def remove_old(self, limit: int) -> int:
        return len(await self._database.fetch(events.REMOVE_OLD, limit))

    async def old_visits(self, age_ms: int, limit: int) -> Sequence[tuple[Topic, str, int]]:
        rows = await self._database.fetch(event_visits.OLD_VISITS, age_ms * 1000, limit)
        return [(Topic(event, key), event_id, turn) for event, key, event_id, turn in rows]

    async def unfinished_among(self, visits: Sequence[tuple[Topic, str, int]]) -> Sequence[tuple[Topic, str, int]]:
        return await self._database.transact_by_index(lambda tx: event_visits.unfinished_among(tx, visits))

    async def remove_visits(self, visits: Sequence[tuple[Topic, str, int]]) -> None:
        await self._database.transact(lambda tx: event_visits.remove_visits(tx, visits))
