"""Task calls on the side of the replica: calls to bytes, replies to answers (wire section 2).

This is on the path of every step, so a state is copied, never parsed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
import orjson
from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest
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
from dwarf_nats.workflow.keys import TOKEN_LENGTH
from dwarf_nats.workflow.names import check_event_key, check_subject_name
from dwarf_nats.workflow.state import MAX_DEPTH, check_json, check_state
from dwarf_nats.workflow.tags import TagChanges

from . import headers as h
from . import task_messages as t
from .codec import or_default
from .decoding import explain
from .failures import (
    FORBIDDEN,
    NO_RESPONDERS,
    TIMEOUT,
    TOO_LARGE,
    classify,
    excerpt,
    header_error,
    overruling,
    reports_error,
    says_more,
)
from .subjects import Subjects
from .tag_messages import tag_changes
from .times import rfc3339

_event = msgspec.json.Decoder(t.EventEnd).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(t.TaskReply).decode
_FIELDS = [field.encode_name for field in msgspec.structs.fields(t.TaskReply)]
_DEFAULT = Retry()
STREAMS = Subjects().streams()
_TOKEN_END = TOKEN_LENGTH + 1
"""The characters of a key behind its token-free id."""


def encode_request(call: TaskCall, accept_ms: int, streams: str = STREAMS) -> tuple[bytes, bytes]:
    """Encode a call as header block and body.

    `accept_ms`: time after which a service should send *accepted*. `streams`: the beginning of the subjects of output.
    """
    return encode_block(call, accept_ms, streams), encode_body(call)


def encode_body(call: TaskCall) -> bytes:
    """Encode a call without its headers."""
    subgraph: t.SubgraphEnd | UnsetType = UNSET
    if call.subgraph_error is not None:
        subgraph = t.SubgraphEnd(error=call.subgraph_error)
    elif call.subgraph_result is not None:
        subgraph = t.SubgraphEnd(result=call.subgraph_result)
    return _encode(
        t.TaskRequest(
            flow_key=call.flow_key,
            step_key=call.step_key,
            workflow=call.workflow,
            task=call.task,
            url=call.url,
            attempt=call.attempt,
            state=call.state,
            baggage=call.baggage,
            flow_created_at=rfc3339(call.flow_created_at),
            flow_updated_at=rfc3339(call.flow_updated_at),
            deadline=rfc3339(call.deadline),
            resumed=_resumed(call),
            event=UNSET if call.event is None else _event(call.event),
            subgraph=subgraph,
            checkpoint=UNSET if call.checkpoint is None else call.checkpoint,
            compensating=UNSET if call.compensating is None else _compensating(call.compensating),
        )
    )


def encode_block(call: TaskCall, accept_ms: int, streams: str = STREAMS) -> bytes:
    """Encode the headers of a call."""
    trace = f"traceparent: {call.traceparent}\r\n" if call.traceparent else ""
    if call.tracestate:
        trace += f"tracestate: {h.percent_encode(call.tracestate)}\r\n"
    block = (
        f"NATS/1.0\r\nDwarf-Flow-Key: {call.flow_key}\r\nDwarf-Step-Key: {call.step_key}\r\n"
        f"{_names(call.workflow, call.task)}Dwarf-Attempt: {call.attempt}\r\n"
        f"Dwarf-Deadline: {rfc3339(call.deadline)}\r\nDwarf-Accept-Ms: {accept_ms}\r\nDwarf-Queue: 1\r\n"
        f"Dwarf-Stream: {_stream(call, streams)}\r\n{trace}\r\n"
    )
    return block.encode("ascii")


def _stream(call: TaskCall, streams: str) -> str:
    """The subject of the output of a step: below the root of its tree, so that one subscription has all of it (B8)."""
    step_id = call.step_key[:-_TOKEN_END]
    if call.root_id:
        return f"{streams}.{step_id.partition('-')[0]}-{call.root_id}.{step_id}"
    return f"{streams}.{call.flow_key[:-_TOKEN_END]}.{step_id}"


def batch_headers(call: TaskCall, accept_ms: int, streams: str = STREAMS) -> dict[str, str]:
    """Return the `headers` of a member of a batch: those of a request alone that its body does not say."""
    headers = {
        h.ATTEMPT: str(call.attempt),
        h.DEADLINE: rfc3339(call.deadline),
        h.ACCEPT_MS: str(accept_ms),
        h.QUEUE: "1",
        h.STREAM: _stream(call, streams),
    }
    if call.traceparent:
        headers[h.TRACEPARENT] = call.traceparent
    if call.tracestate:
        headers[h.TRACESTATE] = h.percent_encode(call.tracestate)
    return headers


def _resumed(call: TaskCall) -> t.Resumed | UnsetType:
    """The end of the step's interrupt, if it had one."""
    if call.resumed is not None:
        return t.Resumed(data=call.resumed)
    return t.Resumed(timed_out=True) if call.interrupt_timed_out else UNSET


