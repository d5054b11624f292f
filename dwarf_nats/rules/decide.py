"""Decide: from a step, its graph and its task's answer to a settlement (X4-X9). Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules import branching, compensation, parking, retries, routing, state_refs
from dwarf_nats.rules.routing import ON_ERROR, Route, StepError
from dwarf_nats.rules.settlement import FlowEnd, Settlement
from dwarf_nats.rules.state_refs import NO_REFS, Refs
from dwarf_nats.rules.steps import ClaimedStep, NewIds, NewStep
from dwarf_nats.workflow import fields
from dwarf_nats.workflow.answer import Answer, ErrorInfo, Retry
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.limits import ELSEWHERE, Limits, over
from dwarf_nats.workflow.nodes import COMPENSATION_RETRY, AskPerson, SetFields, Sleep, WaitForEvent
from dwarf_nats.workflow.state import Raw, State, check_json, encode_state, encode_value, merge
from dwarf_nats.workflow.status import Status

AT_ONCE = (SetFields, Sleep, WaitForEvent, AskPerson)
"""Actions that need nothing from outside: they are done at once, or begin a wait."""
ERROR_HANDLING_MAX_STEPS = 16
"""Steps that may follow beyond `max_steps` if they handle the error that the flow has too many steps."""


class Deciding(msgspec.Struct, frozen=True):
    """The values that every part of one decision needs: the step, its graph, ids for new steps, the limits, and chance.

    `chance`: gives numbers from 0 to 1, for delays that are shortened at random (L1).
    """

    step: ClaimedStep
    graph: Graph
    new_step: NewIds
    limits: Limits
    chance: Callable[[], float] = random.random


def decide(deciding: Deciding, answer: Answer, child: parking.Child | None = None) -> Settlement:
    """The settlement of an answer (X4-X9). `child` is there if `parking.wanted_child` says so."""
    step = deciding.step
    if step.compensating is not None:
        return _compensated(deciding, step, answer)
    changes = {**step.changes, **answer.changes} if step.changes else answer.changes
    try:
        if answer.error is not None:
            retried = _retry(deciding, answer, changes)
            if retried is not None:
                return retried
            return _after_error(deciding, answer.error.within(deciding.limits.max_error_bytes), asked=answer.retry)
        if deciding.graph.fields:
            _check_types(deciding, answer.changes)
        parking.check_signals(step, answer)
        if answer.interrupt is not None or answer.subgraph is not None or answer.wait is not None:
            return _park(deciding, answer, changes, child)
        if answer.retry is not None:
            retried = _retry(deciding, answer, changes)
            if retried is not None:
                return retried
            return fail_or_handle(deciding, _exhausted(step))
        if answer.self_sleep_us:
            return parking.sleeping(step, answer.self_sleep_us)
        return _complete(deciding, answer, changes)
    except StepError as error:
        return _after_error(deciding, error.info, asked=answer.retry, final=error.final)


def _compensated(deciding: Deciding, step: ClaimedStep, answer: Answer) -> Settlement:
    """The settlement of a compensation's answer (N9); a change of a wrong type is an error of it, too."""
    policy = deciding.graph.compensations[step.node].retry or COMPENSATION_RETRY
    if answer.error is None and deciding.graph.fields:
        try:
            _check_types(deciding, answer.changes)
        except StepError as error:
            answer = Answer(error=error.info)
    return compensation.decide(step, policy, answer, limits=deciding.limits, chance=deciding.chance)


def _check_types(deciding: Deciding, changes: State) -> None:
    """Raise `StepError` for a change that is not of its declared type (G11)."""
    problem = next(fields.value_problems(deciding.graph, changes), "")
    if problem:
        raise StepError(f"{deciding.step.node}: what the step changed does not fit the graph: {problem}", 502)


