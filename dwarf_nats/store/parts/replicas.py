"""The replicas of one shard: this one's row and leases, and what dead ones left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import HeartbeatReply
from dwarf_nats.rules.shard_counts import read_counts
from dwarf_nats.store.revisions import is_later
from dwarf_nats.store.statements import replicas
from dwarf_nats.store.statements.ids import next_ids

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database

DEAD_TIMEOUTS = 10
"""Time-outs after which the row of a silent replica is removed: long after its leases were reclaimed."""


class SqlReplicas:
    """Implements `ports.ReplicaStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self.shard = shard
        self._database = database
        self.replica_id = 0
        """The id of this replica in this database; 0 before it was entered."""
        self.known_shards = shard
        self.bus_away = False

    async def enter(self, name: str) -> None:
        """Give this replica an id and a row."""
        self.replica_id, _ = await next_ids(self._database, "replica")
        if self._database.is_exclusive:  # the only replica there can be: the others are dead
            await self._database.fetch(replicas.DELETE_OTHERS)
        await self.heartbeat(name)

    async def heartbeat(self, name: str) -> HeartbeatReply:
        rows = await self._database.fetch(
            replicas.HEARTBEAT, self.replica_id, name, self.known_shards, int(self.bus_away)
        )
        ((held, first_due_at, next_due_at, deadline, schedule, now, shards, counts, definitions, revision),) = rows
        return HeartbeatReply(
            held=bool(held),
            due_in=_until(first_due_at if first_due_at is not None else next_due_at, now),
            shards=int(shards or 0),
            counts=read_counts(counts or "", int(shards or 0)),
            deadline_in=_until(deadline, now),
            schedule_in=_until(schedule, now),
            definitions=int(definitions or 0),
            schema_is_later=is_later(revision),
        )

    async def is_leader(self) -> bool:
        if self._database.is_exclusive:
            return True
        ((longest_known,),) = await self._database.fetch(replicas.LONGEST_KNOWN)
        return longest_known is None or int(longest_known) >= self.replica_id

    async def reclaim_expired_leases(self, timeout_ms: int) -> int:
        return len(await self._database.fetch(replicas.RECLAIM_EXPIRED, timeout_ms * 1000))

    async def release_unowned_leases(self, in_flight: Sequence[int]) -> int:
        return len(await self._database.fetch(replicas.RELEASE_UNOWNED, self.replica_id, list(in_flight)))

    async def delete_dead(self, timeout_ms: int) -> None:
        await self._database.fetch(replicas.DELETE_DEAD, timeout_ms * 1000 * DEAD_TIMEOUTS)

    async def deregister(self) -> None:
        await self.release_unowned_leases([])
        await self._database.fetch(replicas.DELETE, self.replica_id)


def _until(at: int | None, now: int) -> int | None:
    """Microseconds from `now` to `at`, 0 if that is past; `None` if there is no such time."""
    return None if at is None else max(0, int(at) - int(now))
