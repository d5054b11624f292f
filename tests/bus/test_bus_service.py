"""The service over a real NATS server (wire: section 1; ADR-32)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.handlers import HANDLERS
from dwarf_nats.bus.service import Service
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import TimedOut, Unavailable
from dwarf_nats.settings import RequestLimits
from dwarf_nats.wire.discovery import semver
from dwarf_nats.wire.operations import OPERATIONS
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.status import Status
from tests.support.stub_engine import KEY, STEP, StubEngine

Opener = Callable[..., Awaitable[Connection]]
GRAPH = {"name": "order", "tasks": [{"name": "a"}], "transitions": [{"from": "a", "to": "END"}]}


class Caller:
    """Calls the service under a prefix of its own."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix

    async def raw(self, name: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        return await self.connection.request(f"{self.prefix}.{name}", payload, timeout=10, headers=headers)

    async def ok(self, name: str, headers: dict[str, str] | None = None, /, **fields: Any) -> Any:
        msg = await self.raw(name, json.dumps(fields).encode() if fields else b"", headers)
        assert msg.headers is None, msg.headers
        return json.loads(msg.data)

    async def refused(self, name: str, payload: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        msg = await self.raw(name, payload if isinstance(payload, bytes) else json.dumps(payload).encode(), headers)
        assert msg.headers is not None, msg.data
        error = json.loads(msg.data)["error"]
        assert msg.headers["Nats-Service-Error-Code"] == str(error["code"])
        assert msg.headers["Nats-Service-Error"]
        return error


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:100]


@pytest.fixture
def bounds() -> dict[str, int]:
    return {}


@pytest.fixture
async def service(
    connection: Connection, engine: StubEngine, prefix: str, bounds: dict[str, int]
) -> AsyncIterator[Service]:
    service = Service(connection, engine, Subjects(prefix), limits=RequestLimits(**bounds))
    await service.start()
    yield service
    engine.stopped.set()
    await service.drain()


@pytest.fixture
def caller(other: Connection, prefix: str, service: Service) -> Caller:
    assert service
    return Caller(other, prefix)


async def test_create_passes_state_and_options_and_returns_the_key_o1(caller: Caller, engine: StubEngine) -> None:
    payload = b'{"workflow":"order","state":{"n":9007199254740993.10},"options":{"priority":7,"baggage":{"t":1}}}'
    assert json.loads((await caller.raw("flow.create", payload)).data) == {"flowKey": KEY}
    _, workflow, state, options, start = engine.asked[0]
    assert (workflow, state, start) == ("order", b'{"n":9007199254740993.10}', False)
    assert options.priority == 7
    assert bytes(options.baggage) == b'{"t":1}'


async def test_create_takes_a_graph_inline_but_not_both(caller: Caller, engine: StubEngine) -> None:
    await caller.ok("flow.create", graph=GRAPH, start=True)
    assert isinstance(engine.asked[0][1], Graph)
    assert engine.asked[0][4] is True
    assert (await caller.refused("flow.create", {"graph": GRAPH, "workflow": "order"}))["code"] == 400
    assert (await caller.refused("flow.create", b""))["code"] == 400


async def test_a_create_without_a_reply_subject_is_started(
    caller: Caller, engine: StubEngine, other: Connection, prefix: str
) -> None:
    await other.publish(f"{prefix}.flow.create_task", b'{"task":"charge"}')
    await asyncio.wait_for(engine.called.wait(), 10)
    assert engine.asked == [("create_task", "charge", None, None, True)]
    await caller.ok("flow.create_task", task="charge")
    assert engine.asked[1] == ("create_task", "charge", None, None, False)


@pytest.mark.parametrize(
    ("operation", "named"),
    [
        ("flow.create", {"workflow": "order"}),
        ("flow.create_task", {"task": "charge"}),
        ("flow.run", {"workflow": "order"}),
        ("flow.continue", {"threadKey": KEY}),
    ],
)
async def test_the_message_id_is_the_idempotency_key(
    caller: Caller, engine: StubEngine, operation: str, named: dict[str, Any]
) -> None:
    engine.stopped.set()
    await caller.ok(operation, {"Nats-Msg-Id": "order-7"}, **named)
    assert engine.asked[0][3].idempotency_key == "order-7"
    request = {**named, "options": {"idempotencyKey": "other"}}
    error = await caller.refused(operation, request, {"Nats-Msg-Id": "order-7"})
    assert error["code"] == 400
    assert "Nats-Msg-Id" in error["message"]


async def test_reading_and_steering_operations_answer(caller: Caller, engine: StubEngine) -> None:
    assert await caller.ok("flow.start", flowKey=KEY, notify="a.b") == {}
    assert await caller.ok("flow.snapshot", flowKey=KEY) == {
        "flowKey": KEY, "workflow": "order", "status": "running", "state": {},
    }  # fmt: skip
    assert await caller.ok("flow.fingerprint", flowKey=KEY) == {"fingerprint": "abc", "status": "running"}
    assert (await caller.ok("flow.history", flowKey=KEY))["steps"][0]["stepKey"] == STEP
    assert (await caller.ok("flow.mermaid", flowKey=KEY))["mermaid"].startswith("flowchart TD\n")
    assert (await caller.ok("step.get", stepKey=STEP))["state"] == {"a": 1}
    assert await caller.ok("flow.purge", status="failed") == {"deleted": 3}
    assert await caller.ok("flow.cancel", flowKey=KEY, reason="no") == {}
    assert engine.asked[-1] == ("cancel", KEY, "no")
    assert await caller.ok("task.breaker", task="a.b") == {"task": "a.b", "tripped": False}
    assert await caller.ok("shard.info") == {
        "shards": [{"shard": 1, "error": "", "latencyMs": 0.5, "flows": 2, "steps": 3}]
    }


STEERING: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("flow.resume", {"flowKey": KEY, "data": {"ok": True}}, ("resume", KEY, b'{"ok": true}')),
    ("flow.resume", {"flowKey": KEY, "data": None}, ("resume", KEY, b"null")),
    ("flow.resume", {"flowKey": KEY}, ("resume", KEY, b"null")),
    ("flow.resume_break", {"flowKey": KEY, "overrides": {"n": None}}, ("resume_break", KEY, b'{"n": null}')),
    ("flow.resume_break", {"flowKey": KEY}, ("resume_break", KEY, None)),
    ("flow.break_before", {"flowKey": KEY, "task": "a b"}, ("break_before", KEY, "a b", True)),
    ("flow.break_before", {"flowKey": KEY, "task": "a", "enabled": True}, ("break_before", KEY, "a", True)),
    ("flow.break_before", {"flowKey": KEY, "task": "a", "enabled": False}, ("break_before", KEY, "a", False)),
    ("flow.restart", {"flowKey": KEY, "overrides": {"n": 1}}, ("restart", KEY, b'{"n": 1}')),
    ("flow.restart", {"flowKey": KEY}, ("restart", KEY, None)),
    ("flow.restart_from", {"stepKey": STEP, "overrides": {}}, ("restart_from", STEP, b"{}")),
    ("flow.restart_from", {"stepKey": STEP}, ("restart_from", STEP, None)),
]


