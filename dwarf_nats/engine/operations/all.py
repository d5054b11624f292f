"""All operations of one replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.bulk import BulkOperations
from dwarf_nats.engine.operations.continue_thread import ThreadContinuer
from dwarf_nats.engine.operations.control import FlowControl
from dwarf_nats.engine.operations.create import Creator
from dwarf_nats.engine.operations.explain import FlowExplanations
from dwarf_nats.engine.operations.fork import FlowForks
from dwarf_nats.engine.operations.groups import GroupCreator
from dwarf_nats.engine.operations.holds import HoldOperations
from dwarf_nats.engine.operations.idempotency import IdempotencyKeys
from dwarf_nats.engine.operations.limits import LimitOperations
from dwarf_nats.engine.operations.new_flows import FlowFactory
from dwarf_nats.engine.operations.outbox import OutboxControl
from dwarf_nats.engine.operations.queries import FlowQueries
from dwarf_nats.engine.operations.receive import MessageReceiver
from dwarf_nats.engine.operations.retention import RetentionOperations
from dwarf_nats.engine.operations.schedule_runs import ScheduleRunner
from dwarf_nats.engine.operations.schedules import ScheduleRegister
from dwarf_nats.engine.operations.shard_policies import ShardPolicies
from dwarf_nats.engine.operations.signal import EventSignals
from dwarf_nats.engine.operations.sources import SourceRegister
from dwarf_nats.engine.operations.wait import FlowWaits
from dwarf_nats.engine.placement import Placement
from dwarf_nats.engine.replica_lookup import ReplicaLookup

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard


class Operations:
    """The operations, by kind."""

    def __init__(self, shards: Mapping[int, Shard], replica: Replica) -> None:
        placement = Placement(shards, replica.deployment)
        keys = IdempotencyKeys(shards, replica.deployment)
        self.factory = FlowFactory(replica)
        self.creator = Creator(shards, replica, placement=placement, keys=keys, factory=self.factory)
        self.groups = GroupCreator(placement, self.factory, replica)
        self.receiver = MessageReceiver(shards, replica, self.creator, self.groups)
        self.outbox = OutboxControl(shards)
        self.sources = SourceRegister(shards, replica)
        self.threads = ThreadContinuer(placement, keys, self.factory, replica)
        self.control = FlowControl(placement, replica)
        self.forks = FlowForks(placement, replica)
        self.holds = HoldOperations(shards, replica)
        self.shard_policies = ShardPolicies(shards, replica)
        self.signals = EventSignals(replica)
        self.limits = LimitOperations(replica)
        self.lookup = ReplicaLookup(shards, replica)
        self.explanations = FlowExplanations(placement, replica, self.lookup)
        self.queries = FlowQueries(placement, replica, self.explanations)
        self.retention = RetentionOperations(placement, replica)
        self.bulk = BulkOperations(self.queries, self.control, replica)
        self.schedules = ScheduleRegister(shards, replica, creator=self.creator, keys=keys)
        self.schedule_runner = ScheduleRunner(
            shards, replica, placement=placement, keys=keys, creator=self.creator, control=self.control
        )
        self.waits = FlowWaits(placement, self.creator, self.queries)
