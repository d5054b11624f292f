"""Replies and announcements that fit the server's `max_payload`: large parts are left out, and `truncated` says so.

An operation that was carried out is never refused for the size of its reply, and a page is never lost because one of its items
is large. `room` is the number of bytes a body may have. A body that cannot be made smaller is returned as it is, and the sender
refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from msgspec import UNSET

from dwarf_nats.workflow import cursors
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.bulk import BulkPage
from dwarf_nats.workflow.explanation import Explanation, Wait
from dwarf_nats.workflow.records import FlowSummary, GraphInfo, Outcome, Step

from . import messages as m
from .bulk_messages import bulk_reply
from .codec import encode, encode_outcome, flow_list_reply, graph_message, summary_message
from .explanations import explanation_message
from .steps import step_message

CUTS = (16_384, 4_096, 1_024, 256, 64)
"""Bytes to which an error or a reason is cut, tried one after the other."""
FEWER_PAUSES = (10, 1, 0)
"""Pauses that are kept, tried one after the other."""
_FRAME = 128
"""Bytes of a page besides its items: names, brackets, the cursor."""
_NAME = len(',"interruptPayload":')
"""Bytes of the longest name of a field that may be left out."""
_EMPTY = b"{}"


def outcome(whole: Outcome, room: int) -> bytes:
    """Encode an outcome, with less in it if need be.

    Left out are first the payloads of its pauses, then its state, its interrupt payload or both, then pauses; last an error or
    a reason is cut.
    """
    body = encode_outcome(whole)
    if len(body) <= room:
        return body
    whole = replace(whole, pauses=[replace(one, payload_json=None) for one in whole.pauses], truncated=True)
    if whole.pauses and len(body := encode_outcome(whole)) <= room:
        return body
    for bare in _outcomes(whole):
        body = encode_outcome(bare)
        sizes = (len(whole.state_json), _NAME + len(whole.interrupt_json or b""))
        left_out = _left_out(sizes, room - len(body))
        if left_out is not None:
            state, payload = (at not in left_out for at in (0, 1))
            return encode_outcome(
                replace(
                    bare,
                    state_json=whole.state_json if state else _EMPTY,
                    interrupt_json=whole.interrupt_json if payload else None,
                )
            )
    return body


def _outcomes(whole: Outcome) -> Iterator[Outcome]:
    bare = replace(whole, state_json=_EMPTY, interrupt_json=None, truncated=True)
    yield bare
    for count in FEWER_PAUSES:
        if len(bare.pauses) > count:
            bare = replace(bare, pauses=bare.pauses[:count])
            yield bare
    for size in CUTS:
        yield replace(bare, error=_cut_error(whole.error, size), cancel_reason=_cut(whole.cancel_reason, size))


def explanation(whole: Explanation, room: int) -> bytes:
    """Encode an explanation, with less in it if need be: first without payloads and long errors, then with fewer waits."""
    body = encode(explanation_message(whole))
    if len(body) <= room:
        return body
    waits = [_bare_wait(one) for one in whole.waits]
    smaller = replace(whole, text=_cut(whole.text, CUTS[1]) or "", waits=waits, truncated=True)
    while len(body := encode(explanation_message(smaller))) > room and smaller.waits:
        smaller.waits = smaller.waits[: len(smaller.waits) * room // (len(body) + 1)]
    return body


def _bare_wait(wait: Wait) -> Wait:
    inner = [_bare_wait(one) for one in wait.waits]
    error = _cut_error(wait.error, CUTS[2])
    return replace(wait, payload_json=None, error=error, text=_cut(wait.text, CUTS[2]) or "", waits=inner)


def step(whole: Step, room: int) -> bytes:
    """Encode a step; without its state, changes or interrupt payload if need be, then with a shorter error and less detail."""
    body = encode(step_message(whole))
    if len(body) <= room:
        return body
    whole = _without_pause_payload(whole)
    texts = (whole.state_json, whole.changes_json, whole.interrupt_json)
    sizes = [_NAME + len(text or b"") for text in texts]
    bare = replace(whole, state_json=None, changes_json=None, interrupt_json=None, sub_history=[], truncated=True)
    for size in (None, *CUTS):
        cut = bare if size is None else _cut_details(bare, size)
        body = encode(step_message(cut))
        left_out = _left_out(sizes, room - len(body))
        if left_out is not None:
            state, changes, payload = (None if at in left_out else text for at, text in enumerate(texts))
            return encode(step_message(replace(cut, state_json=state, changes_json=changes, interrupt_json=payload)))
    return body


def _left_out(sizes: Sequence[int], room: int) -> tuple[int, ...] | None:
    """Choose the fewest fields to leave out so that the others fit, early ones first; `None` if they never fit."""
    for count in range(len(sizes) + 1):
        for chosen in combinations(range(len(sizes)), count):
            if sum(size for at, size in enumerate(sizes) if at not in chosen) <= room:
                return chosen
    return None


def history(steps: Sequence[Step], cursor: str, room: int) -> bytes:
    """Encode a page of a history, with fewer steps if need be.

    A single step that is too large loses nested steps, then part of its error.
    """
    parts: list[bytes] = []
    left = room - _FRAME
    for at, one in enumerate(steps):
        part = encode(step_message(one))
        if len(part) >= left:
            if parts:
                cursor = cursors.after(steps[at - 1])
                break
            part = _smaller(one, left)
        parts.append(part)
        left -= len(part) + 1
    end = b',"cursor":' + encode(cursor) if cursor else b""
    return b'{"steps":[' + b",".join(parts) + b"]" + end + b"}"


def _smaller(step: Step, room: int) -> bytes:
    for smaller in _smaller_steps(step):
        part = encode(step_message(smaller))
        if len(part) < room:
            break
    return part


def _smaller_steps(step: Step) -> Iterator[Step]:
    for levels in (8, 4, 2, 1):
        yield _pruned(step, levels, len(step.sub_history))
    count = len(step.sub_history) // 2
    while count:
        yield _pruned(step, 1, count)
        count //= 2
    bare = _without_pause_payload(_pruned(step, 0, 0))
    yield bare
    for size in CUTS:
        yield replace(_cut_details(bare, size), truncated=True)


def _without_pause_payload(step: Step) -> Step:
    """The step without the payload of its pause, which stands in `interrupt_json` as well."""
    if step.pause is None or step.pause.payload_json is None:
        return step
    return replace(step, pause=replace(step.pause, payload_json=None), truncated=True)


def _cut_details(step: Step, size: int) -> Step:
    """The step with shorter errors, and without what else may be long."""
    return replace(
        step,
        error=_cut_error(step.error, size),
        handled_error=_cut_error(step.handled_error, size),
        problems=[],
        attempts=[],
        progress=None,
    )


def _pruned(step: Step, levels: int, count: int) -> Step:
    """The step with `levels` levels of histories below it, each of at most `count` steps."""
    if not step.sub_history:
        return step
    kept = step.sub_history[:count] if levels else []
    return replace(
        step,
        sub_history=[_pruned(one, levels - 1, count) for one in kept],
        truncated=step.truncated or len(kept) < len(step.sub_history),
    )


def flows(found: Sequence[FlowSummary], cursor: str, room: int, *, limit: int) -> tuple[bytes, int]:
    """Encode a page of a list of so many flows at most; returns the body with all flows, and how many flows fit.

    A page of one flow is cut until it fits.
    """
    body = _flows(found, cursor, limit)
    if len(body) <= room:
        return body, len(found)
    if len(found) == 1:
        for size in CUTS:
            cut = replace(
                found[0],
                error=_cut_error(found[0].error, size),
                cancel_reason=_cut(found[0].cancel_reason, size),
            )
            body = _flows([cut], cursor, limit)
            if len(body) <= room:
                break
        return body, 1
    left = room - _FRAME - len(cursor)
    fitting = 0
    for one in found:
        left -= len(encode(summary_message(one))) + 1
        if left < 0:
            break
        fitting += 1
    return body, min(fitting, len(found) - 1)


def _flows(found: Sequence[FlowSummary], cursor: str, limit: int) -> bytes:
    return encode(flow_list_reply(found, cursor, limit))


def graphs(found: Sequence[GraphInfo], room: int) -> bytes:
    """Encode the registered graphs, as many as fit."""
    entries = [graph_message(one) for one in found]
    body = encode(m.GraphListReply(graphs=entries))
    while len(body) > room and entries:
        del entries[min(len(entries) - 1, len(entries) * room // len(body)) :]
        body = encode(m.GraphListReply(graphs=entries, truncated=True))
    return body


def bulk(page: BulkPage, room: int) -> bytes:
    """Encode a page of a bulk operation, with less in it if need be: first shorter messages, then fewer flows."""
    body = encode(bulk_reply(page))
    for size in CUTS:
        if len(body) <= room:
            return body
        page = replace(page, failed=[one._replace(message=_cut(one.message, size) or "") for one in page.failed])
        body = encode(bulk_reply(page, truncated=True))
    while len(body) > room and (page.failed or page.sample):
        sample = page.sample if page.sample is None else page.sample[: len(page.sample) * room // (len(body) + 1)]
        page = replace(page, failed=page.failed[: len(page.failed) * room // (len(body) + 1)], sample=sample)
        body = encode(bulk_reply(page, truncated=True))
    return body


def with_warnings(reply: m.GraphPutReply | m.GraphValidateReply, warnings: Sequence[str], room: int) -> bytes:
    """Encode a reply with as many of the warnings as fit, and the number of the others."""
    shown = list(warnings)
    while True:
        left_out = len(warnings) - len(shown)
        reply.warnings = [*shown, f"and {left_out:,} more"] if left_out else shown or UNSET
        body = encode(reply)
        if len(body) <= room or not shown:
            return body
        del shown[min(len(shown) - 1, len(shown) * room // len(body)) :]


def _cut_error(error: ErrorInfo | None, size: int) -> ErrorInfo | None:
    return None if error is None else error.within(size)


def _cut(text: str | None, size: int) -> str | None:
    """Cut a text to about `size` bytes."""
    if text is None or len(text.encode("utf-8", "replace")) <= size:
        return text
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore") + "…"
