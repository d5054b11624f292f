"""`dwarf-nats flow bulk`: one action for every flow that matches, with a progress bar (M1)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any

import typer
from msgspec import Raw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dwarf_nats.cli.command import command, new_app, option_group
from dwarf_nats.cli.options import Bus, FlowService, Matching
from dwarf_nats.cli.output import Output, coloured, table
from dwarf_nats.cli.removal import DryRun, Yes, confirm, flows_text
from dwarf_nats.cli.state_arg import read_json
from dwarf_nats.cli.tag_args import read_changes
from dwarf_nats.cli.tags import TERMS, with_terms
from dwarf_nats.render.terminal import one_line
from dwarf_nats.sdk import Client
from dwarf_nats.wire.bulk_messages import bulk_reply
from dwarf_nats.workflow.bulk import Bulk, BulkAction, BulkMember, BulkPage

app = new_app("")
SHOWN_FLOWS = 10
"""Flows that a dry run lists."""
SHOWN_FAILURES = 20
"""Reasons of refusals that are listed, the most frequent first."""
SOME_FAILED = 1
"""Exit code if the action was refused for some flows."""


def register(family: typer.Typer) -> None:
    family.add_typer(app)


class Action(StrEnum):
    """An action, as it is typed."""

    CANCEL = "cancel"
    RESTART = "restart"
    RESTART_FAILED = "restart-failed"
    RESUME = "resume"
    DELETE = "delete"
    TAG = "tag"


_DONE = {
    Action.CANCEL: "cancelled",
    Action.RESTART: "restarted",
    Action.RESTART_FAILED: "restarted from their failed steps",
    Action.RESUME: "resumed",
    Action.DELETE: "deleted",
    Action.TAG: "tagged",
}


@dataclass(slots=True)
class _Total:
    """The pages so far."""

    matched: int = 0
    done: int = 0
    failed: int = 0
    cursor: str = ""
    reasons: Counter[tuple[int, str]] = field(default_factory=Counter)
    examples: dict[tuple[int, str], str] = field(default_factory=dict)

    def add(self, page: BulkPage) -> None:
        self.matched += page.matched
        self.done += page.done
        self.failed += page.matched - page.done
        self.cursor = page.cursor
        for flow_id, code, message in page.failed:
            self.reasons[code, message] += 1
            self.examples.setdefault((code, message), flow_id)


@option_group("The action")
@dataclass(slots=True, frozen=True)
class Fields:
    """The fields of an action."""

    reason: Annotated[str, typer.Option(help="Of a cancel, kept with each flow.")] = ""
    data: Annotated[str | None, typer.Option(help="For resumed tasks, null if left out: JSON, @file or -.")] = None
    set: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="For tag: NAME=VALUE sets a tag, NAME- removes it; several times."),
    ] = None

    def given(self) -> dict[str, Any]:
        """The fields as the client takes them."""
        return {
            "reason": self.reason,
            "data": None if self.data is None else Raw(read_json(self.data, "--data")),
            "tags": read_changes(self.set) if self.set else None,
        }


@option_group("How it goes on")
@dataclass(slots=True, frozen=True)
class Course:
    """Options of the run."""

    cursor: Annotated[str, typer.Option(help="Go on after this place, as printed when it was stopped.")] = ""
    limit: Annotated[int | None, typer.Option(min=1, max=1000, help="Flows of one request at most.")] = None
    dry_run: DryRun = False
    yes: Yes = False


@command(
    app,
    "bulk",
    short="Cancel, restart, resume, delete or tag all flows that match.",
    example="dwarf-nats flow bulk cancel workflow=order status=running --reason recall --dry-run\n"
    "dwarf-nats flow bulk restart-failed customer=4711\n"
    "dwarf-nats flow bulk tag status=failed --set reviewed=true --yes",
)
async def bulk(
    out: Output,
    bus: Bus,
    service: FlowService,
    matching: Matching,
    fields: Fields,
    course: Course,
    action: Annotated[
        Action, typer.Argument(metavar="ACTION", help="cancel, restart, restart-failed, resume, delete, tag.")
    ],
    terms: Annotated[list[str] | None, typer.Argument(metavar="[TERM]...", help=TERMS)] = None,
) -> None:
    """Carry out an action for every flow that matches all terms and filters, a page of flows at a time.

    On a terminal it counts the flows and asks first. Flows that are created meanwhile are not taken. When it is stopped,
    it prints a cursor, with which it can go on. Exit code 1: it was refused for some flows.
    """
    query, more = with_terms(matching.query(), terms or []), fields.given()
    order = Bulk(action=BulkAction(action.value.replace("-", "_")), query=query, **more, cursor=course.cursor)
    async with service.client(bus) as client:
        if course.dry_run:
            await _show_dry_run(out, action, _counted(client, order))
            return
        expected = None
        if not course.cursor and ((sys.stdin.isatty() and not course.yes) or sys.stderr.isatty()):
            expected = sum([page.matched async for page in _counted(client, order)])
            confirm(f"{_DONE[action]}: {flows_text(expected)}. Go ahead?", course.yes)
        total = _Total(cursor=course.cursor)
        pages = client.bulk(order.action, query, **more, limit=course.limit, cursor=course.cursor)
        with _says_how_to_go_on(total), _bar(action, expected, shown=not out.json) as advance:
            async for page in pages:
                total.add(page)
                advance(total.matched)
                if out.json:
                    out.show(bulk_reply(page))
    if not out.json:
        _show_total(out, action, total)
    if total.failed:
        raise typer.Exit(SOME_FAILED)


async def _counted(client: Client, order: Bulk) -> AsyncIterator[BulkPage]:
    """The pages of a dry run."""
    order = replace(order, dry_run=True)
    while True:
        page = await client.bulk_page(order)
        yield page
        if not page.cursor:
            return
        order = replace(order, cursor=page.cursor)


async def _show_dry_run(out: Output, action: Action, pages: AsyncIterator[BulkPage]) -> None:
    matched, sample = 0, list[BulkMember]()
    async for page in pages:
        matched += page.matched
        sample += page.sample or []
    rows = [(one.flow_id, one.workflow, coloured(one.status)) for one in sample[:SHOWN_FLOWS]]
    out.show(
        bulk_reply(BulkPage(matched=matched, sample=sample)),
        f"would be {_DONE[action]}: {flows_text(matched)}" + (", among them:" if rows else ""),
        *([table(("flow", "workflow", "status"), rows)] if rows else []),
    )


@contextmanager
def _bar(action: Action, expected: int | None, *, shown: bool) -> Iterator[Any]:
    """A progress bar on standard error; gives the function that is told how many flows have been seen to."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not (shown and sys.stderr.isatty())
    ) as bar:
        task = bar.add_task(_DONE[action], total=expected)
        yield lambda count: bar.update(task, completed=count)


@contextmanager
def _says_how_to_go_on(total: _Total) -> Iterator[None]:
    """If it is stopped or fails on the way, say where."""
    try:
        yield
    except BaseException:
        if total.cursor:
            print(f"stopped after {flows_text(total.matched)}; to go on: --cursor {total.cursor}", file=sys.stderr)
        raise


def _show_total(out: Output, action: Action, total: _Total) -> None:
    refused = f"; refused for {flows_text(total.failed)}:" if total.failed else ""
    out.show(None, f"{_DONE[action]}: {flows_text(total.done)}{refused}", *([_reasons(total)] if total.reasons else []))


def _reasons(total: _Total) -> Any:
    rows: Sequence[tuple[str, str, str]] = [
        (f"{count:,}", total.examples[why], one_line(f"{why[1]} ({why[0]})"))
        for why, count in total.reasons.most_common(SHOWN_FAILURES)
    ]
    return table(("flows", "for example", "why"), rows)
