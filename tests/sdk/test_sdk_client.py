"""The client against hand-made responders: what it sends, what it makes of replies, and of silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.aio.client import Client as Nats

from dwarf_nats import errors
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import END, Bulk, BulkAction, Client, FlowOptions, Graph, Query, RetentionRule
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.decoding import decode
from dwarf_nats.wire.examples import EXAMPLES
from dwarf_nats.wire.operations import OPERATIONS
from dwarf_nats.workflow.audit import AuditQuery
from dwarf_nats.workflow.limit import Limit
from dwarf_nats.workflow.schedules import Schedule
from dwarf_nats.workflow.sources import Source, SourceStart
from dwarf_nats.workflow.status import Status
from tests.support.workers import Asked, refuse

Service = Callable[..., Awaitable[None]]
FLOW = "1-42-a1B2c3D4e5F6g7H8"
STEP = "1-43-h8G7f6E5d4C3b2A1"
DONE = {"flowKey": FLOW, "workflow": "greet", "status": "completed", "state": {"greeting": "hello ada"}}
RUNNING = {"flowKey": FLOW, "workflow": "greet", "status": "running", "state": {}}


def graph() -> Graph:
    made = Graph("greet")
    made.add_chain("hello", END)
    return made


def in_turn(*replies: Any) -> Callable[[Any], Any]:
    """One reply after the other, and the last one for ever: if a reply is late, the client asks once more."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
async def client(nc: Nats, prefix: str) -> Client:
    return Client(nc=nc, prefix=prefix, timeout=20.0, patience=20.0)


async def test_run_sends_what_the_contract_says_and_returns_the_outcome_o3(client: Client, service: Service) -> None:
    asked: list[tuple[dict[str, Any], dict[str, str] | None]] = []
    await service("flow.run", lambda ask: asked.append((ask.body, ask.headers)) or DONE)
    options = FlowOptions(priority=3, baggage={"tenant": "acme"}, start_at=datetime(2030, 1, 1, tzinfo=UTC))
    outcome = await client.run("greet", {"name": "ada", "big": 2**63 - 1}, options, timeout=9)
    assert outcome.status is Status.COMPLETED
    assert outcome.state == {"greeting": "hello ada"}
    body, headers = asked[0]
    assert body["state"] == {"name": "ada", "big": 2**63 - 1}
    assert body["options"] == {"priority": 3, "baggage": {"tenant": "acme"}, "startAt": "2030-01-01T00:00:00Z"}
    assert 1000 < body["timeoutMs"] <= 9000
    assert headers is None


async def test_a_graph_object_travels_inline(client: Client, service: Service) -> None:
    asked: list[dict[str, Any]] = []
    await service("flow.create", lambda ask: asked.append(ask.body) or {"flowKey": FLOW})
    assert await client.create(graph(), start=True) == FLOW
    assert asked[0]["graph"]["name"] == "greet"
    assert asked[0]["start"] is True
    assert "workflow" not in asked[0]


