"""The duties of one shard together."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dwarf_nats.engine.maintenance.claim_sweep import ClaimSweep
from dwarf_nats.engine.maintenance.duty import Duty, DutyRunner
from dwarf_nats.engine.maintenance.event_sweep import EventSweep
from dwarf_nats.engine.maintenance.heartbeat import Heartbeat
from dwarf_nats.engine.maintenance.hold_keeper import HoldKeeper, HoldLook
from dwarf_nats.engine.maintenance.integrity import Integrity
from dwarf_nats.engine.maintenance.lease_keeper import LeaseKeeper
from dwarf_nats.engine.maintenance.lease_reaper import LeaseReaper
from dwarf_nats.engine.maintenance.outbox import OutboxSweep
from dwarf_nats.engine.maintenance.progress_saver import ProgressSaver
from dwarf_nats.engine.maintenance.pruner import AuditPruner, FlowPruner, GraphPruner
from dwarf_nats.engine.maintenance.receipt_pruner import ReceiptPruner
from dwarf_nats.engine.maintenance.retention import Retention
from dwarf_nats.engine.maintenance.schedule_timer import ScheduleTimer
from dwarf_nats.engine.maintenance.schema_watch import SchemaWatch
from dwarf_nats.engine.maintenance.waiter_poll import WaiterPoll
from dwarf_nats.ports.definitions import HOME

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.all import Operations
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard


class Maintenance:
    """Gives each duty what it uses of the shard, and its job to the shard."""

    def __init__(self, shard: Shard, replica: Replica, operations: Operations) -> None:
        store = shard.store
        self.runner = DutyRunner(shard.number, replica.clock, replica.logger)
        self.integrity = Integrity(
            replica,
            replicas=store.replicas,
            integrity=store.integrity,
            announcer=shard.announcer,
            free_keys=partial(replica.deployment.free_deleted_keys, shard),
        )
        self.schema_watch = SchemaWatch(shard, replica.logger)
        self.heartbeat = Heartbeat(replica, shard, self.schema_watch)
        self.lease_reaper = LeaseReaper(
            replica,
            store.replicas,
            store.steps,
            availability=shard.availability,
            in_flight=shard.in_flight,
            ready_queue=shard.ready_queue,
            backpressure=shard.backpressure,
            integrity=self.integrity,
        )
        self.waiter_poll = WaiterPoll(store.flows, shard.waiters)
        self.graph_pruner = GraphPruner(store.replicas, store.graphs)
        self.flow_pruner = FlowPruner(store.replicas, store.control, shard.pace)
        self.retention = Retention(replica.definitions, store.replicas, store.retention, shard.pace)
        self.audit_pruner = AuditPruner(store.replicas, store.audit, replica.settings, replica.clock)
        self.event_sweep = EventSweep(replica.events, shard)
        self.definitions = replica.definitions if shard.number == HOME else None
        self.schedules = (
            ScheduleTimer(store.schedules, operations.schedule_runner, replica) if shard.number == HOME else None
        )
        self.receipt_pruner = ReceiptPruner(
            store.replicas, store.receiving, operations.sources if shard.number == HOME else None
        )
        self.claim_sweep = (
            ClaimSweep(replica.values, replica) if replica.values is not None and shard.number == HOME else None
        )
        self.outbox = (
            OutboxSweep(
                replica,
                shard,
                store.outbox,
                groups=operations.groups,
                creator=operations.creator,
                receiver=operations.receiver,
            )
            if store.outbox is not None
            else None
        )
        self.progress_saver = ProgressSaver(shard.progress)
        self.lease_keeper = LeaseKeeper(shard.queued_steps)
        self.hold_keeper = HoldKeeper(replica, store.holds, announcer=shard.announcer, backpressure=shard.backpressure)

    async def prepare(self) -> None:
        """Take up the steps of silent replicas, and the definitions, before the first claim. Raises `Unavailable`."""
        await self.lease_reaper.reclaim()
        if self.definitions is not None:
            await self.definitions.refresh()

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """The jobs of the duties by the names that `ShardHealth` shows; none of them ends by itself."""
        duties: dict[str, Duty] = {
            "pulse": self.heartbeat,
            "reaper": self.lease_reaper,
            "looker": self.waiter_poll,
            "pruner": self.graph_pruner,
            "remover": self.flow_pruner,
            "retention": self.retention,
            "audit": self.audit_pruner,
            "events": self.event_sweep,
            "progress": self.progress_saver,
            "schema": self.schema_watch,
            "leases": self.lease_keeper,
            "holdlook": HoldLook(self.hold_keeper),
        }
        duties["receipts"] = self.receipt_pruner
        if self.claim_sweep is not None:
            duties["values"] = self.claim_sweep
        self.heartbeat.begin()
        self.lease_reaper.begin()
        self.waiter_poll.begin()
        jobs: dict[str, Coroutine[Any, Any, None]] = {name: self.runner.run(duty) for name, duty in duties.items()}
        if self.schedules is not None:
            jobs["schedules"] = self.schedules.run()
        jobs["holds"] = self.hold_keeper.run(self.runner)
        if self.outbox is not None:
            jobs["outbox"] = self.outbox.run(self.runner)
        return jobs
