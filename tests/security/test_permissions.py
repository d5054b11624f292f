"""The permission templates: what each role can do end to end, and what a real nats-server refuses it (wire sections 2 to 6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus.connection import connect
from dwarf_nats.bus.signals import NatsSignals, PeerListener
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Forbidden
from dwarf_nats.sdk import Client, Flow, FlowOptions, Query, Worker
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.server import replica
from dwarf_nats.settings import EngineSettings, ServerSettings
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.operations import OPERATIONS
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status
from tests.support.deployment import TEMPLATES, WAIT, Attempts, Deployment, queue_of, url_of


def bill() -> Graph:
    graph = Graph("bill")
    graph.add_chain("billing.price", "billing.charge", END)
    return graph


TASKS = {
    "billing.price": lambda items: {"total": 10 * items},
    "billing.charge": lambda total: {"receipt": f"r{total}"},
}


# --- what the roles can do ---


async def test_a_flow_runs_is_announced_and_is_seen(deployment: Deployment) -> None:
    await deployment.worker(TASKS)
    stopped = await queue_of(deployment.shop.nc, "dwarf.stopped.shop")
    events = [await queue_of(client.nc, "dwarf.event.>") for client in (deployment.operator, deployment.viewer)]
    await deployment.operator.put_graph(bill())

    outcome = await deployment.shop.run("bill", {"items": 3}, FlowOptions(notify="shop"))

    assert outcome.state == {"items": 3, "total": 30, "receipt": "r30"}
    assert json.loads((await asyncio.wait_for(stopped.get(), WAIT)).data)["flowKey"] == outcome.flow_key
    for heard in events:
        statuses = [json.loads((await asyncio.wait_for(heard.get(), WAIT)).data)["status"] for _ in range(3)]
        assert statuses == ["created", "running", "completed"]
    (seen,) = [flow async for flow in deployment.viewer.list_all(Query(workflow="bill"))]
    assert (seen.flow_key, seen.status) == (outcome.flow_key, Status.COMPLETED)
    steps = await deployment.viewer.history(outcome.flow_key)
    assert [step.task for step in steps] == ["billing.price", "billing.charge"]
    assert (await deployment.viewer.step(steps[1].step_key)).changes_json == b'{"receipt":"r30"}'
    assert (await deployment.viewer.explain(outcome.flow_key)).text == "Completed."
    assert [graph.name for graph in await deployment.viewer.list_graphs()] == ["bill"]
    assert await deployment.operator.purge(Query(workflow="bill")) == 1
    for client in (deployment.operator, deployment.viewer):
        assert [one.ready for one in await client.health()] == [True]


async def test_a_long_task_is_accepted_called_and_answered(secured_server: NatsServer, tmp_path: Path) -> None:
    """Wire section 2: two messages to one reply subject, answers to roll calls between them."""
    release = asyncio.Event()

    async def slow() -> dict[str, Any]:
        await release.wait()
        return {"done": True}

    async with impatient(secured_server, tmp_path) as deployment:
        await deployment.worker({"billing.slow": slow})
        flow = await deployment.shop.create_task("billing.slow", start=True)
        await deployment.until(lambda m: (m.headers or {}).get("Dwarf-Signal") == "accepted")
        running = await deployment.until(lambda m: m.data.startswith(b'{"running":["'))
        assert running.subject.startswith("_INBOX.replica.")
        release.set()
        assert (await deployment.shop.await_(flow)).state == {"done": True}


async def test_what_a_task_emits_is_read_by_those_who_see_all_flows(deployment: Deployment) -> None:
    """B8: ids of flows can be guessed, so a caller reads nothing of it, and is told so."""

    async def tell(flow: Flow) -> None:
        flow.emit("once")

    await deployment.worker({"billing.tell": tell})
    for client in (deployment.operator, deployment.viewer):
        key = await deployment.shop.create_task("billing.tell")
        async with client.stream(key) as stream, asyncio.timeout(WAIT):
            await deployment.shop.start(key)
            assert [chunk.text async for chunk in stream] == ["once", ""]
    with pytest.raises(Forbidden, match=r"subscribe to dwarf\.stream\.1-\d+\.\*"):
        async for _ in deployment.shop.stream(key):
            pass


async def test_the_cancellation_of_a_flow_reaches_its_task(secured_server: NatsServer, tmp_path: Path) -> None:
    """O10: by way of the private subject of the worker, an inbox of its own."""
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with impatient(secured_server, tmp_path) as deployment:
        await deployment.worker({"billing.endless": endless})
        flow = await deployment.shop.create_task("billing.endless", start=True)
        await deployment.until(lambda m: (m.headers or {}).get("Dwarf-Signal") == "accepted")
        await deployment.operator.cancel(flow, "enough")
        await asyncio.wait_for(ended.wait(), WAIT)
        assert (await deployment.shop.await_(flow)).cancel_reason == "enough"


async def test_a_service_that_knows_graphs_answers(deployment: Deployment) -> None:
    """Wire section 3."""
    await deployment.worker(TASKS)
    catalog = await deployment.connected("catalog")

    async def answer(message: Msg) -> None:
        await message.respond(json.dumps(house_graph).encode())

    house_graph = {
        "name": "quote",
        "entryPoint": "billing.price",
        "tasks": [{"name": "billing.price"}],
        "transitions": [{"from": "billing.price", "to": "END"}],
    }
    await catalog.subscribe("graph.quote", queue="catalog", cb=answer)
    await round_trip(catalog)
    assert (await deployment.shop.run("quote", {"items": 1})).state == {"items": 1, "total": 10}


async def test_operator_and_viewer_find_the_service(deployment: Deployment) -> None:
    for client in (deployment.operator, deployment.viewer):
        for verb in ("PING", "INFO.dwarf", "STATS.dwarf"):
            assert json.loads((await client.nc.request(f"$SRV.{verb}", timeout=WAIT)).data)["name"] == "dwarf"


async def test_replicas_hear_each_other(secured_server: NatsServer) -> None:
    """Wire section 4: what one publishes it may, and what another one says it hears."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    class Ears:
        def trip_breaker(self, task: str) -> None:
            heard.put_nowait(task)

    options = ConnectOptions(url=url_of(secured_server.url, "replica"), inbox_prefix="_INBOX.replica")
    one, other = await connect(options), await connect(options)
    await PeerListener(other, "other", Ears()).start()  # type: ignore[arg-type]
    await other.flush()
    NatsSignals(one, "one").trip_breaker("billing.charge")
    assert await asyncio.wait_for(heard.get(), WAIT) == "billing.charge"
    for connection in (one, other):
        await connection.close()


