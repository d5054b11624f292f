"""Steps for people: the history of a flow as a table with its errors, and one step with all that is known of it (O7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from dwarf_nats.cli.output import clock, coloured, day_and_clock, error_line, pretty, table
from dwarf_nats.render.details import progress_line
from dwarf_nats.render.labels import span
from dwarf_nats.render.terminal import one_line
from dwarf_nats.workflow.nodes import NodeKind
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.step_details import FailedAttempt

LONG_WAIT_US = 1_000_000
"""Time in the queue from which a history mentions it."""


def history_view(steps: Sequence[Step]) -> list[RenderableType]:
    """The steps of a flow for people, those of a subgraph indented below their caller; then what is to be said of each."""
    rows = list(_walked(steps, ""))
    columns = ("task", "status", "retry", "started", "took", "step")
    told = [line for _, step in rows for line in _told(step)]
    cut = [
        f"more of {one_line(step.sub_workflow or '')}: dwarf-nats flow history {step.sub_flow_key}"
        for _, step in rows
        if step.truncated and step.sub_flow_key
    ]
    return [table(columns, (_history_row(name, step) for name, step in rows)), *told, *cut]


def step_view(step: Step) -> list[RenderableType]:
    """One step with its state and changes."""
    shown: list[RenderableType] = [
        table(("task", "status", "retry", "started", "took", "step"), [_history_row(_name(step), step)]),
        *_told(step),
    ]
    if step.queued_at is not None:
        taken = "" if step.claimed_at is None else f", taken after {span(step.claimed_at - step.queued_at)}"
        shown.append(Text(f"due since {day_and_clock(step.queued_at)}{taken}"))
    if step.pause is not None:
        until = "" if step.pause.until is None else f" until {day_and_clock(step.pause.until)}"
        shown.append(Text(f"paused by its {step.pause.kind} since {day_and_clock(step.pause.since)}{until}"))
    if step.progress is not None and step.progress.data_json is not None:
        shown.append(f"checkpoint: {pretty(step.progress.data_json)}")
    if step.interrupt_json is not None:
        shown.append(f"waits for: {pretty(step.interrupt_json)}")
    if step.state_json is not None:
        shown.append(f"state: {pretty(step.state_json)}")
    if step.changes_json is not None:
        shown.append(f"changes: {pretty(step.changes_json)}")
    if step.truncated:
        shown.append("not all of it fits the bus (max_payload): what was too large is left out")
    neighbours = (("before", step.prev_key), ("after", step.next_key), ("called flow", step.sub_flow_key))
    shown += [f"{what}: {key}" for what, key in neighbours if key is not None]
    return shown


def _told(step: Step) -> Iterator[Text]:
    """The lines that tell of a step beside its row: failed attempts, its error, problems, its progress."""
    name = _branch_name(step)
    for attempt in step.attempts:
        yield Text(f"{name}: {_attempt_line(attempt)}", style="yellow")
    if step.claimed_at is not None and step.queued_at is not None and step.claimed_at - step.queued_at >= LONG_WAIT_US:
        yield Text(f"{name}: waited {span(step.claimed_at - step.queued_at)} in the queue")
    if step.error is not None:
        yield Text(f"{name}: {error_line(step.error)}", style="red")
    if step.handled_error is not None:
        yield Text(f"{name}: took its error edge: {error_line(step.handled_error)}", style="yellow")
    for problem in step.problems:
        yield Text(f"{name}: condition not evaluated: {one_line(problem)}", style="yellow")
    if step.progress is not None:
        yield Text(f"{name}: {one_line(progress_line(step.progress))} at {clock(step.progress.at)[:8]}", style="cyan")


def _attempt_line(attempt: FailedAttempt) -> str:
    took = span(attempt.ended_at - attempt.started_at)
    return f"attempt {attempt.attempt + 1} failed at {clock(attempt.ended_at)[:8]} after {took}: {error_line(attempt.error)}"


def _walked(steps: Sequence[Step], indent: str) -> Iterator[tuple[str, Step]]:
    for step in steps:
        yield indent + _name(step), step
        yield from _walked(step.sub_history, indent + "  ")


def _name(step: Step) -> str:
    branch = "" if step.branch is None else f" {step.branch.label}"
    kind = "" if step.kind is NodeKind.TASK else f" ({step.kind})"
    return step.task + branch + kind + (f" ▸ {step.sub_workflow}" if step.sub_workflow else "")


def _branch_name(step: Step) -> str:
    return one_line(step.task) + ("" if step.branch is None else f" {step.branch.label}")


def _history_row(name: str, step: Step) -> Sequence[str | Text]:
    due = f"due {day_and_clock(step.due_at)}" if step.due_at is not None else ""
    took = f"{(step.updated_at - step.started_at) / 1000:.1f} ms" if step.started_at and step.status.stopped else ""
    return name, coloured(step.status), str(step.attempt or ""), clock(step.started_at)[:8], took or due, step.step_key
