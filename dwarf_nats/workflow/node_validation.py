"""Validation of node kinds, policies and compensation (G6, L1, N1-N9): a sentence for each problem, with its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from dwarf_nats.workflow import shapes, templates
from dwarf_nats.workflow.answer import MAX_DELAY_MS
from dwarf_nats.workflow.names import MAX_NAME, is_subject_name
from dwarf_nats.workflow.nodes import (
    Action,
    AskPerson,
    PublishMessage,
    RetryPolicy,
    RunWorkflow,
    SendRequest,
    SetFields,
    Sleep,
    WaitForEvent,
)
from dwarf_nats.workflow.times import parse_rfc3339

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder, Node

MAX_CODE = 2**31 - 1
MAX_KEY_BYTES = 256
"""Bytes of the key of an event."""
_FORM = "tokens of A-Z a-z 0-9 _ - joined by single dots"


def node_problems(node: Node) -> Iterator[str]:
    """Problems of a node's action, its policies and its compensation."""
    where = f"node {node.name[:MAX_NAME]!r}"
    if node.action is not None:
        yield from action_problems(node.action, where)
    if node.into and node.action is None:
        yield f"{where}, into: it asks a task, which changes fields by itself: remove it"
    elif node.into and not brings_back(node.action):
        yield f"{where}, into: a node of this kind brings nothing back: remove it"
    if node.timeout_ms is not None and isinstance(node.action, SetFields | WaitForEvent | AskPerson | Sleep):
        remedy = (
            "write it into " + node.action.kind if isinstance(node.action, WaitForEvent | AskPerson) else "remove it"
        )
        yield f"{where}, timeoutMs: it bounds a call, and this node makes none: {remedy}"
    if node.queue_timeout_ms is not None and node.action is not None:
        yield f"{where}, queueTimeoutMs: it bounds the time in the queue of a worker, and this node has none: remove it"
    yield from policy_problems(node.timeout_ms, node.retry, where, queue_timeout_ms=node.queue_timeout_ms)
    if node.compensate is not None:
        inside = f"{where}, compensate"
        if node.compensate.action is not None:
            yield from action_problems(node.compensate.action, inside)
        elif not is_subject_name(node.compensate.url):
            yield f"{inside}: {node.compensate.url[:MAX_NAME]!r} is no legal task url: use {_FORM}"


def graph_problems(graph: GraphBuilder) -> Iterator[str]:
    """Problems of the policies that hold for all nodes."""
    defaults = graph.defaults
    yield from policy_problems(
        defaults.timeout_ms, defaults.retry, "defaults", queue_timeout_ms=defaults.queue_timeout_ms
    )


def action_problems(action: Action, where: str) -> Iterator[str]:
    """Problems of an action; those of subjects and headers excepted."""
    for part, template in templates_of(action):
        yield from templates.problems(template, _inside(where, action, part))
    match action:
        case RunWorkflow() if not is_subject_name(action.workflow):
            yield f"{where}, workflow: {action.workflow[:MAX_NAME]!r} is no legal name of a workflow: use {_FORM}"
        case WaitForEvent():
            yield from _wait_problems(action, where)
        case AskPerson():
            yield from _delay_problems(action.timeout_ms, f"{shapes.place(where, 'ask')}.timeoutMs")
        case Sleep():
            yield from _sleep_problems(action, shapes.place(where, "sleep"))
        case _:
            pass


def templates_of(action: Action) -> Iterator[tuple[str, Any]]:
    """The templates of an action, each with the key that it stands under; empty for the action itself."""
    match action:
        case SetFields():
            yield "", action.fields
        case RunWorkflow():
            yield "input", action.input
        case SendRequest() | PublishMessage():
            yield "subject", action.subject
            if action.payload is not msgspec.UNSET:
                yield "payload", action.payload
            yield "headers", action.headers
        case WaitForEvent():
            yield "key", action.key
        case AskPerson():
            yield "payload", action.payload
        case Sleep():
            if isinstance(action.ms, str):
                yield "ms", action.ms
            if action.until is not None:
                yield "until", action.until


