"""The health of a shard, from what the duties have seen: no database is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.workflow.records import ShardHealth

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Clock
    from dwarf_nats.settings import EngineSettings


def shard_health(shard: Shard, settings: EngineSettings, clock: Clock) -> ShardHealth:
    """The health of one shard.

    It is healthy if its database has answered a heartbeat within `replica_timeout_ms`, so that the other replicas take this
    one for alive (B2), and each of its jobs runs.
    """
    dead = [job.get_name() for job in shard.jobs if job.done()]
    if not shard.availability.heard_at:
        return ShardHealth(shard.number, shard.availability.reason or "not opened yet", None, dead)
    silent_ms = max(0, (clock.now() - shard.availability.heard_at) // 1000)
    reason = shard.availability.reason or shard.outdated
    if not reason and silent_ms > settings.replica_timeout_ms:
        reason = f"its database has not answered for {silent_ms} ms"
    return ShardHealth(shard.number, reason, silent_ms, dead)
