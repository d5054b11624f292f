"""Words and shapes by which diagrams show nodes that the engine carries out itself (N8)."""

from __future__ import annotations

from typing import assert_never

from dwarf_nats.render.flowchart import Shape
from dwarf_nats.render.labels import span
from dwarf_nats.workflow.nodes import (
    Action,
    AskPerson,
    NodeKind,
    PublishMessage,
    RunWorkflow,
    SendRequest,
    SetFields,
    Sleep,
    WaitForEvent,
)

SHAPES = {
    NodeKind.WORKFLOW: Shape.FRAMED,
    NodeKind.PUBLISH: Shape.FLAG,
    NodeKind.WAIT: Shape.HEXAGON,
    NodeKind.ASK: Shape.SLANTED,
    NodeKind.SLEEP: Shape.HEXAGON,
}
"""The shapes of kinds that are no box."""


def doing(action: Action) -> str:
    """Describe in a few words an action of the engine: `request stock.reserve`, `sleep 5.0 s`."""
    match action:
        case SetFields():
            return f"set {', '.join(action.fields)}"
        case RunWorkflow():
            return f"workflow {action.workflow}"
        case SendRequest():
            return f"request {action.subject}"
        case PublishMessage():
            return f"publish {action.subject}" + (" to a stream" if action.stream else "")
        case WaitForEvent():
            return f"wait for {action.event}{_timeout(action.timeout_ms)}"
        case AskPerson():
            return f"ask a person{_timeout(action.timeout_ms)}"
        case Sleep():
            return f"sleep {_length(action)}"
        case _:
            assert_never(action)


def _timeout(milliseconds: int | None) -> str:
    return "" if milliseconds is None else f", at most {span(milliseconds * 1000)}"


def _length(sleep: Sleep) -> str:
    if sleep.until is not None:
        return f"until {sleep.until}"
    return span(sleep.ms * 1000) if isinstance(sleep.ms, int) else f"{sleep.ms} ms"