def _compensating(step: Compensating) -> t.Compensating:
    return t.Compensating(
        step_key=step.step_key,
        changes=step.changes,
        error=UNSET if step.error is None else step.error.as_dict(),
        cancel_reason=UNSET if step.cancel_reason is None else step.cancel_reason,
    )


@lru_cache(maxsize=4096)
def _names(workflow: str, task: str) -> str:
    return f"Dwarf-Workflow: {h.percent_encode(workflow)}\r\nDwarf-Task: {h.percent_encode(task)}\r\n"


def no_responders(url: str, subject: str) -> Answer:
    """The answer if nobody has subscribed to the task's subject."""
    message = f"no service answers for task {url}: nobody subscribes to {subject}"
    return Answer(error=ErrorInfo(message, 503), disposition=Disposition.BREAKER, cause=NO_RESPONDERS)


def not_permitted(url: str, subject: str, who: str) -> Answer:
    """The answer if permissions refuse the request: the step waits, as it does without a service."""
    message = f"task {url} cannot be asked: NATS permissions do not let {who} publish to {subject}"
    return Answer(error=ErrorInfo(message, 403), disposition=Disposition.BREAKER, cause=FORBIDDEN)


def timed_out(url: str, budget: float) -> Answer:
    """The answer if no reply came before the deadline. `budget` in seconds."""
    return Answer(
        error=ErrorInfo(f"task {url} did not answer within its time budget of {budget:g} s", 408), cause=TIMEOUT
    )


def recorded(url: str, budget: float, why: str, acknowledgement: bytes) -> Answer:
    """The answer if only the acknowledgement of a stream that records requests came before the deadline."""
    message = (
        f"task {url} did not answer within its time budget of {budget:g} s, and {why};"
        f" all that came was {excerpt(acknowledgement)}"
    )
    return Answer(error=ErrorInfo(message, 408), cause=TIMEOUT)


def too_large(url: str, size: int, limit: int) -> Answer:
    """The answer if the request, headers included, exceeds the server's `max_payload`."""
    message = f"task {url}: the request is {size} bytes with its headers, over the NATS server's max_payload of {limit}"
    return Answer(error=ErrorInfo(message, 413), cause=TOO_LARGE)


def decode_reply(url: str, block: bytes | None, body: bytes, max_depth: int = MAX_DEPTH) -> Answer:
    """Decode a raw reply by the table of wire section 2. A malformed reply becomes an answer with an error."""
    headers = h.read_headers(block) if block and says_more(block) else {}
    if not headers:
        if not body:
            return Answer()
        failed = False
    else:
        failed = reports_error(headers)
    answer = Answer()
    try:
        if body:
            answer = _answer(body, max_depth)
    except BadRequest as bad:
        if not failed:
            message = f"task {url} sent a malformed reply: {bad.message}; it began: {excerpt(body)}"
            answer = Answer(error=ErrorInfo(message, 502))
    if failed:
        answer.error = header_error(f"task {url}", headers, answer.error)
    if answer.error is not None or "dwarf-disposition" in headers:
        _classify(url, answer, overruling(headers))
    return answer


