"""Headers of the requests and messages of graphs, and what each reply of a service means (N3, N4)."""

from __future__ import annotations

import pytest

from dwarf_nats.wire import headers as h
from dwarf_nats.wire.services import (
    decode_acknowledgement,
    decode_reply,
    encode_headers,
    is_acknowledgement,
)
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.answer import Disposition
from dwarf_nats.workflow.names import MAX_SUBJECT, check_task_name, subject_problem
from dwarf_nats.workflow.services import ServiceCall, ServiceReply

KEY = "1-42-a1B2c3D4e5F6g7H8"


def call(**changes: object) -> ServiceCall:
    values: dict[str, object] = {
        "name": "='stock.' + sku", "subject": "stock.a1", "payload": b"", "flow_id": "1-7", "step_id": "1-42",
        "message_id": "1-42-5", "attempt": 3, "deadline": 120_000_000, "budget": 10.0,
    }  # fmt: skip
    return ServiceCall(**{**values, **changes})  # type: ignore[arg-type]


def value(reply: ServiceReply) -> bytes | None:
    assert reply.error is None
    return None if reply.value is None else bytes(reply.value)


def failed(reply: ServiceReply) -> tuple[int, str, Disposition, str]:
    assert reply.error is not None
    return reply.error.code, reply.error.message, reply.disposition, reply.cause


def errors(**headers: str) -> bytes:
    return h.write_headers((name.replace("_", "-"), value) for name, value in headers.items())


def test_a_request_carries_token_free_ids_deadline_trace_and_message_id() -> None:
    """N3: exactly these headers, and the graph's own; a message has no deadline."""
    block = encode_headers(call(traceparent="00-a-b-01", tracestate="k=v", headers=[("Kunde", "Zoë")]), deadline=True)
    assert h.read_headers(block) == {
        "dwarf-flow-id": "1-7", "dwarf-step-id": "1-42", "dwarf-attempt": "3",
        "dwarf-deadline": "1970-01-01T00:02:00.000000Z", "nats-msg-id": "1-42-5", "traceparent": "00-a-b-01",
        "tracestate": "k=v", "kunde": "Zo%C3%AB",
    }  # fmt: skip
    assert set(h.read_headers(encode_headers(call(), deadline=False))) == {
        "dwarf-flow-id", "dwarf-step-id", "dwarf-attempt", "nats-msg-id",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", None),
        (b'{"a": 9007199254740993.10}', b'{"a": 9007199254740993.10}'),
        (b" [1]\n", b"[1]"),
        (b"null", b"null"),
        (b"9223372036854775807", b"9223372036854775807"),
        (b'"text"', b'"text"'),
        (b"sold out", b'"sold out"'),
        ("żółć".encode(), '"żółć"'.encode()),
        (b"{not json", b'"{not json"'),
        (b"NaN", b'"NaN"'),
        (b"a\x00b", b'"a\\u0000b"'),
    ],
)
def test_a_reply_is_parsed_if_it_is_json_else_a_text(body: bytes, expected: bytes | None) -> None:
    """N3: digit for digit; an empty reply has no value."""
    assert value(decode_reply("s", None, body)) == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff\xfe", "is neither JSON nor UTF-8 text"),
        (b"[" * 70 + b"]" * 70, "deeper than 64"),
        (b"[" * 5000 + b"]" * 5000, "depth limit"),
        (b"92233720368547758070", "64 bits"),
        (b'{"a":1e999}', "infinity"),
        (b'"\\ud800"', "surrogate"),
    ],
)
def test_a_reply_that_no_state_can_hold_is_an_error_502(body: bytes, words: str) -> None:
    """N3, S1: the message quotes its beginning."""
    code, message, disposition, _ = failed(decode_reply("stock.a1", None, body))
    assert (code, disposition) == (502, Disposition.ERROR)
    assert "the service at stock.a1" in message
    assert words in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (429, (Disposition.BACKPRESSURE, "")),
        (503, (Disposition.BREAKER, "unavailable")),
        (529, (Disposition.BREAKER, "overloaded")),
        (402, (Disposition.ERROR, "")),
        (500, (Disposition.ERROR, "")),
    ],
)
def test_the_code_of_an_error_means_what_it_means_for_tasks(code: int, expected: tuple[Disposition, str]) -> None:
    """N3."""
    block = errors(Nats_Service_Error_Code=str(code), Nats_Service_Error="zu viel ü")
    assert failed(decode_reply("s", block, b"")) == (code, "zu viel ü", *expected)