CALLS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "flow.create": lambda c: c.create("greet", {"a": 1}, FlowOptions(thread=FLOW)),
    "flow.create_task": lambda c: c.create_task("charge", b'{"a":1}', start=True),
    "flow.start": lambda c: c.start(FLOW, "orders.done"),
    "source.put": lambda c: c.put_source(
        Source(name="orders", subject="orders.placed", start=SourceStart(workflow="order"))
    ),
    "source.get": lambda c: c.get_source("orders"),
    "source.list": lambda c: c.list_sources(),
    "source.delete": lambda c: c.delete_source("orders"),
    "source.pause": lambda c: c.pause_source("orders"),
    "source.resume": lambda c: c.resume_source("orders"),
    "outbox.list": lambda c: c.list_outbox(rejected=True, limit=50),
    "outbox.retry": lambda c: c.retry_outbox("1-42"),
    "outbox.delete": lambda c: c.delete_outbox("1-42"),
    "schedule.put": lambda c: c.put_schedule(Schedule(name="nightly", workflow="report", cron="0 3 * * *")),
    "schedule.get": lambda c: c.get_schedule("nightly"),
    "schedule.list": lambda c: c.list_schedules(50, "nightly", workflow="report"),
    "schedule.delete": lambda c: c.delete_schedule("nightly"),
    "schedule.pause": lambda c: c.pause_schedule("nightly"),
    "schedule.resume": lambda c: c.resume_schedule("nightly"),
    "schedule.trigger": lambda c: c.trigger_schedule("nightly"),
    "schedule.backfill": lambda c: c.backfill_schedule(
        "nightly", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    ),
    "audit.list": lambda c: c.list_audit(AuditQuery(flow_id="1-42", newer_than_ms=1), "MTcuNA"),
    "flow.run": lambda c: c.run("greet"),
    "flow.await": lambda c: c.await_(FLOW),
    "flow.poll": lambda c: c.poll(FLOW, 0),
    "flow.snapshot": lambda c: c.snapshot(FLOW),
    "flow.fingerprint": lambda c: c.fingerprint(FLOW),
    "flow.history": lambda c: c.history_page(FLOW, 50, "MS40Mw"),
    "flow.explain": lambda c: c.explain(FLOW),
    "flow.mermaid": lambda c: c.mermaid(FLOW),
    "flow.graph": lambda c: c.flow_graph(FLOW),
    "flow.list": lambda c: c.list(Query(status=Status.FAILED, thread=FLOW, older_than_ms=0, fairness_key="")),
    "flow.count": lambda c: c.count(Query(workflow="greet")),
    "flow.purge": lambda c: c.purge(Query(workflow="greet", limit=7)),
    "flow.bulk": lambda c: c.bulk_page(Bulk(action=BulkAction.TAG, query=Query(status="failed"), tags={"a": 1})),
    "flow.delete": lambda c: c.delete(FLOW),
    "flow.cancel": lambda c: c.cancel(FLOW, "no longer wanted"),
    "flow.resume": lambda c: c.resume(step_key=STEP, data={"approved": True}),
    "flow.resume_break": lambda c: c.resume_break(FLOW, {"a": None}),
    "flow.break_before": lambda c: c.break_before(FLOW, "hello", False),
    "flow.restart": lambda c: c.restart(FLOW, {"a": 2}),
    "flow.restart_from": lambda c: c.restart_from(STEP),
    "flow.fork": lambda c: c.fork(STEP, {"a": 2}, {"customer": 4711}),
    "flow.tag": lambda c: c.tag(FLOW, {"order-id": 7}, customer=4711, urgent=None),
    "flow.signal": lambda c: c.signal("payment.settled", "A-1", {"paid": True}, id="p-1", keep=60),
    "flow.continue": lambda c: c.continue_(FLOW, {"a": 2}, FlowOptions(idempotency_key="k")),
    "step.get": lambda c: c.step(STEP),
    "task.breaker": lambda c: c.breaker("charge"),
    "shard.put": lambda c: c.put_shard(2, cordoned=True, weight=2.5),
    "shard.info": lambda c: c.shard_info(),
    "retention.put": lambda c: c.put_retention(RetentionRule(name="done", older_than_ms=5, keep_tagged={"a": 1})),
    "retention.list": lambda c: c.list_retention(),
    "retention.delete": lambda c: c.delete_retention("done"),
    "retention.preview": lambda c: c.preview_retention("done"),
    "limit.put": lambda c: c.put_limit(Limit(name="bank", task="billing.charge", concurrency=4)),
    "limit.list": lambda c: c.list_limits(),
    "limit.delete": lambda c: c.delete_limit("bank"),
    "graph.put": lambda c: c.put_graph(graph()),
    "graph.get": lambda c: c.get_graph("greet"),
    "graph.delete": lambda c: c.delete_graph("greet"),
    "graph.mermaid": lambda c: c.graph_mermaid("greet"),
    "hold.put": lambda c: c.put_hold(task="billing.charge", reason="moved"),
    "hold.list": lambda c: c.list_holds(),
    "hold.delete": lambda c: c.delete_hold(workflow="order"),
    "graph.list": lambda c: c.list_graphs(),
    "graph.validate": lambda c: c.validate_graph(graph()),
}


def test_the_client_has_every_operation() -> None:
    assert set(CALLS) == {operation.name for operation in OPERATIONS}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_requests_decode_strictly_and_example_replies_are_understood(
    client: Client, service: Service, operation: Any
) -> None:
    asked: list[bytes] = []
    example = EXAMPLES[operation.reply]
    await service(operation.name, lambda ask: asked.append(ask.data) or example)
    await CALLS[operation.name](client)
    decode(operation.request, asked[0])


@pytest.mark.parametrize("code", [400, 404, 409, 413, 429, 500, 503])
async def test_a_refusal_becomes_the_leaf_of_its_code(client: Client, service: Service, code: int) -> None:
    await service("flow.cancel", lambda _: refuse(code, "100% no", flowKey=FLOW))
    with pytest.raises(errors.DwarfError, match=r"^100% no$") as caught:
        await client.cancel(FLOW)
    assert caught.value.code == code
    assert caught.value.details == {"flow_key": FLOW}


async def test_a_refusal_without_a_body_is_read_from_its_headers(client: Client, nc: Nats, prefix: str) -> None:
    async def refuse_bare(msg: Any) -> None:
        await nc.publish(msg.reply, headers={"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no flow %C3%A9"})

    await nc.subscribe(f"{prefix}.flow.snapshot", cb=refuse_bare)
    with pytest.raises(errors.NotFound, match="no flow é"):
        await client.snapshot(FLOW)