def fail(step: ClaimedStep, error: ErrorInfo) -> Settlement:
    """The step fails, and its flow with it; inside a cohort it has arrived as a failure and the siblings go on (X8).

    The error's answer contributes no changes (S6). If the flow may have something to compensate, that is looked for when it is
    written, and its end comes after it (N9).
    """
    if step.compensating is not None:
        return compensation.failed(step, error)
    settlement = Settlement(step, Status.FAILED, step.changes, error=error, attempt=step.attempt)
    if step.spawn_id:
        settlement.arrives = True
    else:
        state = step.input
        text = encode_state(state)
        refs = _refs_of(step, step.changes, state, text)
        end = _ended(Status.FAILED, state, text, refs, error=error)
        if step.flow.may_compensate:
            settlement.compensates, settlement.pending_end = True, end
        else:
            settlement.end = end
    return settlement


def release(step: ClaimedStep, delay_us: int = 0) -> Settlement:
    """The step goes back to pending as it was (B3, B6)."""
    return Settlement(step, Status.PENDING, step.changes, attempt=step.attempt, delay_us=delay_us)


def _after_error(deciding: Deciding, error: ErrorInfo, *, asked: Retry | None, final: bool = False) -> Settlement:
    """The step is retried by the policy of its node, or else fails or takes its error edge (L2, L3).

    The error of a retried step is kept to be shown. `asked`: the retry that the answer asked for; it beats the policy.
    `final`: a retry cannot help, as it cannot where what the branches of a fan-in changed does not merge (F3).
    """
    step = deciding.step
    policy = retries.policy_of(deciding.graph, step.node)
    if policy is None or asked is not None:
        return fail_or_handle(deciding, error)
    if not final and step.unmerged is None and retries.covers(policy, error):
        delay = retries.shortened(retries.delay_us(policy, step.attempt), policy.jitter, deciding.chance)
        if retries.granted(policy, step.attempt, step.age_us, delay):
            return Settlement(
                step,
                Status.PENDING,
                step.changes,
                error=error,
                attempt=step.attempt + 1,
                delay_us=delay,
                forgets=step.parked_before,
            )
    return fail_or_handle(deciding, retries.counted(error, step.attempt))


def fail_or_handle(deciding: Deciding, error: ErrorInfo) -> Settlement:
    """Down the on_error edge whose condition holds, the step counting as completed; else it fails (X4, X8)."""
    step = deciding.step
    on_err = {ON_ERROR: _as_value(step, error, deciding.limits.max_depth)}
    changes = {**step.changes, **on_err}
    state = merge(step.state, changes)
    route = routing.after_error(deciding.graph, step.node, state)
    if not route.edges:
        settlement = fail(step, error)
    else:
        settlement = _follow(deciding, route, changes, state)
        if settlement.status is Status.COMPLETED:
            settlement.error = error  # so it is told from a step that simply completed (N9)
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


def _retry(deciding: Deciding, answer: Answer, changes: State) -> Settlement | None:
    """The step goes back to pending with its `changes`, if the answer asks for a retry that is granted: then it is no error,
    whatever else it holds (S6, X5), but one beside it is shown (L3). Raises `StepError` for changes that are too large."""
    step, retry = deciding.step, answer.retry
    if retry is None:
        return None
    delay = min(retries.delay_us(retry, step.attempt) + answer.sleep_ms * 1000, retries.MAX_DELAY_US)
    if not retries.granted(retry, step.attempt, step.age_us, delay):
        return None
    if answer.changes:
        _encoded(deciding, merge(step.input, answer.changes))
    settlement = Settlement(
        step, Status.PENDING, changes, attempt=step.attempt + 1, delay_us=delay, forgets=step.parked_before
    )
    if answer.error is not None:
        settlement.error = answer.error.within(deciding.limits.max_error_bytes)
    settlement.tags = answer.tags
    return _checked(deciding, settlement)


