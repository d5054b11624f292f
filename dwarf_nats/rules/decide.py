"""Decide: from a step, its graph and its task's answer to a settlement (X4-X9). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules import retries
from dwarf_nats.rules.settlement import FlowEnd, NewStep, Settlement, StepInHand
from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.graph import END
from dwarf_nats.workflow.state import State, encode_state, merge
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.straight import next_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from dwarf_nats.workflow.graph import Graph


@dataclass(slots=True, frozen=True)
class Limits:
    """What a settlement may not exceed."""

    max_state_bytes: int


def decide(
    step: StepInHand, graph: Graph, answer: Answer, new_step: Callable[[], tuple[int, str]], limits: Limits
) -> Settlement:
    """The settlement of `answer`. `new_step` gives the id and token of a successor."""
    if answer.error is not None:
        return _failure(step, answer, answer.error)
    problem = _signal_problem(answer)
    if problem is not None:
        return fail(step, problem)
    changes = {**step.changes, **answer.changes} if step.changes else answer.changes
    if answer.retry is not None:
        retried = _retry(step, answer, changes)
        return retried if retried is not None else fail(step, _exhausted(step, None), changes)
    return _complete(step, graph, answer, changes, new_step, limits)


def fail(step: StepInHand, error: ErrorInfo, changes: State | None = None) -> Settlement:
    """The step fails, and its flow with it (X8); the error's answer contributes no changes (S6)."""
    kept = step.changes if changes is None else changes
    final = encode_state(merge(step.state, step.changes))
    return Settlement(
        step, Status.FAILED, kept, error=error, attempt=step.attempt, end=FlowEnd(Status.FAILED, final, error)
    )


def give_back(step: StepInHand, delay_us: int = 0) -> Settlement:
    """The step goes back to pending as it was (B3, B6)."""
    return Settlement(step, Status.PENDING, step.changes, attempt=step.attempt, delay_us=delay_us)


def _signal_problem(answer: Answer) -> ErrorInfo | None:
    asked = [
        name
        for name, value in (
            ("interrupt", answer.interrupt),
            ("retry", answer.retry),
            ("goto", answer.goto),
            ("subgraph", answer.subgraph),
        )
        if value is not None
    ]
    if len(asked) > 1:
        return ErrorInfo(f"the task asked for {' and '.join(asked)} together: answer with one of them", 500)
    if asked and asked[0] != "retry":
        return ErrorInfo(
            f"the task asked for {asked[0]}, which this version does not execute yet: answer with changes, sleepMs or retry",
            501,
        )
    return None


def _failure(step: StepInHand, answer: Answer, error: ErrorInfo) -> Settlement:
    if answer.retry is not None:
        retried = _retry(step, answer, step.changes)
        if retried is not None:
            return retried
        error = _exhausted(step, error)
    return fail(step, error)


def _retry(step: StepInHand, answer: Answer, changes: State) -> Settlement | None:
    retry = answer.retry
    assert retry is not None
    delay = min(retries.delay_us(retry, step.attempt) + answer.sleep_ms * 1000, retries.MAX_DELAY_US)
    if not retries.granted(retry, step.attempt, step.age_us, delay):
        return None
    return Settlement(step, Status.PENDING, changes, attempt=step.attempt + 1, delay_us=delay)


def _exhausted(step: StepInHand, error: ErrorInfo | None) -> ErrorInfo:
    if error is not None:
        return error
    tries = step.attempt + 1
    return ErrorInfo(
        f"task {step.url} was tried {tries} time{'s' if tries > 1 else ''} and asked for another: no retry left", 500
    )


def _complete(
    step: StepInHand,
    graph: Graph,
    answer: Answer,
    changes: State,
    new_step: Callable[[], tuple[int, str]],
    limits: Limits,
) -> Settlement:
    state = merge(merge(step.state, step.changes), answer.changes)
    state_json = encode_state(state)
    if len(state_json) > limits.max_state_bytes:
        return fail(
            step,
            ErrorInfo(
                f"the state after task {step.url} is {len(state_json)} bytes, over the limit of {limits.max_state_bytes}:"
                " keep large data elsewhere and a reference in the state",
                413,
            ),
        )
    settlement = Settlement(step, Status.COMPLETED, changes, attempt=step.attempt)
    following = next_node(graph, step.node)
    if following == END:
        settlement.end = FlowEnd(Status.COMPLETED, state_json)
    else:
        step_id, token = new_step()
        node = graph.nodes[following]
        settlement.successor = NewStep(
            step_id,
            token,
            node.name,
            node.url,
            step.depth + 1,
            state,
            state_json,
            delay_us=min(answer.sleep_ms * 1000, retries.MAX_DELAY_US),
        )
    return settlement
