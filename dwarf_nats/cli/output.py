"""The output of commands: JSON for machines, tables for people.

Rich draws for people; it is loaded when something is drawn, so that JSON and refusals do without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from dwarf_nats.cli.command import option_group
from dwarf_nats.cli.tag_args import tags_line
from dwarf_nats.render.terminal import in_json, in_lines, one_line
from dwarf_nats.wire.times import from_micros
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import Reason
from dwarf_nats.workflow.records import FlowSummary, Outcome
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_COLOURS = {
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "yellow",
    Status.RUNNING: "cyan",
    Status.INTERRUPTED: "magenta",
}


@option_group("Printing")
@dataclass(slots=True, frozen=True)
class Output:
    """The form of the output."""

    json: Annotated[bool, typer.Option("--json", help="JSON, as it travels over NATS.")] = False

    def show(self, message: Any, *people: RenderableType) -> None:
        """Print the message as one line of JSON (bytes as they are), or else `people`."""
        if self.json:
            text = message if isinstance(message, bytes) else msgspec.json.encode(message)
            print(in_json(text.decode()), flush=True)
        else:
            show(*people)


def show(*people: RenderableType) -> None:
    """Print for people. The terminal wraps texts, so that piped output keeps each in one line.

    No text reaches the terminal with control characters or bidirectional marks in it. A caller that puts a text from outside
    into one of ours escapes its newlines (`one_line`).
    """
    from rich.text import Text

    out = console()
    for one in people:
        out.print(_safe(one, out), soft_wrap=isinstance(one, str | Text))


def _safe(one: RenderableType, out: Console) -> RenderableType:
    from rich.text import Text

    if isinstance(one, str):
        return in_lines(one)
    if isinstance(one, Text) and in_lines(one.plain) != one.plain:
        return Text.assemble(*((in_lines(part.text), part.style or "") for part in one.render(out)))
    return one  # tables are made safe cell by cell


def console() -> Console:
    """Standard output; if it is no terminal, wide enough that keys and errors are not cut."""
    from rich.console import Console

    out = Console(highlight=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=200)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], title: str = "") -> Table:
    """A plain table; columns of keys are never cut."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, no_wrap=name in ("flow", "step", "status", "took"), overflow="fold")
    for row in rows:
        made.add_row(*(Text(one_line(cell)) if isinstance(cell, str) else cell for cell in row))
    return made


def coloured(status: Status) -> Text:
    """A status in its colour."""
    from rich.text import Text

    return Text(status.value, style=_COLOURS.get(status, ""))


def error_line(error: ErrorInfo | None) -> str:
    """An error in one line, empty for none."""
    return one_line(f"{error.message} ({error.code})") if error is not None else ""


def clock(micros: int | None) -> str:
    """A time of day, local."""
    return from_micros(micros).astimezone().strftime("%H:%M:%S.%f")[:-3] if micros is not None else ""


def day_and_clock(micros: int) -> str:
    """Date and time, local."""
    return from_micros(micros).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def pretty(json_text: bytes) -> str:
    """JSON, indented."""
    return in_json(msgspec.json.format(json_text, indent=2).decode())


def outcome_view(outcome: Outcome) -> list[RenderableType]:
    """An outcome for people."""
    from rich.text import Text

    shown: list[RenderableType] = [
        Text.assemble(f"{one_line(outcome.workflow)}  ", coloured(outcome.status), f"  {outcome.flow_key}")
    ]
    if outcome.compensating:
        shown.append("completed steps are being compensated; after that the flow fails or is cancelled")
    if outcome.error is not None:
        shown.append(Text(f"error: {error_line(outcome.error)}", style="red"))
    if outcome.cancel_reason is not None:
        shown.append(f"reason: {one_line(outcome.cancel_reason)}")
    if outcome.interrupt_json is not None:
        shown.append(f"waits for: {pretty(outcome.interrupt_json)}")
    if outcome.tags:
        shown.append(f"tags: {one_line(tags_line(outcome.tags))}")
    if outcome.truncated:
        shown.append("not all of it fits the bus (max_payload): what was too large is left out")
    shown.append(pretty(outcome.state_json))
    return shown


def _waits_for(flow: FlowSummary) -> str:
    """The wait of a flow that has not ended, as a list shows it; nothing while it is simply at work."""
    wait = flow.waits_for
    return "" if wait is None or wait.reason is Reason.RUNNING else f"{wait.reason}: {wait.text}"


def flows_view(flows: Sequence[FlowSummary]) -> Table:
    """Flows in a table; with the times at which steps are due and with tags if there are any."""
    with_due = any(flow.due_at is not None for flow in flows)
    tagged = any(flow.tags for flow in flows)
    rows: list[Sequence[str | Text]] = []
    for flow in flows:
        why = "compensating" if flow.compensating else flow.cancel_reason or error_line(flow.error) or _waits_for(flow)
        due = [] if not with_due else ["" if flow.due_at is None else day_and_clock(flow.due_at)]
        updated = day_and_clock(flow.updated_at)
        more = [*due, why, *([tags_line(flow.tags)] if tagged else [])]
        rows.append((flow.flow_key, flow.workflow, coloured(flow.status), flow.task or "", updated, *more))
    columns = [*(["due"] if with_due else []), "why", *(["tags"] if tagged else [])]
    return table(("flow", "workflow", "status", "task", "updated", *columns), rows)
