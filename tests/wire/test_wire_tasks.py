"""Task calls and answers (wire: section 2): every row of the failure table, and every way a reply can be wrong."""

from __future__ import annotations

import msgspec
import pytest

from dwarf_nats.wire import headers as h
from dwarf_nats.wire.tasks import decode_reply, encode_request, no_responders, timed_out, too_large
from dwarf_nats.workflow.answer import Answer, Disposition, ErrorInfo, Retry, TaskCall
from dwarf_nats.workflow.state import Raw

FLOW, STEP = "1-42-a1B2c3D4e5F6g7H8", "1-43-h8G7f6E5d4C3b2A1"


def call(**changes: object) -> TaskCall:
    values: dict[str, object] = {
        "flow_key": FLOW, "step_key": STEP, "workflow": "order", "task": "Prüfung 100%", "url": "billing.charge",
        "attempt": 2, "state": {"n": Raw(b"9007199254740993.10"), "o": Raw(b'{"a": 1}')}, "baggage": Raw(b'{"t":1}'),
        "flow_created_at": 0, "flow_updated_at": 1, "deadline": 120_000_000, "budget": 120.0,
    }  # fmt: skip
    return TaskCall(**{**values, **changes})  # type: ignore[arg-type]


def errors(**headers: str) -> bytes:
    return h.write_headers((name.replace("_", "-"), value) for name, value in headers.items())


def failed(answer: Answer) -> tuple[int, Disposition, str]:
    assert answer.error is not None
    return answer.error.code, answer.disposition, answer.cause


def test_request_carries_state_digit_for_digit_and_names_in_headers() -> None:
    block, body = encode_request(call(), 1000)
    assert b'"n":9007199254740993.10' in body
    assert b'"o":{"a": 1}' in body
    sent = msgspec.json.decode(body)
    assert set(sent) == {"flowKey", "stepKey", "workflow", "task", "url", "attempt", "state", "baggage",
                         "flowCreatedAt", "flowUpdatedAt", "deadline"}  # fmt: skip
    assert sent["deadline"] == "1970-01-01T00:02:00.000000Z"
    headers = h.read_headers(block)
    assert headers["dwarf-task"] == "Pr%C3%BCfung 100%25"
    assert headers["dwarf-flow-key"] == FLOW
    assert headers["dwarf-step-key"] == STEP
    assert headers["dwarf-workflow"] == "order"
    assert headers["dwarf-attempt"] == "2"
    assert headers["dwarf-accept-ms"] == "1000"
    assert headers["dwarf-deadline"] == sent["deadline"]
    assert headers["dwarf-stream"] == "dwarf.stream.1-42.1-43"
    assert "traceparent" not in headers
    block, _ = encode_request(call(root_id=7), 1, "prod.dwarf.stream")
    assert h.read_headers(block)["dwarf-stream"] == "prod.dwarf.stream.1-7.1-43"


def test_request_carries_resume_data_child_results_and_trace() -> None:
    block, body = encode_request(
        call(resumed=Raw(b"null"), subgraph_result=Raw(b'{"x":1}'), traceparent="00-a-b-01", tracestate="k=v"), 1
    )
    sent = msgspec.json.decode(body)
    assert sent["resumed"] == {"data": None}
    _, body = encode_request(call(interrupt_timed_out=True), 1)
    assert msgspec.json.decode(body)["resumed"] == {"timedOut": True}
    assert sent["subgraph"] == {"result": {"x": 1}}
    assert h.read_headers(block)["traceparent"] == "00-a-b-01"
    _, body = encode_request(call(subgraph_error="it broke"), 1)
    assert msgspec.json.decode(body)["subgraph"] == {"error": "it broke"}


def test_an_empty_reply_is_success_without_changes() -> None:
    assert decode_reply("t", None, b"") == Answer()
    assert decode_reply("t", None, b"{}") == Answer()


def test_every_field_of_a_reply_is_read() -> None:
    body = b"""{"changes":{"a":1.10,"b":null},"goto":"x","sleepMs":5,"interrupt":null,
        "subgraph":{"workflow":"w","input":{"k":2}},
        "retry":{"maxAttempts":3,"initialDelayMs":1,"multiplier":2,"maxDelayMs":9,"giveUpAfterMs":99}}"""
    answer = decode_reply("t", None, body)
    assert answer.error is None
    assert {k: bytes(v) for k, v in answer.changes.items()} == {"a": b"1.10", "b": b"null"}
    assert (answer.goto, answer.sleep_ms) == ("x", 5)
    assert answer.interrupt is not None
    assert bytes(answer.interrupt) == b"null"
    assert answer.subgraph is not None
    assert (answer.subgraph.workflow, bytes(answer.subgraph.input["k"])) == ("w", b"2")
    assert answer.retry == Retry(3, 1, 2.0, 9, 99)


