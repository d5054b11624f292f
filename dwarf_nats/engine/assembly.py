"""Construction of a replica: the parts its shards share, and the shards."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.clock import SystemClock
from dwarf_nats.engine.audit import AuditTrail
from dwarf_nats.engine.backpressure import Backpressure
from dwarf_nats.engine.definitions import Definitions
from dwarf_nats.engine.deployment import Deployment
from dwarf_nats.engine.events import EventExchange
from dwarf_nats.engine.execution.queued_steps import WorkerQueues
from dwarf_nats.engine.graphs import GraphBook
from dwarf_nats.engine.holds import HoldBook
from dwarf_nats.engine.limiting.gate import LimitGate
from dwarf_nats.engine.limiting.limiter import Limiter
from dwarf_nats.engine.replica import Replica
from dwarf_nats.engine.scheduling.alarm import Alarm
from dwarf_nats.engine.scheduling.fetcher import Fetcher
from dwarf_nats.engine.scheduling.slots import WorkerSlots
from dwarf_nats.engine.shard import Shard
from dwarf_nats.rules.holds import KIND as HOLD
from dwarf_nats.rules.shard_policies import KIND as SHARD
from dwarf_nats.settings import EngineSettings
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.telemetry.instruments import Instruments
from dwarf_nats.telemetry.providers import Telemetry
from dwarf_nats.telemetry.traces import Traces
from dwarf_nats.workflow.keys import Tokens
from dwarf_nats.workflow.limit import KIND as LIMIT

if TYPE_CHECKING:
    from dwarf_nats.engine.ports import Ports
    from dwarf_nats.ports import Clock, Store

log = logging.getLogger("dwarf_nats.engine")


def new_replica(
    stores: Sequence[Store],
    shards: Mapping[int, Shard],
    ports: Ports,
    *,
    settings: EngineSettings | None,
    telemetry: Telemetry | None,
    name: str,
) -> Replica:
    """Make what the shards of a replica share. `shards`: where they will be found by number, empty as yet."""
    settings = settings if settings is not None else EngineSettings()
    telemetry = telemetry if telemetry is not None else Telemetry()
    logger = telemetry.logger if telemetry.logger is not None else log
    if ports.capabilities.listen is not None:
        ports.capabilities.listen(WorkerQueues(shards))
    clock = ports.clock if ports.clock is not None else SystemClock()
    counters = telemetry.counters if telemetry.counters is not None else Counters()
    slots = WorkerSlots(settings)
    deployment = Deployment(shards, settings, logger)
    events = EventExchange(shards, deployment, logger)
    limits = Limiter(shards, clock, logger)
    definitions = Definitions(shards, ports.signals, logger)
    holds = HoldBook(clock, logger)
    for kind, follow in ((LIMIT, limits.follow), (HOLD, holds.follow), (SHARD, deployment.follow)):
        definitions.watch(kind, follow)
    return Replica(
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        settings=settings,
        clock=clock,
        tasks=ports.tasks,
        capabilities=ports.capabilities,
        services=ports.services,
        notices=ports.notices,
        signals=ports.signals,
        graphs=_graph_book(stores, ports, deployment, settings=settings, clock=clock),
        events=events,
        event_asks=events,
        peers=ports.peers,
        sources=ports.sources,
        values=ports.values,
        read_options=ports.read_options,
        deployment=deployment,
        definitions=definitions,
        holds=holds,
        audit=AuditTrail(shards, clock, logger),
        schedule_alarm=Alarm(clock),
        slots=slots,
        fetcher=Fetcher(settings, clock, slots, logger),
        limits=limits,
        limit_gate=LimitGate(limits, counters, logger),
        backpressure=Backpressure(clock, ports.signals, counters, logger),
        tokens=Tokens(),
        instruments=Instruments(telemetry.meter_provider, counters),
        traces=Traces(telemetry.tracer_provider),
        logger=logger,
    )


def _graph_book(
    stores: Sequence[Store], ports: Ports, deployment: Deployment, *, settings: EngineSettings, clock: Clock
) -> GraphBook:
    return GraphBook(
        {store.shard: store.graphs for store in stores},
        ports.graphs,
        away=deployment.is_away,
        services=ports.services,
        limits=settings.limits(),
        clock=clock,
    )


def new_shard(replica: Replica, store: Store) -> Shard:
    """Make the shard of a database, to be opened."""
    return Shard(store, replica)
