"""The audit trail (M3): no record of an operation that was carried out is lost while the replica lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine, audit
from dwarf_nats.engine.maintenance.pruner import AUDIT_BATCH, AUDIT_PRUNE_SECONDS
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.ports import AuditRow
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.audit import UNKNOWN, AuditNote, AuditQuery
from tests.support.engines import SOON, Dsns, maintenance_of, rows

TOKEN = "a1B2c3D4e5F6g7H8"


def note(operation: str = "flow.cancel", **fields: Any) -> AuditNote:
    return AuditNote(operation=operation, **fields)


async def operations(engine: Engine, **filters: Any) -> list[str]:
    return [one.operation for one in (await engine.list_audit(AuditQuery(**filters)))[0]]


async def test_a_record_has_no_key_and_no_long_or_unstorable_text_m3(engine: Engine) -> None:
    key = f"1-42-{TOKEN}"
    await engine.record_audit(
        note(flow_key=key, actor="ada", reason=f"as {key}\0\ud800" + "x" * 10_000, code=404, message=f"no flow {key}")
    )
    ((record,), cursor) = await engine.list_audit()
    assert (record.flow_id, record.actor, record.code, record.message) == ("1-42", "ada", 404, "no flow 1-42")
    assert record.reason.startswith("as 1-42\ufffd\ufffdx")
    assert len(record.reason) < 600
    assert cursor == ""
    assert TOKEN not in str(await rows(engine, "select * from dwarf_audit"))


async def test_records_lie_with_their_flows_and_are_listed_together_m3(dsns: Dsns, proxy: TaskProxy) -> None:
    """What is about no flow, or about a shard that is not there, lies on shard 1; pages go over all shards."""
    async with open_engine(dsns(2), tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine:
        for number in range(7):
            await engine.record_audit(note(f"flow.o{number}", flow_key=f"{number % 2 + 1}-7-{TOKEN}"))
        await engine.record_audit(note("graph.put", name="order"))
        await engine.record_audit(note(flow_key=f"9-7-{TOKEN}", code=404))
        assert await rows(engine, "select count(*) from dwarf_audit", shard=1) == [(6,)]
        assert await rows(engine, "select count(*) from dwarf_audit", shard=2) == [(3,)]
        found, cursor = [], ""
        while page := await engine.list_audit(AuditQuery(limit=2), cursor):
            found += [one.operation for one in page[0]]
            assert len(page[0]) == 2 or not page[1]
            cursor = page[1]
            if not cursor:
                break
        assert found == ["flow.cancel", "graph.put", *(f"flow.o{number}" for number in reversed(range(7)))]
        assert await operations(engine, flow_id="2-7") == ["flow.o5", "flow.o3", "flow.o1"]
        assert await operations(engine, flow_id="9-7") == []
        for bad in ({"limit": 0}, {"limit": 1001}, {"actor": ""}, {"operation": "x\0"}, {"flow_id": "x"}):
            with pytest.raises(BadRequest):
                await operations(engine, **bad)  # type: ignore[arg-type]
        for cursor in ("!", "MQ", "LTEuMQ"):
            with pytest.raises(BadRequest, match="malformed cursor"):
                await engine.list_audit(AuditQuery(), cursor)


class Away:
    """Takes the place of the store's `add`: away until `back` is called."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = engine.shards[1].store.audit
        self.add = self.store.add
        self.asked = 0
        self.groups: list[int] = []
        self.away = True
        self.lost_replies = 0
        monkeypatch.setattr(self.store, "add", self)

    async def __call__(self, rows: Sequence[AuditRow]) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("the database is away")
        await self.add(rows)
        self.groups.append(len(rows))
        if self.lost_replies:
            self.lost_replies -= 1
            raise Unavailable("the connection was lost, it may have been committed")