@asynccontextmanager
async def impatient(server: NatsServer, folder: Path) -> AsyncIterator[Deployment]:
    """A replica that wants to hear at once that a task is worked on, and calls the roll all the time."""
    async with Deployment(server.url, f"sqlite:///{folder / 'dwarf.db'}", accept_ms=1, roll_call_ms=20) as deployment:
        yield deployment


# --- what they cannot ---

EVERY_OPERATION = {f"dwarf.{operation.name}" for operation in OPERATIONS}
READING = {
    *(
        f"dwarf.flow.{verb}"
        for verb in ("await", "poll", "snapshot", "fingerprint", "history", "explain", "mermaid", "graph")
    ),
    *("dwarf.step.get", "dwarf.graph.validate"),
}
STEERING = {
    f"dwarf.flow.{verb}"
    for verb in (
        *("create", "create_task", "run", "start", "continue", "cancel", "resume"),
        *("restart", "restart_from", "fork", "tag", "delete"),
    )
}
PEER = {
    f"dwarf.peer.{signal}"
    for signal in ("enqueue", "notify_status_change", "sync_valve", "trip_breaker", "change_definitions")
}
TASK = {"task.billing.charge", "task.shipping.send"}
GRAPH = {"graph.bill"}
ANNOUNCED = {"dwarf.event.completed.bill", "dwarf.stopped.shop", "dwarf.stopped.shop.web", "dwarf.stopped.other"}
HEALTH = {"dwarf.health", "dwarf.health.one"}
STREAM = {"dwarf.stream.1-42.1-43"}
DISCOVERY = {"$SRV.PING", "$SRV.INFO.dwarf", "$SRV.STATS.dwarf.one"}
INBOXES = {f"_INBOX.{user}.x" for user in ("replica", "operator", "viewer", "shop", "billing", "catalog")}
ELSEWHERE = {"_R_.x", "other.x", "$JS.API.INFO", "dwarf", "dwarf.event", "$SRV.INFO.other"}
SUBJECTS = EVERY_OPERATION | PEER | TASK | GRAPH | ANNOUNCED | STREAM | HEALTH | DISCOVERY | INBOXES | ELSEWHERE
ANY = {
    "dwarf.>",
    "dwarf.flow.*",
    "dwarf.peer.*",
    "dwarf.peer.>",
    "task.>",
    "graph.>",
    "dwarf.event.>",
    "dwarf.stopped.>",
}
ANY |= {">", "_INBOX.>", "_INBOX.*.*", "$SRV.>", "$SRV.*"}

