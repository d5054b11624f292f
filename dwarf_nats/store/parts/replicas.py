"""The replicas of one shard: this one's row and lease, and what dead ones left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import HeartbeatReply
from dwarf_nats.store import breakers
from dwarf_nats.store.dialect import LIVE, PARKED
from dwarf_nats.store.statements.ids import next_ids
from dwarf_nats.store.statements.ready import FIRST_READY, NEXT_SCHEDULED
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database


class SqlReplicas:
    """Implements `ports.ReplicaStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self.shard = shard
        self._database = database
        self.replica_id = 0
        """The id of this replica in this database; 0 before it was entered."""
        self.known_shards = shard

    async def enter(self, name: str) -> None:
        """Give this replica an id and a row."""
        self.replica_id = (await next_ids(self._database, "replica"))[0]
        if self._database.is_exclusive:  # the only replica there can be: the others are dead
            await self._database.fetch("delete from dwarf_replicas")
        await self.heartbeat(name)

    async def heartbeat(self, name: str) -> HeartbeatReply:
        rows = await self._database.fetch(
            "insert into dwarf_replicas (replica_id, name, seen_at, shards) values ($1, $2, {now}, $3)"
            " on conflict (replica_id) do update set seen_at = excluded.seen_at, shards = excluded.shards"
            f" returning {breakers.ANY_HELD}, ({FIRST_READY}), ({NEXT_SCHEDULED}), seen_at,"
            " (select d.shards from dwarf_deployment d where d.one = 1)",
            self.replica_id,
            name,
            self.known_shards,
        )
        held, first_due_at, next_due_at, now, shards = rows[0]
        due_at = first_due_at if first_due_at is not None else next_due_at
        return HeartbeatReply(bool(held), None if due_at is None else max(0, int(due_at) - int(now)), int(shards or 0))

    async def is_leader(self) -> bool:
        if self._database.is_exclusive:
            return True
        rows = await self._database.fetch("select min(replica_id) from dwarf_replicas")
        return rows[0][0] is None or int(rows[0][0]) >= self.replica_id

    async def reclaim_expired_leases(self, timeout_ms: int) -> int:
        rows = await self._database.fetch(
            f"update dwarf_steps set status = 'pending', parked = {PARKED}, claimed_by = null, lease_expires = null,"
            " updated_at = {now} where step_id in (select step_id from dwarf_steps"
            f" where status = 'running' and parked = {Parked.NO:d} and (lease_expires < {{now}} or claimed_by not in"
            " (select replica_id from dwarf_replicas where seen_at > {now} - $1))"
            f" and flow_id in (select flow_id from dwarf_flows where status in {LIVE})"
            " order by step_id {skip_locked}) returning step_id",
            timeout_ms * 1000,
        )
        return len(rows)

    async def release_unowned_leases(self, in_flight: Sequence[int]) -> int:
        rows = await self._database.fetch(
            f"update dwarf_steps set status = 'pending', parked = {PARKED}, claimed_by = null, lease_expires = null,"
            " updated_at = {now} where status = 'running' and claimed_by = $1 and not (step_id {in:$2}) returning step_id",
            self.replica_id,
            list(in_flight),
        )
        return len(rows)

    async def delete_dead(self, timeout_ms: int) -> None:
        await self._database.fetch(
            "delete from dwarf_replicas where seen_at < {now} - $1 and replica_id not in"
            " (select claimed_by from dwarf_steps where status = 'running' and claimed_by is not null)",
            timeout_ms * 10_000,
        )

    async def deregister(self) -> None:
        await self.release_unowned_leases([])
        await self._database.fetch("delete from dwarf_replicas where replica_id = $1", self.replica_id)
