"""The options of a flow, and the filters of list and purge (O1, O9)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.durability import Durability
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import Tags

LIST_DEFAULT_FLOWS = 100
"""Flows of a page of a list without a limit."""


@dataclass(slots=True, frozen=True)
class FlowOptions:
    """The options of a flow. `None` means the engine's default, or no value.

    `priority`: 1 is served first. `fairness_key`: flows without one share the empty key. `fairness_weight`: above 0.
    `baggage`: any JSON value. `start_at`: a datetime with a time zone from 1970 to 9999; delays the entry step.
    `time_budget_ms`: for each task of this flow and of the flows it calls. `thread`: any flow key of a thread to join.
    `tags`: at most 32 names with a text, number or boolean each; of a continue, `None` inherits them (Q1).
    `durability`: whether the next task is asked while the result before it is still being written; the graph's by default.
    An empty `idempotency_key`, `notify` or `thread` is refused. Raises `BadRequest` if `start_at` is no datetime,
    and for an unknown durability.
    """

    priority: int | None = None
    fairness_key: str = ""
    fairness_weight: float = 1.0
    start_at: datetime | None = None
    baggage: Any = None
    idempotency_key: str | None = None
    notify: str | None = None
    time_budget_ms: int | None = None
    thread: str | None = None
    delete_on_completion: bool = False
    tags: Tags | None = None
    durability: Durability | str | None = None

    def __post_init__(self) -> None:
        if self.durability is not None:
            object.__setattr__(self, "durability", Durability.of(self.durability))
        if self.start_at is not None and not isinstance(self.start_at, datetime):
            raise BadRequest(
                f"option start_at must be a datetime with a time zone, got {type(self.start_at).__name__}:"
                " for a text use datetime.fromisoformat"
            )


@dataclass(slots=True, frozen=True)
class Query:
    """Filters, all combinable. Ages are milliseconds since the last change of the flow's status.

    `status`: a `Status` or its name; any other text raises `BadRequest`. `limit`: at most 1,000 for a list, 10,000 for a purge;
    100 and 10,000 if it is left out. `flow_id`: the token-free id of a flow, `1-42`, also of one that another flow called.
    `fairness_key`: flows without a key have the empty one. `tags`: a flow must have all of them, with an equal value each (Q1).
    Any other empty text is refused.
    """

    status: Status | str | None = None
    workflow: str | None = None
    thread: str | None = None
    task: str | None = None
    fairness_key: str | None = None
    priority: int | None = None
    older_than_ms: int | None = None
    newer_than_ms: int | None = None
    shard: int | None = None
    search: str | None = None
    limit: int | None = None
    flow_id: str | None = None
    tags: Tags | None = None

    def __post_init__(self) -> None:
        if self.status is not None:
            object.__setattr__(self, "status", Status.of(self.status))