MAY_PUBLISH: dict[str, set[str]] = {
    # Into no inbox of a replica, its own or another's (wire section 7).
    "replica": PEER | TASK | GRAPH | ANNOUNCED | (INBOXES - {"_INBOX.replica.x"}) | {"_R_.x"},
    "operator": EVERY_OPERATION | HEALTH | DISCOVERY | {"$SRV.INFO.other"},
    "viewer": READING
    | {f"dwarf.{one.name}" for one in OPERATIONS if one.reads and not one.confidential}
    | HEALTH
    | DISCOVERY
    | {"$SRV.INFO.other"},
    "shop": READING | STEERING,
    "billing": set(STREAM),
    "catalog": set(),
}
MAY_HEAR: dict[str, set[str]] = {
    # For nats-server, `x.*` covers a subscription to `x.>`.
    "replica": PEER | HEALTH | DISCOVERY | {"_INBOX.replica.x", "dwarf.peer.*", "dwarf.peer.>"},
    "operator": ANNOUNCED | STREAM | {"_INBOX.operator.x", "dwarf.event.>", "dwarf.stopped.>"},
    "viewer": STREAM | {"dwarf.event.completed.bill", "_INBOX.viewer.x", "dwarf.event.>"},
    "shop": {"dwarf.stopped.shop", "dwarf.stopped.shop.web", "_INBOX.shop.x"},
    "billing": {"_INBOX.billing.x", "$SRV.PING"},
    "catalog": GRAPH | {"_INBOX.catalog.x", "graph.>"},
}
MAY_HEAR_IN_GROUP: dict[str, tuple[str, set[str]]] = {
    "replica": ("dwarf", EVERY_OPERATION | {"dwarf.flow.*"}),
    "billing": ("workers", {"task.billing.charge"}),
}


@pytest.mark.parametrize("user", sorted(MAY_PUBLISH))
async def test_a_role_publishes_what_it_may_and_nothing_else(secured_server: NatsServer, user: str) -> None:
    attempts = Attempts()
    async with attempts.of(secured_server, user) as nc:
        for subject in SUBJECTS:
            await nc.publish(subject, b"{}")
        assert await attempts.allowed(nc, SUBJECTS) == MAY_PUBLISH[user]


@pytest.mark.parametrize("user", sorted(MAY_HEAR))
async def test_a_role_hears_what_it_may_and_nothing_else(secured_server: NatsServer, user: str) -> None:
    group, within = MAY_HEAR_IN_GROUP.get(user, ("workers", set()))
    attempts = Attempts()
    subjects = SUBJECTS | ANY
    async with attempts.of(secured_server, user) as nc:
        for subject in subjects:
            await nc.subscribe(subject)
        assert await attempts.allowed(nc, subjects) == MAY_HEAR[user]
        for subject in subjects:
            await nc.subscribe(subject, queue=group)
        assert await attempts.allowed(nc, subjects) == MAY_HEAR[user] | within
        for subject in within:
            await nc.subscribe(subject, queue="another")
        assert not await attempts.allowed(nc, within)