async def test_records_wait_for_a_database_that_is_away_and_the_caller_does_not_m3(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if the answer of a write is lost: each is there once then."""
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(audit, "WRITE_BACKOFF", audit.Backoff(0.001, 2, 0.002))
    away = Away(engine, monkeypatch)
    with caplog.at_level(logging.WARNING):
        await engine.record_audit(note("flow.o1"))
        await engine.record_audit(note("flow.o2"))
    assert "audit records wait" in caplog.text
    assert await operations(engine) == []
    away.away, away.lost_replies = False, 1
    async with asyncio.timeout(SOON):
        while await operations(engine) != ["flow.o2", "flow.o1"]:
            await asyncio.sleep(0)
    monkeypatch.setattr(audit, "WAIT_SECONDS", SOON)
    await engine.record_audit(note("flow.o3"))
    assert await operations(engine) == ["flow.o3", "flow.o2", "flow.o1"]
    assert away.groups[0] == 2
    assert sum(away.groups) > 3, "the first group was written twice"


async def test_an_operation_whose_replica_died_has_an_unknown_outcome_m3(engine: Engine) -> None:
    """The record is there before the operation; completed, it is the same one."""
    died, lived = note("flow.delete", name="a"), note("flow.cancel", name="b")
    await engine.begin_audit(died)
    begun = await engine.begin_audit(lived)
    assert [one.code for one in (await engine.list_audit())[0]] == [UNKNOWN, UNKNOWN]
    await engine.complete_audit(begun, lived)
    found = {one.operation: one.code for one in (await engine.list_audit())[0]}
    assert found == {"flow.delete": UNKNOWN, "flow.cancel": 0}


async def test_while_the_database_is_away_an_operation_is_one_record_in_memory_m3(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(audit, "WRITE_BACKOFF", audit.Backoff(0.001, 2, 0.002))
    away = Away(engine, monkeypatch)
    begun = await engine.begin_audit(note())
    await engine.complete_audit(begun, note(code=503, message="away"))
    monkeypatch.setattr(audit, "WAIT_SECONDS", SOON)
    away.away = False
    await engine.record_audit(note("flow.new"))
    assert sum(away.groups) <= 3
    found = {one.operation: one.code for one in (await engine.list_audit())[0]}
    assert found == {"flow.cancel": 503, "flow.new": 0}


async def test_many_at_once_are_written_in_groups_and_refusals_are_bounded_m3(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was carried out is always kept; of refusals while the database is away only so many."""
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(audit, "WRITE_BACKOFF", audit.Backoff(0.001, 2, 0.002))
    monkeypatch.setattr(audit, "MAX_WAITING_REFUSALS", 20)
    away = Away(engine, monkeypatch)
    trail = engine.replica.audit
    await trail.record([note(code=503) for _ in range(30)] + [note() for _ in range(1000)])
    monkeypatch.setattr(audit, "WAIT_SECONDS", SOON)
    away.away = False
    with caplog.at_level(logging.WARNING):
        await trail.record([note()])
    assert await rows(engine, "select code, count(*) from dwarf_audit group by code order by code") == [
        (0, 1001),
        (503, 20),
    ]
    assert max(away.groups) == audit.GROUP_RECORDS
    assert "10 refusals have no audit record" in caplog.text


async def test_a_shutdown_writes_what_is_left_and_tells_what_it_cannot_m3(
    dsn: str, proxy: TaskProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.01)
    engine = open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0))
    async with engine:
        away = Away(engine, monkeypatch)
        await engine.record_audit(note("flow.o1"))
        away.away = False
    monkeypatch.setattr(audit, "LAST_WRITE_SECONDS", 0.01)
    async with engine:
        assert await operations(engine) == ["flow.o1"]
        away.away = True
        await engine.record_audit(note("flow.o2"))
    assert "1 audit records are lost" in caplog.text


async def test_records_are_removed_when_their_time_is_over_m3(timed: Engine, clock: ManualClock) -> None:
    store, pruner = timed.shards[1].store, maintenance_of(timed).audit_pruner
    await timed.replica.audit.record([note() for _ in range(AUDIT_BATCH + 1)])
    clock.advance(timed.settings.audit_ms / 1000)
    await timed.record_audit(note("flow.new"))
    before = clock.now()
    clock.advance(AUDIT_PRUNE_SECONDS)
    running = asyncio.create_task(pruner.run_once())
    async with asyncio.timeout(SOON):
        while not running.done():
            clock.advance(0.1)
            await asyncio.sleep(0)
    assert await operations(timed) == ["flow.new"]
    assert clock.now() > before
    timed.settings.audit_ms = 0
    clock.advance(10**9)
    await pruner.run_once()
    assert len(await store.audit.find(AuditQuery(), 10, None)) == 1, "0 keeps them for ever"
