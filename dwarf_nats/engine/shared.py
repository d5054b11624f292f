"""The parts that the shards of one replica share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.engine.backpressure import Backpressure
    from dwarf_nats.engine.graphs import GraphBook
    from dwarf_nats.engine.holds import HoldBook
    from dwarf_nats.engine.limiting.gate import LimitGate
    from dwarf_nats.engine.limiting.limiter import Limiter
    from dwarf_nats.engine.scheduling.fetcher import Fetcher
    from dwarf_nats.engine.scheduling.slots import WorkerSlots
    from dwarf_nats.ports import Clock, Logger, Notices, Services, Signals, TaskCapabilities, Tasks
    from dwarf_nats.rules.events import Ask
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.telemetry.counters import Counters
    from dwarf_nats.telemetry.instruments import Instruments
    from dwarf_nats.telemetry.traces import Traces
    from dwarf_nats.workflow.keys import Tokens


class EventAsks(Protocol):
    """Looks for events that other shards keep."""

    def ask(self, number: int, asks: Sequence[Ask]) -> None:
        """Look for events that are kept for steps of a shard which have begun to wait."""
        ...


@dataclass(slots=True, frozen=True, kw_only=True)
class Shared:
    """The settings, ports and services of one engine, of which each part of a shard takes what it needs."""

    settings: EngineSettings
    clock: Clock
    tasks: Tasks
    capabilities: TaskCapabilities
    services: Services | None
    notices: Notices | None
    signals: Signals | None
    graphs: GraphBook
    event_asks: EventAsks
    holds: HoldBook
    slots: WorkerSlots
    fetcher: Fetcher
    backpressure: Backpressure
    limits: Limiter
    limit_gate: LimitGate
    tokens: Tokens
    instruments: Instruments
    traces: Traces
    logger: Logger

    @property
    def counters(self) -> Counters:
        return self.instruments.counters
