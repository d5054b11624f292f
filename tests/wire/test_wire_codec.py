"""Requests decode or are refused with words that say what to do (wire section 1)."""

from __future__ import annotations

import msgspec
import pytest

from dwarf_nats.errors import BadRequest, Conflict, TimedOut
from dwarf_nats.wire import codec, decoding, refusals
from dwarf_nats.wire import headers as h
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.steps import step_message
from dwarf_nats.wire.subjects import Subjects, endpoint_name
from dwarf_nats.wire.times import from_micros, rfc3339, to_micros
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.records import FlowSummary, Outcome, Step
from dwarf_nats.workflow.status import Status

KEY = "1-42-a1B2c3D4e5F6g7H8"


def refusal(kind: type[msgspec.Struct], payload: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        decoding.decode(kind, payload)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        (m.FlowRequest, b"{", ["not valid JSON"]),
        (m.FlowRequest, b"nonsense", ["not valid JSON"]),
        (m.FlowRequest, b'{"flowKey":"a"} x', ["not valid JSON"]),
        (m.FlowRequest, b'{"flowKey":"\xff"}', ["not valid JSON"]),
        (m.FlowRequest, b'{"flowKey":"\\ud800"}', ["not valid JSON"]),
        (m.FlowCreateRequest, b'{"state":' + b"[" * 200_000, ["not valid JSON"]),
        (m.FlowRequest, b"   ", ["blank"]),
        (m.FlowRequest, b"[]", ["must be an object", "got an array"]),
        (m.FlowRequest, b'"x"', ["must be an object", "got a string"]),
        (m.FlowRequest, b"", ["lacks", "`flowKey`"]),
        (m.FlowRequest, b"{}", ["lacks", "`flowKey`"]),
        (m.FlowRequest, b'{"flowKey":5}', ["`flowKey`", "must be a string", "got an integer"]),
        (m.FlowRequest, b'{"flowKey":null}', ["`flowKey`", "must be a string", "got null"]),
        (m.FlowRequest, b'{"flow_key":"x"}', ["unknown field `flow_key`", "did you mean `flowKey`"]),
        (m.FlowCreateRequest, b'{"worfklow":"x"}', ["unknown field `worfklow`", "did you mean `workflow`"]),
        (m.FlowCreateRequest, b'{"options":{"prio":1}}', ["`prio`", "in `options`", "`priority`"]),
        (m.FlowCreateRequest, b'{"options":{"priority":0}}', ["`options.priority`", ">= 1"]),
        (m.FlowCreateRequest, b'{"options":{"startAt":"soon"}}', ["`options.startAt`"]),
        (m.FlowCreateRequest, b'{"options":{"startAt":"2026-01-01T00:00:00"}}', ["`options.startAt`"]),
        (m.FlowCreateRequest, b'{"start":"yes"}', ["`start`", "true or false"]),
        (m.EmptyRequest, b'{"x":1}', ["unknown field `x`", "no fields"]),
        (m.FlowListRequest, b'{"limit":0}', ["`limit`", ">= 1"]),
        (m.FlowListRequest, b'{"limit":1001}', ["`limit`", "<= 1000"]),
        (m.FlowListRequest, b'{"status":"done"}', ["`status`", "completed"]),
        (m.FlowListRequest, b'{"search":"a\\u0000b"}', ["`search`", "NUL"]),
        (m.FlowWaitRequest, b'{"flowKey":"a","timeoutMs":-1}', ["`timeoutMs`", ">= 0"]),
    ],
)
def test_a_bad_request_is_refused_and_told_why(kind: type[msgspec.Struct], payload: bytes, words: list[str]) -> None:
    message = refusal(kind, payload)
    for word in words:
        assert word in message


def test_an_empty_payload_counts_as_an_empty_object() -> None:
    assert decoding.decode(m.FlowListRequest, b"") == m.FlowListRequest()


def test_state_is_handed_on_byte_by_byte() -> None:
    state = b'{"n": 9007199254740993, "f":1.10 }'
    request = decoding.decode(m.FlowCreateRequest, b'{"workflow":"a","state":' + state + b"}")
    assert codec.raw_bytes(request.state) == state


def test_idempotency_key_from_header_or_option_but_not_two_different_ones() -> None:
    options = decoding.decode(m.Options, b'{"idempotencyKey":"a"}')
    assert codec.flow_options(msgspec.UNSET, "h").idempotency_key == "h"  # type: ignore[union-attr]
    assert codec.flow_options(options, "a").idempotency_key == "a"  # type: ignore[union-attr]
    assert codec.flow_options(msgspec.UNSET) is None
    with pytest.raises(BadRequest, match="Nats-Msg-Id"):
        codec.flow_options(options, "b")


def test_unsound_baggage_is_a_400_s1() -> None:
    with pytest.raises(BadRequest, match=r"options\.baggage.*64 bits"):
        codec.flow_options(decoding.decode(m.Options, b'{"baggage":{"a":99999999999999999999}}'))


