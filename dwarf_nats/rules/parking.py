"""Steps that wait: for a resume, for the child they started, for an event or a time (P1, P2, O12, E2, N7). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules.routing import StepError
from dwarf_nats.rules.settlement import Pause, Settlement
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, NewFlow, StepRef
from dwarf_nats.workflow.names import check_event_key, check_subject_name
from dwarf_nats.workflow.state import State, encode_state, merge
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import Answer, EventWait, Subgraph
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.state import Raw

_SIGNALS = ("interrupt", "retry", "goto", "subgraph", "wait")
_PARKS = ("interrupt", "subgraph", "wait")


@dataclass(slots=True)
class Child:
    """A child flow without its input: its graph, kept under `digest`, and its id and token."""

    graph: Graph
    digest: str
    flow_id: int
    token: str


def check_signals(step: ClaimedStep, answer: Answer) -> None:
    """Raise `StepError` for signals that exclude each other, and for a second park (X4)."""
    if (
        answer.interrupt is None
        and answer.retry is None
        and answer.goto is None
        and answer.subgraph is None
        and answer.wait is None
    ):
        return  # as nearly all answers
    asked = [name for name in _SIGNALS if getattr(answer, name) is not None]
    if len(asked) > 1:
        raise StepError(f"the task asked for {' and '.join(asked)} together: answer with one of them")
    if asked[0] in _PARKS and step.parked_before:
        raise StepError(
            f"the task asked for {asked[0]} after it was {_woken_by(step)}: a step waits once; use another step for the next"
            " wait"
        )


def check_wait(wait: EventWait) -> None:
    """Raise `StepError` for an event that nobody can signal (E1)."""
    try:
        check_subject_name(wait.event, "event")
        check_event_key(wait.key, "the key of the event")
    except BadRequest as error:
        raise StepError(error.message, 400) from None


def _woken_by(step: ClaimedStep) -> str:
    """Say for people how the wait of a step ended."""
    if step.resumed is not None:
        return "resumed"
    if step.interrupt_timed_out:
        return "told that its interrupt timed out"
    if step.event is not None:
        return "given the end of its wait for an event"
    return "given the end of its sub-workflow"


def wanted_child(step: ClaimedStep, answer: Answer) -> Subgraph | None:
    """The child flow the verdict of `answer` comes to, if it does."""
    if answer.error is not None or answer.subgraph is None:
        return None
    try:
        check_signals(step, answer)
    except StepError:
        return None
    return answer.subgraph


def interrupted(step: ClaimedStep, changes: State, payload: Raw | None, *, timeout_ms: int | None = None) -> Settlement:
    """The step pauses: with the payload of its interrupt and its deadline (P6), or with `None` at a breakpoint."""
    pause = Pause(payload, encode_state(merge(step.state, changes)), timeout_ms)
    return Settlement(step, Status.INTERRUPTED, changes, attempt=step.attempt, pause=pause)


def waiting_for_event(step: ClaimedStep, changes: State, wait: EventWait) -> Settlement:
    """The step waits for an event (E2)."""
    return Settlement(step, Status.RUNNING, changes, attempt=step.attempt, event_wait=wait)


def sleeping(step: ClaimedStep, delay_us: int) -> Settlement:
    """The step waits for a time, and is completed then (N7)."""
    return Settlement(step, Status.PENDING, step.changes, attempt=step.attempt, delay_us=delay_us, slept=True)


def waiting(step: ClaimedStep, changes: State, input_: State, *, child: Child, entry: StepRef) -> Settlement:
    """The step waits for a child flow, which is created with exactly `input_` as its state (P1).

    The child inherits baggage, scheduling, breakpoints and time budget, and is a thread of its own. `entry`: its first step.
    """
    parent = step.flow
    node = child.graph.nodes[child.graph.entry_point]
    new = NewFlow(
        flow=FlowContext(
            shard=parent.shard,
            flow_id=child.flow_id,
            token=child.token,
            workflow=child.graph.name,
            digest=child.digest,
            graph=child.graph,
            baggage=parent.baggage,
            priority=parent.priority,
            fairness_key=parent.fairness_key,
            fairness_weight=parent.fairness_weight,
            time_budget_ms=parent.time_budget_ms,
            notify="",
            thread_id=child.flow_id,
            created_at=0,
            updated_at=0,
            root_id=parent.root_id,
            surgraph_flow_id=parent.flow_id,
            surgraph_step_id=step.step_id,
            breakpoints=parent.breakpoints,
            trace=parent.trace,
        ),
        state=input_,
        state_json=encode_state(input_),
        step_id=entry.step_id,
        step_token=entry.token,
        node=node.name,
        url=node.url,
        thread_token=child.token,
        start=True,
    )
    return Settlement(step, Status.RUNNING, changes, attempt=step.attempt, child=new)
