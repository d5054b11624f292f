"""The claim sweep: values go that no row refers to, and no others (B10)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.engine.maintenance import claim_reading
from dwarf_nats.engine.maintenance.claim_sweep import ClaimSweep
from dwarf_nats.errors import Forbidden, Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.ports.values import HOLDERS, BucketContents, ClaimPage, Place, StoredValue
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store import schema
from dwarf_nats.store.statements import claims
from dwarf_nats.telemetry import catalogue
from dwarf_nats.testing import TaskProxy
from tests.support.engines import SOON, Dsns, line, rows
from tests.support.outages import shard_away


def digest(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def claim(name: str) -> dict[str, Any]:
    return {"$claim": digest(name), "size": 5_000}


class Bucket:
    """A bucket of old values, by name. `away`: the next removal fails."""

    def __init__(self, *names: str) -> None:
        self.forbidden = False
        self.sequences = {digest(name): number for number, name in enumerate(names, 1)}
        self.leftovers: list[str] = []
        self.away = False

    def __contains__(self, name: str) -> bool:
        return digest(name) in self.sequences

    async def look(self) -> BucketContents:
        if self.forbidden:
            raise Forbidden("no permission for the bucket")
        old = [StoredValue(one, sequence, one, 1_000) for one, sequence in self.sequences.items()]
        return BucketContents(old, list(self.leftovers), len(old), 1_000 * len(old))

    async def remove(self, value: StoredValue) -> bool:
        if self.away:
            raise Unavailable("JetStream is away")
        if self.sequences.get(value.digest) != value.sequence:
            return False
        del self.sequences[value.digest]
        return True

    async def drop(self, leftover: str) -> None:
        self.leftovers.remove(leftover)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages end within what the tests write."""
    monkeypatch.setattr(claim_reading, "PAGE_ROWS", 3)
    monkeypatch.setattr(claim_reading, "PAGE_FLOWS", 3)


@pytest.fixture
def carrier() -> TaskProxy:
    made = TaskProxy()
    made.handle_graph(line("carry", "carry", "last"))
    made.handle_task("carry", lambda: {"made": claim("made")})
    made.handle_task("last", dict)
    return made


def opened(dsns: list[str], proxy: TaskProxy) -> Engine:
    # No beat comes by itself: the tests say which shard is away.
    return open_engine(
        dsns, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0, replica_timeout_ms=3_600_000)
    )


async def sweep_twice(sweep: ClaimSweep) -> None:
    await sweep.run_once()
    await sweep.run_once()


async def test_a_value_goes_with_the_last_row_that_refers_to_it(dsns: Dsns, carrier: TaskProxy) -> None:
    """B10: whichever shard has the row, and on whichever page it is; two sweeps have to find the value unused."""
    async with opened(dsns(2), carrier) as engine:
        names = [f"state{n}" for n in range(40)]  # by chance on both shards
        bucket = Bucket("nobody's", "made", "event", "schedule", "nested", *names)
        flows = [await engine.create("carry", {"doc": claim(name)}) for name in names]
        assert {flow.split("-")[0] for flow in flows} == {"1", "2"}
        flows.append(await engine.create("carry", {"list": [{"deep": claim("nested")}]}))
        done = (await engine.run("carry", {}, timeout=SOON)).flow_key
        for n in range(5):
            await engine.signal("paid", f"key{n}", claim("event"), keep_ms=60_000)
        await put_schedule(engine, claim("schedule"))
        sweep = ClaimSweep(bucket, engine.replica)

        await sweep.run_once()
        assert "nobody's" in bucket
        await sweep.run_once()
        assert len(bucket.sequences) == len(names) + 4
        assert "nobody's" not in bucket

        for flow in [*flows[3:], done]:
            await engine.delete(flow)
        await sweep_twice(sweep)
        assert bucket.sequences.keys() == {digest(name) for name in ["event", "schedule", *names[:3]]}


async def put_schedule(engine: Engine, state: Any) -> None:
    await rows(
        engine,
        "insert into dwarf_schedules (name, workflow, body, created_at, updated_at) values ('s', 'carry', $1, 0, 0)",
        json.dumps({"state": state}),
    )


