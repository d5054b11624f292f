"""Which requests leave an audit record, and what stands in it (M3)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dwarf_nats.bus.auditing import carried_out
from dwarf_nats.bus.endpoints import RawRequest, endpoints
from dwarf_nats.errors import Conflict, DwarfError, Unavailable
from dwarf_nats.wire.examples import EXAMPLES
from dwarf_nats.wire.operations import OPERATIONS, Operation
from dwarf_nats.wire.subjects import Subjects
from tests.support.stub_engine import KEY, STEP, StubEngine

ENDPOINTS = {one.operation.name: one for one in endpoints(Subjects())}
HEADERS = b"NATS/1.0\r\nDwarf-Actor: ada\r\n\r\n"


async def ask(engine: StubEngine, operation: str, fields: Any, *, tried_again: bool = False) -> None:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    endpoint = ENDPOINTS[operation]
    context = endpoint.context(RawRequest(endpoint.subject.encode(), b"_INBOX.x", body, HEADERS))
    context.default_timeout_seconds = 0
    try:
        await carried_out(endpoint, engine, context, tried_again=tried_again)
    except DwarfError:
        assert engine.failure is not None or b"mayPublish" in body


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
async def test_what_steers_is_recorded_and_nothing_else_m3(operation: Operation) -> None:
    """Refusals too; not what reads, begins a flow, or cannot be read. No key gets into a record."""
    engine = StubEngine()
    engine.failure = Conflict(f"flow {KEY} is running")
    await ask(engine, operation.name, b'{"mayPublish":true}')
    assert engine.notes == engine.begun == []
    await ask(engine, operation.name, EXAMPLES[operation.request])
    assert len(engine.notes) == (not operation.reads and not operation.begins)
    assert [(one.operation, one.code) for one in engine.begun] == [(one.operation, 0) for one in engine.notes]
    for note in engine.notes:
        assert (note.operation, note.actor) == (operation.name, "ada")
        assert note.code in (409, 500)  # 500: of an operation that the stub does not have
        assert note.flow_key or note.step_key or note.name or note.details
        assert KEY[-16:] not in json.dumps(note.details)


async def test_a_record_says_what_was_asked_and_what_came_of_it_m3() -> None:
    engine = StubEngine()
    await ask(engine, "flow.cancel", {"flowKey": KEY, "reason": "enough"})
    await ask(engine, "flow.restart", {"flowKey": KEY, "overrides": {"secret": 1}})
    await ask(engine, "flow.resume", {"stepKey": STEP, "data": {"secret": 1}})
    await ask(engine, "flow.break_before", {"flowKey": KEY, "task": "charge", "enabled": False})
    await ask(engine, "flow.fork", {"stepKey": STEP})
    await ask(engine, "flow.purge", {"status": "failed", "search": "secret", "tags": {"secret": 1}})
    await ask(engine, "graph.put", EXAMPLES[ENDPOINTS["graph.put"].operation.request])
    await ask(engine, "graph.delete", {"name": "order"})
    shown = [(one.flow_key, one.step_key, one.name, one.reason) for one in engine.notes]
    assert shown == [
        (KEY, "", "", "enough"),
        (KEY, "", "", ""),
        ("", STEP, "", ""),
        (KEY, "", "", ""),
        ("", STEP, "", ""),
        ("", "", "", ""),
        ("", "", "order", ""),
        ("", "", "order", ""),
    ]
    details = [dict(one.details) for one in engine.notes]
    assert details[:3] == [{}, {}, {}]
    assert details[3] == {"task": "charge", "enabled": False}
    assert details[4] == {"made": KEY[:-17]}
    assert details[5]["status"] == "failed"
    assert isinstance(details[5]["deleted"], int)
    assert set(details[6]) == {"digest"}
    assert all(one.code == 0 for one in engine.notes)
    assert "secret" not in str(engine.notes)


async def test_the_record_is_written_before_the_operation_begins_m3(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that dies in between leaves a record that says what was asked, of an unknown outcome."""
    engine = StubEngine()
    seen: list[tuple[int, int]] = []

    async def cancel(*_: Any) -> None:
        seen.append((len(engine.begun), len(engine.notes)))

    monkeypatch.setattr(engine, "cancel", cancel)
    await ask(engine, "flow.cancel", {"flowKey": KEY, "reason": "enough"})
    assert seen == [(1, 0)]
    assert [(one.flow_key, one.reason) for one in engine.begun] == [(KEY, "enough")]
    assert [one.code for one in engine.notes] == [0]


async def test_a_request_that_is_tried_again_is_recorded_once_m3() -> None:
    engine = StubEngine()
    engine.failure = Unavailable("the database is away")
    await ask(engine, "flow.cancel", {"flowKey": KEY}, tried_again=True)
    assert engine.notes == []
    engine.failure = None
    await ask(engine, "flow.cancel", {"flowKey": KEY}, tried_again=True)
    assert [one.code for one in engine.notes] == [0]


async def test_a_graph_that_is_refused_has_its_name_in_the_record_m3() -> None:
    engine = StubEngine()
    engine.failure = Conflict("")
    await ask(engine, "graph.put", {"name": "order", "tasks": "none"})
    await ask(engine, "graph.put", b"no json")
    assert [(one.name, one.code) for one in engine.notes] == [("order", 400)]