def _park(deciding: Deciding, answer: Answer, changes: State, child: parking.Child | None) -> Settlement:
    """The step waits for a resume, its child or an event; a sleep beside it is ignored (P1, P2, E2)."""
    step, limits = deciding.step, deciding.limits
    _encoded(deciding, merge(step.input, answer.changes))
    if answer.wait is not None:
        parking.check_wait(answer.wait)
        return _checked(deciding, parking.waiting_for_event(step, changes, answer.wait))
    if answer.interrupt is not None:
        _check_bytes(len(bytes(answer.interrupt)), f"the interrupt payload of task {step.url}", limits)
        timeout_ms = answer.interrupt_timeout_ms
        return _checked(deciding, parking.interrupted(step, changes, answer.interrupt, timeout_ms=timeout_ms))
    assert answer.subgraph is not None
    assert child is not None
    _check_bytes(
        len(encode_state(answer.subgraph.input)), f"the sub-workflow's input that task {step.url} gives", limits
    )
    waiting = parking.waiting(step, changes, answer.subgraph.input, child=child, entry=deciding.new_step())
    return _checked(deciding, waiting)


def _exhausted(step: ClaimedStep) -> ErrorInfo:
    tries = step.attempt + 1
    return ErrorInfo(
        f"task {step.url} was tried {tries} time{'s' if tries > 1 else ''} and asked for another: no retry left"
    )


def _complete(deciding: Deciding, answer: Answer, changes: State) -> Settlement:
    step = deciding.step
    state = merge(step.input, answer.changes)
    target = deciding.graph.straight(step.node) if answer.goto is None else ""
    if target:
        return _go_straight(deciding, target, changes, state, sleep_ms=answer.sleep_ms)
    route = routing.after_success(deciding.graph, step.node, state, answer.goto)
    settlement = _follow(deciding, route, changes, state, sleep_ms=answer.sleep_ms)
    settlement.problems = route.problems
    return settlement


def _go_straight(deciding: Deciding, target: str, changes: State, state: State, *, sleep_ms: int) -> Settlement:
    """As `_follow`, where one target always follows and nothing has to be found out: the way of most steps."""
    step = deciding.step
    state_json = _encoded(deciding, state)
    refs = _refs_of(step, changes, state, state_json)
    if target != END:
        _check_length(step, deciding.limits.max_steps, deciding.limits)
    settlement = _checked(deciding, Settlement(step, Status.COMPLETED, changes, attempt=step.attempt))
    delay_us = min(sleep_ms * 1000, retries.MAX_DELAY_US) if sleep_ms else 0
    _lead_to(deciding, settlement, _Entry(target, state, state_json, refs), delay_us)
    return settlement


def _lead_to(deciding: Deciding, settlement: Settlement, entry: _Entry, delay_us: int) -> None:
    """One node follows on a completed step, or its flow completes."""
    if entry.node == END:
        settlement.end = _ended(Status.COMPLETED, entry.state, entry.state_json, entry.refs)
        return
    if entry.refs:
        entry.state_json = encode_state(state_refs.strip(entry.state, entry.refs))
    step = deciding.step
    settlement.successor = _new_step(deciding, entry, delay_us, spawn_id=step.spawn_id, ordinal=step.ordinal)


def _follow(deciding: Deciding, route: Route, changes: State, state: State, *, sleep_ms: int = 0) -> Settlement:
    """The step is completed and the flow goes along the route; with nothing next it completes (X7, X9)."""
    step, graph, limits = deciding.step, deciding.graph, deciding.limits
    try:
        following = branching.follow(
            graph, step.node, route, state, member=step.spawn_id != 0, max_branches=limits.max_branches
        )
        state_json = _encoded(deciding, state)
        refs = _refs_of(step, changes, state, state_json)
        branches = _branches(deciding, following.branches, state, refs)
        if branches or not (following.arrives or following.target == END):
            _check_length(step, limits.max_steps + (ERROR_HANDLING_MAX_STEPS if route.after_error else 0), limits)
        settlement = _checked(deciding, Settlement(step, Status.COMPLETED, changes, attempt=step.attempt))
    except StepError as error:
        if route.after_error:
            return fail(step, error.info)
        raise
    delay_us = min(sleep_ms * 1000, retries.MAX_DELAY_US)
    if branches:
        settlement.branches = [
            _new_step(deciding, branch, delay_us, spawn_id=step.step_id, ordinal=ordinal)
            for ordinal, branch in enumerate(branches)
        ]
    elif following.arrives:
        settlement.arrives = True
        settlement.delay_us = delay_us
    else:
        _lead_to(deciding, settlement, _Entry(following.target, state, state_json, refs), delay_us)
    return settlement


