"""What the model says of nodes that the engine carries out itself (N1, N2, N5-N7)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import templates
from dwarf_nats.workflow.graph import Node
from dwarf_nats.workflow.nodes import AskPerson, RetryPolicy, RunWorkflow, SetFields, Sleep, WaitForEvent
from dwarf_nats.workflow.state import Raw
from tests.model import values
from tests.model.behaviours import SIGNALLED
from tests.model.step_runner import NOTHING, Brought, Reply
from tests.model.values import Error, State


def carry_out(node: Node, state: State, brought: Brought, extra: Mapping[str, Any] | None = None) -> Reply:
    """One execution of a step whose node has an action. `brought`: as for a task.

    `extra`: what templates know beside the state.
    """
    try:
        match node.action:
            case SetFields(fields):
                return Reply(_value(fields, state, extra))
            case RunWorkflow():
                return _run(node.action, node.field, state, brought.child)
            case AskPerson():
                if brought.resumed is not NOTHING:
                    return Reply({node.field: brought.resumed})
                return Reply({}, wishes={"interrupt": _value(node.action.payload, state)})
            case Sleep():
                ms = _value(node.action.ms, state)
                wrong = isinstance(ms, bool) or not isinstance(ms, int | float) or ms < 0
                return Reply({}, Error(values.TEMPLATE, 400) if wrong else None)
            case WaitForEvent():
                if brought.event is not NOTHING:
                    return Reply({node.field: brought.event})
                key = templates.render_text(node.action.key, _texts(state), where="a node")
                if node.action.event != SIGNALLED:
                    return Reply({}, Error(values.TIMED_OUT, 408))
                return Reply({}, wishes={"wait": (SIGNALLED, key)})
            case _:
                raise AssertionError(node)
    except BadRequest:
        return Reply({}, Error(values.TEMPLATE, 400))


def _run(action: RunWorkflow, field: str, state: State, child: Any) -> Reply:
    if child is NOTHING:
        return Reply({}, wishes={"subgraph": (action.workflow, _value(action.input, state))})
    return Reply({}, child) if isinstance(child, Error) else Reply({field: child})


def _value(template: Any, state: State, extra: Mapping[str, Any] | None = None) -> Any:
    return json.loads(bytes(templates.render(template, _texts(state), where="a node", extra=_texts(extra or {}))))


def _texts(values: Mapping[str, Any]) -> dict[str, Raw]:
    return {name: Raw(json.dumps(value).encode()) for name, value in values.items()}


def retried(policy: RetryPolicy | None, error: Error, attempt: int) -> bool:
    """True if a policy grants another attempt after this error (L2); examples bound attempts, not time."""
    if policy is None or error.extra.get("final") is True:
        return False
    covered = not policy.codes or error.code in policy.codes
    return covered and (policy.max_attempts is None or attempt + 1 < policy.max_attempts)


def counted(error: Error, attempt: int) -> Error:
    """The last error says how often the step was tried, if its node has a policy (L3)."""
    if not attempt or error.message.startswith("«"):
        return error
    return Error(f"{error.message} (tried {attempt + 1} times)", error.code, error.extra)
