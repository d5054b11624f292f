"""Options of commands that make flows (O1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

import typer

from dwarf_nats.cli.command import option_group
from dwarf_nats.cli.state_arg import read_json
from dwarf_nats.cli.tag_args import SYNTAX, read_tags
from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.durability import Durability
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.state import Raw

TIME_FORMATS = ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]


@option_group("The flow")
@dataclass(slots=True, frozen=True)
class Scheduling:
    """The options of a new flow (O1), but for its thread."""

    priority: Annotated[int | None, typer.Option(min=1, help="1 is served first.")] = None
    fairness_key: Annotated[str, typer.Option(help="Flows of one key share its turns.")] = ""
    fairness_weight: Annotated[float, typer.Option(help="Share of the key, above 0.")] = 1.0
    start_at: Annotated[
        datetime | None, typer.Option(help="Earliest start, local time unless a zone is given.", formats=TIME_FORMATS)
    ] = None
    baggage: Annotated[str | None, typer.Option(help="Opaque JSON handed to every task: JSON, @file or -.")] = None
    idempotency_key: Annotated[str | None, typer.Option(help="The same key makes the same flow, never a second.")] = (
        None
    )
    notify: Annotated[str | None, typer.Option(help="Announce the outcome on …stopped.NAME.")] = None
    time_budget_ms: Annotated[int | None, typer.Option(min=1, help="What each task may take.")] = None
    delete_on_completion: Annotated[bool, typer.Option(help="Remove it soon after it completes.")] = False
    durability: Annotated[
        Durability | None,
        typer.Option(help="Ask the next task before or after a result is written; else as its graph says."),
    ] = None
    tag: Annotated[
        list[str] | None, typer.Option(metavar=SYNTAX, help="A tag, to find it by; may be given several times.")
    ] = None

    def options(self) -> FlowOptions:
        """The options as the client takes them."""
        baggage = read_json(self.baggage, "--baggage") if self.baggage is not None else None
        return FlowOptions(
            priority=self.priority,
            fairness_key=self.fairness_key,
            fairness_weight=self.fairness_weight,
            start_at=_with_zone(self.start_at),
            baggage=Raw(baggage) if baggage is not None else None,
            idempotency_key=self.idempotency_key,
            notify=self.notify,
            time_budget_ms=self.time_budget_ms,
            delete_on_completion=self.delete_on_completion,
            tags=read_tags(self.tag),
            durability=self.durability,
        )


def _with_zone(at: datetime | None) -> datetime | None:
    """A time of the command line; local time unless a zone is given."""
    if at is None or at.tzinfo is not None:
        return at
    try:
        return at.astimezone()
    except (OverflowError, ValueError, OSError):
        raise BadRequest(f"--start-at {at:%Y-%m-%d} is out of range: use a time from 1970 to 9999") from None


@option_group("The flow")
@dataclass(slots=True, frozen=True)
class Creation(Scheduling):
    """The options of a new flow; a continue names its thread in another way."""

    thread: Annotated[str | None, typer.Option(help="Any flow key of a thread to join.")] = None

    def options(self) -> FlowOptions:
        return replace(Scheduling.options(self), thread=self.thread)