@pytest.mark.parametrize(("operation", "request_", "noted"), STEERING)
async def test_steering_operations_hand_on_what_was_asked_o11_o12_o13(
    caller: Caller, engine: StubEngine, operation: str, request_: dict[str, Any], noted: tuple[Any, ...]
) -> None:
    assert await caller.ok(operation, **request_) == {}
    assert engine.asked == [noted]


async def test_fork_and_continue_answer_with_the_key_of_the_new_flow_o14_o15(
    caller: Caller, engine: StubEngine
) -> None:
    assert await caller.ok("flow.fork", stepKey=STEP, overrides={"n": 1}) == {"flowKey": KEY}
    assert await caller.ok("flow.fork", stepKey=STEP, tags={}) == {"flowKey": KEY}
    assert await caller.ok("flow.continue", threadKey=KEY) == {"flowKey": KEY}
    request = {"threadKey": KEY, "state": {"n": 2}, "options": {"priority": 3}, "start": True}
    assert await caller.ok("flow.continue", **request) == {"flowKey": KEY}
    assert engine.asked[:3] == [
        ("fork", STEP, b'{"n": 1}', None),
        ("fork", STEP, None, {}),
        ("continue", KEY, None, None, False),
    ]
    _, thread, state, options, start = engine.asked[3]
    assert (thread, state, options.priority, start) == (KEY, b'{"n": 2}', 3, True)