def _ended(status: Status, state: State, text: bytes, refs: Refs, *, error: ErrorInfo | None = None) -> FlowEnd:
    """The flow ends with this state, whose text this is."""
    end = FlowEnd(status, text, error, refs=refs)
    if refs:
        end.stripped_json = encode_state(state_refs.strip(state, refs))
    return end


def _refs_of(step: ClaimedStep, changes: State, state: State, text: bytes) -> Refs:
    """References to the large fields of the state that this step hands on."""
    if len(text) < state_refs.LARGE_FIELD_BYTES:
        return NO_REFS
    return state_refs.refs_to(step.step_id, state, step.state, changes, refs=step.refs)


class _Entry(msgspec.Struct, gc=False):
    """A node that comes next, with its input as it is and as it is written, without what it has by reference."""

    node: str
    state: State
    state_json: bytes
    refs: Refs


def _branches(deciding: Deciding, branches: list[tuple[str, State]], state: State, refs: Refs) -> list[_Entry]:
    """The entries of the branches, whose states are made out of `state`.

    Each has a copy of whatever else the source had, so together they may be a lot.
    """
    step, limits = deciding.step, deciding.limits
    entries: list[_Entry] = []
    total = 0
    for node, branch in branches:
        own = {name: holder for name, holder in refs.items() if branch.get(name) is state[name]} if refs else refs
        text = _encoded(deciding, state_refs.strip(branch, own), state_refs.bytes_saved(branch, own))
        total += len(text)
        if total > limits.max_fan_out_bytes:
            raise StepError(
                over(
                    f"the first {len(entries) + 1} of {len(branches)} branches after task {step.url} have inputs of"
                    f" {total} bytes together",
                    "max_fan_out_bytes",
                    limits.max_fan_out_bytes,
                    "remove what the branches do not need from the state before they fan out",
                ),
                413,
            )
        entries.append(_Entry(node, branch, text, own))
    return entries


def _check_length(step: ClaimedStep, most: int, limits: Limits) -> None:
    """A flow that goes round for ever must end (the step after this one would be one too many)."""
    if step.depth >= most:
        raise StepError(
            over(
                f"node {step.node!r} is step {step.depth} in a row of its flow",
                "max_steps",
                limits.max_steps,
                "see whether its loop ever ends; a longer one should continue in a new flow of the thread",
            ),
            413,
            final=True,
        )


def _encoded(deciding: Deciding, state: State, more: int = 0) -> bytes:
    """The text of a state that is by `more` bytes larger than this."""
    text = encode_state(state)
    _check_bytes(len(text) + more, f"the state after task {deciding.step.url}", deciding.limits)
    return text


def _checked(deciding: Deciding, settlement: Settlement) -> Settlement:
    """Check the size of its changes: they are kept apart from the state, which does not have what they remove any more."""
    if len(settlement.changes) > 0:
        size = len(settlement.changes_json())
        _check_bytes(size, f"what task {settlement.step.url} changed", deciding.limits)
    return settlement


def _check_bytes(size: int, what: str, limits: Limits) -> None:
    if size > limits.max_state_bytes:
        raise StepError(over(f"{what} is {size} bytes", "max_state_bytes", limits.max_state_bytes, ELSEWHERE), 413)


def _new_step(deciding: Deciding, entry: _Entry, delay_us: int, *, spawn_id: int, ordinal: int) -> NewStep:
    ref = deciding.new_step()
    node = deciding.graph.nodes[entry.node]
    return NewStep(
        step_id=ref.step_id,
        token=ref.token,
        node=node.name,
        url=node.url,
        depth=deciding.step.depth + 1,
        state=entry.state,
        state_json=entry.state_json,
        delay_us=delay_us,
        at_once=node.action is not None and delay_us == 0 and isinstance(node.action, AT_ONCE),
        spawn_id=spawn_id,
        ordinal=ordinal,
        refs=entry.refs,
    )
