"""All operations of one replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.continue_thread import ThreadContinuer
from dwarf_nats.engine.operations.control import FlowControl
from dwarf_nats.engine.operations.create import Creator
from dwarf_nats.engine.operations.fork import FlowForks
from dwarf_nats.engine.operations.idempotency import IdempotencyKeys
from dwarf_nats.engine.operations.new_flows import FlowFactory
from dwarf_nats.engine.operations.queries import FlowQueries
from dwarf_nats.engine.operations.wait import FlowWaits
from dwarf_nats.engine.placement import Placement

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard


class Operations:
    """The operations, by kind."""

    def __init__(self, shards: Mapping[int, Shard], replica: Replica) -> None:
        settings, deployment, graphs = replica.settings, replica.deployment, replica.graphs
        tokens, traces = replica.tokens, replica.traces
        limits = settings.limits()
        placement = Placement(shards, deployment)
        keys = IdempotencyKeys(shards, deployment)
        self.factory = factory = FlowFactory(settings, graphs, tokens, traces)
        self.creator = Creator(placement, deployment, keys, graphs, factory)
        self.threads = ThreadContinuer(placement, deployment, keys, graphs, factory, limits)
        self.control = FlowControl(placement, graphs, limits)
        self.forks = FlowForks(placement, graphs, tokens, traces, limits)
        self.queries = FlowQueries(placement, deployment, limits)
        self.waits = FlowWaits(placement, self.creator, self.queries)