def test_an_error_in_the_body_may_be_an_object_or_a_string() -> None:
    answer = decode_reply("t", None, b'{"error":{"message":"declined","code":402,"card":"x"}}')
    assert answer.error is not None
    assert answer.error.as_dict() == {"card": "x", "message": "declined", "code": 402}
    answer = decode_reply("t", None, b'{"error":"declined"}')
    assert answer.error is not None
    assert (answer.error.message, answer.error.code) == ("declined", 500)


def test_an_error_in_headers_is_a_failure_whatever_the_body() -> None:
    block = errors(Nats_Service_Error_Code="402", Nats_Service_Error="größer als 5 %")
    for body in (b"", b"not json", b'{"unknown":1}', b'{"changes":{"a":1}}'):
        answer = decode_reply("t", block, body)
        assert failed(answer) == (402, Disposition.ERROR, "")
        assert answer.error is not None
        assert answer.error.message == "größer als 5 %"


def test_a_retry_without_bounds_begins_slowly_x5() -> None:
    assert decode_reply("t", None, b'{"retry":{}}').retry == Retry(None, 100, 2.0, 60_000, None)


def test_an_error_with_a_retry_and_changes_keeps_all_three_s6() -> None:
    answer = decode_reply("t", None, b'{"retry":{},"changes":{"a":1},"error":"not yet"}')
    assert (answer.retry, answer.changes, answer.error) == (Retry(), {"a": Raw(b"1")}, ErrorInfo("not yet", 500))


def test_an_error_with_a_retry_keeps_both_x5() -> None:
    answer = decode_reply("t", errors(Nats_Service_Error_Code="500"), b'{"retry":{"maxAttempts":2}}')
    assert answer.retry == Retry(max_attempts=2)
    assert failed(answer)[0] == 500


@pytest.mark.parametrize(
    ("code", "disposition", "cause"),
    [
        ("503", Disposition.BREAKER, "unavailable"),
        ("529", Disposition.BREAKER, "overloaded"),
        ("429", Disposition.BACKPRESSURE, ""),
        ("408", Disposition.ERROR, ""),
        ("500", Disposition.ERROR, ""),
        ("402", Disposition.ERROR, ""),
    ],
)
def test_codes_mean_the_same_in_headers_and_body(code: str, disposition: Disposition, cause: str) -> None:
    in_headers = decode_reply("t", errors(Nats_Service_Error_Code=code, Nats_Service_Error="x"), b"")
    in_body = decode_reply("t", None, b'{"error":{"message":"x","code":%s}}' % code.encode())
    assert failed(in_headers) == failed(in_body) == (int(code), disposition, cause)


@pytest.mark.parametrize(
    ("said", "code", "disposition", "cause"),
    [
        ("error", "503", Disposition.ERROR, ""),
        ("error", "429", Disposition.ERROR, ""),
        ("backpressure", "500", Disposition.BACKPRESSURE, ""),
        ("breaker", "500", Disposition.BREAKER, "unavailable"),
        ("Breaker", "529", Disposition.BREAKER, "overloaded"),
        ("nonsense", "429", Disposition.BACKPRESSURE, ""),
    ],
)
def test_disposition_overrules_the_code(said: str, code: str, disposition: Disposition, cause: str) -> None:
    answer = decode_reply("t", errors(Nats_Service_Error_Code=code, Dwarf_Disposition=said), b"")
    assert failed(answer) == (int(code), disposition, cause)
    answer = decode_reply("t", errors(Dwarf_Disposition=said), b'{"error":{"message":"x","code":%s}}' % code.encode())
    assert failed(answer) == (int(code), disposition, cause)


def test_failures_without_a_reply() -> None:
    assert failed(no_responders("t", "task.t")) == (503, Disposition.BREAKER, "no_responders")
    assert failed(timed_out("t", 120)) == (408, Disposition.ERROR, "timeout")
    answer = too_large("t", 2_000_000, 1_048_576)
    assert failed(answer) == (413, Disposition.ERROR, "too_large")
    assert answer.error is not None
    assert "2000000" in answer.error.message
    assert "1048576" in answer.error.message


def test_headers_of_the_request_that_come_back_say_nothing() -> None:
    """As nats-py answers. Names of workflows and tasks may hold any word."""
    for task in ("charge", "nats-service-error", "dwarf-disposition"):
        request, _ = encode_request(call(task=task), 1)
        assert bytes(decode_reply("t", request, b'{"changes":{"n":1}}').changes["n"]) == b"1"
        assert decode_reply("t", request, b"") == Answer()
        refusal = request[:-2] + b"NATS-service-ERROR: no\r\n\r\n"
        assert failed(decode_reply("t", refusal, b"{}"))[0] == 500


