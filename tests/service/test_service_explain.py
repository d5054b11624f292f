"""Explanations over NATS (Q2; wire: explanations): nobody serves, who runs it, two replicas, a NATS that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.engine import Engine
from dwarf_nats.sdk import Client
from dwarf_nats.server import replica
from dwarf_nats.workflow.explanation import Reason, Wait
from tests.support.caller import WAIT, Caller, connected, settings, take
from tests.support.explaining import explained, leaves, only_wait

ACCEPTED = {"Dwarf-Signal": "accepted"}


async def wait_for(caller: Caller, flow: dict[str, str], reason: str) -> dict[str, Any]:
    """The wait of a flow's only step, once it has this reason, as it travels."""
    async with asyncio.timeout(WAIT):
        while True:
            found = await caller.ok("flow.explain", **flow)
            if [wait["reason"] for wait in found["waits"]] == [reason]:
                wait: dict[str, Any] = found["waits"][0]
                return wait


async def test_a_task_that_nobody_serves(either: Caller) -> None:
    """Q2, `no_responders`; the list says so, too."""
    flow = await either.ok("flow.create_task", task="billing.charge", start=True)
    wait = await wait_for(either, flow, "no_responders")
    assert wait["url"] == wait["task"] == "billing.charge"
    assert wait["text"].startswith("Nobody serves billing.charge: its steps wait")
    assert wait["remedy"] == "dwarf-nats tasks billing.charge"
    assert wait["until"]
    async with asyncio.timeout(WAIT):
        while True:
            (shown,) = (await either.ok("flow.list"))["flows"]
            if shown["waitsFor"]["reason"] == "no_responders":
                break
    assert shown["waitsFor"]["stepId"] == wait["stepId"]


async def test_the_worker_that_accepted_a_step_is_named(caller: Caller) -> None:
    """Q2, `running`: by its private subject; before, only the deadline is known."""
    asked = await caller.holds("work")
    flow = await caller.ok("flow.create_task", task="work", start=True)
    request = await take(asked)
    wait = await wait_for(caller, flow, "running")
    assert "worker" not in wait
    assert wait["deadline"]
    private = f"{caller.prefix}private.worker"
    await caller.hear(private)
    await caller.answer(request, b"", {**ACCEPTED, "Dwarf-Worker": private})
    async with asyncio.timeout(WAIT):
        while (wait := await wait_for(caller, flow, "running")).get("worker") != private:
            pass
    assert wait["text"] == f"Runs on the worker {private}."
    await caller.answer(request)
    await caller.ok("flow.await", **flow)
    assert (await caller.ok("flow.explain", **flow))["text"] == "Completed."


async def test_a_request_to_a_service_is_told_from_a_task(caller: Caller) -> None:
    """Q2: N3; the name is the subject as the graph has it."""
    subject = f"{caller.prefix}svc.quote"
    asked = await caller.hear(subject)
    graph = {
        "name": "q",
        "tasks": [{"name": "quote", "request": {"subject": subject}}],
        "entryPoint": "quote",
        "transitions": [{"from": "quote", "to": "END"}],
    }
    flow = await caller.ok("flow.create", graph=graph, start=True)
    request = await take(asked)
    wait = await wait_for(caller, flow, "running")
    assert wait["text"] == "Runs: the service has been asked and has not answered yet."
    assert (wait["task"], wait["url"]) == ("quote", subject)
    await caller.client.publish(request.reply, b"{}")
    await caller.ok("flow.await", **flow)


async def test_refusals(caller: Caller) -> None:
    """As everywhere: malformed, and not there."""
    assert await caller.code("flow.explain", flowKey="no key") == 400
    assert await caller.code("flow.explain", flowKey="1-42-a1B2c3D4e5F6g7H8") == 404


async def test_the_client_and_the_wire_tell_the_same(nats_server: NatsServer, caller: Caller) -> None:
    """Wire: explanations; `Client.explain`."""
    flow = await caller.ok("flow.create_task", task="work")
    found = await caller.ok("flow.explain", **flow)
    async with Client(nats_server.url, prefix=caller.prefix) as client:
        explanation = await client.explain(flow["flowKey"])
        (summary,), _ = await client.list()
    assert explanation.text == found["text"]
    (wait,) = explanation.waits
    assert (wait.step_key, wait.reason, wait.remedy) == (
        found["waits"][0]["stepKey"],
        Reason.CREATED,
        f"dwarf-nats flow start {flow['flowKey']}",
    )
    assert summary.waits_for is not None
    assert summary.waits_for.text == wait.text


@asynccontextmanager
async def two_of(nats_server: NatsServer, dsn: str, prefix: str) -> AsyncIterator[tuple[Engine, Engine, Caller]]:
    one, other = (settings(nats_server.url, dsn, prefix) for _ in range(2))
    async with replica(one) as first, replica(other) as second, connected(nats_server.url) as client:
        yield first, second, Caller(client, prefix)


async def test_either_of_two_replicas_names_the_worker(nats_server: NatsServer, pg_dsn: str, prefix: str) -> None:
    """Q2, wire section 4: the one that did not send the request asks the one that did."""
    async with two_of(nats_server, pg_dsn, prefix) as (one, other, caller):
        asked = await caller.holds("work")
        private = f"{prefix}private.worker"
        await caller.hear(private)
        flow = await caller.ok("flow.create_task", task="work", start=True)
        request = await take(asked)
        await caller.answer(request, b"", {**ACCEPTED, "Dwarf-Worker": private})
        for engine in (one, other):
            async with asyncio.timeout(WAIT):
                while (wait := await only_wait(engine, flow["flowKey"], "running")).worker != private:
                    pass
            assert wait.replica in {one.replica.name, other.replica.name}
        await caller.answer(request)


async def test_while_nats_is_away_a_step_is_held(pg_dsn: str, prefix: str) -> None:
    """Q2, `bus_away`: told by the replica in whose process it is asked; once NATS is back, the step goes on."""
    async with NatsServer() as server, replica(settings(server.url, pg_dsn, prefix)) as engine:
        async with connected(server.url) as client:
            asked = await Caller(client, prefix).holds("work")
            key = await engine.create_task("work", start=True)
            await take(asked)
        await server.stop()
        found = await explained(engine, key, "bus_away")
        (wait,) = leaves(found.waits)
        assert isinstance(wait, Wait)
        assert (
            wait.text == "The connection of its replica to NATS is away: the step is held and goes on when it is back."
        )
        assert wait.remedy == "dwarf-nats health"
        await server.start()
        async with connected(server.url) as client:
            caller = Caller(client, prefix)
            await caller.serves("work")
            assert (await engine.await_(key, WAIT)).status == "completed"


async def test_the_progress_of_a_task_is_told_by_either_replica(
    nats_server: NatsServer, pg_dsn: str, prefix: str
) -> None:
    """Q2, B7: what was reported last, without its data, also before it is in the database."""
    async with two_of(nats_server, pg_dsn, prefix) as (one, other, caller):
        asked = await caller.holds("work")
        private = f"{prefix}private.worker"
        await caller.hear(private)
        flow = await caller.ok("flow.create_task", task="work", start=True)
        request = await take(asked)
        body = {"fraction": 0.5, "text": "half", "data": {"row": 7}}
        await caller.answer(request, body, {"Dwarf-Signal": "progress", "Dwarf-Worker": private})
        for engine in (one, other):
            async with asyncio.timeout(WAIT):
                while (found := (await only_wait(engine, flow["flowKey"], "running")).progress) is None:
                    pass
            assert (found.fraction, found.text, found.data_json) == (0.5, "half", None)
        await caller.answer(request)
