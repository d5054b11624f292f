"""What follows from a settlement, as wishes: a generator yields what it wants of the database and is sent the rows.

So one text serves both databases, asynchronous PostgreSQL and SQLite in its thread. All of it belongs to the transaction that
settled the group.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import FlowContext, NewFlow, NewStep
    from dwarf_nats.store.database import Row


@dataclass(slots=True)
class Sql:
    """One statement in the shared words."""

    text: str
    args: tuple[Any, ...]


@dataclass(slots=True)
class Many:
    """One statement in the shared words, once for each row of parameters, in one round trip; all their rows, in this order."""

    text: str
    rows: list[tuple[Any, ...]]


@dataclass(slots=True)
class StepInsert:
    """A row for `dwarf_steps`. `not_before`: absolute, or 0 with `delay_us` from now."""

    flow: FlowContext
    step: NewStep
    predecessor_id: int
    status: Status = Status.PENDING
    not_before: int = 0
    changes: str = "{}"
    error: str | None = None
    successor_id: int | None = None


@dataclass(slots=True)
class FlowInserts:
    """Flows with their entry steps."""

    flows: list[NewFlow] = field(default_factory=list)


PROBLEMS = "update dwarf_steps set problems = $1 where step_id = $2 returning step_id"
"""Only of steps that have some: others cost nothing."""
Wish = Sql | Many | list[StepInsert] | FlowInserts
Effects = Generator[Wish, "list[Row]", None]