async def test_a_fork_made_during_a_sweep_keeps_its_value(
    dsns: Dsns, carrier: TaskProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B10: the fork gets an id that was passed already, and its source is deleted before it is read."""
    async with opened(dsns(1), carrier) as engine:
        bucket = Bucket("made", "nobody's")
        flow = (await engine.run("carry", {}, timeout=SOON)).flow_key
        reader = engine.shards[1].store.claims
        page = reader.page

        async def forked_behind(holder: str, after: Place | None, limit: int) -> ClaimPage:
            nonlocal flow
            if holder == "flows":
                [_, last] = await engine.history(flow)
                source, flow = flow, await engine.fork(last.step_key)
                await engine.delete(source)
            return ClaimPage(set(), None) if holder in {"flows", "steps"} else await page(holder, after, limit)

        monkeypatch.setattr(reader, "page", forked_behind)
        await sweep_twice(ClaimSweep(bucket, engine.replica))
        assert "made" in bucket
        assert "nobody's" not in bucket


@pytest.mark.parametrize("noticed", [False, True])
async def test_nothing_goes_while_a_shard_is_away(dsns: Dsns, carrier: TaskProxy, *, noticed: bool) -> None:
    """B10: its rows may refer to anything. Nor does what was found before the outage go with the first sweep after it."""
    async with opened(dsns(2), carrier) as engine:
        bucket = Bucket("nobody's")
        sweep = ClaimSweep(bucket, engine.replica)
        await sweep.run_once()
        with shard_away(2, engine, noticed=noticed):
            await sweep_twice(sweep)
        assert "nobody's" in bucket
        await sweep.run_once()
        assert "nobody's" in bucket
        await sweep.run_once()
        assert "nobody's" not in bucket


async def test_a_value_written_again_between_two_sweeps_stays(
    dsns: Dsns, carrier: TaskProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """B10: it is another object. While the bucket is away, the sweep says so and goes on the next time."""
    async with opened(dsns(1), carrier) as engine:
        bucket = Bucket("again", "nobody's")
        bucket.leftovers = ["chunks"]
        sweep = ClaimSweep(bucket, engine.replica)
        await sweep.run_once()
        assert bucket.leftovers == []
        bucket.sequences[digest("again")] = 99
        bucket.away = True
        with caplog.at_level("INFO"):
            await sweep.run_once()
        assert "nothing more is removed now: JetStream is away" in caplog.text
        assert "again" in bucket
        bucket.away = False
        await sweep_twice(sweep)
        assert not bucket.sequences


async def test_metrics_say_what_sweeps_removed_kept_and_why_they_failed(dsns: Dsns, carrier: TaskProxy) -> None:
    """B10, T1."""
    async with opened(dsns(1), carrier) as engine:
        await engine.create("carry", {"doc": claim("used")})
        bucket = Bucket("used", "nobody's", "another")
        sweep = ClaimSweep(bucket, engine.replica)
        counters, read = engine.replica.counters, engine.replica.instruments.read
        await sweep.run_once()
        assert read(catalogue.VALUES) == {("kept",): 1, ("unused",): 2}
        assert read(catalogue.VALUE_BYTES) == {("kept",): 1_000, ("unused",): 2_000}
        first = read(catalogue.LAST_SWEEP)[()]
        await sweep.run_once()
        assert read(catalogue.VALUES) == {("kept",): 1, ("unused",): 0}
        assert (counters.values_removed.total(), counters.value_bytes_removed.total()) == (2, 2_000)
        assert read(catalogue.LAST_SWEEP)[()] >= first
        bucket.forbidden = True
        await sweep.run_once()
        with shard_away(1, engine, noticed=True):
            await sweep.run_once()
        assert dict(counters.value_sweeps) == {("done",): 2, ("failed",): 1, ("away",): 1}


@pytest.mark.slow
async def test_a_row_of_the_outbox_keeps_its_value(pg_dsn: str, carrier: TaskProxy) -> None:
    """B10, R1: a row that waits, or was rejected, becomes a flow later."""
    async with opened([pg_dsn], carrier) as engine:
        bucket = Bucket("enqueued", "nobody's")
        await rows(
            engine,
            "insert into dwarf_outbox (workflow, state, options, created_at, due_at) values ('carry', $1, '{}', 0, $2)",
            json.dumps({"doc": claim("enqueued")}),
            2**60,
        )
        await sweep_twice(ClaimSweep(bucket, engine.replica))
        assert "enqueued" in bucket
        assert "nobody's" not in bucket


def test_all_columns_with_text_from_outside_are_read() -> None:
    """B10: a column that holds JSON is read, or stands here with the reason."""
    unread = {
        "dwarf_steps": {"borrowed", "problems"},  # ids of steps; messages of the engine
        "dwarf_flows": {"breakpoints", "final_borrowed", "tags"},  # names; ids of steps; short texts
        "dwarf_schedules": {"runs"},  # keys
        "dwarf_events": {"visited"},  # numbers
        "dwarf_audit": {"details"},  # what was asked, without states; nothing is carried on from there
    }
    assert claims.HOLDERS.keys() == set(HOLDERS)
    table, seen = "", 0
    for text in (Path(schema.__file__).parent / "postgres.sql").read_text().splitlines():
        if text.startswith("create table"):
            table = text.split()[2]
        if text.startswith("  ") and "JSON" in text.partition("--")[2]:
            read = {column for one in claims.HOLDERS.values() if one.table == table for column in one.texts}
            assert text.split()[0] in read | unread.get(table, set()), f"{table}: {text}"
            seen += 1
    assert seen > 15
