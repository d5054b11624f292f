"""The heartbeat: renews the row of this replica in a database, and hears what no signal told (B1, B2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import HEARTBEAT_SHARE, Duty
from dwarf_nats.errors import Unavailable
from dwarf_nats.ports.definitions import HOME

if TYPE_CHECKING:
    from dwarf_nats.engine.maintenance.schema_watch import SchemaWatch
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard


class Heartbeat(Duty):
    """Says that this replica lives, whatever else it may be waiting for."""

    def __init__(self, replica: Replica, shard: Shard, schema_watch: SchemaWatch) -> None:
        self._settings = replica.settings
        self._clock = replica.clock
        self._replicas = shard.store.replicas
        self._name = replica.name
        self._availability = shard.availability
        self._ready_queue = shard.ready_queue
        self._backpressure = shard.backpressure
        self._deadlines = shard.deadlines
        self._debug_log = shard.debug_log
        self._in_flight = shard.in_flight
        self._schema_watch = schema_watch
        self._deployment = replica.deployment
        self._definitions = replica.definitions
        self._schedule_alarm = replica.schedule_alarm

    def begin(self) -> None:
        """Count the opening of the database as its first answer."""
        self._availability.heard_at = self._clock.now()

    def interval(self) -> float:
        return self._settings.replica_timeout_ms / 1000 * HEARTBEAT_SHARE

    async def run_once(self) -> None:
        """Renew the row and report how that went."""
        self._debug_log.refresh()
        self._replicas.bus_away = bool(self._in_flight.held)
        try:
            reply = await self._replicas.heartbeat(self._name)
        except Unavailable as error:
            self._availability.report_away(str(error))
            self._availability.count_outage()
            raise
        self._backpressure.held = reply.held
        self._availability.report_answer()
        if reply.due_in is not None:
            self._ready_queue.hint_any(reply.due_in)
        if reply.deadline_in is not None:
            self._deadlines.note(reply.deadline_in)
        if reply.schedule_in is not None:
            self._schedule_alarm.note(reply.schedule_in)
        self._availability.heard_at = self._clock.now()
        if self._replicas.shard == HOME:
            self._definitions.on_revision(reply.definitions)
        if reply.schema_is_later:
            await self._schema_watch.run_once()
        await self._deployment.on_heartbeat(self._replicas.shard, reply.shards, reply.counts)
