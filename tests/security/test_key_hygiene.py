"""A key is a capability: none stands in a subject, an event, a signal, a log line, a metric or a span (wire sections 4, 5)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dwarf_nats.cli.logs import JsonFormatter
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.sdk import END, Client, Flow, FlowOptions, Graph, Query, TaskError
from dwarf_nats.wire.operations import OPERATIONS
from dwarf_nats.workflow.status import Status
from tests.support.deployment import WAIT, Deployment

KEY = re.compile(rb"[1-9][0-9]*-[1-9][0-9]*-([A-Za-z0-9]{16})(?![A-Za-z0-9])")
WRONG = "1-1-aaaaaaaaaaaaaaaa"


class Tasks:
    """One task per way in which a step can end."""

    def __init__(self) -> None:
        self.started = asyncio.Semaphore(0)
        self.release = asyncio.Event()
        self.mended = False

    def table(self) -> dict[str, Any]:
        return {
            "billing.price": lambda: {"priced": True},
            "billing.boom": self.boom,
            "billing.refuse": self.refuse,
            "billing.once": self.once,
            "billing.ask": lambda flow: {"said": flow.interrupt({"please": "approve"})},
            "billing.child": lambda flow: {"child": flow.subgraph("line", {})},
            "billing.bad_child": lambda flow: {"child": flow.subgraph("broken", {})},
            "billing.wild": lambda flow: flow.goto("nowhere"),
            "billing.long": self.long,
        }

    def boom(self) -> None:
        raise RuntimeError("boom")

    def refuse(self) -> None:
        if not self.mended:
            raise TaskError("no money", code=402)

    def once(self, flow: Flow) -> None:
        if flow.attempt == 0:
            flow.retry(max_attempts=2, initial_delay=0)
            raise TaskError("try again")

    async def long(self) -> dict[str, bool]:
        self.started.release()
        await self.release.wait()
        return {"long": True}


def line(name: str, *tasks: str) -> Graph:
    graph = Graph(name)
    graph.add_chain(*(f"billing.{task}" for task in tasks), END)
    return graph


def fan(name: str, *tasks: str) -> Graph:
    graph = Graph(name)
    graph.add_fan_out("billing.price", *(f"billing.{task}" for task in tasks))
    graph.add_task("join", "billing.price")
    graph.set_fan_in("join")
    for task in tasks:
        graph.add_transition(f"billing.{task}", "join")
    graph.add_transition("join", END)
    return graph


GRAPHS = [
    line("line", "price", "once"),
    line("broken", "boom"),
    line("refused", "price", "refuse"),
    line("asking", "ask", "price"),
    line("parent", "child"),
    line("bad_parent", "bad_child"),
    line("wild", "wild"),
    line("long", "long"),
    fan("wide", "once", "ask"),
    fan("torn", "refuse", "once"),
]


async def ends(client: Client, workflow: str) -> str:
    """Runs a workflow until it stops; its key."""
    return (await client.run(workflow, {}, FlowOptions(notify="shop"), timeout=WAIT)).flow_key


async def first_life(deployment: Deployment, tasks: Tasks) -> str:
    """Flows of every shape; one is left running at a task."""
    client = deployment.operator
    for graph in GRAPHS:
        await client.put_graph(graph)
    keys = {graph.name: await ends(client, graph.name) for graph in GRAPHS if graph.name != "long"}
    for paused in ("asking", "wide"):
        await client.resume(keys[paused], "yes")
        await client.await_(keys[paused], WAIT)
    tasks.mended = True
    await client.restart(keys["torn"])
    failed = [step for step in await client.history(keys["refused"]) if step.status is Status.FAILED]
    await client.restart_from(failed[0].step_key)
    await client.fork((await client.history(keys["line"]))[0].step_key)
    again = await client.continue_(keys["line"])
    await client.break_before(again, "billing.once")
    await client.start(again)
    await client.await_(again, WAIT)
    await client.resume_break(again)
    gone = await client.create("long", start=True)
    await tasks.started.acquire()
    await deployment.until(lambda m: (m.headers or {}).get("Dwarf-Signal") == "accepted")
    await client.cancel(gone, "enough")
    await client.delete(await client.create("line"))
    await ask_amiss(deployment, [*keys.values(), again, gone])
    left = await client.create("long", start=True)
    await tasks.started.acquire()
    return left


async def ask_amiss(deployment: Deployment, keys: list[str]) -> None:
    """Every operation that takes a key with good and bad ones, with and without somebody who wants to know."""
    for operation in sorted(OPERATIONS, key=lambda one: one.name == "flow.delete"):
        fields = [one for one in ("flowKey", "stepKey", "threadKey") if one in _fields(operation.request)]
        if not fields or operation.waits:
            continue
        for key in (*keys, WRONG, keys[0][:-1], f"{keys[0]}x", f"9{keys[0]}"):
            body = json.dumps({fields[0]: key}).encode()
            await deployment.root.publish(f"dwarf.{operation.name}", body)
            await deployment.root.request(f"dwarf.{operation.name}", body, timeout=WAIT)
            await deployment.root.request(f"dwarf.{operation.name}", body[:-1] + b',"nonsense":1}', timeout=WAIT)
    for key in keys:
        with pytest.raises(BadRequest, match="must not stand in a subject"):
            await deployment.operator.create(key)
        with pytest.raises(BadRequest, match="must not stand in a subject"):
            await deployment.operator.create_task(key)
        with pytest.raises(BadRequest, match="must not stand in a subject"):
            await deployment.operator.start(key, notify=f"done.{key}")
        with pytest.raises(DwarfError):
            await deployment.operator.create_task("billing.price", options=FlowOptions(thread=key, idempotency_key=key))
        await deployment.operator.list(Query(search=key))


def _fields(request: Any) -> tuple[str, ...]:
    return tuple(request.__struct_encode_fields__)


@pytest.mark.slow
async def test_no_key_where_somebody_else_may_look(
    secured_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Subjects, events, signals, roll calls, statistics, metrics and spans, and the logs of replica and worker from info on,
    with all their fields. Only debug lines hold keys."""
    caplog.set_level(logging.DEBUG, "dwarf_nats")
    metrics, spans = InMemoryMetricReader(), InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    providers = {
        "meter_provider": MeterProvider([metrics], shutdown_on_exit=False),
        "tracer_provider": tracers,
    }
    dsn = f"sqlite:///{tmp_path / 'dwarf.db'}"
    tasks = Tasks()
    hasty = {"accept_ms": 1, "roll_call_ms": 20}
    heard: list[Msg] = []
    async with Deployment(secured_server.url, dsn, tasks.table(), providers=providers, **hasty) as deployment:
        left = await first_life(deployment, tasks)
        for verb in ("PING", "INFO", "STATS"):
            heard.append(await deployment.root.request(f"$SRV.{verb}.dwarf", timeout=WAIT))
        measured = str(metrics.get_metrics_data().to_json())
        await deployment.stop_replica()
    # It has stopped with a step in hand, which another one finds and gives to another worker.
    heard += deployment.heard
    tasks.release.set()
    async with Deployment(secured_server.url, dsn, tasks.table(), **hasty) as deployment:
        assert (await deployment.operator.await_(left, WAIT)).status is Status.COMPLETED
        await deployment.operator.purge(Query(status=Status.COMPLETED))
    heard += deployment.heard

    tokens = {token for message in heard for token in KEY.findall(message.data)} - {WRONG[4:].encode()}
    assert len(tokens) > 50
    anything = re.compile(b"|".join(sorted(tokens)))
    assert not [message.subject for message in heard if anything.search(message.subject.encode())]
    by_contract = {"dwarf.peer.notify_status_change"}
    public = [m for m in heard if m.subject.startswith(("dwarf.event.", "dwarf.peer."))]
    assert {m.subject.split(".")[1] for m in public} == {"event", "peer"}
    public += [
        m
        for m in heard
        if m.data.startswith((b'{"running":', b'{"type":"io.nats.micro', b'{"steps":["', b'{"steps":[],'))
    ]
    assert {m.data[:8] for m in public} >= {b'{"runnin', b'{"type":', b'{"steps"'}
    for message in public:
        if message.subject not in by_contract:
            told = message.data + json.dumps(message.headers or {}).encode()
            assert not anything.search(told), (message.subject, told)
    assert anything.search(b"".join(m.data for m in heard if m.subject in by_contract))

    told = JsonFormatter()
    records = [record for record in caplog.records if record.levelno >= logging.INFO]
    names = {"dwarf_nats.server", "dwarf_nats.worker", "dwarf_nats.bus"}
    assert names <= {record.name for record in records}
    assert not [line for line in map(told.format, records) if anything.search(line.encode())]
    debug = [told.format(record) for record in caplog.records if record.levelno < logging.INFO]
    assert anything.search("\n".join(debug).encode())

    assert "dwarf_steps_executed_total" in measured
    assert not anything.search(measured.encode())
    traced = [span.to_json() for span in spans.get_finished_spans()]
    assert len(traced) > 30
    assert not [span for span in traced if anything.search(span.encode())]
