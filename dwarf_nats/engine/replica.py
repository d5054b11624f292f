"""The parts of one replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.engine.shared import Shared

if TYPE_CHECKING:
    from dwarf_nats.engine.audit import AuditTrail
    from dwarf_nats.engine.definitions import Definitions
    from dwarf_nats.engine.deployment import Deployment
    from dwarf_nats.engine.events import EventExchange
    from dwarf_nats.engine.ports import OptionsReader
    from dwarf_nats.engine.scheduling.alarm import Alarm
    from dwarf_nats.ports import Peers, Sources
    from dwarf_nats.ports.values import ValueBucket


@dataclass(slots=True, frozen=True, kw_only=True)
class Replica(Shared):
    """The parts that shards share, the name of the replica, the agreement of all, the exchange of events, the way to peers."""

    name: str
    deployment: Deployment
    definitions: Definitions
    audit: AuditTrail
    events: EventExchange
    schedule_alarm: Alarm
    """Rings at the next due time of a schedule that this replica knows."""
    read_options: OptionsReader
    peers: Peers | None = None
    sources: Sources | None = None
    values: ValueBucket | None = None
