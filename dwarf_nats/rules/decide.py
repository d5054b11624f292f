"""Decide: from a step, its graph and its task's answer to a settlement (X4-X9). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules import branching, parking, retries, routing
from dwarf_nats.rules.routing import Route, StepError
from dwarf_nats.rules.settlement import FlowEnd, NewStep, Settlement, StepInHand
from dwarf_nats.workflow import lending
from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.graph import END
from dwarf_nats.workflow.lending import NONE, Lenders
from dwarf_nats.workflow.state import MAX_DEPTH, Raw, State, check_json, encode_state, encode_value, merge
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from dwarf_nats.workflow.graph import Graph


ON_ERROR = "onErr"
"""The state field that holds the error on the way down an on_error edge."""


@dataclass(slots=True, frozen=True)
class Limits:
    """What a settlement may not exceed."""

    max_state_bytes: int


UNLIMITED = Limits(2**63)


def decide(
    step: StepInHand,
    graph: Graph,
    answer: Answer,
    new_step: Callable[[], tuple[int, str]],
    limits: Limits,
    child: parking.Child | None = None,
) -> Settlement:
    """The settlement of `answer`. `new_step` gives the id and token of a successor; `child` is there if
    `parking.wanted_child` says so."""
    if answer.error is not None:
        retried = _retry(step, answer, step.changes) if answer.retry is not None else None
        return retried if retried is not None else fail_or_handle(step, graph, answer.error, new_step, limits)
    try:
        parking.check_signals(step, answer)
        changes = {**step.changes, **answer.changes} if step.changes else answer.changes
        if answer.interrupt is not None or answer.subgraph is not None:
            return _park(step, answer, changes, new_step, limits, child)
        if answer.retry is not None:
            _encoded(step, merge(merge(step.state, step.changes), answer.changes), limits)
            retried = _retry(step, answer, changes)
            if retried is not None:
                return retried
            raise _exhausted(step)
        return _complete(step, graph, answer, changes, new_step, limits)
    except StepError as error:
        return fail_or_handle(step, graph, error.info, new_step, limits)


def fail(step: StepInHand, error: ErrorInfo) -> Settlement:
    """The step fails, and its flow with it; inside a cohort it has arrived as a failure and the siblings go on (X8).

    The error's answer contributes no changes (S6).
    """
    settlement = Settlement(step, Status.FAILED, step.changes, error=error, attempt=step.attempt)
    if step.spawn_id:
        settlement.arrives = True
    else:
        settlement.end = _ended(step, Status.FAILED, step.changes, merge(step.state, step.changes), error)
    return settlement


def give_back(step: StepInHand, delay_us: int = 0) -> Settlement:
    """The step goes back to pending as it was (B3, B6)."""
    return Settlement(step, Status.PENDING, step.changes, attempt=step.attempt, delay_us=delay_us)


def fail_or_handle(
    step: StepInHand, graph: Graph, error: ErrorInfo, new_step: Callable[[], tuple[int, str]], limits: Limits
) -> Settlement:
    """Down the on_error edge whose condition holds, the step counting as completed; else it fails (X4, X8)."""
    on_err = {ON_ERROR: _as_value(step, error)}
    changes = {**step.changes, **on_err}
    state = merge(step.state, changes)
    route = routing.after_error(graph, step.node, state)
    settlement = _follow(step, graph, route, changes, state, 0, new_step, limits) if route.edges else fail(step, error)
    settlement.problems = route.problems
    return settlement


def _as_value(step: StepInHand, error: ErrorInfo) -> Raw:
    """The error as an object, for the field `onErr`; what else the task put there is left out if no state may hold it."""
    plain = {"message": error.message, "code": error.code, "task": step.node}
    try:
        value = encode_value({**error.extra, **plain}, "error")
        check_json(value, "error", MAX_DEPTH - 1)
    except BadRequest:
        value = orjson.dumps({**plain, "message": error.message.encode("utf-8", "backslashreplace").decode()})
    return Raw(value)


def _retry(step: StepInHand, answer: Answer, changes: State) -> Settlement | None:
    retry = answer.retry
    assert retry is not None
    delay = min(retries.delay_us(retry, step.attempt) + answer.sleep_ms * 1000, retries.MAX_DELAY_US)
    if not retries.granted(retry, step.attempt, step.age_us, delay):
        return None
    return Settlement(
        step, Status.PENDING, changes, attempt=step.attempt + 1, delay_us=delay, forgets=step.parked_before
    )


def _park(
    step: StepInHand,
    answer: Answer,
    changes: State,
    new_step: Callable[[], tuple[int, str]],
    limits: Limits,
    child: parking.Child | None,
) -> Settlement:
    """The step waits for a resume or for its child; a sleep beside it is ignored (P1, P2)."""
    _encoded(step, merge(merge(step.state, step.changes), answer.changes), limits)
    if answer.subgraph is None:
        return parking.interrupted(step, changes, answer.interrupt)
    assert child is not None
    _encoded(step, answer.subgraph.input, limits)
    return parking.waiting(step, changes, answer.subgraph.input, child, new_step())


def _exhausted(step: StepInHand) -> StepError:
    tries = step.attempt + 1
    return StepError(
        f"task {step.url} was tried {tries} time{'s' if tries > 1 else ''} and asked for another: no retry left"
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
    route = routing.after_success(graph, step.node, state, answer.goto)
    settlement = _follow(step, graph, route, changes, state, answer.sleep_ms, new_step, limits)
    settlement.problems = route.problems
    return settlement


def _follow(
    step: StepInHand,
    graph: Graph,
    route: Route,
    changes: State,
    state: State,
    sleep_ms: int,
    new_step: Callable[[], tuple[int, str]],
    limits: Limits,
) -> Settlement:
    """The step is completed and the flow goes along the route; with nothing next it completes (X7, X9)."""
    try:
        following = branching.follow(graph, step.node, route, state, member=step.spawn_id != 0)
        state_json = _encoded(step, state, limits)
        lenders = _lenders(step, changes, state, state_json)
        branches = [_branch(step, *one, state, lenders, limits) for one in following.branches]
    except StepError as error:
        if route.after_error:
            return fail(step, error.info)
        raise
    settlement = Settlement(step, Status.COMPLETED, changes, attempt=step.attempt)
    delay_us = min(sleep_ms * 1000, retries.MAX_DELAY_US)
    if branches:
        settlement.branches = [
            _born(step, graph, node, branch, text, borrowed, delay_us, new_step, step.step_id, ordinal)
            for ordinal, (node, branch, text, borrowed) in enumerate(branches)
        ]
    elif following.arrives:
        settlement.arrives = True
        settlement.delay_us = delay_us
    elif following.target == END:
        settlement.end = _ended(step, Status.COMPLETED, changes, state)
    else:
        if lenders:
            state_json = encode_state(lending.slim(state, lenders))
        settlement.successor = _born(
            step, graph, following.target, state, state_json, lenders, delay_us, new_step, step.spawn_id, step.ordinal
        )
    return settlement


def _ended(step: StepInHand, status: Status, changes: State, state: State, error: ErrorInfo | None = None) -> FlowEnd:
    """The flow ends with the state this step hands on."""
    end = FlowEnd(status, encode_state(state), error)
    end.lenders = _lenders(step, changes, state, end.state_json)
    if end.lenders:
        end.slim_json = encode_state(lending.slim(state, end.lenders))
    return end


def _lenders(step: StepInHand, changes: State, state: State, text: bytes) -> Lenders:
    """Who holds the large fields of what this step hands on."""
    if len(text) < lending.LARGE:
        return NONE
    return lending.lenders_of(step.step_id, step.state, changes, step.lenders, state)


def _branch(
    step: StepInHand, node: str, branch: State, state: State, lenders: Lenders, limits: Limits
) -> tuple[str, State, bytes, Lenders]:
    """A branch with its state as it is written, without what `state`, out of which it is made, has from others."""
    borrowed = (
        {name: lender for name, lender in lenders.items() if branch.get(name) is state[name]} if lenders else NONE
    )
    text = _encoded(step, lending.slim(branch, borrowed), limits, lending.spared(branch, borrowed))
    return node, branch, text, borrowed


def _encoded(step: StepInHand, state: State, limits: Limits, more: int = 0) -> bytes:
    """The text of a state that is by `more` bytes larger than this."""
    text = encode_state(state)
    if len(text) + more > limits.max_state_bytes:
        raise StepError(
            f"the state after task {step.url} is {len(text) + more} bytes, over the limit of {limits.max_state_bytes}:"
            " keep large data elsewhere and a reference in the state",
            413,
        )
    return text


def _born(
    step: StepInHand,
    graph: Graph,
    name: str,
    state: State,
    state_json: bytes,
    lenders: Lenders,
    delay_us: int,
    new_step: Callable[[], tuple[int, str]],
    spawn_id: int,
    ordinal: int,
) -> NewStep:
    step_id, token = new_step()
    node = graph.nodes[name]
    return NewStep(
        step_id,
        token,
        node.name,
        node.url,
        step.depth + 1,
        state,
        state_json,
        delay_us,
        False,
        spawn_id,
        ordinal,
        lenders,
    )