def all_templates(node: Node) -> Iterator[tuple[str, Any]]:
    """The templates of a node and of its compensation, each with its place."""
    where = f"node {node.name[:MAX_NAME]!r}"
    actions: list[tuple[str, Action | None]] = [(where, node.action)]
    if node.compensate is not None:
        actions.append((f"{where}, compensate", node.compensate.action))
    for inside, action in actions:
        if action is not None:
            for part, template in templates_of(action):
                yield _inside(inside, action, part), template


def policy_problems(
    timeout_ms: int | None, retry: RetryPolicy | None, where: str, *, queue_timeout_ms: int | None = None
) -> Iterator[str]:
    """Problems of deadlines and of a retry policy (L1, K3)."""
    for name, ms in (("timeoutMs", timeout_ms), ("queueTimeoutMs", queue_timeout_ms)):
        if ms is not None and not 0 < ms <= MAX_DELAY_MS:
            yield f"{shapes.place(where, name)}: it is {ms}: write 1 to {MAX_DELAY_MS} milliseconds"
    if retry is None:
        return
    inside = shapes.place(where, "retry")
    if retry.max_attempts is not None and retry.max_attempts < 1:
        yield f"{inside}.maxAttempts: it is {retry.max_attempts}, and the first execution counts: write 1 or more"
    for key, value in (
        ("initialDelayMs", retry.initial_delay_ms),
        ("maxDelayMs", retry.max_delay_ms),
        ("giveUpAfterMs", retry.give_up_after_ms),
    ):
        yield from _delay_problems(value, f"{inside}.{key}")
    if not 0 <= retry.multiplier < float("inf"):
        yield f"{inside}.multiplier: it is {retry.multiplier:g}: write 0 or more; 1 for equal delays, 2 to double them"
    if not 0 <= retry.jitter <= 1:
        yield f"{inside}.jitter: it is {retry.jitter:g}: write a share from 0 to 1"
    for code in retry.codes:
        if not -MAX_CODE <= code <= MAX_CODE:
            yield f"{inside}.codes: {code} is no code of an error: write 32-bit numbers, such as 503"


def _wait_problems(wait: WaitForEvent, where: str) -> Iterator[str]:
    inside = shapes.place(where, "wait")
    if not is_subject_name(wait.event):
        yield f"{inside}.event: {wait.event[:MAX_NAME]!r} is no legal name of an event: use {_FORM}"
    if templates.expression_of(wait.key) is None:
        size = len(templates.literal(wait.key).encode("utf-8", "surrogatepass"))
        if size > MAX_KEY_BYTES:
            yield f"{inside}.key: it has {size} bytes: shorten it to {MAX_KEY_BYTES}"
    yield from _delay_problems(wait.timeout_ms, f"{inside}.timeoutMs")


def _sleep_problems(sleep: Sleep, where: str) -> Iterator[str]:
    if (sleep.ms is None) is (sleep.until is None):
        yield f"{where}: write exactly one of 'ms' and 'until'"
    elif isinstance(sleep.ms, str) and templates.expression_of(sleep.ms) is None:
        yield f"{where}.ms: {sleep.ms[:80]!r} is neither a number nor an expression: write 5000, or '=delay'"
    elif isinstance(sleep.ms, int):
        yield from _delay_problems(sleep.ms, f"{where}.ms")
    elif sleep.until is not None and templates.expression_of(sleep.until) is None:
        text = templates.literal(sleep.until)
        if parse_rfc3339(text) is None:
            yield f"{where}.until: {text[:80]!r} is no time: write one like 2026-12-01T08:00:00Z, or an expression"


def _delay_problems(value: int | None, where: str) -> Iterator[str]:
    if value is not None and not 0 <= value <= MAX_DELAY_MS:
        yield f"{where}: it is {value}: write 0 to {MAX_DELAY_MS} milliseconds"


def brings_back(action: Action | None) -> bool:
    """True for an action whose result goes into the field `into`."""
    return isinstance(action, SendRequest | RunWorkflow | WaitForEvent | AskPerson)


def _inside(where: str, action: Action, part: str) -> str:
    """The place of a template of an action."""
    if isinstance(action, RunWorkflow):
        return shapes.place(where, part)
    inside = shapes.place(where, action.kind) if where.endswith(("'", '"')) else f"{where}.{action.kind}"
    return f"{inside}.{part}" if part else inside
