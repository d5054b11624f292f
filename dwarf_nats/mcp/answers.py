"""Answers of the tools: compact JSON of bounded size, so that one call cannot fill the context of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import Explanation, Wait
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.records import FlowSummary, Outcome, Pause, Step

MAX_VALUE_CHARS = 6_000
"""JSON text of one state, payload or set of changes; a longer one is cut and says so."""
MAX_ANSWER_CHARS = 40_000
"""JSON text of one answer, about 10,000 tokens."""
MAX_TEXT_CHARS = 500
"""Text of one error or reason in a list."""
MAX_WAITS = 20
"""Waiting steps of one explanation, the oldest first."""
MARK_CHARS = 40
"""Room for the mark of a cut."""

Fields = dict[str, Any]
_parse = msgspec.json.Decoder().decode


def answer(fields: Mapping[str, Any]) -> str:
    """The text of an answer: JSON without the fields that say nothing, bounded."""
    said = {name: value for name, value in fields.items() if value is not None and value != "" and value != []}
    return msgspec.json.encode(shortened(said, MAX_ANSWER_CHARS)).decode()


def shortened(value: Any, budget_chars: int) -> Any:
    """The value if its JSON fits into the budget, else the value with its largest parts cut, each saying how long it was."""
    size = _size(value)
    if size <= budget_chars:
        return value
    if isinstance(value, str):
        share = max(0, budget_chars - MARK_CHARS) / size  # escapes count
        return f"{value[: int(len(value) * share)]}… [cut: {len(value):,} characters]"
    if isinstance(value, dict):
        return _shortened_object(value, budget_chars)
    if isinstance(value, list):
        return _shortened_array(value, budget_chars)
    return f"[cut: {size:,} characters of JSON]"


def _shortened_object(value: dict[str, Any], budget_chars: int) -> dict[str, Any]:
    """Small fields stay whole; the large ones share the budget that is left."""
    names = list(value)
    while names and sum(len(name) + MARK_CHARS for name in names) > budget_chars:
        names = names[: len(names) // 2]
    left = budget_chars - sum(len(name) + 6 for name in names)
    kept: dict[str, Any] = {}
    for at, name in enumerate(sorted(names, key=lambda name: _size(value[name]))):
        kept[name] = shortened(value[name], left // (len(names) - at))
        left -= _size(kept[name])
    whole = {name: kept[name] for name in names}
    return whole | ({"…": f"[cut: {len(value) - len(names):,} more fields]"} if len(names) < len(value) else {})


def _shortened_array(value: list[Any], budget_chars: int) -> list[Any]:
    left = budget_chars - MARK_CHARS
    kept: list[Any] = []
    for item in value:
        part = item if kept else shortened(item, left)
        left -= _size(part) + 1
        if left < 0:
            break
        kept.append(part)
    return [*kept, f"[cut: {len(value) - len(kept):,} more items]"] if len(kept) < len(value) else kept


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value).decode())


def time_text(microseconds: int | None) -> str | None:
    """A time in UTC, by the second: `2026-12-01T08:00:00Z`."""
    if microseconds is None:
        return None
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def short_text(text: str | None) -> str | None:
    """A text of a list, bounded."""
    if text is None or len(text) <= MAX_TEXT_CHARS:
        return text
    return f"{text[:MAX_TEXT_CHARS]}… [cut: {len(text):,} characters]"


class Answers:
    """Makes answers of records. Without `payloads`, states, changes and other values of workflows are left out."""

    def __init__(self, *, payloads: bool = True) -> None:
        self._payloads = payloads

    def value(self, text: bytes | None) -> Any:
        """A value of a workflow, bounded; `None` if it is absent or not to be shown."""
        return shortened(_parse(text), MAX_VALUE_CHARS) if text is not None and self._payloads else None

    def outcome(self, outcome: Outcome) -> Fields:
        """Where a flow stands."""
        ended = outcome.status.stopped
        return _said(
            flow_key=outcome.flow_key,
            workflow=outcome.workflow,
            status=outcome.status.value,
            compensating=outcome.compensating or None,
            error=self._error(outcome.error),
            cancel_reason=outcome.cancel_reason,
            pauses=[self._pause(one) for one in outcome.pauses[:MAX_WAITS]],
            breakpoints=list(outcome.breakpoints),
            tags=outcome.tags or None,
            state=self.value(outcome.state_json) if ended and not outcome.truncated else None,
            note="the state is too large for a message: read single steps with get_step" if outcome.truncated else None,
        )

    def waited(self, outcome: Outcome, seconds: float) -> str:
        """The answer of a call that waited for a flow."""
        stopped = outcome.status.stopped
        note = None if stopped else f"still going after {seconds:g} s: call wait_for_flow, or explain_flow"
        return answer(self.outcome(outcome) | ({"note": note} if note else {}))

    def summary(self, flow: FlowSummary) -> Fields:
        """A flow in a list."""
        waits = flow.waits_for
        return _said(
            flow_key=flow.flow_key,
            workflow=flow.workflow,
            status=flow.status.value,
            created_at=time_text(flow.created_at),
            updated_at=time_text(flow.updated_at),
            task=flow.task,
            waits=short_text(waits.text) if waits else None,
            error=short_text(flow.error.message) if flow.error else None,
            cancel_reason=short_text(flow.cancel_reason),
            tags=flow.tags or None,
        )

    def step(self, step: Step) -> Fields:
        """A step in a history. Sub-workflows are named, not unfolded."""
        branch = step.branch
        return _said(
            step_key=step.step_key,
            task=step.task,
            kind=step.kind.value if step.kind.value != "task" else None,
            status=step.status.value,
            attempt=step.attempt or None,
            started_at=time_text(step.started_at),
            updated_at=time_text(step.updated_at),
            due_at=time_text(step.due_at),
            branch=f"{branch.label} of {branch.of}" if branch else None,
            error=self._error(step.error),
            handled_error=self._error(step.handled_error),
            problems=[short_text(one) for one in step.problems],
            progress=_progress(step.progress),
            sub_workflow=step.sub_workflow,
            sub_flow_key=step.sub_flow_key,
        )

    def explanation(self, explained: Explanation) -> Fields:
        """Why a flow stands where it stands."""
        more = explained.truncated or len(explained.waits) > MAX_WAITS
        return _said(
            flow_key=explained.flow_key,
            status=explained.status.value,
            text=explained.text,
            remedy=explained.remedy,
            waits=[self._wait(one) for one in explained.waits[:MAX_WAITS]],
            waiting_steps_by_reason={reason.value: n for reason, n in explained.counts.items()} if more else None,
        )

    def _wait(self, wait: Wait) -> Fields:
        return _said(
            step_key=wait.step_key,
            task=wait.task,
            reason=wait.reason.value,
            because=wait.because.value if wait.because else None,
            text=short_text(wait.text),
            remedy=wait.remedy,
            since=time_text(wait.since),
            until=time_text(wait.until),
            deadline=time_text(wait.deadline),
            error=self._error(wait.error),
            payload=self.value(wait.payload_json),
            event=wait.event,
            key=wait.key,
            flow_key=wait.flow_key,
            waits=[self._wait(one) for one in wait.waits[:MAX_WAITS]],
        )

    def _pause(self, pause: Pause) -> Fields:
        return _said(
            step_key=pause.step_key,
            task=pause.task,
            kind=pause.kind,
            since=time_text(pause.since),
            until=time_text(pause.until),
            payload=self.value(pause.payload_json),
        )

    def _error(self, error: ErrorInfo | None) -> Fields | None:
        if error is None:
            return None
        return {"code": error.code, "message": short_text(error.message)}


def _progress(progress: Progress | None) -> str | None:
    if progress is None:
        return None
    share = "" if progress.fraction is None else f"{progress.fraction:.0%}"
    return short_text(f"{share} {progress.text or ''}".strip())


def _said(**fields: Any) -> Fields:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value is not None and value != "" and value != []}


def page(items: Sequence[Fields], cursor: str, name: str) -> str:
    """The answer of a list, with the cursor of the next page."""
    return answer({name: list(items), "next_cursor": cursor} if cursor or items else {name: "none"})
