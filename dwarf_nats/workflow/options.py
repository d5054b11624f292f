"""Options of a flow and the filters of list and purge (O1, O9)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dwarf_nats.workflow.status import Status


@dataclass(slots=True, frozen=True)
class FlowOptions:
    """How a flow is scheduled and carried; `None` means the engine's default.

    `priority`: 1 is best. `fairness_weight`: above 0. `baggage`: any JSON. `start_at`: aware datetime; delays the entry
    step. `time_budget_ms`: for each of this flow's tasks. `thread`: any flow key of a thread to join.
    """

    priority: int | None = None
    fairness_key: str = ""
    fairness_weight: float = 1.0
    start_at: datetime | None = None
    baggage: Any = None
    idempotency_key: str = ""
    notify: str = ""
    time_budget_ms: int | None = None
    thread: str = ""
    delete_on_completion: bool = False


@dataclass(slots=True, frozen=True)
class Query:
    """Filters, all combinable. Ages in milliseconds since the last change of the flow's status."""

    status: Status | None = None
    workflow: str = ""
    thread: str = ""
    task: str = ""
    fairness_key: str | None = None
    priority: int | None = None
    older_than_ms: int | None = None
    newer_than_ms: int | None = None
    shard: int | None = None
    search: str = ""
    limit: int = 100