async def test_a_continue_without_a_reply_subject_is_started(
    caller: Caller, engine: StubEngine, other: Connection, prefix: str
) -> None:
    assert caller
    await other.publish(f"{prefix}.flow.continue", json.dumps({"threadKey": KEY, "start": False}).encode())
    await asyncio.wait_for(engine.called.wait(), 10)
    assert engine.asked == [("continue", KEY, None, None, True)]


BAD_STEERING: list[tuple[str, bytes, str]] = [
    ("flow.resume", b'{"flowKey": "%s", "overrides": {}}' % KEY.encode(), "did you mean"),
    ("flow.resume", b'{"flowKey": "%s", "data": 99999999999999999999}' % KEY.encode(), "`data`"),
    ("flow.resume_break", b'{"flowKey": "%s", "data": 1}' % KEY.encode(), "unknown field `data`"),
    ("flow.break_before", b'{"flowKey": "%s"}' % KEY.encode(), "`task`"),
    ("flow.break_before", b'{"flowKey": "%s", "task": "a", "enabled": "no"}' % KEY.encode(), "`enabled`"),
    ("flow.restart_from", b'{"flowKey": "%s"}' % KEY.encode(), "`stepKey`"),
    ("flow.fork", b'{"stepKey": "%s", "start": true}' % STEP.encode(), "unknown field `start`"),
    ("flow.fork", b'{"stepKey": "%s", "tags": {"a": null}}' % STEP.encode(), "field `tags`.a is null"),
    ("flow.tag", b'{"flowKey": "%s", "tags": {"a.b": 1}}' % KEY.encode(), "field `tags` has the name 'a.b': use"),
    ("flow.tag", b'{"flowKey": "%s", "tags": {"a": 99999999999999999999}}' % KEY.encode(), "send it as a string"),
    ("flow.tag", b'{"flowKey": "%s", "tags": [1]}' % KEY.encode(), "field `tags` must be an object"),
    ("flow.tag", b'{"flowKey": "%s"}' % KEY.encode(), "`tags`"),
    ("flow.continue", b'{"flowKey": "%s"}' % KEY.encode(), "`threadKey`"),
    ("flow.continue", b'{"threadKey": "%s", "options": {"threadKey": "%s"}}' % (KEY.encode(), KEY.encode()),
     "`threadKey` names the thread"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "payload", "why"), BAD_STEERING)
async def test_what_steering_refuses_never_reaches_the_engine(
    caller: Caller, engine: StubEngine, operation: str, payload: bytes, why: str
) -> None:
    error = await caller.refused(operation, payload)
    assert error["code"] == 400
    assert why in error["message"]
    assert engine.asked == []


async def test_a_list_has_a_cursor_unless_it_is_the_last_page_o9(caller: Caller, engine: StubEngine) -> None:
    first = await caller.ok("flow.list", status="running", limit=5)
    assert first["cursor"] == "next"
    assert engine.asked[0][1].status is Status.RUNNING
    assert "cursor" not in await caller.ok("flow.list", cursor="next")


async def test_graphs_are_put_read_listed_validated_and_deleted(caller: Caller) -> None:
    put = await caller.ok("graph.put", **GRAPH)
    assert put["name"] == "order"
    assert (await caller.ok("graph.get", name="order"))["tasks"][0]["name"] == "a"
    listed = (await caller.ok("graph.list"))["graphs"]
    assert [(one["name"], one["digest"]) for one in listed] == [("order", put["digest"])]
    assert await caller.ok("graph.validate", **GRAPH) == {}
    bad = {**GRAPH, "transitions": []}
    assert (await caller.refused("graph.validate", bad))["code"] == 400
    assert (await caller.refused("graph.put", b"nonsense"))["code"] == 400
    assert (await caller.refused("graph.put", b""))["code"] == 400
    assert await caller.ok("graph.delete", name="order") == {}
    assert (await caller.refused("graph.get", {"name": "order"}))["code"] == 404