async def test_nobody_there_says_how_to_start_somebody(client: Client, prefix: str) -> None:
    said = rf"no dwarf-nats replica answers on {prefix}\.>; .*dwarf-nats serve"
    for call in (client.snapshot(FLOW), client.await_(FLOW, 30), client.run("greet", timeout=30)):
        with pytest.raises(errors.Unavailable, match=said):
            await call


async def test_a_reply_out_of_contract_is_an_internal_error(client: Client, service: Service) -> None:
    await service("flow.snapshot", lambda _: {"flowKey": 7})
    with pytest.raises(errors.Internal, match=r"reply to flow\.snapshot"):
        await client.snapshot(FLOW)


async def test_a_request_beyond_max_payload_is_not_sent(client: Client, service: Service, nc: Nats) -> None:
    asked: list[Any] = []
    await service("flow.create", lambda ask: asked.append(ask.body) or {"flowKey": FLOW})
    with pytest.raises(errors.TooLarge, match=str(nc.max_payload)):
        await client.create("greet", {"text": "x" * nc.max_payload})
    assert await client.create("greet", {"text": "x"}) == FLOW
    assert len(asked) == 1


@pytest.mark.parametrize("state", [{"a": object()}, {"a": 2**70}, [1], b"[1]", b"{", {1: 2}])
async def test_bad_states_are_refused_before_sending(client: Client, state: Any) -> None:
    with pytest.raises(errors.BadRequest):
        await client.create("greet", state)


async def test_a_time_without_zone_is_refused(client: Client) -> None:
    with pytest.raises(errors.BadRequest, match="time zone"):
        await client.create("greet", options=FlowOptions(start_at=datetime(2030, 1, 1)))


# --- waiting ---


async def test_await_asks_again_while_the_server_times_out_first_o4(client: Client, service: Service) -> None:
    await service("flow.await", in_turn(refuse(408, "the wait ended"), refuse(408, "the wait ended"), DONE))
    assert (await client.await_(FLOW, 20)).status is Status.COMPLETED


async def test_await_raises_408_with_the_key_at_its_own_timeout_o4(client: Client, service: Service) -> None:
    await service("flow.await", lambda _: refuse(408, "the wait ended"))
    with pytest.raises(errors.TimedOut) as caught:
        await client.await_(FLOW, 0)
    assert caught.value.details["flow_key"] == FLOW


async def test_poll_returns_where_the_flow_stands_at_its_timeout_o4(client: Client, service: Service) -> None:
    asked: list[int] = []
    await service("flow.poll", lambda ask: asked.append(ask.body["timeoutMs"]) or RUNNING)
    assert (await client.poll(FLOW, 0)).status is Status.RUNNING
    assert asked == [0]


async def test_a_wait_is_asked_again_when_its_replica_stops(client: Client, service: Service) -> None:
    await service("flow.await", in_turn(refuse(503, "this replica is stopping; ask again"), DONE))
    assert (await client.await_(FLOW, None)).status is Status.COMPLETED


async def test_a_wait_gives_up_on_a_service_that_stays_away(nc: Nats, prefix: str, service: Service) -> None:
    client = Client(nc=nc, prefix=prefix, patience=0.2)
    await service("flow.await", lambda _: refuse(503, "the database is away"))
    with pytest.raises(errors.Unavailable, match="the database is away"):
        await client.await_(FLOW, None)


async def test_a_run_whose_wait_ended_goes_on_waiting_with_the_key_o3(client: Client, service: Service) -> None:
    await service("flow.run", lambda _: refuse(408, "the wait ended", flowKey=FLOW))
    asked: list[str] = []
    await service("flow.await", lambda ask: asked.append(ask.body["flowKey"]) or DONE)
    assert (await client.run("greet", timeout=20)).status is Status.COMPLETED
    assert asked == [FLOW]


async def test_run_raises_408_with_the_key_at_its_own_timeout_o3(client: Client, service: Service) -> None:
    await service("flow.run", lambda _: refuse(408, "the wait ended", flowKey=FLOW))
    with pytest.raises(errors.TimedOut) as caught:
        await client.run("greet", timeout=0)
    assert caught.value.details["flow_key"] == FLOW


# --- silence ---


async def test_reading_is_asked_again_when_the_reply_is_lost(nc: Nats, prefix: str, service: Service) -> None:
    client = Client(nc=nc, prefix=prefix, timeout=0.1, patience=5)
    await service("flow.snapshot", in_turn(None, None, DONE))
    assert (await client.snapshot(FLOW)).status is Status.COMPLETED


