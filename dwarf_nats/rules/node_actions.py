"""Nodes that the engine carries out itself: from a step and the action of its node to an answer (N1, N2, N5-N7). Pure.

Such a step is asked to wait once, and runs again at the end of its wait, just like a step of a task (X4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules.retries import MAX_DELAY_US
from dwarf_nats.workflow import templates
from dwarf_nats.workflow.answer import Answer, ErrorInfo, EventWait, Subgraph
from dwarf_nats.workflow.nodes import AskPerson, RunWorkflow, SetFields, Sleep, WaitForEvent
from dwarf_nats.workflow.state import NULL, Raw, check_json, decode_state, decode_value
from dwarf_nats.workflow.times import parse_rfc3339

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.graph_builder import Node

KEY_MAX_BYTES = 256
"""Bytes of the key of an event (E1)."""
SHOWN_CHARS = 80
"""Characters of a wrong value that an error quotes."""


class EventEnd(msgspec.Struct, rename="camel"):
    """The end of a wait for an event, as it is stored (E2)."""

    data: Raw = NULL
    timed_out: bool = False


_read_end = msgspec.json.Decoder(EventEnd).decode


def answer_of(step: ClaimedStep, node: Node, now_us: int, max_depth: int) -> Answer:
    """The answer of a step whose node the engine carries out without a service.

    `now_us`: the time. What cannot be rendered is an error of the step with code 400. Raises `TypeError` for another action.
    """
    action = node.action
    try:
        return _ANSWERS[type(action)](_Acting(step, node, now_us, max_depth), action)
    except KeyError:
        raise TypeError(f"the engine cannot carry out {action!r} by itself") from None
    except BadRequest as error:
        return Answer(error=ErrorInfo(error.message, error.code))


class _Acting(msgspec.Struct, frozen=True):
    """The values that every action needs: the step, its node, the time and the deepest nesting."""

    step: ClaimedStep
    node: Node
    now_us: int
    max_depth: int

    def where(self, field: str) -> str:
        """The place of a template, for messages."""
        return f"node {self.node.name!r}, {field}"

    def rendered(self, template: Any, field: str) -> Raw:
        """The value of a template, known to be storable (S1). Raises `BadRequest`."""
        compensated = self.step.compensating  # its templates know what the compensated step had changed (N9)
        extra = {} if compensated is None else {"changes": compensated.changes}
        return templates.render(
            template, self.step.input, where=self.where(field), extra=extra, max_depth=self.max_depth
        )

    def brought(self, value: Raw) -> Answer:
        """The answer of a step that is completed by what it brings back."""
        field = self.node.into or self.node.name
        check_json(bytes(value), f"node {self.node.name!r}: what goes into {field!r}", self.max_depth - 1)
        return Answer(changes={field: value})

    def timed_out(self, what: str) -> Answer:
        """The error of a step whose wait had a deadline (N5, N6)."""
        return Answer(error=ErrorInfo(f"node {self.node.name!r}: {what}", 408), cause="timeout")


def _set(acting: _Acting, action: SetFields) -> Answer:
    return Answer(changes=decode_state(bytes(acting.rendered(action.fields, "set"))))


def _run_workflow(acting: _Acting, action: RunWorkflow) -> Answer:
    step = acting.step
    if step.subgraph_result is not None:
        return acting.brought(step.subgraph_result)
    if (failed := step.subgraph_error) is not None:
        return Answer(error=ErrorInfo(failed.message, failed.code, failed.extra))
    input_ = decode_state(bytes(acting.rendered(action.input, "input")))
    return Answer(subgraph=Subgraph(action.workflow, input_))


def _wait(acting: _Acting, action: WaitForEvent) -> Answer:
    ended = acting.step.event
    if ended is None:
        key = templates.render_text(action.key, acting.step.input, where=acting.where("wait.key"))
        if len(key.encode()) > KEY_MAX_BYTES:
            raise BadRequest(
                f"{acting.where('wait.key')}: the key has {len(key.encode())} bytes, more than {KEY_MAX_BYTES}:"
                " use a shorter one, such as an id"
            )
        return Answer(wait=EventWait(action.event, key, action.timeout_ms))
    end = _read_end(bytes(ended))
    if end.timed_out:
        return acting.timed_out(f"event {action.event!r} did not come within {action.timeout_ms} ms")
    return acting.brought(end.data)


def _ask(acting: _Acting, action: AskPerson) -> Answer:
    step = acting.step
    if step.interrupt_timed_out:
        return acting.timed_out(f"nobody answered within {action.timeout_ms} ms")
    if step.resumed is not None:
        return acting.brought(step.resumed)
    return Answer(interrupt=acting.rendered(action.payload, "ask.payload"), interrupt_timeout_ms=action.timeout_ms)


def _sleep(acting: _Acting, action: Sleep) -> Answer:
    if acting.step.event is not None:  # it has slept
        return Answer()
    delay_us = _until(acting, action.until) if action.until is not None else _milliseconds(acting, action.ms)
    return Answer(self_sleep_us=min(max(0, delay_us), MAX_DELAY_US))


def _milliseconds(acting: _Acting, ms: int | str | None) -> int:
    value = ms if isinstance(ms, int) else decode_value(acting.rendered(ms, "sleep.ms"))
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise BadRequest(f"{acting.where('sleep.ms')}: needs a number of milliseconds from 0, got {_shown(value)}")
    return round(min(value, MAX_DELAY_US // 1000) * 1000)


def _until(acting: _Acting, template: str) -> int:
    text = templates.render_text(template, acting.step.input, where=acting.where("sleep.until"))
    problem = f"{acting.where('sleep.until')}: needs a time such as 2026-11-30T09:00:00Z, got {_shown(text)}"
    when = parse_rfc3339(text)
    if when is None:
        raise BadRequest(problem)
    return round(when.timestamp() * 1_000_000) - acting.now_us


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"


_ANSWERS: dict[type, Callable[[_Acting, Any], Answer]] = {
    SetFields: _set,
    RunWorkflow: _run_workflow,
    WaitForEvent: _wait,
    AskPerson: _ask,
    Sleep: _sleep,
}