async def test_a_task_service_answers_only_who_asked_it_and_as_often_as_it_likes(secured_server: NatsServer) -> None:
    """Accepted, progress and the answer (B7); nothing to anybody before it was asked."""
    attempts = Attempts()
    asking = await nats.connect(url_of(secured_server.url, "replica"), inbox_prefix="_INBOX.replica")
    inbox = asking.new_inbox()
    replies = await asking.subscribe(inbox)
    async with attempts.of(secured_server, "billing") as nc:
        requests = await nc.subscribe("task.billing.charge", queue="workers")
        await round_trip(nc)
        await nc.publish(inbox, b"unasked")
        assert not await attempts.allowed(nc, {inbox})
        await asking.publish("task.billing.charge", b"{}", reply=inbox)
        request = await requests.next_msg(timeout=WAIT)
        for n in range(200):
            await nc.publish(request.reply, b"%d" % n)
        assert await attempts.allowed(nc, {inbox}) == {inbox}
    assert [(await replies.next_msg(timeout=WAIT)).data for _ in range(200)] == [b"%d" % n for n in range(200)]
    await round_trip(asking)
    assert not replies.pending_msgs
    await asking.close()


def response_limits() -> Iterator[tuple[str, int, int]]:
    """Role, messages and seconds of every template that allows responses."""
    seconds = {"s": 1, "m": 60, "h": 3600}
    for path in sorted(TEMPLATES.glob("*.conf")):
        for line in path.read_text().splitlines():
            if line.startswith("allow_responses: "):
                limits = dict(part.strip(" {}").split(": ") for part in line.partition(": ")[2].split(","))
                lasts = limits["expires"].strip('"')
                yield path.stem, int(limits["max"]), int(lasts[:-1]) * seconds[lasts[-1]]


def test_answers_are_allowed_for_longer_than_a_task_takes() -> None:
    found = {role: (most, seconds) for role, most, seconds in response_limits()}
    assert set(found) == {"task-service", "graph-service"}
    most, seconds = found["task-service"]
    assert most == -1
    assert seconds > EngineSettings().time_budget_ms / 1000


@pytest.mark.parametrize(
    ("limits", "lasts"), [('{ max: -1, expires: "1ms" }', False), ('{ max: -1, expires: "1h" }', True)]
)
async def test_after_that_an_answer_is_refused(tmp_path: Path, limits: str, lasts: bool) -> None:
    """That `expires` is what it says: with it short the server soon refuses, with it long it does not."""
    shown = (TEMPLATES / "task-service.conf").read_text().replace('{ max: -1, expires: "1h" }', limits)
    assert limits in shown
    config = tmp_path / "nats.conf"
    billing = f"{{ user: billing, password: billing, permissions: {{\n{shown}\n}} }}"
    config.write_text(f"authorization {{ users: [\n{billing}\n{{ user: root, password: root }} ] }}")
    async with NatsServer(config=config) as server:
        attempts = Attempts()
        root = await nats.connect(url_of(server.url, "root"))
        async with attempts.of(server, "billing") as nc:
            requests = await nc.subscribe("task.billing.charge", queue="workers")
            await round_trip(nc)
            await root.publish("task.billing.charge", b"{}", reply="answers")
            request = await requests.next_msg(timeout=WAIT)
            for _ in range(200):
                await nc.publish(request.reply, b"")
                if not await attempts.allowed(nc, {"answers"}):
                    assert not lasts
                    break
            else:
                assert lasts
        await root.close()


