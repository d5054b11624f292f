"""Compensation goes on where it was after crashes and outages, with real processes (N9, B2, B6, X11)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from tests.recovery.processes import ask, ask_until_served, client, replica, until_ready

pytestmark = pytest.mark.slow

NODES = ["a", "b", "c"]


@pytest.fixture
def short_dsn(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def saga(prefix: str) -> dict[str, Any]:
    """Three nodes that are compensated, and one that fails."""
    names = [*NODES, "fails"]
    tasks = [{"name": one, "url": f"{prefix}.{one}", "compensate": f"{prefix}.undo-{one}"} for one in NODES]
    edges = [{"from": one, "to": then} for one, then in zip(names, [*names[1:], "END"], strict=True)]
    return {
        "name": prefix,
        "entryPoint": "a",
        "tasks": [*tasks, {"name": "fails", "url": f"{prefix}.fails"}],
        "transitions": edges,
    }


class Services:
    """The tasks of a saga: they note what they undo; the first request to undo `b` is never answered, if so wanted."""

    def __init__(self, *, hangs: bool) -> None:
        self.undone: list[str] = []
        self.keys: dict[str, set[str]] = {}
        self.undoing_b = asyncio.Event()
        self._hangs = hangs

    async def serve(self, connection: Client, prefix: str, task_prefix: str) -> None:
        await connection.subscribe(f"{task_prefix}.{prefix}.>", cb=self._answer)

    async def _answer(self, message: Msg) -> None:
        body = json.loads(message.data)
        name = message.subject.rsplit(".", 1)[1]
        if name == "fails":
            await message.respond(json.dumps({"error": {"message": "broken", "final": True}}).encode())
            return
        if name.startswith("undo-"):
            self.undone.append(name)
            self.keys.setdefault(name, set()).add(body["stepKey"])
            assert body["compensating"]["error"]["message"] == "broken"
        if name == "undo-b" and not self.undoing_b.is_set():
            self.undoing_b.set()
            if self._hangs:
                return
        await message.respond(json.dumps({"changes": {name: True}}).encode())


def check(outcome: dict[str, Any], services: Services) -> None:
    """Each was undone with one key, in reverse order, and the flow has the end it was about to have."""
    assert (outcome["status"], outcome["error"]["message"]) == ("failed", "broken")
    assert list(dict.fromkeys(services.undone)) == ["undo-c", "undo-b", "undo-a"]
    assert {name: len(keys) for name, keys in services.keys.items()} == {"undo-a": 1, "undo-b": 1, "undo-c": 1}
    assert outcome["state"] == dict.fromkeys((*NODES, *(f"undo-{one}" for one in NODES)), True)


@pytest.mark.parametrize("short_dsn", ["sqlite_dsn", "pg_dsn"], indirect=True)
async def test_it_goes_on_where_it_was_after_kill_9(nats_server: NatsServer, short_dsn: str) -> None:
    """The compensation under way runs again with the same step key; none is skipped, none that was recorded is repeated."""
    flags = ("--replica-timeout-ms", "500", "--prefix", "sagakill", "--task-prefix", "sagakilltask")
    services = Services(hangs=True)
    async with client(nats_server.url) as connection:
        await services.serve(connection, "order", "sagakilltask")
        async with replica(nats_server.url, short_dsn, *flags) as one:
            await until_ready(connection, one)
            made = await ask(connection, "sagakill.flow.create", {"graph": saga("order"), "start": True})
            await services.undoing_b.wait()
            shown = await ask(connection, "sagakill.flow.snapshot", {"flowKey": made["flowKey"]})
            assert (shown["status"], shown["compensating"]) == ("running", True)
            await one.kill()
        async with replica(nats_server.url, short_dsn, *flags):
            outcome = await ask_until_served(connection, "sagakill.flow.await", {"flowKey": made["flowKey"]})
    check(outcome, services)
    assert services.undone == ["undo-c", "undo-b", "undo-b", "undo-a"]


async def test_another_replica_takes_over(nats_server: NatsServer, pg_dsn: str) -> None:
    """Whichever of two replicas is killed: many flows are compensated, each step of each in its order."""
    flags = ("--replica-timeout-ms", "500", "--prefix", "sagatwo", "--task-prefix", "sagatwotask")
    flows = 20
    rigs = [Services(hangs=False) for _ in range(flows)]
    async with client(nats_server.url) as connection:
        for at, services in enumerate(rigs):
            await services.serve(connection, f"order{at}", "sagatwotask")
        async with replica(nats_server.url, pg_dsn, *flags) as one, replica(nats_server.url, pg_dsn, *flags) as two:
            await until_ready(connection, one)
            await until_ready(connection, two)
            made = [
                await ask(connection, "sagatwo.flow.create", {"graph": saga(f"order{at}"), "start": True})
                for at in range(flows)
            ]
            await rigs[0].undoing_b.wait()
            await one.kill()
            outcomes = [
                await ask_until_served(connection, "sagatwo.flow.await", {"flowKey": each["flowKey"]}) for each in made
            ]
    for outcome, services in zip(outcomes, rigs, strict=True):
        check(outcome, services)


async def test_it_waits_for_the_bus(tmp_path: Path) -> None:
    """B6: a compensation that is under way when NATS goes away is asked again, and nothing fails for it."""
    services = Services(hangs=True)
    async with NatsServer() as server, client(server.url) as connection:
        await services.serve(connection, "order", "task")
        async with replica(server.url, f"sqlite:///{tmp_path}/dwarf.db") as one:
            await until_ready(connection, one)
            made = await ask(connection, "dwarf.flow.create", {"graph": saga("order"), "start": True})
            await services.undoing_b.wait()
            await server.restart()
            outcome = await ask_until_served(connection, "dwarf.flow.await", {"flowKey": made["flowKey"]})
            history = await ask_until_served(connection, "dwarf.flow.history", {"flowKey": made["flowKey"]})
    check(outcome, services)
    assert [step["attempt"] for step in history["steps"]] == [0] * 7


@pytest.mark.parametrize("short_dsn", ["sqlite_dsn", "pg_dsn"], indirect=True)
async def test_a_replica_that_drains_in_the_midst_records_what_it_has_in_hand(
    nats_server: NatsServer, short_dsn: str
) -> None:
    """B3: SIGTERM during a compensation; its answer counts, the exit code is 0, and the next replica goes on behind it."""
    flags = ("--prefix", "sagadrain", "--task-prefix", "sagadraintask")
    services = Services(hangs=False)
    held: asyncio.Queue[Msg] = asyncio.Queue()
    async with client(nats_server.url) as connection:
        await services.serve(connection, "order", "sagadraintask")
        graph = saga("order")
        graph["tasks"][1]["compensate"] = "late.undo-b"
        await connection.subscribe("sagadraintask.late.undo-b", cb=held.put)
        async with replica(nats_server.url, short_dsn, *flags) as one:
            await until_ready(connection, one)
            made = await ask(connection, "sagadrain.flow.create", {"graph": graph, "start": True})
            message = await held.get()
            one.terminate()
            assert one.process.stderr is not None
            async for said in one.process.stderr:
                if b"drain" in said:
                    break
            await message.respond(json.dumps({"changes": {"undo-b": True}}).encode())
            code, _ = await one.ended()
            assert code == 0
        assert services.undone == ["undo-c"]
        async with replica(nats_server.url, short_dsn, *flags):
            outcome = await ask_until_served(connection, "sagadrain.flow.await", {"flowKey": made["flowKey"]})
    assert (outcome["status"], outcome["state"]["undo-b"]) == ("failed", True)
    assert services.undone == ["undo-c", "undo-a"]
    assert held.empty()


async def test_a_compensation_that_nobody_serves_waits_until_somebody_does(
    nats_server: NatsServer, sqlite_dsn: str
) -> None:
    """V4: no responders is no attempt; the flow is being compensated until a service comes, also over a restart."""
    flags = ("--prefix", "sagaalone", "--task-prefix", "sagaalonetask")
    services = Services(hangs=False)
    graph = saga("order")
    graph["tasks"][1]["compensate"] = "late.undo-b"
    async with client(nats_server.url) as connection:
        await services.serve(connection, "order", "sagaalonetask")
        async with replica(nats_server.url, sqlite_dsn, *flags) as one:
            await until_ready(connection, one)
            made = await ask(connection, "sagaalone.flow.create", {"graph": graph, "start": True})
            while not (await ask(connection, "sagaalone.task.breaker", {"task": "late.undo-b"}))["tripped"]:
                pass
            shown = await ask(connection, "sagaalone.flow.snapshot", {"flowKey": made["flowKey"]})
            assert (shown["status"], shown["compensating"]) == ("running", True)
            one.terminate()
            await one.ended()
        asked = await connection.subscribe("sagaalonetask.late.undo-b", cb=_undo)
        async with replica(nats_server.url, sqlite_dsn, *flags):
            outcome = await ask_until_served(connection, "sagaalone.flow.await", {"flowKey": made["flowKey"]})
            history = await ask_until_served(connection, "sagaalone.flow.history", {"flowKey": made["flowKey"]})
        await asked.unsubscribe()
    assert (outcome["status"], outcome["error"]["message"]) == ("failed", "broken")
    assert services.undone == ["undo-c", "undo-a"]
    assert {step["attempt"] for step in history["steps"]} == {0}


async def _undo(message: Msg) -> None:
    await message.respond(b"")
