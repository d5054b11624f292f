"""Schedules over NATS, with the client and the command line (R3; wire: section 1)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, DwarfError, NotFound, TooLarge
from dwarf_nats.sdk import Client, Overlap, Query, RunOutcome, Schedule
from dwarf_nats.workflow.graph import Graph
from tests.recovery.processes import replica

GRAPH = '{"name": "report", "tasks": [{"name": "done", "set": {"done": true}}], "transitions": [{"from": "done", "to": "END"}]}'
TICKS = 200


async def test_schedules_fire_once_while_replicas_are_killed(nats_server: NatsServer, pg_dsn: str) -> None:
    """R3: two replicas, one killed with -9 again and again; each due time has one flow. Before that, every operation."""
    url = nats_server.url
    prefix = "sched" + pg_dsn.rsplit("_", 1)[1]
    flags = ("--prefix", prefix, "--task-prefix", f"{prefix}-task", "--graph-prefix", f"{prefix}-graph")
    async with (
        replica(url, pg_dsn, *flags) as steady,
        Client(url, prefix=prefix, patience=60) as client,
    ):
        async with asyncio.timeout(60):
            while True:
                try:
                    await client.list_graphs()
                    break
                except DwarfError:
                    assert steady.process.returncode is None
                    await asyncio.sleep(0.05)
        await client.put_graph(Graph.from_json(GRAPH.encode()))
        await _every_operation(client)
        for number in range(10):
            info = await client.put_schedule(
                Schedule(
                    name=f"s{number}",
                    workflow="report",
                    every_ms=500,
                    overlap=Overlap.ALLOW,
                    state={"at": "=scheduledAt"},
                    options={"tags": {"schedule": number, "at": "=scheduledAt"}},
                )
            )
            assert not info.warnings
        seen: list[tuple[object, object]] = []
        async with asyncio.timeout(120):
            while len(seen) < TICKS:
                async with replica(url, pg_dsn, *flags) as victim:
                    await asyncio.wait_for(_more(client, len(seen) + 40), 60)
                    await victim.kill()
                seen = await _fired(client)
        for number in range(10):
            await client.pause_schedule(f"s{number}")
        seen = await _fired(client)
        assert len(seen) == len(set(seen))


async def _more(client: Client, count: int) -> None:
    while len(await _fired(client)) < count:
        await asyncio.sleep(0.2)


async def _fired(client: Client) -> list[tuple[object, object]]:
    found: list[tuple[object, object]] = []

    cursor = ""
    while True:
        flows, cursor = await client.list(Query(workflow="report", limit=1000), cursor)
        found += [(flow.tags["schedule"], flow.tags["at"]) for flow in flows if "schedule" in flow.tags]
        if not cursor:
            return found


async def _every_operation(client: Client) -> None:
    nightly = Schedule(
        name="nightly",
        workflow="report",
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        overlap=Overlap.QUEUE,
        from_=datetime(2026, 1, 1, tzinfo=UTC),
        state={"day": "=scheduledAt"},
        paused=True,
    )
    info = await client.put_schedule(nightly)
    assert info.schedule == nightly
    assert info.description == "At 03:00 every day (Europe/Berlin)"
    assert info.next == []
    assert len((await client.resume_schedule("nightly")).next) == 10
    assert (await client.pause_schedule("nightly")).schedule.paused
    (run,) = (await client.trigger_schedule("nightly")).last
    assert run.outcome is RunOutcome.STARTED
    first = datetime(2026, 1, 1, tzinfo=UTC)
    assert await client.backfill_schedule("nightly", first, first + timedelta(days=3)) == 3
    assert await client.backfill_schedule("nightly", first, first + timedelta(days=3)) == 0
    await client.put_schedule(Schedule(name="often", workflow="report", every_ms=1000, paused=True))
    with pytest.raises(TooLarge, match="backfill up to"):
        await client.backfill_schedule("often", first, first + timedelta(days=1))
    (entry, other), cursor = await client.list_schedules()
    assert (entry.schedule.name, entry.schedule.state, other.schedule.name, cursor) == ("nightly", None, "often", "")
    for name in ("nightly", "often"):
        await client.delete_schedule(name)
    with pytest.raises(NotFound, match="no schedule"):
        await client.get_schedule("nightly")
    with pytest.raises(BadRequest, match="cron: .*the minute"):
        await client.put_schedule(Schedule(name="bad", workflow="report", cron="61 * * * *"))
