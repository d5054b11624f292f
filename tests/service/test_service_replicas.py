"""Two replicas in one queue group on one PostgreSQL (wire sections 1 and 4; X1, B1)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.server import replica
from tests.support.caller import WAIT, Caller, connected, line, settings, take

pytestmark = pytest.mark.slow


@asynccontextmanager
async def both_of(nats_server: NatsServer, dsn: str, prefix: str, **more: Any) -> AsyncIterator[Caller]:
    one, other = (settings(nats_server.url, dsn, prefix, **more) for _ in range(2))
    async with replica(one), replica(other), connected(nats_server.url) as client:
        yield Caller(client, prefix)


@pytest.fixture
async def pair(nats_server: NatsServer, pg_dsn: str, prefix: str) -> AsyncIterator[Caller]:
    """A caller of two replicas."""
    async with both_of(nats_server, pg_dsn, prefix) as caller:
        yield caller


async def load(caller: Caller) -> dict[str, Counter[str]]:
    """How many requests each replica carried out, by endpoint."""
    inbox = caller.client.new_inbox()
    heard = await caller.hear(inbox)
    await caller.client.publish("$SRV.STATS.dwarf", b"", reply=inbox)
    found: dict[str, Counter[str]] = {}
    while len(found) < 2:
        told = json.loads((await take(heard)).data)
        if told["metadata"]["prefix"] == caller.prefix:
            found[told["id"]] = Counter({one["name"]: one["num_requests"] for one in told["endpoints"]})
    return found


async def counting(caller: Caller) -> Counter[str]:
    """Serves `add.*`; how often each step was asked for."""
    seen: Counter[str] = Counter()

    async def add(message: Any) -> None:
        body = json.loads(message.data)
        seen[body["stepKey"]] += 1
        await caller.answer(message, {"changes": {"n": body["state"]["n"] + 1}})

    await caller.client.subscribe(f"{caller.prefix}task.add.*", queue="q", cb=add)
    await caller.client.flush()
    return seen


async def test_two_replicas_share_the_requests_and_run_each_step_once(pair: Caller) -> None:
    """X1, wire section 1: every request is carried out by one of them, whoever runs the flow."""
    seen = await counting(pair)
    graph = line("acme.l", "add.a", "add.b", "add.c")
    runs = [pair.ok("flow.run", graph=graph, state={"n": 10 * number}) for number in range(60)]
    outcomes = await asyncio.wait_for(asyncio.gather(*runs), WAIT)
    assert [one["state"]["n"] for one in outcomes] == [10 * number + 3 for number in range(60)]
    assert len(seen) == 180
    assert set(seen.values()) == {1}
    shares = [one["flow-run"] for one in (await load(pair)).values()]
    assert sum(shares) == 60
    assert all(shares)


async def test_a_wait_at_one_replica_ends_when_the_flow_stops_at_the_other(pair: Caller) -> None:
    """O4, wire section 4: created, started, awaited and looked at wherever the queue group sends it."""
    seen = await counting(pair)
    flows = [await pair.ok("flow.create", graph=line("acme.l", "add.a", "add.b"), state={"n": 0}) for _ in range(20)]
    waits = [asyncio.create_task(pair.ok("flow.await", **flow)) for flow in flows for _ in range(3)]
    await asyncio.gather(*(pair.ok("flow.start", **flow) for flow in flows))
    outcomes = await asyncio.wait_for(asyncio.gather(*waits), WAIT)
    assert all(one["state"] == {"n": 2} for one in outcomes)
    assert len(seen) == 40
    assert set(seen.values()) == {1}
    for flow in flows:
        assert (await pair.ok("flow.snapshot", **flow))["status"] == "completed"
    assert all(one["flow-await"] and one["flow-start"] for one in (await load(pair)).values())


async def test_one_message_id_makes_one_flow_at_two_replicas(pair: Caller) -> None:
    """O1: also where the repeats reach both at once; a run waits for the flow the other made."""
    seen = await counting(pair)
    header = {"Nats-Msg-Id": "order-7"}
    runs = [pair.ok("flow.run", header, graph=line("acme.l", "add.a"), state={"n": 1}) for _ in range(20)]
    outcomes = await asyncio.wait_for(asyncio.gather(*runs), WAIT)
    assert len({one["flowKey"] for one in outcomes}) == 1
    assert all(one["state"] == {"n": 2} for one in outcomes)
    assert list(seen.values()) == [1]


async def test_pauses_and_children_go_on_wherever_the_queue_group_sends_it(pair: Caller) -> None:
    """P1, P2, O11, O13: paused in a child at one replica, seen, resumed and restarted through whichever answers."""

    def ship(request: dict[str, Any]) -> dict[str, Any]:
        if "subgraph" not in request:
            return {"subgraph": {"workflow": "acme.child", "input": {"n": request["state"]["n"]}}}
        return {"changes": {"child": request["subgraph"]["result"]}}

    def approve(request: dict[str, Any]) -> dict[str, Any]:
        if "resumed" not in request:
            return {"interrupt": {"about": request["state"]["n"]}}
        return {"changes": {"answer": request["resumed"]["data"]}}

    parents, children = await pair.plays("ship", ship), await pair.plays("approve", approve)
    await pair.ok("graph.put", **line("acme.child", "approve"))

    async def one(number: int) -> None:
        waiting = await pair.ok("flow.run", graph=line("acme.p", "ship"), state={"n": number})
        flow = {"flowKey": waiting["flowKey"]}
        assert waiting["interruptPayload"] == {"about": number}
        await pair.ok("flow.resume", **flow, data=-number)
        outcome = await pair.ok("flow.await", **flow)
        assert outcome["state"] == {"n": number, "child": {"n": number, "answer": -number}}
        await pair.ok("flow.restart", **flow, overrides={"n": number + 100})
        waiting = await pair.ok("flow.await", **flow)
        assert waiting["interruptPayload"] == {"about": number + 100}
        await pair.ok("flow.resume", **flow, data="again")
        outcome = await pair.ok("flow.await", **flow)
        assert outcome["state"] == {"n": number + 100, "child": {"n": number + 100, "answer": "again"}}

    await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(30))), WAIT)
    assert (len(parents), len(children)) == (120, 120)
    shares = await load(pair)
    assert all(one["flow-resume"] and one["flow-restart"] for one in shares.values())


async def test_events_come_once_and_a_registered_graph_is_known_to_both(pair: Caller) -> None:
    """Wire sections 3 and 5."""
    heard = await pair.hear(f"{pair.prefix}.event.>")
    await counting(pair)
    await pair.ok("graph.put", **line("acme.l", "add.a"))
    runs = [pair.ok("flow.run", workflow="acme.l", state={"n": 0}) for _ in range(20)]
    await asyncio.wait_for(asyncio.gather(*runs), WAIT)
    counted = Counter([json.loads((await take(heard)).data)["status"] for _ in range(60)])
    assert counted == {"created": 20, "running": 20, "completed": 20}
    await pair.client.flush()
    assert heard.empty()


async def test_without_signals_it_takes_longer_but_nothing_is_lost(
    nats_server: NatsServer, pg_dsn: str, prefix: str
) -> None:
    """B1: coordination is through the database."""
    async with both_of(nats_server, pg_dsn, prefix, signals=False, replica_timeout_ms=300) as pair:
        peers = await pair.hear(f"{prefix}.peer.>")
        await counting(pair)
        graph = line("acme.l", "add.a")
        flows = [await pair.ok("flow.create", graph=graph, state={"n": 0}, start=True) for _ in range(10)]
        outcomes = await asyncio.wait_for(asyncio.gather(*(pair.ok("flow.await", **flow) for flow in flows)), WAIT)
        assert all(one["state"] == {"n": 1} for one in outcomes)
        assert peers.empty()


async def test_while_one_replica_drains_the_other_answers_everything(
    nats_server: NatsServer, pg_dsn: str, prefix: str
) -> None:
    """B3, wire section 1: no request is lost on the way out; a flow in hand there goes on here."""
    async with connected(nats_server.url) as client, replica(settings(nats_server.url, pg_dsn, prefix)):
        pair = Caller(client, prefix)
        await counting(pair)
        graph = line("acme.l", "add.a", "add.b", "add.c")
        flows: list[dict[str, str]] = []
        gone = asyncio.Event()

        async def ask(number: int) -> None:
            while not gone.is_set():
                flow = await pair.ok("flow.create", graph=graph, state={"n": number}, start=True)
                assert (await pair.ok("flow.snapshot", **flow))["flowKey"] == flow["flowKey"]
                flows.append(flow)

        async with replica(settings(nats_server.url, pg_dsn, prefix)):
            asking = [asyncio.create_task(ask(number)) for number in range(8)]
            assert len(await load(pair)) == 2
            while len(flows) < 40:
                await pair.ok("shard.info")
        gone.set()
        await asyncio.wait_for(asyncio.gather(*asking), WAIT)
        ends = await asyncio.wait_for(asyncio.gather(*(pair.ok("flow.await", **flow) for flow in flows)), WAIT)
        assert {one["status"] for one in ends} == {"completed"}


async def test_a_cancellation_reaches_the_worker_whichever_replica_runs_the_step(pair: Caller) -> None:
    """O10, B1: the replica that is asked to cancel tells the other, which tells the worker that accepted from it."""
    private = await pair.hear(f"{pair.prefix}private.worker")
    asked = await pair.holds("work")
    flows = [await pair.ok("flow.create_task", task="work", start=True) for _ in range(16)]
    requests = [await take(asked) for _ in flows]
    accepted = {"Dwarf-Signal": "accepted", "Dwarf-Worker": f"{pair.prefix}private.worker"}
    for request in requests:
        await pair.answer(request, b"", accepted)
    steps = {json.loads(request.data)["stepKey"].rpartition("-")[0] for request in requests}
    for flow in flows:
        await pair.ok("flow.cancel", **flow)
    assert all(one["flow-create_task"] and one["flow-cancel"] for one in (await load(pair)).values())
    told: set[str] = set()
    while told != steps:
        call = await take(private)
        body = json.loads(call.data)
        told.update(body["cancel"])
        await pair.client.publish(call.reply, json.dumps({"running": body["steps"]}).encode())
    assert asked.empty()


async def held_back(caller: Caller) -> list[list[dict[str, Any]]]:
    """The tasks each of two replicas says in its statistics that it holds back."""
    inbox = caller.client.new_inbox()
    heard = await caller.hear(inbox)
    await caller.client.publish("$SRV.STATS.dwarf", b"", reply=inbox)
    found: list[list[dict[str, Any]]] = []
    while len(found) < 2:
        told = json.loads((await take(heard)).data)
        if told["metadata"]["prefix"] == caller.prefix:
            (breaker,) = (one for one in told["endpoints"] if one["name"] == "task-breaker")
            found.append(breaker["data"]["tasks"])
    return found


async def test_replicas_tell_each_other_of_busy_tasks_and_tripped_breakers(
    nats_server: NatsServer, pg_dsn: str, prefix: str
) -> None:
    """V3, V4, B1: over NATS; both are free again once the task serves."""
    async with both_of(nats_server, pg_dsn, prefix, signals=True) as pair:
        await signalled(pair)


async def signalled(pair: Caller) -> None:
    asked = await pair.holds("work")
    flow = await pair.ok("flow.create_task", task="work", start=True)
    await pair.answer(await take(asked), b"", {"Nats-Service-Error-Code": "429", "Nats-Service-Error": "slow"})
    again = await take(asked)
    async with asyncio.timeout(WAIT):
        while [[one["task"] for one in tasks] for tasks in await held_back(pair)] != [["work"], ["work"]]:
            pass
    rates = [one["ratePerSecond"] for tasks in await held_back(pair) for one in tasks]
    assert all(1 <= rate < 100 for rate in rates), rates
    await pair.answer(again, b"", {"Nats-Service-Error-Code": "503", "Nats-Service-Error": "closed"})
    async with asyncio.timeout(WAIT):
        while ["breaker" in one for tasks in await held_back(pair) for one in tasks] != [True, True]:
            pass
    causes = {one["breaker"]["cause"] for tasks in await held_back(pair) for one in tasks if "breaker" in one}
    assert causes <= {"unavailable", "told"}
    while (await pair.ok("flow.snapshot", **flow))["status"] == "running":
        await pair.answer(await take(asked))
        await pair.ok("flow.poll", **flow, timeoutMs=500)
    assert (await pair.ok("flow.await", **flow))["status"] == "completed"
    async with asyncio.timeout(WAIT):
        while any("breaker" in one for tasks in await held_back(pair) for one in tasks):
            pass
