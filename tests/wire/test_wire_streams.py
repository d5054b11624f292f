"""The acknowledgement of a JetStream stream, and what only looks like one (wire section 2)."""

from __future__ import annotations

import pytest

from dwarf_nats.wire.streams import describe_capture, recorded_by


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":"audit","seq":1}',
        b'{"stream":"audit","domain":"hub","seq":1}',
        b'{"stream":"audit","domain":"hub","seq":2,"duplicate": true}',
        b'{"stream":"audit", "seq":3,"val":"7","batch":"b","count":2}',
        b'{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"audit","seq":0}',
    ],
)
def test_an_acknowledgement_names_its_stream(body: bytes) -> None:
    """As a nats-server writes them."""
    assert recorded_by(None, body) == "audit"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"changes":{"stream":"audit","seq":1}}',
        b'{"stream":"audit"}',
        b'{"stream":"audit","seq":"1"}',
        b'{"stream":"audit","seq":1,"changes":{}}',
        b'{"stream":{"a":1},"seq":1}',
        b'{"error":{"code":503,"message":"busy"}}',
        b'{"error":{"code":503,"err_code":10077,"description":"x"}}',
        b'{"error":{"code":503,"message":"busy"},"stream":"audit","seq":0}',
        b'{"stream":"\xff","seq":1}',
        b'{"stream":' + b"[" * 100_000,
    ],
)
def test_other_replies_are_replies(body: bytes) -> None:
    assert recorded_by(None, body) == ""


def test_an_acknowledgement_has_no_headers() -> None:
    assert recorded_by(b"NATS/1.0\r\nA: b\r\n\r\n", b'{"stream":"audit","seq":1}') == ""


def test_the_remedy_is_told() -> None:
    text = describe_capture("audit", "task.>")
    assert text.startswith("a stream captures task.>: ")
    assert "'audit'" in text
    assert "nats stream edit audit" in text