def _classify(url: str, answer: Answer, overruled: Disposition | None) -> None:
    if answer.error is None:
        if overruled is None:
            return
        answer.error = ErrorInfo(f"task {url} answered with the disposition {overruled.value}", 500)
    answer.disposition, answer.cause = classify(answer.error.code, overruled)


def _answer(body: bytes, max_depth: int) -> Answer:
    try:
        reply = _decode(body)
    except msgspec.ValidationError as error:
        hint = f" (fields: {', '.join(_FIELDS)}; state belongs into `changes`)" if "unknown field" in str(error) else ""
        raise BadRequest(explain(t.TaskReply, str(error), "the reply") + hint) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as better:
            raise BadRequest(f"it is not valid JSON: {better}") from None
        raise BadRequest("it is not valid JSON") from None
    answer = Answer(sleep_ms=or_default(reply.sleep_ms, 0), goto=or_default(reply.goto, None))
    if not isinstance(reply.changes, UnsetType):
        answer.changes = check_state(bytes(reply.changes), "`changes`", max_depth)
    if not isinstance(reply.interrupt, UnsetType):
        payload = bytes(reply.interrupt)
        check_json(payload, "`interrupt`", max_depth)
        answer.interrupt = Raw(payload)
    answer.interrupt_timeout_ms = or_default(reply.interrupt_timeout_ms, None)
    if answer.interrupt_timeout_ms is not None and answer.interrupt is None:
        raise BadRequest("`interruptTimeoutMs` is the deadline of an `interrupt`, but there is none beside it")
    if not isinstance(reply.subgraph, UnsetType):
        text = reply.subgraph.input
        state = {} if isinstance(text, UnsetType) else check_state(bytes(text), "`subgraph.input`", max_depth)
        answer.subgraph = Subgraph(reply.subgraph.workflow, state)
    answer.wait = _wait(reply.wait)
    answer.tags = _tags(reply.tags)
    if not isinstance(reply.retry, UnsetType):
        answer.retry = _retry(reply.retry)
    if not isinstance(reply.error, UnsetType):
        answer.error = _body_error(check_json(bytes(reply.error), "`error`", max_depth))
    return answer


def _tags(tags: Raw | UnsetType) -> TagChanges | None:
    return None if isinstance(tags, UnsetType) else tag_changes(tags, "`tags`") or None


def _wait(wait: t.WaitCall | UnsetType) -> EventWait | None:
    if isinstance(wait, UnsetType):
        return None
    return EventWait(
        check_subject_name(wait.event, "`wait.event`"),
        check_event_key(or_default(wait.key, ""), "`wait.key`"),
        or_default(wait.timeout_ms, None),
    )


def _retry(retry: t.RetryCall) -> Retry:
    return Retry(
        max_attempts=or_default(retry.max_attempts, None),
        initial_delay_ms=or_default(retry.initial_delay_ms, _DEFAULT.initial_delay_ms),
        multiplier=or_default(retry.multiplier, _DEFAULT.multiplier),
        max_delay_ms=or_default(retry.max_delay_ms, _DEFAULT.max_delay_ms),
        give_up_after_ms=or_default(retry.give_up_after_ms, None),
    )


def _body_error(value: Any) -> ErrorInfo:
    if isinstance(value, str):
        return ErrorInfo(value or "the task failed without saying why")
    if not isinstance(value, dict):
        raise BadRequest("`error` must be an object with `message` and `code`, or a string")
    extra = dict(value)
    message = extra.pop("message", "")
    code = extra.pop("code", 500)
    if not isinstance(message, str):
        raise BadRequest("`error.message` must be a string")
    if type(code) is not int:
        raise BadRequest("`error.code` must be an integer")
    return ErrorInfo(message or "the task failed without saying why", code, extra)
