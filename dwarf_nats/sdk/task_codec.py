"""Task calls on the side of the worker: requests to values, answers to replies (wire section 2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire import headers as h
from dwarf_nats.wire import task_messages as t
from dwarf_nats.wire.codec import micros
from dwarf_nats.wire.decoding import explain
from dwarf_nats.wire.tag_messages import tags_json
from dwarf_nats.workflow.answer import (
    Answer,
    Compensating,
    Disposition,
    ErrorInfo,
    EventWait,
    Retry,
    Subgraph,
    TaskCall,
)
from dwarf_nats.workflow.keys import check_key
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.task_exceptions import describe_error

log = logging.getLogger("dwarf_nats.worker")
CANCELLED = 499
"""Error code of a cancelled execution; the engine discards the answer (O10)."""
_decode = msgspec.json.Decoder(t.TaskRequest).decode
_roll_call = msgspec.json.Decoder(t.WorkerCall).decode
_encode = msgspec.json.Encoder().encode


def decode_request(body: bytes, headers: Mapping[str, str] | None = None) -> TaskCall:
    """Decode a task request. Raises `BadRequest` for a malformed one.

    `budget` is the time from now to the deadline by this machine's clock. If that is nothing, the clocks differ, and the budget
    is infinite: the engine enforces the deadline as well.
    """
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(explain(t.TaskRequest, str(error), "the task request")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the task request is not valid JSON: {error}") from None
    return call_of(request, headers)


def call_of(request: t.TaskRequest, headers: Mapping[str, str] | None = None, now: float | None = None) -> TaskCall:
    """Make the call of a request. Raises `BadRequest` for malformed keys and times. `now`: by this machine's clock."""
    check_key(request.flow_key)
    check_key(request.step_key, "step")
    try:
        created, updated, deadline = (
            micros(request.flow_created_at),
            micros(request.flow_updated_at),
            micros(request.deadline),
        )
    except ValueError as error:
        raise BadRequest(f"the task request has a malformed time: {error}") from None
    budget = deadline / 1e6 - (time.time() if now is None else now)
    call = TaskCall(
        flow_key=request.flow_key,
        step_key=request.step_key,
        workflow=request.workflow,
        task=request.task,
        url=request.url,
        attempt=request.attempt,
        state=request.state,
        baggage=request.baggage,
        flow_created_at=created,
        flow_updated_at=updated,
        deadline=deadline,
        budget=budget if budget > 0 else float("inf"),
    )
    if headers:
        call.stream = headers.get(h.STREAM, "")
        call.traceparent = headers.get(h.TRACEPARENT, "")
        if call.traceparent:
            call.tracestate = h.percent_decode(headers.get(h.TRACESTATE, ""))
    if not (request.resumed is request.event is request.subgraph is UNSET):
        _add_ends(call, request)
    if request.checkpoint is not UNSET:
        call.checkpoint = request.checkpoint
    if not isinstance(request.compensating, UnsetType):
        call.compensating = _compensating(request.compensating)
    return call


def _add_ends(call: TaskCall, request: t.TaskRequest) -> None:
    """Add the end of what the step has paused for."""
    if not isinstance(request.resumed, UnsetType):
        data, timed_out = request.resumed.data, request.resumed.timed_out
        call.resumed = None if isinstance(data, UnsetType) else data
        call.interrupt_timed_out = not isinstance(timed_out, UnsetType) and timed_out
    if not isinstance(request.event, UnsetType):
        call.event = Raw(_encode(request.event))
    if not isinstance(request.subgraph, UnsetType):
        result, error_text = request.subgraph.result, request.subgraph.error
        call.subgraph_result = None if isinstance(result, UnsetType) else result
        call.subgraph_error = None if isinstance(error_text, UnsetType) else error_text


def _compensating(step: t.Compensating) -> Compensating:
    return Compensating(
        step_key=step.step_key,
        changes=step.changes,
        error=None if isinstance(step.error, UnsetType) else ErrorInfo.from_values(step.error),
        cancel_reason=None if isinstance(step.cancel_reason, UnsetType) else step.cancel_reason,
    )


def accept_seconds(headers: Mapping[str, str] | None) -> float | None:
    """Seconds after which to send *accepted*; `None` if the request does not ask for it."""
    return _seconds(headers.get(h.ACCEPT_MS, "")) if headers else None