@pytest.mark.parametrize("name", ["a b", "a.*", "a.>", "a..b", ".a", "", "ä"])
async def test_names_that_are_no_subjects_are_never_published(caller: Caller, engine: StubEngine, name: str) -> None:
    for operation, request in (
        ("flow.create", {"workflow": name}),
        ("flow.create_task", {"task": name}),
        ("flow.run", {"workflow": name}),
        ("flow.start", {"flowKey": KEY, "notify": name}),
        ("task.breaker", {"task": name}),
        ("graph.get", {"name": name}),
    ):
        if operation == "flow.start" and not name:
            continue
        if operation == "task.breaker" and name == "ä":
            continue  # the subject of an existing service may have it (N3), and nothing is published to it
        assert (await caller.refused(operation, request))["code"] == 400
    assert engine.asked == []


async def test_operations_not_carried_out_yet_say_so(caller: Caller) -> None:
    for operation in OPERATIONS:
        if operation.name not in HANDLERS:
            example: dict[str, Any] = {
                name: KEY for name in ("flowKey", "stepKey", "threadKey") if name in _fields(operation.request)
            }
            example |= {name: "a" for name in ("task", "name") if name in _fields(operation.request)}
            error = await caller.refused(operation.name, example)
            assert error["code"] == 400
            assert "not available in this version" in error["message"]


def _fields(kind: type) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind) if field.required]


async def test_an_unknown_field_names_the_nearest(caller: Caller) -> None:
    error = await caller.refused("flow.start", {"flow_key": KEY})
    assert error["code"] == 400
    assert "`flowKey`" in error["message"]


async def test_waiting_requests_hold_up_nobody_o4(caller: Caller, engine: StubEngine) -> None:
    engine.outcome = Outcome(KEY, "order", Status.COMPLETED, b'{"a":1}')
    waits = [asyncio.create_task(caller.ok("flow.await", flowKey=KEY)) for _ in range(50)]
    waits += [asyncio.create_task(caller.ok("flow.run", workflow="order")) for _ in range(50)]
    while engine.waiting < 100:
        assert (await caller.ok("flow.snapshot", flowKey=KEY))["flowKey"] == KEY
    engine.stopped.set()
    assert all(one["state"] == {"a": 1} for one in await asyncio.gather(*waits))


async def test_timeouts_default_to_30_s_are_capped_and_0_does_not_wait(caller: Caller, engine: StubEngine) -> None:
    error = await caller.refused("flow.run", {"workflow": "order", "timeoutMs": 0})
    assert (error["code"], error["flowKey"]) == (408, KEY)
    assert (await caller.ok("flow.poll", flowKey=KEY, timeoutMs=0))["status"] == "running"
    engine.stopped.set()
    await caller.ok("flow.await", flowKey=KEY)
    await caller.ok("flow.await", flowKey=KEY, timeoutMs=10**15)
    assert [asked[-1] for asked in engine.asked] == [0, 0, 30, 3600]


@pytest.mark.parametrize("bounds", [{"max_waiting": 2, "max_requests": 5}])
async def test_beyond_the_bound_is_a_429_and_waiters_have_their_own(
    caller: Caller, engine: StubEngine, bounds: dict[str, int]
) -> None:
    waits = [asyncio.create_task(caller.ok("flow.await", flowKey=KEY)) for _ in range(bounds["max_waiting"])]
    while engine.waiting < 2:
        await caller.ok("flow.snapshot", flowKey=KEY)
    assert (await caller.refused("flow.await", {"flowKey": KEY}))["code"] == 429
    await caller.ok("flow.snapshot", flowKey=KEY)
    engine.stopped.set()
    await asyncio.gather(*waits)
    await caller.ok("flow.await", flowKey=KEY)


