"""Compensation of completed steps when a flow fails or is cancelled: which, in which order, and with what result (N9). Pure.

The plan is made once, when the flow would end: a step is created for each step to be compensated, and the steps run one by one
in the order of their ids. Design note 0032.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.rules import retries
from dwarf_nats.rules.settlement import Settlement
from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.limits import ELSEWHERE, Limits, over
from dwarf_nats.workflow.nodes import COMPENSATION_SUFFIX, RetryPolicy
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.graph import Graph, Node
    from dwarf_nats.workflow.state import State

_NOT_FOR_COMPENSATIONS = ("interrupt", "goto", "subgraph", "wait")


# -- which, and in which order


class EndingFlow(NamedTuple):
    """A flow that ends or has completed, as far as the plan needs it."""

    flow_id: int
    surgraph_step_id: int | None
    graph_digest: str


class DoneStep(NamedTuple):
    """A step as far as the plan needs it.

    `done`: it has completed in this flow, without taking an error edge. `compensates`: the step it compensates.
    """

    step_id: int
    flow_id: int
    node: str
    depth: int
    updated_at: int
    predecessor_id: int | None
    done: bool
    compensates: int | None


class Planned(NamedTuple):
    """A step to be compensated, the node of the compensation, and the depth of its step."""

    step_id: int
    flow_id: int
    node: Node
    depth: int


def plan(
    top: int, flows: Iterable[EndingFlow], steps: Sequence[DoneStep], graphs: Mapping[str, Graph]
) -> list[Planned]:
    """The steps of the flow `top`, and of those it called, that have to be compensated, in this order.

    That is the reverse of the order in which they completed; the steps of a called flow have the place of the step that called
    it, and come before it. `steps`: all steps of these flows.
    """
    flow_of = {flow.flow_id: flow for flow in flows}
    called: dict[int, list[int]] = {}
    for flow in flow_of.values():
        if flow.surgraph_step_id is not None:
            called.setdefault(flow.surgraph_step_id, []).append(flow.flow_id)
    by_flow: dict[int, list[DoneStep]] = {}
    for step in steps:
        by_flow.setdefault(step.flow_id, []).append(step)
    depths = {flow_id: 1 + max(step.depth for step in inside) for flow_id, inside in by_flow.items()}
    compensated = {step.compensates for step in steps if step.compensates is not None}
    planned: list[Planned] = []
    ahead: list[tuple[int, DoneStep | None]] = [(top, None)]
    while ahead:  # a stack, so that the depth of nesting is bounded by memory only (P4)
        flow_id, done = ahead.pop()
        if done is not None:
            node = _compensation(flow_of[flow_id], done, graphs, compensated)
            if node is not None:
                planned.append(Planned(done.step_id, flow_id, node, depths[flow_id]))
            continue
        for completed in _by_completion(by_flow.get(flow_id, ())):
            ahead.append((flow_id, completed))
            ahead += [(child, None) for child in called.get(completed.step_id, ())]
    return planned


def _by_completion(steps: Iterable[DoneStep]) -> list[DoneStep]:
    """The steps of a flow in the order in which they completed.

    Those of one transaction have the same time: then those further down the flow completed later, and of branches those with
    the larger id. A step completed after the one before it, even if the clock of the database was set back in between.
    """
    times: dict[int, int] = {}
    ordered = []
    for step in sorted(steps, key=lambda one: (one.depth, one.step_id)):
        times[step.step_id] = max(step.updated_at, times.get(step.predecessor_id or 0, 0))
        if step.compensates is None:
            ordered.append(step)
    return sorted(ordered, key=lambda one: (times[one.step_id], one.depth, one.step_id))


def _compensation(
    flow: EndingFlow, step: DoneStep, graphs: Mapping[str, Graph], compensated: Collection[int]
) -> Node | None:
    graph = graphs.get(flow.graph_digest)
    if graph is None or not step.done or step.step_id in compensated:
        return None
    return graph.compensations.get(f"{step.node}{COMPENSATION_SUFFIX}")


# -- with what result


def decide(
    step: ClaimedStep, policy: RetryPolicy, answer: Answer, *, limits: Limits, chance: Callable[[], float]
) -> Settlement:
    """The settlement of a compensation's answer: completed, to be tried again, or failed for good.

    Nothing follows on it in the graph: a task that asks for a pause, a sub-workflow, an event or a goto has made an error.
    `chance` as in `decide.Deciding`.
    """
    changes = {**step.changes, **answer.changes} if step.changes else answer.changes
    if answer.retry is not None:  # it beats the policy (L2)
        delay = retries.delay_us(answer.retry, step.attempt) + answer.sleep_ms * 1000
        if retries.granted(answer.retry, step.attempt, step.age_us, delay):
            shown = None if answer.error is None else answer.error.within(limits.max_error_bytes)
            return _again(step, changes, delay, shown)
    settlement = Settlement(step, Status.COMPLETED, changes, attempt=step.attempt, compensates=True)
    error = answer.error or _misplaced(step, answer) or _too_large(settlement, limits)
    if error is None:
        return settlement
    error = error.within(limits.max_error_bytes)
    if answer.retry is None and retries.covers(policy, error):
        delay = retries.shortened(retries.delay_us(policy, step.attempt), policy.jitter, chance)
        if retries.granted(policy, step.attempt, step.age_us, delay):
            return _again(step, step.changes, delay, error)
    return failed(step, retries.counted(error, step.attempt))


def failed(step: ClaimedStep, error: ErrorInfo) -> Settlement:
    """The compensation has failed for good: that is recorded with its step, and the others go on."""
    return Settlement(step, Status.FAILED, step.changes, error=error, attempt=step.attempt, compensates=True)


def _again(step: ClaimedStep, changes: State, delay_us: int, error: ErrorInfo | None = None) -> Settlement:
    delay_us = min(delay_us, retries.MAX_DELAY_US)
    return Settlement(step, Status.PENDING, changes, error=error, attempt=step.attempt + 1, delay_us=delay_us)


def _misplaced(step: ClaimedStep, answer: Answer) -> ErrorInfo | None:
    if answer.retry is not None:
        return ErrorInfo(f"the compensation {step.node!r} asked for another attempt: no retry left")
    for name in _NOT_FOR_COMPENSATIONS:
        if getattr(answer, name) is not None:
            return ErrorInfo(f"the compensation {step.node!r} asked for {name}: it can only change the state, or fail")
    return None


def _too_large(settlement: Settlement, limits: Limits) -> ErrorInfo | None:
    size = len(settlement.changes_json())
    if size <= limits.max_state_bytes:
        return None
    what = f"what the compensation {settlement.step.node!r} changed is {size} bytes"
    return ErrorInfo(over(what, "max_state_bytes", limits.max_state_bytes, ELSEWHERE), 413)