@lru_cache(maxsize=64)
def _seconds(text: str) -> float | None:
    return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < 12 else None


def takes_queued(headers: Mapping[str, str] | None) -> bool:
    """True if the replica that sent a request understands *queued* and *started* (K3)."""
    return headers is not None and headers.get(h.QUEUE) == "1"


def encode_answer(answer: Answer | bytes) -> tuple[bytes, dict[str, str] | None]:
    """Encode an answer, or the JSON text of changes alone, as body and headers.

    An error is in the body, where its text may have any length and lines. An answer that cannot be written as JSON becomes an
    error that says so, because the engine waits for a reply.
    """
    if isinstance(answer, bytes):
        return (b"" if answer == b"{}" else b'{"changes":%b}' % answer), None
    try:
        return _encoded(answer)
    except Exception as error:
        log.warning("a reply cannot be written as JSON: %s", describe_error(error))
        return _encoded(error_answer(500, f"the task's reply cannot be written as JSON: {describe_error(error)}"))


def _encoded(answer: Answer) -> tuple[bytes, dict[str, str] | None]:
    reply = t.TaskReply(
        changes=Raw(encode_state(answer.changes)) if answer.changes else UNSET,
        goto=UNSET if answer.goto is None else answer.goto,
        sleep_ms=answer.sleep_ms or UNSET,
        interrupt=UNSET if answer.interrupt is None else answer.interrupt,
        interrupt_timeout_ms=UNSET if answer.interrupt_timeout_ms is None else answer.interrupt_timeout_ms,
        subgraph=UNSET if answer.subgraph is None else _subgraph(answer.subgraph),
        wait=UNSET if answer.wait is None else _wait(answer.wait),
        retry=UNSET if answer.retry is None else _retry(answer.retry),
        tags=UNSET if not answer.tags else tags_json(answer.tags),
    )
    if answer.error is None:
        body = _encode(reply)
        return (b"", None) if body == b"{}" else (body, None)
    error = answer.error
    error.message = error.message.encode("utf-8", "replace").decode()
    try:
        reply.error = Raw(_encode(error.as_dict()))
    except Exception as unfit:  # message and code are sent without the other fields
        log.warning("the details of an error cannot be written as JSON: %s", describe_error(unfit))
        reply.error = Raw(_encode({"message": error.message, "code": error.code}))
    headers = {} if answer.disposition is Disposition.ERROR else {h.DISPOSITION: answer.disposition.value}
    return _encode(reply), headers or None


def error_answer(code: int, message: str) -> Answer:
    """An answer with an ordinary error of the step."""
    return Answer(error=ErrorInfo(message, code))


def backpressure_answer(message: str) -> Answer:
    """An answer that returns the step to pending, to run elsewhere: nothing was done (V1)."""
    return Answer(error=ErrorInfo(message, 429), disposition=Disposition.BACKPRESSURE, cause="backpressure")


def decode_roll_call(body: bytes) -> tuple[list[str], list[str]]:
    """Decode a roll call: the steps asked after, and the steps to cancel. Raises `BadRequest` for a malformed one."""
    try:
        call = _roll_call(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"malformed roll call: {error}") from None
    return call.steps, call.cancel


def encode_running(steps: list[str], queued: list[str] | None = None) -> bytes:
    """Encode the answer to a roll call: the steps in hand, and those of them that wait, `None` if none has ever waited."""
    return _encode(t.WorkerReply(running=steps, queued=UNSET if queued is None else queued))


def _subgraph(child: Subgraph) -> t.SubgraphCall:
    return t.SubgraphCall(workflow=child.workflow, input=Raw(encode_state(child.input)) if child.input else UNSET)


def _wait(wait: EventWait) -> t.WaitCall:
    timeout_ms = UNSET if wait.timeout_ms is None else wait.timeout_ms
    return t.WaitCall(event=wait.event, key=wait.key or UNSET, timeout_ms=timeout_ms)


def _retry(retry: Retry) -> t.RetryCall:
    return t.RetryCall(
        max_attempts=UNSET if retry.max_attempts is None else retry.max_attempts,
        initial_delay_ms=retry.initial_delay_ms,
        multiplier=retry.multiplier,
        max_delay_ms=retry.max_delay_ms,
        give_up_after_ms=UNSET if retry.give_up_after_ms is None else retry.give_up_after_ms,
    )