def test_a_disposition_overrules_the_code() -> None:
    """N3, wire section 2: also beside no error at all."""
    block = errors(Nats_Service_Error_Code="400", Nats_Service_Error="later", Dwarf_Disposition="breaker")
    assert failed(decode_reply("s", block, b"")) == (400, "later", Disposition.BREAKER, "unavailable")
    alone = decode_reply("s", errors(Dwarf_Disposition="backpressure"), b'{"a":1}')
    assert failed(alone)[0::2] == (500, Disposition.BACKPRESSURE)
    assert value(decode_reply("s", errors(Dwarf_Disposition="nonsense"), b"1")) == b"1"


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        (b"", {}),
        (b'{"available": 3, "message": "no", "code": 7}', {"available": 3}),
        (b'{"error": {"bank": "B", "message": "no"}}', {"bank": "B"}),
        (b'{"error": "no", "bank": "B"}', {"error": "no", "bank": "B"}),
        (b"[1]", {"body": [1]}),
        (b"sold out", {"body": "sold out"}),
        (b"\xff", {"body": "\ufffd"}),
    ],
)
def test_further_fields_of_an_error_are_kept(body: bytes, extra: dict[str, object]) -> None:
    """N3: of the body, or of its `error`."""
    reply = decode_reply("s", errors(Nats_Service_Error_Code="402", Nats_Service_Error="declined"), body)
    assert reply.error is not None
    assert (reply.error.code, reply.error.message, reply.error.extra) == (402, "declined", extra)


def test_a_text_is_taken_from_the_body_where_the_headers_have_none() -> None:
    block = errors(Nats_Service_Error_Code="402")
    assert failed(decode_reply("s", block, b'{"message": "declined"}'))[1] == "declined"
    assert failed(decode_reply("s", block, b""))[1] == "the service at s failed with code 402"


def test_a_header_named_status_is_not_the_servers() -> None:
    """N3."""
    assert value(decode_reply("s", errors(Status="503"), b"1")) == b"1"


# --- acknowledgements of streams ---


def test_an_acknowledgement_completes_also_of_a_duplicate() -> None:
    """N4."""
    for body in (b'{"stream":"S","seq":4}', b'{"stream":"S","seq":4,"duplicate":true,"new":{"field":1}}'):
        assert is_acknowledgement(body)
        assert decode_acknowledgement("s", body) == ServiceReply()


@pytest.mark.parametrize("body", [b"", b"ok", b"{}", b"[]", b'{"stream":4}', b'"stream"', b"\xff"])
def test_what_is_no_acknowledgement(body: bytes) -> None:
    assert not is_acknowledgement(body)


def test_a_refusal_of_a_stream_is_an_error_with_its_code() -> None:
    """N4: 503, such as of a stream that is full, holds the step like a service that cannot serve."""
    body = b'{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"},"stream":"S","seq":0}'
    reply = decode_acknowledgement("orders.x", body)
    assert is_acknowledgement(body)
    assert failed(reply)[0::2] == (400, Disposition.ERROR)
    assert reply.error is not None
    assert reply.error.extra == {"errCode": 10054}
    for word in ("stream S", "orders.x", "message size exceeds"):
        assert word in reply.error.message
    full = b'{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}'
    assert failed(decode_acknowledgement("s", full))[2:] == (Disposition.BREAKER, "unavailable")


# --- subjects ---


@pytest.mark.parametrize(
    "subject", ["stock.a1.reserve", "x", "über.größe", "a.b-c_d.#1", "orders.EU:1", "a" * MAX_SUBJECT]
)
def test_subjects_of_existing_services(subject: str) -> None:
    assert subject_problem(subject) == ""
    assert Subjects().refuses_message(subject, "_INBOX.abc") == ""


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("", "empty"),
        ("a" * (MAX_SUBJECT + 1), "longer"),
        ("a b", "space"),
        ("a\tb", "control"),
        ("a\r\nPUB b", "control"),
        ("a\u00a0b", "space"),
        ("a.*", "wildcard"),
        ("a.>", "wildcard"),
        ("a..b", "empty token"),
        (".a", "empty token"),
        ("a.", "empty token"),
        ("$JS.API.STREAM.LIST", "$"),
        (f"a.{KEY}", "key"),
        ("dwarf.flow.run", "subject prefix dwarf"),
        ("task.billing", "task subject prefix"),
        ("graph.order", "graph subject prefix"),
        ("_INBOX.abc.x", "replies"),
        ("_R_.x", "replies"),
        ("mine.x", "replies"),
        ("other.dwarf_replica_inbox.x", "replies"),
    ],
)
def test_subjects_that_no_graph_may_send_to(subject: str, words: str) -> None:
    """N3, N4: no legal subject, one of the service's own, one of NATS itself, or one that holds a key."""
    assert words in Subjects().refuses_message(subject, "mine.abc")


def test_prefixes_are_those_that_are_configured() -> None:
    """N3."""
    subjects = Subjects("acme.flows", "jobs", "plans")
    assert subjects.refuses_message("dwarf.flow.run") == ""
    assert subjects.refuses_message("acme.orders") == ""
    assert "acme.flows" in subjects.refuses_message("acme.flows.flow.run")
    assert "jobs" in subjects.refuses_message("jobs.x")


@pytest.mark.parametrize("name", ["billing.charge", "='stock.' + item.sku + '.reserve'", "über.größe", "==x"])
def test_names_by_which_a_breaker_is_asked_after(name: str) -> None:
    """O16, N3: the subject as written."""
    assert check_task_name(name) == name