def test_query_keeps_what_was_given_and_nothing_else() -> None:
    found = codec.query(decoding.decode(m.FlowListRequest, b'{"status":"failed","fairnessKey":"","limit":7}'))
    assert (found.status, found.fairness_key, found.limit, found.priority) == (Status.FAILED, "", 7, None)


def test_outcome_has_error_reason_and_payload_only_where_they_apply_o5() -> None:
    plain = msgspec.json.decode(codec.encode_outcome(Outcome(KEY, "order", Status.RUNNING)))
    assert plain == {"flowKey": KEY, "workflow": "order", "status": "running", "state": {}}
    failed = Outcome(KEY, "order", Status.FAILED, b'{"a":1.10}', error=ErrorInfo("no", 402, {"task": "charge"}))
    assert b'"state":{"a":1.10}' in codec.encode_outcome(failed)
    assert msgspec.json.decode(codec.encode_outcome(failed))["error"] == {
        "task": "charge",
        "message": "no",
        "code": 402,
    }
    paused = Outcome(KEY, "order", Status.INTERRUPTED, interrupt_json=b"null")
    assert msgspec.json.decode(codec.encode_outcome(paused))["interruptPayload"] is None


def test_steps_and_summaries_leave_out_what_has_no_value() -> None:
    step = Step(
        step_key=KEY,
        step_id=42,
        depth=1,
        task="charge",
        attempt=0,
        status=Status.PENDING,
        created_at=0,
        updated_at=1_500_000,
    )
    assert msgspec.to_builtins(step_message(step)) == {
        "stepKey": KEY, "stepId": 42, "depth": 1, "task": "charge", "attempt": 0, "status": "pending",
        "createdAt": "1970-01-01T00:00:00.000000Z", "updatedAt": "1970-01-01T00:00:01.500000Z",
    }  # fmt: skip
    flow = FlowSummary(
        flow_key=KEY, thread_key=KEY, workflow="order", status=Status.CREATED, created_at=0, updated_at=0, priority=100
    )
    assert set(msgspec.to_builtins(codec.summary_message(flow))) == {
        "flowKey", "threadKey", "workflow", "status", "createdAt", "updatedAt", "priority",
    }  # fmt: skip


def test_refusals_travel_in_headers_and_body() -> None:
    block, body = refusals.encode_error(TimedOut("still running", flow_key=KEY))
    assert h.read_headers(block) == {"nats-service-error-code": "408", "nats-service-error": "still running"}
    assert msgspec.json.decode(body) == {"error": {"flowKey": KEY, "code": 408, "message": "still running"}}


@pytest.mark.parametrize("text", ["größer", "100 %", "a\nb", "雪", "x" * 50_000, "\ud800"])
def test_refusals_of_any_text_make_sound_headers(text: str) -> None:
    block, body = refusals.encode_error(Conflict(text))
    assert block.isascii()
    assert block.count(b"\r\n") == 4
    assert msgspec.json.decode(body)["error"]["code"] == 409


@pytest.mark.parametrize("text", ["plain", "größer als 100 %", "%41", "tab\tund\r\nZeile", "雪"])
def test_percent_encoding_round_trips(text: str) -> None:
    coded = h.percent_encode(text)
    assert coded.isascii()
    assert coded.isprintable()
    assert h.percent_decode(coded) == text


def test_only_the_first_line_of_a_block_can_hold_the_servers_status() -> None:
    assert h.inline_status(b"NATS/1.0 503\r\n\r\n") == 503
    assert h.inline_status(b"NATS/1.0 503 No Responders\r\n\r\n") == 503
    assert h.inline_status(b"NATS/1.0\r\nStatus: 503\r\n\r\n") is None
    assert h.inline_status(None) is None


def test_subjects_of_a_prefix_and_endpoint_names() -> None:
    subjects = Subjects("acme.dwarf", "jobs", "graphs")
    assert subjects.operation("flow.create") == "acme.dwarf.flow.create"
    assert subjects.task("billing.charge") == "jobs.billing.charge"
    assert subjects.graph("order") == "graphs.order"
    assert subjects.peer("*") == "acme.dwarf.peer.*"
    assert subjects.stopped("orders.done") == "acme.dwarf.stopped.orders.done"
    assert subjects.event("failed", "order") == "acme.dwarf.event.failed.order"
    assert endpoint_name("flow.create_task") == "flow-create_task"
    with pytest.raises(BadRequest, match="subject prefix"):
        Subjects("a.*")


def test_times_are_rfc3339_to_the_microsecond() -> None:
    assert rfc3339(1_769_860_800_000_001) == "2026-01-31T12:00:00.000001Z"
    assert to_micros(from_micros(1_769_860_800_000_001)) == 1_769_860_800_000_001