def test_a_header_named_status_is_no_failure() -> None:
    assert decode_reply("t", errors(Status="503"), b"") == Answer()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"hello", ["not valid JSON", "hello"]),
        (b"[1]", ["object"]),
        (b'"text"', ["object"]),
        (b"null", ["object"]),
        (b'{"total":1}', ["unknown field `total`", "`changes`"]),
        (b'{"change":{}}', ["unknown field `change`", "did you mean `changes`"]),
        (b'{"changes":[]}', ["`changes`", "object"]),
        (b'{"changes":{"a":"\\ud800"}}', ["surrogate"]),
        (b'{"changes":{"a":"\xff"}}', ["`changes`"]),
        (b'{"changes":{"a":99999999999999999999}}', ["64 bits"]),
        (b'{"changes":{"a":' + b"[" * 100 + b"]" * 100 + b"}}", ["deeper"]),
        (b'{"changes":{"a":1e999}}', ["`changes`"]),
        (b'{"interrupt":' + b"[" * 100 + b"]" * 100 + b"}", ["`interrupt`", "deeper"]),
        (b'{"interruptTimeoutMs":5}', ["`interruptTimeoutMs`", "`interrupt`"]),
        (b'{"interrupt":1,"interruptTimeoutMs":-5}', ["`interruptTimeoutMs`"]),
        (b'{"interrupt":1,"interruptTimeoutMs":1.5}', ["`interruptTimeoutMs`", "integer"]),
        (b'{"sleepMs":-1}', ["`sleepMs`"]),
        (b'{"sleepMs":"1s"}', ["`sleepMs`", "integer"]),
        (b'{"goto":5}', ["`goto`", "string"]),
        (b'{"retry":{"maxAttempts":0}}', ["`retry.maxAttempts`"]),
        (b'{"retry":{"initialDelayMs":-5}}', ["`retry.initialDelayMs`"]),
        (b'{"retry":{"maxDelayMs":-5}}', ["`retry.maxDelayMs`"]),
        (b'{"retry":{"giveUpAfterMs":-5}}', ["`retry.giveUpAfterMs`"]),
        (b'{"retry":{"delay":5}}', ["unknown field `delay`", "`retry`"]),
        (b'{"subgraph":{}}', ["`subgraph.workflow`"]),
        (b'{"subgraph":{"workflow":"w","input":3}}', ["`subgraph.input`"]),
        (b'{"error":5}', ["`error`"]),
        (b'{"error":{"code":"x"}}', ["`error.code`"]),
        (b'{"error":{"message":3}}', ["`error.message`"]),
    ],
)
def test_a_malformed_reply_is_a_502_with_an_excerpt(body: bytes, words: list[str]) -> None:
    answer = decode_reply("charge", None, body)
    assert failed(answer) == (502, Disposition.ERROR, "")
    assert answer.error is not None
    assert "charge" in answer.error.message
    assert answer.changes == {}
    assert len(answer.error.message) < 800
    for word in words:
        assert word in answer.error.message


def test_the_tags_of_a_reply_are_set_and_removed() -> None:
    """Q1: digit for digit, with their types."""
    answer = decode_reply("t", None, b'{"tags": {"a": 9223372036854775807, "b": null, "c": "4711", "d": true}}')
    assert answer == Answer(tags={"a": 2**63 - 1, "b": None, "c": "4711", "d": True})
    assert decode_reply("t", None, b'{"tags": {}}') == Answer()


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (b'{"a.b": 1}', "`tags` has the name 'a.b'"),
        (b'{"a": [1]}', "`tags`.a must be a text, a number or a boolean, got array"),
        (b'["a"]', "`tags` must be an object"),
        (b'{"a": 1e400}', "`tags` is not valid JSON"),
        (b'{"a": 9223372036854775808}', "`tags` has an integer beyond signed 64 bits"),
        (b'{"a": "%s"}' % (b"x" * 257), "`tags`.a must be at most 256 bytes"),
        (b"{%s}" % b",".join(b'"t%d": 1' % number for number in range(33)), "`tags` has 33 names"),
    ],
)
def test_a_reply_with_bad_tags_is_malformed(tags: bytes, why: str) -> None:
    """Q1, X4: an error of the step with code 502."""
    answer = decode_reply("billing.charge", None, b'{"changes": {"a": 1}, "tags": %s}' % tags)
    assert failed(answer) == (502, Disposition.ERROR, "")
    assert answer.error is not None
    assert f"task billing.charge sent a malformed reply: {why}" in answer.error.message
    assert answer.tags is None
