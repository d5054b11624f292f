"""Everything that happened in a flow, in one order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dwarf_nats.console.views.text import clip, error_text, length
from dwarf_nats.console.views.wire import Step


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `kind`: a status, `attempt` or `problem`. `step`: the id of its step."""

    at: datetime
    kind: str
    text: str
    step: str
    task: str
    detail: str = ""


def log(steps: Sequence[Step]) -> list[Entry]:
    """The log of a flow, the newest first."""
    found = [entry for step in steps for entry in _entries(step)]
    return sorted(found, key=lambda entry: entry.at, reverse=True)


def _entries(step: Step) -> Iterator[Entry]:
    def entry(at: datetime, kind: str, text: str, detail: str = "") -> Entry:
        return Entry(at, kind, text, step=step.step, task=step.task, detail=detail)

    if step.started_at is not None:
        first = step.queued_at is not None and step.queued_at <= step.started_at  # else it is that of a later execution
        waited = length(step.queued_at if first else step.created_at, step.started_at)
        yield entry(
            step.started_at, "running", "started", f"after {waited} in the queue" if waited not in ("", "0 ms") else ""
        )
    for one in step.attempts:
        if one.ended_at is not None:
            yield entry(one.ended_at, "attempt", f"attempt {one.attempt + 1} failed", error_text(one.error))
    if step.pause is not None and step.pause.since is not None:
        yield entry(step.pause.since, "interrupted", f"paused: {step.pause.kind}")
    for problem in step.problems:
        yield entry(step.updated_at, "problem", "a condition could not be evaluated", problem)
    if step.over:
        took = length(step.started_at, step.updated_at)
        if step.handled_error is not None:
            yield entry(step.updated_at, "failed", "failed; an error edge was taken", error_text(step.handled_error))
        else:
            yield entry(
                step.updated_at, step.status, step.status, error_text(step.error) or (f"in {took}" if took else "")
            )


def short(entry: Entry) -> str:
    """Its detail in one line."""
    return clip(entry.detail, 160)
