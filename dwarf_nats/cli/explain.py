"""`dwarf-nats flow explain`: why a flow stands where it stands, as a tree (Q2)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import typer
from rich.text import Text

from dwarf_nats.cli.arguments import FlowKey
from dwarf_nats.cli.command import command
from dwarf_nats.cli.options import Bus, FlowService
from dwarf_nats.cli.output import Output, coloured, day_and_clock, error_line
from dwarf_nats.render.terminal import in_json, one_line
from dwarf_nats.wire.explanations import explanation_message
from dwarf_nats.workflow.explanation import Explanation, Reason, Wait
from dwarf_nats.workflow.progress import Progress

_COLOURS = {
    Reason.RUNNING: "cyan",
    Reason.RETRY: "yellow",
    Reason.INTERRUPT: "magenta",
    Reason.BREAKPOINT: "magenta",
    Reason.PAUSED: "magenta",
    Reason.NO_RESPONDERS: "red",
    Reason.UNAVAILABLE: "red",
    Reason.OVERLOADED: "red",
    Reason.BUS_AWAY: "red",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def register(app: typer.Typer) -> None:
    command(
        app,
        "explain",
        short="Why a flow stands where it stands.",
        example="dwarf-nats flow explain 1-42-a1B2c3D4e5F6g7H8",
    )(explain)


async def explain(out: Output, bus: Bus, service: FlowService, flow: FlowKey) -> None:
    """Print what each living step of a flow waits for, since when and until when, and what would help.

    Steps of a sub-workflow stand below the step that called it. Of a flow that has ended, print how it ended.
    """
    async with service.client(bus) as client:
        found = await client.explain(flow)
    out.show(explanation_message(found), *explanation_view(found, service.prefix, time.time_ns() // 1000))


def explanation_view(found: Explanation, prefix: str, now: int) -> list[Text]:
    """An explanation for people. `now`: in microseconds since the epoch."""
    lines = [Text.assemble(coloured(found.status), f"  {one_line(found.text)}")]
    lines += _tree(found.waits, "", prefix, now)
    if found.truncated:
        counts = ", ".join(f"{count} {reason}" for reason, count in found.counts.items())
        lines.append(Text(f"… not all of it is shown{': ' if counts else ''}{counts}"))
    if found.remedy and not found.waits:
        lines.append(_remedy(found.remedy, "", prefix))
    return lines


def _tree(waits: Sequence[Wait], indent: str, prefix: str, now: int) -> Iterator[Text]:
    for number, wait in enumerate(waits, 1):
        branch, below = ("└─ ", "   ") if number == len(waits) else ("├─ ", "│  ")
        head = Text.assemble(indent + branch, (_name(wait), "bold"), "  ")
        head.append(_reason(wait), _COLOURS.get(wait.reason, ""))
        yield head.append(f"  {_times(wait, now)}  {wait.step_key}")
        for line in _details(wait):
            yield Text(f"{indent}{below}{line}")
        if wait.remedy:
            yield _remedy(wait.remedy, indent + below, prefix)
        yield from _tree(wait.waits, indent + below, prefix, now)


def _name(wait: Wait) -> str:
    return one_line(wait.task) if wait.branch is None else f"{one_line(wait.task)} {wait.branch.label}"


def _reason(wait: Wait) -> str:
    return wait.reason if wait.because is None else f"{wait.reason} ({wait.because})"


def _times(wait: Wait, now: int) -> str:
    parts = [f"since {day_and_clock(wait.since)} ({duration(now - wait.since)})"]
    if wait.until is not None:
        parts.append(f"until {day_and_clock(wait.until)}")
    if wait.deadline is not None:
        parts.append(f"deadline {day_and_clock(wait.deadline)}")
    return "  ".join(parts)


def _details(wait: Wait) -> Iterator[str]:
    yield one_line(wait.text)
    if wait.error is not None and error_line(wait.error) not in one_line(wait.text):
        yield f"last error: {error_line(wait.error)}"
    if wait.progress is not None:
        yield f"progress: {_progress(wait.progress)}"
    if wait.payload_json is not None:
        yield f"asks: {in_json(wait.payload_json.decode())}"


def _progress(progress: Progress) -> str:
    parts = [] if progress.fraction is None else [f"{progress.fraction:.0%}"]
    parts += [] if progress.text is None else [one_line(progress.text)]
    return "  ".join([*parts, f"at {day_and_clock(progress.at)}"])


def _remedy(remedy: str, indent: str, prefix: str) -> Text:
    other = "" if prefix == "dwarf" else f" --prefix {prefix}"
    return Text.assemble(indent, ("what helps: ", "green"), one_line(remedy) + other)


def duration(micros: int) -> str:
    """A span of time in its two largest units: `2h 5m`."""
    left = max(0, micros // 1_000_000)
    parts: list[str] = []
    for size, unit in _UNITS:
        if (count := left // size) or (parts and unit != "d"):
            parts.append(f"{count}{unit}")
        left %= size
    return " ".join(parts[:2]) or "0s"