@pytest.mark.slow
async def test_permission_to_answer_ends_with_the_connection(secured_server: NatsServer) -> None:
    attempts = Attempts()
    asking = await nats.connect(url_of(secured_server.url, "replica"), inbox_prefix="_INBOX.replica")
    inbox = asking.new_inbox()
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    async with attempts.of(secured_server, "billing") as nc:
        nc._reconnected_cb = reconnected
        requests = await nc.subscribe("task.billing.late", queue="workers")
        await round_trip(nc)
        await asking.publish("task.billing.late", b"{}", reply=inbox)
        request = await requests.next_msg(timeout=WAIT)
        await nc.publish(request.reply, b"before")
        assert await attempts.allowed(nc, {inbox})
        await nc.force_reconnect()
        await asyncio.wait_for(back.wait(), WAIT)
        await nc.publish(request.reply, b"after")
        assert not await attempts.allowed(nc, {inbox})
    await asking.close()


async def test_callers_of_another_account_are_answered(tmp_path: Path, sqlite_dsn: str) -> None:
    """Imported operations reach the replica with reply subjects under `_R_`, which its template allows."""
    shown = (TEMPLATES / "replica.conf").read_text()
    config = tmp_path / "nats.conf"
    config.write_text(
        "accounts {\n"
        f"DWARF {{ users: [ {{ user: replica, password: replica, permissions: {{\n{shown}\n}} }} ]\n"
        'exports: [ { service: "dwarf.flow.*" } ] }\n'
        "SHOP { users: [ { user: shop, password: shop } ]\n"
        'imports: [ { service: { account: DWARF, subject: "dwarf.flow.*" } } ] }\n'
        "}"
    )
    async with NatsServer(config=config) as server:
        settings = ServerSettings.of(
            dsns=[sqlite_dsn],
            nats_url=url_of(server.url, "replica"),
            inbox_prefix="_INBOX.replica",
            drain_ms=200,
            wait_for_servers=False,
        )
        async with replica(settings), Client(url_of(server.url, "shop")) as shop:
            flow = await shop.create_task("billing.charge")
            await shop.cancel(flow, "enough")
            assert (await shop.await_(flow)).cancel_reason == "enough"


@pytest.mark.parametrize("response_type", ["singleton", "stream"])
async def test_a_worker_of_another_account_answers_whatever_it_takes(
    tmp_path: Path, sqlite_dsn: str, response_type: str
) -> None:
    """An export lets one message back unless told otherwise: *accepted* must not take the place of the answer."""
    shown = (TEMPLATES / "replica.conf").read_text()
    config = tmp_path / "nats.conf"
    config.write_text(
        "accounts {\n"
        f"DWARF {{ users: [ {{ user: replica, password: replica, permissions: {{\n{shown}\n}} }}\n"
        "{ user: shop, password: shop } ]\n"
        'imports: [ { service: { account: BILLING, subject: "task.billing.>" } } ] }\n'
        "BILLING { users: [ { user: billing, password: billing } ]\n"
        f'exports: [ {{ service: "task.billing.>", response_type: {response_type} }} ] }}\n'
        "}"
    )
    release, begun = asyncio.Event(), asyncio.Event()
    runs = 0

    async def slow() -> dict[str, Any]:
        nonlocal runs
        runs += 1
        begun.set()
        await release.wait()
        return {"done": runs}

    async with NatsServer(config=config) as server:
        settings = ServerSettings.of(
            dsns=[sqlite_dsn],
            nats_url=url_of(server.url, "replica"),
            inbox_prefix="_INBOX.replica",
            drain_ms=200,
            wait_for_servers=False,
            accept_ms=1,
            roll_call_ms=20,
        )
        worker = Worker(url_of(server.url, "billing"), drain_seconds=1.0)
        worker.add_task("billing.slow", slow)
        async with replica(settings), worker, Client(url_of(server.url, "shop")) as shop:
            flow = await shop.create_task("billing.slow", start=True)
            await asyncio.wait_for(begun.wait(), WAIT)
            await asyncio.sleep(0.01)  # a timer of this loop that is due after that of *accepted*
            assert worker._link.nc is not None
            await round_trip(worker._link.nc)
            release.set()
            assert (await shop.await_(flow)).state == {"done": 1}
