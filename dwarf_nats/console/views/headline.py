"""The one sentence that says how a flow stands, and what to do about it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dwarf_nats.console.views.text import clip, error_text
from dwarf_nats.console.views.wire import Explanation, Outcome, Pause, Step, Wait

OTHERS = 20
"""Further waits that are listed; more are counted."""
UNSERVED = frozenset(("no_responders", "unavailable", "overloaded"))
"""Reasons that lie with a task's service."""


@dataclass(frozen=True, slots=True)
class Headline:
    """The sentence. `do`: the action that helps, `answer`, `continue`, `rerun` or `start`; `step`: at which step.

    `remedy`: a command that would help. `more`: how many others the flow waits for.
    """

    text: str
    kind: str = ""
    since: datetime | None = None
    until: datetime | None = None
    do: str = ""
    step: str = ""
    remedy: str = ""
    more: int = 0
    others: tuple[Wait, ...] = ()
    """The first of those it also waits for."""
    task: str = ""
    """The task that is not served as it should be."""
    detail: str = ""


def headline(outcome: Outcome, explanation: Explanation, steps: Sequence[Step]) -> Headline:
    """The sentence for a flow."""
    status = outcome.status
    if status == "failed":
        return _failed(outcome, steps)
    if status == "cancelled":
        return Headline(f"Cancelled: {outcome.cancel_reason}" if outcome.cancel_reason else "Cancelled.", "cancelled")
    if status == "completed":
        return Headline("Completed.", "completed")
    waits = list(_leaves(explanation.waits))
    if outcome.pauses:
        return _paused(outcome.pauses, waits)
    if not waits:
        return Headline(
            explanation.text or ("Created, and not started yet." if status == "created" else "Running."), status
        )
    first = waits[0]
    return Headline(
        _sentence(first),
        first.reason,
        first.since,
        first.until,
        do="start" if first.reason == "created" else "",
        remedy=first.remedy or explanation.remedy,
        more=len(waits) - 1,
        others=tuple(waits[1 : OTHERS + 1]),
        task=first.url if first.reason in UNSERVED else "",
    )


def failed_step(steps: Sequence[Step]) -> Step | None:
    """The step that made the flow fail: the last failed one."""
    failed = [one for one in steps if one.status == "failed"]
    return max(failed, key=lambda one: one.updated_at, default=None)


def _failed(outcome: Outcome, steps: Sequence[Step]) -> Headline:
    step = failed_step(steps)
    reason = error_text(outcome.error) or (error_text(step.error) if step is not None else "")
    where = f"Failed at {step.task}" if step is not None else "Failed"
    whole = f"{where}: {reason}" if reason else f"{where}."
    return Headline(
        clip(whole, 240),
        "failed",
        do="rerun" if step is not None else "",
        step=step.step if step is not None else "",
        detail=whole if len(whole) > 240 else "",
    )


def _paused(pauses: Sequence[Pause], waits: Sequence[Wait]) -> Headline:
    first = pauses[0]
    asked = question(first.payload)
    if first.kind == "breakpoint":
        text = f"Stopped before {first.task} by a breakpoint."
    elif asked:
        text = f"Waits for a person at {first.task}: {asked}"
    else:
        text = next((_sentence(one) for one in waits if one.step == first.step), f"Waits for a person at {first.task}.")
    return Headline(
        clip(text, 240),
        "interrupted",
        first.since,
        first.until,
        do="continue" if first.kind == "breakpoint" else "answer",
        step=first.step,
        more=len(pauses) - 1,
    )


def question(payload: Any) -> str:
    """What a pause asks, if its payload says so in words."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, dict):
        for name in ("question", "message", "text", "title", "prompt", "reason"):
            if isinstance(payload.get(name), str):
                return str(payload[name])
    return ""


def _sentence(wait: Wait) -> str:
    """The text of a wait, with the node it is about."""
    text = wait.text or wait.reason
    return text if not wait.task or wait.task in text else f"{wait.task}: {text}"


def _leaves(waits: Sequence[Wait]) -> list[Wait]:
    """The waits that say why: those of a flow that was called stand in place of the step that called it."""
    found: list[Wait] = []
    pending = list(reversed(waits))
    while pending:
        one = pending.pop()
        if one.waits:
            pending.extend(reversed(one.waits))
        else:
            found.append(one)
    return found
