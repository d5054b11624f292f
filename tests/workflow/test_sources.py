"""R1: sources as documents: what is refused, with the place, and what a message becomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.source_templates import SourceMessage, SourceTemplates, check_source
from dwarf_nats.workflow.sources import Source, SourceSignal, SourceStart, matches

START = SourceStart(workflow="order")


def source(**fields: Any) -> Source:
    return Source(**{"name": "orders", "subject": "orders.*", "stream": "ORDERS", "start": START} | fields)


def message(body: bytes = b'{"id": 7, "to": {"city": "Ulm"}}', **fields: Any) -> SourceMessage:
    given = {
        "subject": "orders.web",
        "body": body,
        "headers": {"nats-msg-id": "m7"},
        "sequence": 42,
        "at": "2026-11-30T12:00:00Z",
    }
    return SourceMessage(**given | fields)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "a.b"}, "name: 'a.b' is no name of a source: use A-Z"),
        ({"name": "x" * 65}, "at most 64 characters"),
        ({"subject": ""}, "subject: '' cannot be read: it is empty"),
        ({"subject": "a..b"}, "empty token"),
        ({"subject": "a.>.b"}, "wildcard must be a token of its own"),
        ({"subject": "a.b*"}, "wildcard must be a token of its own"),
        ({"subject": "a b"}, "space"),
        ({"subject": ">", "stream": ""}, "give a stream, or name the subject"),
        ({"subject": "$SYS.x", "stream": ""}, r"begin with \$"),
        ({"stream": "A.B"}, "no name of a JetStream stream"),
        ({"start": None}, "either `start` .* or `signal`"),
        ({"signal": SourceSignal(event="paid")}, "either `start` .* or `signal`"),
        ({"start": SourceStart(workflow="no spaces")}, "invalid start.workflow"),
        ({"start": SourceStart(workflow="order", state=5)}, "start.state must be an object or an expression"),
        ({"start": SourceStart(workflow="order", state="text")}, "start.state must be an object or an expression"),
        ({"start": SourceStart(workflow="order", state={"a": [1, "=data."]})}, r"start\.state\.a\[1\]: the expression"),
        (
            {"start": SourceStart(workflow="order", state={"a": "=order.id"})},
            r"start\.state\.a: .* reads 'order', .*`data\.order`",
        ),
        ({"start": SourceStart(workflow="order", options=[])}, "start.options must be an object"),
        ({"start": SourceStart(workflow="order", options={"idempotencyKey": "=text"})}, "idempotencyKey has no place"),
        ({"start": None, "signal": SourceSignal(event="a b")}, "invalid signal.event"),
        ({"start": None, "signal": SourceSignal(event="a", key="x" * 257)}, "signal.key must be at most 256 bytes"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused_with_the_place(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        check_source(source(**fields))


def test_a_source_survives_being_kept() -> None:
    one = source(
        start=SourceStart(workflow="=data.kind", state={"n": 2**63 - 1}, options={"priority": 3}),
        paused=True,
        deliver="new",
    )
    check_source(one)
    assert Source.from_json(one.to_json()) == one
    with pytest.raises(BadRequest, match="this version cannot read"):
        Source.from_json('{"name": 5}')


def test_the_body_is_the_state_unless_something_else_is_asked_for() -> None:
    rendered = SourceTemplates(source()).start(message())
    assert (rendered.workflow, rendered.state, rendered.options) == ("order", b'{"id": 7, "to": {"city": "Ulm"}}', None)


def test_templates_know_the_whole_message() -> None:
    start = SourceStart(
        workflow="=data.id == 7 ? 'seven' : 'other'",
        state={
            "id": "=data.id",
            "text": "=text",
            "subject": "=subject",
            "mid": "=headers['nats-msg-id']",
            "n": "=sequence",
            "at": "=time",
            "plain": "==no expression",
        },
        options={"fairnessKey": "=data.to.city"},
    )
    rendered = SourceTemplates(source(start=start)).start(message())
    assert rendered.workflow == "seven"
    assert msgspec.json.decode(rendered.state) == {
        "id": 7,
        "text": '{"id": 7, "to": {"city": "Ulm"}}',
        "subject": "orders.web",
        "mid": "m7",
        "n": 42,
        "at": "2026-11-30T12:00:00Z",
        "plain": "=no expression",
    }
    assert rendered.options == b'{"fairnessKey":"Ulm"}'


def test_only_what_is_read_must_be_there() -> None:
    """A source of texts takes bodies that are no JSON; one of data does not, and says so."""
    texts = SourceTemplates(source(start=SourceStart(workflow="order", state={"text": "=text"})))
    assert texts.start(message(b"plain words")).state == b'{"text":"plain words"}'
    with pytest.raises(BadRequest, match="not UTF-8"):
        texts.start(message(b"\xff"))
    bodies = SourceTemplates(source())
    for body, why in (
        (b"plain", "not valid JSON"),
        (b"[1]", "gives array"),
        (b"", "gives null"),
        (b"\xff", "not valid JSON"),
    ):
        with pytest.raises(BadRequest, match=why):
            bodies.start(message(body))
    with pytest.raises(BadRequest, match=r"start\.state\.city: .*no such field 'town'"):
        SourceTemplates(source(start=SourceStart(workflow="order", state={"city": "=data.town"}))).start(message())


def test_a_message_signals_an_event() -> None:
    signal = SourceSignal(event="order.paid", key="=string(data.id)", data={"city": "=data.to.city"})
    one = source(start=None, signal=signal)
    check_source(one)
    rendered = SourceTemplates(one).signal(message())
    assert (rendered.event, rendered.key, bytes(rendered.data)) == ("order.paid", "7", b'{"city":"Ulm"}')


@pytest.mark.parametrize(
    ("pattern", "subject", "wanted"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.b", "a.c", False),
    ],
)
def test_subjects_are_matched_as_nats_does(pattern: str, subject: str, wanted: bool) -> None:
    assert matches(pattern, subject) is wanted
