"""Decide: from a step, its graph and its task's answer to a settlement (X4-X9). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules import branching, parking, retries, routing, state_refs
from dwarf_nats.rules.routing import ON_ERROR, Route, StepError
from dwarf_nats.rules.settlement import FlowEnd, Settlement
from dwarf_nats.rules.state_refs import NO_REFS, Refs
from dwarf_nats.rules.steps import ClaimedStep, NewIds, NewStep
from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.graph import END
from dwarf_nats.workflow.limits import ELSEWHERE, UNLIMITED, Limits, over
from dwarf_nats.workflow.state import Raw, State, check_json, encode_state, encode_value, merge
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph

__all__ = ["ON_ERROR", "UNLIMITED", "Limits", "decide", "fail", "fail_or_handle", "release"]

HANDLING = 16
"""Steps that may follow a flow's longest way, if they handle the error that it is too long."""


def decide(
    step: ClaimedStep,
    graph: Graph,
    answer: Answer,
    new_step: NewIds,
    limits: Limits,
    child: parking.Child | None = None,
) -> Settlement:
    """The settlement of `answer`. `new_step` gives the id and token of a successor; `child` is there if
    `parking.wanted_child` says so."""
    changes = {**step.changes, **answer.changes} if step.changes else answer.changes
    try:
        if answer.error is not None:
            retried = _retry(step, answer, changes, limits)
            if retried is not None:
                return retried
            return fail_or_handle(step, graph, answer.error.within(limits.max_error_bytes), new_step, limits)
        parking.check_signals(step, answer)
        if answer.interrupt is not None or answer.subgraph is not None:
            return _park(step, answer, changes, new_step, limits, child)
        if answer.retry is not None:
            retried = _retry(step, answer, changes, limits)
            if retried is not None:
                return retried
            raise _exhausted(step)
        return _complete(step, graph, answer, changes, new_step, limits)
    except StepError as error:
        return fail_or_handle(step, graph, error.info, new_step, limits)


def fail(step: ClaimedStep, error: ErrorInfo) -> Settlement:
    """The step fails, and its flow with it; inside a cohort it has arrived as a failure and the siblings go on (X8).

    The error's answer contributes no changes (S6).
    """
    settlement = Settlement(step, Status.FAILED, step.changes, error=error, attempt=step.attempt)
    if step.spawn_id:
        settlement.arrives = True
    else:
        state = merge(step.state, step.changes)
        text = encode_state(state)
        settlement.end = _ended(Status.FAILED, state, text, _refs_of(step, step.changes, state, text), error)
    return settlement


def release(step: ClaimedStep, delay_us: int = 0) -> Settlement:
    """The step goes back to pending as it was (B3, B6)."""
    return Settlement(step, Status.PENDING, step.changes, attempt=step.attempt, delay_us=delay_us)


def fail_or_handle(step: ClaimedStep, graph: Graph, error: ErrorInfo, new_step: NewIds, limits: Limits) -> Settlement:
    """Down the on_error edge whose condition holds, the step counting as completed; else it fails (X4, X8)."""
    on_err = {ON_ERROR: _as_value(step, error, limits.max_depth)}
    changes = {**step.changes, **on_err}
    state = merge(step.state, changes)
    route = routing.after_error(graph, step.node, state)
    settlement = _follow(step, graph, route, changes, state, 0, new_step, limits) if route.edges else fail(step, error)
    settlement.problems = route.problems
    return settlement


def _as_value(step: ClaimedStep, error: ErrorInfo, max_depth: int) -> Raw:
    """The error as an object, for the field `onErr`; what else the task put there is left out if no state may hold it."""
    plain = {"message": error.message, "code": error.code, "task": step.node}
    try:
        value = encode_value({**error.extra, **plain}, "error")
        check_json(value, "error", max_depth - 1)
    except BadRequest:
        value = orjson.dumps({**plain, "message": error.message.encode("utf-8", "backslashreplace").decode()})
    return Raw(value)


def _retry(step: ClaimedStep, answer: Answer, changes: State, limits: Limits) -> Settlement | None:
    """The step goes back to pending with its `changes`, if the answer asks for a retry that is granted: then it is no error,
    whatever else it holds (S6, X5). Raises `StepError` for changes that are too large."""
    retry = answer.retry
    if retry is None:
        return None
    delay = min(retries.delay_us(retry, step.attempt) + answer.sleep_ms * 1000, retries.MAX_DELAY_US)
    if not retries.granted(retry, step.attempt, step.age_us, delay):
        return None
    if answer.changes:
        _encoded(step, merge(merge(step.state, step.changes), answer.changes), limits)
    return _checked(
        Settlement(step, Status.PENDING, changes, attempt=step.attempt + 1, delay_us=delay, forgets=step.parked_before),
        limits,
    )


def _park(
    step: ClaimedStep,
    answer: Answer,
    changes: State,
    new_step: NewIds,
    limits: Limits,
    child: parking.Child | None,
) -> Settlement:
    """The step waits for a resume or for its child; a sleep beside it is ignored (P1, P2)."""
    _encoded(step, merge(merge(step.state, step.changes), answer.changes), limits)
    if answer.subgraph is None:
        if answer.interrupt is not None:
            _check_bytes(len(bytes(answer.interrupt)), f"the interrupt payload of task {step.url}", limits)
        return _checked(parking.interrupted(step, changes, answer.interrupt), limits)
    assert child is not None
    _check_bytes(
        len(encode_state(answer.subgraph.input)), f"the sub-workflow's input that task {step.url} gives", limits
    )
    return _checked(parking.waiting(step, changes, answer.subgraph.input, child, new_step()), limits)