async def test_a_create_without_key_is_sent_once(nc: Nats, prefix: str, service: Service) -> None:
    client = Client(nc=nc, prefix=prefix, timeout=0.1, patience=5)
    asked: list[Any] = []
    await service("flow.create", lambda ask: asked.append(ask.body))
    with pytest.raises(errors.Unavailable, match="may or may not have been carried out"):
        await client.create("greet")
    async with asyncio.timeout(20):
        while not asked:  # what was sent may arrive after the client has given up
            await asyncio.sleep(0)
    await round_trip(nc)
    assert len(asked) == 1


@pytest.mark.parametrize("generated", [False, True])
async def test_a_create_with_a_key_is_sent_again_with_the_same_key_o1(
    nc: Nats, prefix: str, service: Service, generated: bool
) -> None:
    client = Client(nc=nc, prefix=prefix, timeout=0.2, patience=5, retry_creates=generated)
    keys: list[str] = []
    reply = in_turn(None, refuse(503, "the database is away"), {"flowKey": FLOW})

    def create(ask: Asked) -> Any:
        assert "idempotencyKey" not in ask.body.get("options", {})
        keys.append((ask.headers or {})["Nats-Msg-Id"])
        return reply(ask)

    await service("flow.create", create)
    options = None if generated else FlowOptions(idempotency_key="order-7")
    assert await client.create("greet", options=options) == FLOW
    assert len(keys) >= 3
    assert len(set(keys)) == 1
    assert generated or keys[0] == "order-7"


async def test_a_header_named_status_is_not_taken_for_the_servers_503(client: Client, service: Service) -> None:
    await service("flow.snapshot", lambda _: ({"Status": "503"}, DONE))
    assert (await client.snapshot(FLOW)).status is Status.COMPLETED


# --- lists and watching ---


async def test_list_all_follows_the_cursor_o9(client: Client, service: Service) -> None:
    flow = EXAMPLES[m.FlowListReply]["flows"][0]
    pages = {"": {"flows": [flow, flow], "cursor": "next"}, "next": {"flows": [flow]}}
    await service("flow.list", lambda ask: pages[ask.body.get("cursor", "")])
    assert len([one async for one in client.list_all(Query(limit=2))]) == 3


async def test_watch_yields_each_change_and_ends_with_the_flow_o6(client: Client, service: Service) -> None:
    marks = ["a", "a", "b", "c"]
    now: list[str] = []

    def fingerprint(_: Asked) -> Any:
        now[:] = [marks.pop(0)]
        return {"fingerprint": now[0], "status": "completed" if now[0] == "c" else "running"}

    await service("flow.fingerprint", fingerprint)
    await service("flow.snapshot", lambda _: DONE if now == ["c"] else RUNNING)
    await service("flow.history", lambda _: {"steps": []})
    await service("flow.poll", lambda _: RUNNING)
    seen = [(change.fingerprint, change.outcome.status.value) async for change in client.watch(FLOW, 0)]
    assert seen == [("a", "running"), ("b", "running"), ("c", "completed")]


# --- connections ---


async def test_the_client_connects_by_url_and_closes_what_is_its_own(
    nats_server: NatsServer, prefix: str, service: Service
) -> None:
    await service("flow.snapshot", lambda _: DONE)
    async with Client(nats_server.url, prefix=prefix) as client:
        await asyncio.gather(*(client.snapshot(FLOW) for _ in range(50)))
        own = client.nc
    assert own.is_closed
    with pytest.raises(errors.Unavailable, match="closed"):
        await client.snapshot(FLOW)


async def test_a_connection_given_stays_open(nc: Nats, client: Client) -> None:
    async with client:
        pass
    assert not nc.is_closed


async def test_no_server_there_is_told_with_its_address() -> None:
    with pytest.raises(errors.Unavailable, match=r"no NATS server answers at nats://127\.0\.0\.1:1"):
        await Client("nats://user:secret@127.0.0.1:1", connect_seconds=0.3).connect()


async def test_a_wait_outlives_a_restart_of_the_server() -> None:
    server = NatsServer()
    await server.start()
    asked = asyncio.Event()
    async with Client(server.url, timeout=2, patience=20) as client, Client(server.url) as other:
        reply = in_turn(None, DONE)

        async def on_request(msg: Any) -> None:
            asked.set()
            if reply(msg) is not None:
                await msg.respond(b'{"flowKey":"%s","workflow":"w","status":"completed","state":{}}' % FLOW.encode())

        await other.nc.subscribe("dwarf.flow.await", cb=on_request)
        await round_trip(other.nc)
        waiting = asyncio.create_task(client.await_(FLOW, 60))
        await asked.wait()
        await server.restart()
        assert (await waiting).status is Status.COMPLETED
    await server.stop()
