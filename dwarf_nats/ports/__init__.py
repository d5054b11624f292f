"""The ports: everything the engine asks of the world, in words of the domain.

The engine talks to these Protocols only. `dwarf_nats.store` implements those of a database (`store`, `control`, `shared`);
`dwarf_nats.bus`, `dwarf_nats.testing` or an embedding host implement the others (`world`).
"""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

from dwarf_nats.ports.audit import AuditRow, AuditStore
from dwarf_nats.ports.bulk import BulkStore, Member, Progress
from dwarf_nats.ports.control import Compensates, ControlStore, FinalState, GraphOf, Started
from dwarf_nats.ports.definitions import Definition, DefinitionStore
from dwarf_nats.ports.events import Delivered, EventStore, Signalled
from dwarf_nats.ports.explanations import ExplanationStore
from dwarf_nats.ports.faults import DatabaseAway, StatementRefused, Unstorable, Unusable
from dwarf_nats.ports.holds import HoldStore
from dwarf_nats.ports.limits import LimitStore
from dwarf_nats.ports.receiving import CreatedFlows, OutboxStore, ReceivingStore, StaleCount, StaleGraph
from dwarf_nats.ports.retention import Found, Removal, RetentionStore
from dwarf_nats.ports.schedules import ClaimedSchedules, ScheduleStore
from dwarf_nats.ports.shared import (
    BreakerStore,
    DeletedFlow,
    DeploymentStore,
    GraphStore,
    IntegrityStore,
    KeyLookup,
    KeyStore,
    NewerSchema,
    PruneResult,
    RegisteredGraph,
    ReplicaStore,
)
from dwarf_nats.ports.sources import Sources
from dwarf_nats.ports.statistics import FlowCount, StatisticsStore, StoreSize
from dwarf_nats.ports.store import (
    FlowStore,
    HistoryStore,
    IdSource,
    StepStore,
    Store,
)
from dwarf_nats.ports.values import BucketContents, ClaimPage, ClaimStore, RecentFlows, StoredValue, ValueBucket
from dwarf_nats.ports.world import (
    BusAway,
    Clock,
    Graphs,
    Notices,
    Peers,
    QueuedTooLong,
    QueueListener,
    Refused,
    Services,
    Signals,
    SourceAway,
    StatusChange,
    TaskCapabilities,
    Tasks,
    WorkerLost,
)

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"
"""Where the engine logs (T3)."""

__all__ = [
    "AuditRow",
    "AuditStore",
    "BreakerStore",
    "BucketContents",
    "BulkStore",
    "BusAway",
    "ClaimPage",
    "ClaimStore",
    "ClaimedSchedules",
    "Clock",
    "Compensates",
    "ControlStore",
    "CreatedFlows",
    "DatabaseAway",
    "Definition",
    "DefinitionStore",
    "DeletedFlow",
    "Delivered",
    "DeploymentStore",
    "EventStore",
    "ExplanationStore",
    "FinalState",
    "FlowCount",
    "FlowStore",
    "Found",
    "GraphOf",
    "GraphStore",
    "Graphs",
    "HistoryStore",
    "HoldStore",
    "IdSource",
    "IntegrityStore",
    "KeyLookup",
    "KeyStore",
    "LimitStore",
    "Logger",
    "Member",
    "NewerSchema",
    "Notices",
    "OutboxStore",
    "Peers",
    "Progress",
    "PruneResult",
    "QueueListener",
    "QueuedTooLong",
    "ReceivingStore",
    "RecentFlows",
    "Refused",
    "RegisteredGraph",
    "Removal",
    "ReplicaStore",
    "RetentionStore",
    "ScheduleStore",
    "Services",
    "Signalled",
    "Signals",
    "SourceAway",
    "Sources",
    "StaleCount",
    "StaleGraph",
    "Started",
    "StatementRefused",
    "StatisticsStore",
    "StatusChange",
    "StepStore",
    "Store",
    "StoreSize",
    "StoredValue",
    "TaskCapabilities",
    "Tasks",
    "Unstorable",
    "Unusable",
    "ValueBucket",
    "WorkerLost",
]