async def test_what_cannot_be_made_smaller_is_a_413_instead(
    caller: Caller, engine: StubEngine, connection: Connection
) -> None:
    """Wire section 2: a graph is whole or of no use; both sizes are named."""
    graph = Graph("order")
    graph.add_chain("charge", END)
    graph.annotate("charge", "x" * connection.max_payload)
    engine.graphs["order"] = graph
    error = await caller.refused("graph.get", {"name": "order"})
    assert error["code"] == 413
    assert str(connection.max_payload) in error["message"]
    assert connection.is_connected


async def test_a_refusal_is_cut_until_it_fits_and_keeps_the_key_of_the_flow(
    caller: Caller, engine: StubEngine, connection: Connection
) -> None:
    """Wire section 1: header and body of a refusal fit together, whatever the texts in it."""
    connection._max_payload = 700
    engine.failure = TimedOut("“" * 30_000, flow_key=KEY, more="m" * 5_000)
    error = await caller.refused("flow.snapshot", {"flowKey": KEY})
    assert (error["code"], error["flowKey"]) == (408, KEY)
    assert error["message"].startswith("“")
    assert "more" not in error


async def test_a_defect_of_ours_is_a_500_without_a_traceback(
    caller: Caller, engine: StubEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = RuntimeError("secret detail")
    with caplog.at_level(logging.ERROR):
        error = await caller.refused("flow.snapshot", {"flowKey": KEY})
    assert error["code"] == 500
    assert "secret" not in json.dumps(error)
    assert "secret detail" in caplog.text


async def test_drain_answers_what_was_taken_and_gives_waiters_a_503_b3(
    caller: Caller, engine: StubEngine, service: Service, other: Connection, prefix: str
) -> None:
    waits = [asyncio.create_task(caller.refused("flow.await", {"flowKey": KEY})) for _ in range(5)]
    while engine.waiting < 5:
        await caller.ok("flow.snapshot", flowKey=KEY)
    asked = [asyncio.create_task(caller.ok("flow.history", flowKey=KEY)) for _ in range(20)]
    await asyncio.sleep(0)
    await other.flush()
    await service.drain()
    assert {error["code"] for error in await asyncio.gather(*waits)} == {503}
    assert len(await asyncio.gather(*asked)) == 20
    with pytest.raises(Exception, match="no responders"):
        await other.request(f"{prefix}.flow.history", b"", timeout=5)


def schema(kind: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((Path(__file__).parent / "adr32" / f"{kind}_response.json").read_text())
    return value


async def test_stats_tell_which_tasks_are_held_back(service: Service) -> None:
    """ADR-32 leaves `data` to the service: valves that are not wide open, breakers that are tripped."""
    held = {one["name"]: one.get("data") for one in service.stats()["endpoints"]}
    assert held.pop("task-breaker") == {
        "tasks": [
            {"task": "charge", "ratePerSecond": 12.346},
            {
                "task": "ship",
                "breaker": {
                    "cause": "no_responders",
                    "since": "2023-11-14T22:13:20.000000Z",
                    "probes": 2,
                    "probeAt": "2023-11-14T22:13:20.400000Z",
                },
            },
        ]
    }
    assert set(held.values()) == {None}


@pytest.mark.parametrize("kind", ["ping", "info", "stats"])
async def test_discovery_replies_are_as_adr_32_has_them(caller: Caller, service: Service, kind: str) -> None:
    checker = jsonschema.Draft7Validator(schema(kind), format_checker=jsonschema.FormatChecker())
    await caller.ok("flow.snapshot", flowKey=KEY)
    for tail in ("", ".dwarf", f".dwarf.{service.id}"):
        msg = await caller.connection.request(f"$SRV.{kind.upper()}{tail}", b"", timeout=10)
        reply = json.loads(msg.data)
        checker.validate(reply)
        assert reply["id"] == service.id
        assert reply["name"] == "dwarf"


async def test_info_lists_every_operation_with_its_schemas(service: Service, prefix: str) -> None:
    endpoints = {one["name"]: one for one in service.info()["endpoints"]}
    assert set(endpoints) == {one.endpoint for one in OPERATIONS} | {"signal"}
    assert endpoints["signal"]["subject"] == f"{prefix}.signal.>"
    create = endpoints["flow-create_task"]
    assert create["subject"] == f"{prefix}.flow.create_task"
    assert create["metadata"]["request_schema"] == "flow_create_task_request"
    assert create["metadata"]["response_schema"] == "flow_key_reply"
    schemas = Path(__file__).parents[2] / "schemas"
    for one in endpoints.values():
        assert (schemas / f"{one['metadata']['request_schema']}.json").exists()
        assert (schemas / f"{one['metadata']['response_schema']}.json").exists()


async def test_statistics_are_true_and_hold_no_tokens(caller: Caller, service: Service) -> None:
    for _ in range(3):
        await caller.ok("flow.snapshot", flowKey=KEY)
    await caller.refused("flow.delete", {"flowKey": KEY})
    await caller.refused("flow.delete", b"{")
    stats = {one["name"]: one for one in service.stats()["endpoints"]}
    snapshot, delete, cancel = (stats[f"flow-{one}"] for one in ("snapshot", "delete", "cancel"))
    assert (snapshot["num_requests"], snapshot["num_errors"], snapshot["last_error"]) == (3, 0, "")
    assert snapshot["processing_time"] > 0
    assert snapshot["average_processing_time"] == snapshot["processing_time"] // 3
    assert (delete["num_requests"], delete["num_errors"]) == (2, 2)
    assert delete["last_error"].startswith("400:")
    assert cancel["num_requests"] == 0
    await caller.refused("flow.delete", {"flowKey": KEY})
    (delete,) = (one for one in service.stats()["endpoints"] if one["name"] == "flow-delete")
    assert delete["last_error"] == "409:flow 1-42 is running: cancel it first"


async def test_replicas_share_the_work(
    caller: Caller, service: Service, nats_server: NatsServer, opened: Any, prefix: str
) -> None:
    second = Service(await opened(nats_server.url), StubEngine(), Subjects(prefix))
    await second.start()
    for _ in range(40):
        await caller.ok("flow.snapshot", flowKey=KEY)
    counts = [
        next(one["num_requests"] for one in each.stats()["endpoints"] if one["name"] == "flow-snapshot")
        for each in (service, second)
    ]
    assert sum(counts) == 40
    assert all(counts)
    await second.drain()


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.1.0", "0.1.0"), ("1.2", "1.2.0"), ("1.2.3rc1", "1.2.3-rc1"), ("1.2.3.dev4", "1.2.3-dev4"), ("2", "2.0.0")],
)
def test_versions_are_semantic(version: str, expected: str) -> None:
    assert semver(version) == expected


async def test_a_server_that_goes_away_while_the_service_subscribes_is_waited_for(
    own_server: NatsServer, opened: Opener, engine: StubEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Wire section 6: the replica does not end for it; its subscriptions are there when the server is."""
    connection = await opened(own_server.url)
    await own_server.kill()
    service = Service(connection, engine, Subjects("gone"))
    starting = asyncio.create_task(service.start())
    async with asyncio.timeout(30):
        while "waiting for it" not in caplog.text:
            await asyncio.sleep(0)
        await own_server.start()
        await starting
    caller = await opened(own_server.url)
    assert (await caller.request("$SRV.PING.dwarf", timeout=20)).data
    await service.drain(1)


async def test_a_connection_closed_for_good_ends_the_start_of_the_service(
    own_server: NatsServer, opened: Opener, engine: StubEngine
) -> None:
    connection = await opened(own_server.url)
    service = Service(connection, engine, Subjects("closed"))
    flush = connection.flush

    async def closed(timeout: int = 10) -> None:
        await connection.close()
        await flush(timeout)

    connection.flush = closed  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="NATS closed the connection before"):
        await service.start()
