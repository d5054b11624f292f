"""Crashes and outages, with real processes (B2, B3, B6, X11)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer, PostgresServer
from tests.recovery.processes import Replica, ask, ask_until_served, client, line, replica, until_ready

pytestmark = pytest.mark.slow


async def answer(message: Msg, **changes: Any) -> None:
    await message.respond(json.dumps({"changes": changes}).encode())


@pytest.fixture
def short_dsn(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.mark.parametrize("short_dsn", ["sqlite_dsn", "pg_dsn"], indirect=True)
async def test_a_flow_completes_after_kill_9_in_the_middle_of_a_task(nats_server: NatsServer, short_dsn: str) -> None:
    """X11, B2: the step runs again with the same step key, and the flow completes."""
    flags = ("--replica-timeout-ms", "500", "--prefix", "kill9", "--task-prefix", "kill9task")
    keys: list[str] = []
    first = asyncio.Event()
    async with client(nats_server.url) as connection:

        async def work(message: Msg) -> None:
            keys.append(json.loads(message.data)["stepKey"])
            first.set()
            if len(keys) > 1:
                await answer(message, done=True)

        await connection.subscribe("kill9task.work", cb=work)
        async with replica(nats_server.url, short_dsn, *flags) as one:
            await until_ready(connection, one)
            made = await ask(connection, "kill9.flow.create_task", {"task": "work", "start": True})
            await first.wait()
            await one.kill()
        async with replica(nats_server.url, short_dsn, *flags):
            outcome = await ask_until_served(connection, "kill9.flow.await", {"flowKey": made["flowKey"]})
    assert outcome["status"] == "completed"
    assert outcome["state"] == {"done": True}
    assert len(keys) == 2
    assert keys[0] == keys[1]


@pytest.mark.parametrize("short_dsn", ["sqlite_dsn", "pg_dsn"], indirect=True)
async def test_b7_the_checkpoint_of_a_step_survives_kill_9_of_its_replica(
    nats_server: NatsServer, short_dsn: str, request: pytest.FixtureRequest
) -> None:
    """B7: once its progress is in the database, which the fingerprint shows; nobody hands it over.

    A replica that the machine holds up for its timeout gives the step back and asks again: the fingerprint would show that.
    """
    name = "".join(char for char in request.node.name if char.isalnum())
    flags = ("--replica-timeout-ms", "5000", "--prefix", name, "--task-prefix", f"{name}task")
    asked: asyncio.Queue[Msg] = asyncio.Queue()
    async with client(nats_server.url) as connection:
        await connection.subscribe(f"{name}task.work", cb=asked.put)
        async with replica(nats_server.url, short_dsn, *flags) as one:
            await until_ready(connection, one)
            made = await ask(connection, f"{name}.flow.create_task", {"task": "work", "start": True})
            first = await asked.get()
            assert "checkpoint" not in json.loads(first.data)
            before = await ask(connection, f"{name}.flow.fingerprint", made)
            told = {"fraction": 0.4, "text": "page 40 of 100", "data": {"page": 40}}
            await connection.publish(first.reply, json.dumps(told).encode(), headers={"Dwarf-Signal": "progress"})
            async with asyncio.timeout(60):
                while await ask(connection, f"{name}.flow.fingerprint", made) == before:
                    pass
            await one.kill()
        async with replica(nats_server.url, short_dsn, *flags):
            second = await asked.get()
            assert json.loads(second.data)["checkpoint"] == {"page": 40}
            (step,) = (await ask_until_served(connection, f"{name}.flow.history", made))["steps"]
            assert {key: step["progress"][key] for key in told} == told
            await answer(second, done=True)
            outcome = await ask_until_served(connection, f"{name}.flow.await", made)
    assert outcome["state"] == {"done": True}


async def test_a_node_with_a_long_budget_is_taken_over_as_soon_as_its_replica_is_silent(
    nats_server: NatsServer, pg_dsn: str
) -> None:
    """B2, L1: kill -9 of one of two replicas; the other takes the step within seconds, not after ten minutes."""
    flags = ("--replica-timeout-ms", "500", "--prefix", "longbudget", "--task-prefix", "longbudgettask")
    graph = line("long", ["work"])
    graph["tasks"][0]["timeoutMs"] = 600_000
    asked: asyncio.Queue[Msg] = asyncio.Queue()
    async with client(nats_server.url) as connection:
        await connection.subscribe("longbudgettask.work", cb=asked.put)
        async with replica(nats_server.url, pg_dsn, *flags) as one:
            await until_ready(connection, one)
            made = await ask(connection, "longbudget.flow.create", {"graph": graph, "start": True})
            first = await asked.get()
            async with replica(nats_server.url, pg_dsn, *flags):
                await one.kill()
                second = await asked.get()
                await answer(first, by="the first")  # nobody listens any more
                await answer(second, by="the second")
                outcome = await ask_until_served(connection, "longbudget.flow.await", {"flowKey": made["flowKey"]})
    assert (outcome["status"], outcome["state"]) == ("completed", {"by": "the second"})
    assert json.loads(first.data)["stepKey"] == json.loads(second.data)["stepKey"]


async def test_nothing_fails_when_nats_server_restarts_under_load(tmp_path: Path) -> None:
    """B6, V4: steps in hand are held and asked again; no flow fails, and each ends with its own state."""
    flows = 40
    async with NatsServer() as server:
        seen = 0
        restart = asyncio.Event()
        async with client(server.url) as connection, client(server.url) as service:

            async def count(message: Msg) -> None:
                nonlocal seen
                seen += 1
                if seen == flows:
                    restart.set()
                await answer(message, n=json.loads(message.data)["state"]["n"] + 1)

            await service.subscribe("task.count", queue="q", cb=count)
            async with replica(server.url, f"sqlite:///{tmp_path}/flows.db") as one:
                await until_ready(connection, one)
                graph = line("load", ["count"] * 5)
                keys = [
                    (await ask(connection, "dwarf.flow.create", {"graph": graph, "state": {"n": n}, "start": True}))[
                        "flowKey"
                    ]
                    for n in range(flows)
                ]
                await restart.wait()
                await server.restart()
                outcomes = [await ask_until_served(connection, "dwarf.flow.await", {"flowKey": key}) for key in keys]
    assert [one["status"] for one in outcomes] == ["completed"] * flows
    assert [one["state"]["n"] for one in outcomes] == [n + 5 for n in range(flows)]


async def test_nothing_is_lost_when_postgres_restarts_under_load(nats_server: NatsServer) -> None:
    """B6: 503 meanwhile, results in hand are kept, every flow completes once."""
    flows = 40
    async with PostgresServer() as postgres:  # with fsync: what was committed must be there
        dsn = await postgres.create_database("outage")
        seen = 0
        enough = asyncio.Event()
        flags = ("--prefix", "pgdown", "--task-prefix", "pgdowntask", "--replica-timeout-ms", "2000")
        async with client(nats_server.url) as connection:

            async def count(message: Msg) -> None:
                nonlocal seen
                seen += 1
                if seen == flows:
                    enough.set()
                await answer(message, n=json.loads(message.data)["state"]["n"] + 1)

            await connection.subscribe("pgdowntask.count", cb=count)
            async with replica(nats_server.url, dsn, *flags) as one:
                await until_ready(connection, one)
                graph = line("load", ["count"] * 5)
                bodies = [{"graph": graph, "state": {"n": n}, "start": True} for n in range(flows)]
                keys = [(await ask(connection, "pgdown.flow.create", body))["flowKey"] for body in bodies]
                await enough.wait()
                await postgres.kill()  # as a crash would
                refused = await ask(connection, "pgdown.flow.snapshot", {"flowKey": keys[0]})
                await postgres.restart()
                outcomes = [await ask_until_served(connection, "pgdown.flow.await", {"flowKey": key}) for key in keys]
    assert refused["error"]["code"] == 503
    assert "PostgreSQL" in refused["error"]["message"]
    assert [one["status"] for one in outcomes] == ["completed"] * flows
    assert [one["state"]["n"] for one in outcomes] == [n + 5 for n in range(flows)]


async def test_sigterm_drains_the_task_in_hand(nats_server: NatsServer, empty_sqlite_dsn: str) -> None:
    """B3: the task in hand may finish, its result is kept, the exit code is 0; the rest waits for the next replica."""
    flags = ("--prefix", "drain", "--task-prefix", "draintask")
    async with client(nats_server.url) as connection:
        asked: asyncio.Queue[Msg] = asyncio.Queue()
        await connection.subscribe("draintask.slow", cb=asked.put)

        async def rest(message: Msg) -> None:
            await answer(message, rested=True)

        await connection.subscribe("draintask.rest", cb=rest)
        async with replica(nats_server.url, empty_sqlite_dsn, *flags) as one:
            await until_ready(connection, one)
            body = {"graph": line("two", ["slow", "rest"]), "start": True}
            made = await ask(connection, "drain.flow.create", body)
            message = await asked.get()
            one.terminate()
            assert one.process.stderr is not None
            async for said in one.process.stderr:
                if b"drain" in said:
                    break
            await answer(message, slow=True)
            code, _ = await one.ended()
            assert code == 0
        async with replica(nats_server.url, empty_sqlite_dsn, *flags) as one:
            await until_ready(connection, one)
            outcome = await ask(connection, "drain.flow.await", {"flowKey": made["flowKey"]})
    assert outcome["state"] == {"slow": True, "rested": True}
    assert asked.empty()  # the slow task ran once


async def test_a_second_sigterm_ends_it_at_once(nats_server: NatsServer, empty_sqlite_dsn: str) -> None:
    """B3: without waiting for the task in hand; the step runs again later."""
    flags = ("--prefix", "twice", "--task-prefix", "twicetask")
    async with client(nats_server.url) as connection:
        asked: asyncio.Queue[Msg] = asyncio.Queue()
        await connection.subscribe("twicetask.slow", cb=asked.put)
        async with replica(nats_server.url, empty_sqlite_dsn, *flags) as one:
            await until_ready(connection, one)
            made = await ask(connection, "twice.flow.create_task", {"task": "slow", "start": True})
            await asked.get()
            one.terminate()
            assert one.process.stderr is not None
            async for said in one.process.stderr:
                if b"drain" in said:
                    break
            one.terminate()
            await one.ended()
        async with replica(nats_server.url, empty_sqlite_dsn, *flags):
            await answer(await asked.get(), again=True)
            outcome = await ask_until_served(connection, "twice.flow.await", {"flowKey": made["flowKey"]})
    assert outcome["state"] == {"again": True}


@pytest.mark.parametrize("missing", ["nats", "postgres"])
async def test_a_server_that_is_away_at_start_is_named(
    nats_server: NatsServer, empty_sqlite_dsn: str, missing: str
) -> None:
    """Told not to wait, it exits with 1 and one line; never a traceback."""
    nats_url = "nats://127.0.0.1:1" if missing == "nats" else nats_server.url
    dsn = "postgresql://postgres@127.0.0.1:1/flows" if missing == "postgres" else empty_sqlite_dsn
    one = await Replica.spawn(nats_url, dsn, "--no-wait", "--prefix", "away")
    code, said = await one.ended()
    assert code == 1
    assert "127.0.0.1:1" in said
    assert {"nats": "NATS", "postgres": "PostgreSQL"}[missing] in said
    assert "Traceback" not in said


async def test_a_replica_waits_for_nats_and_then_serves(empty_sqlite_dsn: str) -> None:
    """It keeps trying: nats-server may come up after it."""
    async with NatsServer() as server:
        url = server.url
        await server.stop()
        async with replica(url, empty_sqlite_dsn) as one:
            assert one.process.stderr is not None
            async for said in one.process.stderr:
                if b"trying again" in said:
                    break
            await server.start()
            async with client(url) as connection:
                await until_ready(connection, one)