def _exhausted(step: ClaimedStep) -> StepError:
    tries = step.attempt + 1
    return StepError(
        f"task {step.url} was tried {tries} time{'s' if tries > 1 else ''} and asked for another: no retry left"
    )


def _complete(
    step: ClaimedStep,
    graph: Graph,
    answer: Answer,
    changes: State,
    new_step: NewIds,
    limits: Limits,
) -> Settlement:
    state = merge(merge(step.state, step.changes), answer.changes)
    route = routing.after_success(graph, step.node, state, answer.goto)
    settlement = _follow(step, graph, route, changes, state, answer.sleep_ms, new_step, limits)
    settlement.problems = route.problems
    return settlement


def _follow(
    step: ClaimedStep,
    graph: Graph,
    route: Route,
    changes: State,
    state: State,
    sleep_ms: int,
    new_step: NewIds,
    limits: Limits,
) -> Settlement:
    """The step is completed and the flow goes along the route; with nothing next it completes (X7, X9)."""
    try:
        following = branching.follow(
            graph, step.node, route, state, member=step.spawn_id != 0, max_branches=limits.max_branches
        )
        state_json = _encoded(step, state, limits)
        refs = _refs_of(step, changes, state, state_json)
        branches = _branches(step, following.branches, state, refs, limits)
        if branches or not (following.arrives or following.target == END):
            _check_length(step, limits.max_steps + (HANDLING if route.after_error else 0), limits)
        settlement = _checked(Settlement(step, Status.COMPLETED, changes, attempt=step.attempt), limits)
    except StepError as error:
        if route.after_error:
            return fail(step, error.info)
        raise
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
        settlement.end = _ended(Status.COMPLETED, state, state_json, refs)
    else:
        if refs:
            state_json = encode_state(state_refs.strip(state, refs))
        settlement.successor = _born(
            step, graph, following.target, state, state_json, refs, delay_us, new_step, step.spawn_id, step.ordinal
        )
    return settlement


def _ended(status: Status, state: State, text: bytes, refs: Refs, error: ErrorInfo | None = None) -> FlowEnd:
    """The flow ends with this state, whose text this is."""
    end = FlowEnd(status, text, error, refs=refs)
    if refs:
        end.stripped_json = encode_state(state_refs.strip(state, refs))
    return end


def _refs_of(step: ClaimedStep, changes: State, state: State, text: bytes) -> Refs:
    """Who holds the large fields of what this step hands on."""
    if len(text) < state_refs.LARGE_FIELD_BYTES:
        return NO_REFS
    return state_refs.refs_to(step.step_id, step.state, changes, step.refs, state)


def _branches(
    step: ClaimedStep, branches: list[tuple[str, State]], state: State, refs: Refs, limits: Limits
) -> list[tuple[str, State, bytes, Refs]]:
    """The branches with their states as they are written, without what `state`, out of which they are made, has from others.

    Each has a copy of whatever else the source had, so together they may be a lot.
    """
    encoded: list[tuple[str, State, bytes, Refs]] = []
    total = 0
    for node, branch in branches:
        borrowed = refs and {name: one for name, one in refs.items() if branch.get(name) is state[name]}
        text = _encoded(step, state_refs.strip(branch, borrowed), limits, state_refs.bytes_saved(branch, borrowed))
        total += len(text)
        if total > limits.max_fan_out_bytes:
            raise StepError(
                over(
                    f"the first {len(encoded) + 1} of {len(branches)} branches after task {step.url} have inputs of"
                    f" {total} bytes together", "max_fan_out_bytes", limits.max_fan_out_bytes,
                    "remove what the branches do not need from the state before they fan out",
                ),
                413,
            )  # fmt: skip
        encoded.append((node, branch, text, borrowed))
    return encoded


def _check_length(step: ClaimedStep, most: int, limits: Limits) -> None:
    """A flow that goes round for ever must end (the step after this one would be one too many)."""
    if step.depth >= most:
        raise StepError(
            over(
                f"node {step.node!r} is step {step.depth} in a row of its flow", "max_steps", limits.max_steps,
                "see whether its loop ever ends; a longer one should continue in a new flow of the thread",
            ),
            413,
        )  # fmt: skip


def _encoded(step: ClaimedStep, state: State, limits: Limits, more: int = 0) -> bytes:
    """The text of a state that is by `more` bytes larger than this."""
    text = encode_state(state)
    _check_bytes(len(text) + more, f"the state after task {step.url}", limits)
    return text


def _checked(settlement: Settlement, limits: Limits) -> Settlement:
    """Its changes are kept apart from the state, and what they remove is not in the state any more."""
    if len(settlement.changes) > 0:
        _check_bytes(len(settlement.changes_json()), f"what task {settlement.step.url} changed", limits)
    return settlement


def _check_bytes(size: int, what: str, limits: Limits) -> None:
    if size > limits.max_state_bytes:
        raise StepError(over(f"{what} is {size} bytes", "max_state_bytes", limits.max_state_bytes, ELSEWHERE), 413)


def _born(
    step: ClaimedStep,
    graph: Graph,
    name: str,
    state: State,
    state_json: bytes,
    refs: Refs,
    delay_us: int,
    new_step: NewIds,
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
        refs,
    )
