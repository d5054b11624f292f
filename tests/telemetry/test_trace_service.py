"""One trace from a flow through NATS into the code of a task service, and from a caller to its flow (T2, wire section 2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.trace import get_current_span

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client, Flow, Graph, TaskError, Worker
from dwarf_nats.server import replica
from tests.support.caller import Caller, connected, settings, take
from tests.support.telemetry import WAIT, Held, Spans, id_of, links_of, parent_of, trace_of


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"trace{abs(hash(request.node.nodeid))}"


class Service:
    """Tasks whose code makes spans of its own."""

    def __init__(self, spans: Spans) -> None:
        self._tracer = spans.provider.get_tracer("billing")
        self.contexts: list[str] = []

    def table(self) -> dict[str, Any]:
        return {"work": self.work, "slow": self.slow, "shaky": self.shaky, "ask": self.ask, "call": self.call}

    async def work(self, flow: Flow) -> None:
        self.contexts.append(flow.traceparent)
        with self._tracer.start_as_current_span("code"):
            pass

    def slow(self) -> None:
        """In a thread."""
        with self._tracer.start_as_current_span("code in a thread"):
            pass

    def shaky(self, flow: Flow) -> None:
        with self._tracer.start_as_current_span("try"):
            if flow.attempt == 0:
                flow.retry(max_attempts=2, initial_delay=0)
                raise TaskError("again")

    def ask(self, flow: Flow) -> dict[str, Any]:
        with self._tracer.start_as_current_span("question"):
            return {"said": flow.interrupt("please")}

    def call(self, flow: Flow) -> dict[str, Any]:
        return {"child": flow.subgraph("line", {})}


@asynccontextmanager
async def deployed(nats_url: str, dsn: str, prefix: str, spans: Spans) -> AsyncIterator[tuple[Client, Service]]:
    service = Service(spans)
    worker = Worker(nats_url, task_prefix=f"{prefix}task")
    for url, function in service.table().items():
        worker.add_task(url, function)
    running = replica(settings(nats_url, dsn, prefix), tracer_provider=spans.provider)
    async with worker, running, Client(nats_url, prefix=prefix) as client:
        flows = {"line": ("work", "slow"), "shaky": ("shaky",), "ask": ("ask",), "call": ("call",)}
        for name, nodes in flows.items():
            graph = Graph(name)
            graph.add_chain(*nodes, "END")
            await client.put_graph(graph)
        yield client, service


async def test_spans_in_a_task_service_are_children_of_the_dispatch(
    nats_server: NatsServer, dsn: str, prefix: str, spans: Spans
) -> None:
    async with deployed(nats_server.url, dsn, prefix, spans) as (client, service):
        await client.run("line", {}, timeout=WAIT)
    root = spans.one("workflow")
    work, slow = spans.ended("task")
    assert parent_of(spans.one("code")) == id_of(work)
    assert parent_of(spans.one("code in a thread")) == id_of(slow)
    assert {trace_of(span) for span in spans.ended()} == {trace_of(root)}
    assert [one[3:52] for one in service.contexts] == [f"{trace_of(work):032x}-{id_of(work):016x}"]
    assert not get_current_span().get_span_context().is_valid


async def test_the_trace_goes_on_over_a_retry_a_resume_and_a_subgraph(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str, spans: Spans
) -> None:
    async with deployed(nats_server.url, sqlite_dsn, prefix, spans) as (client, _):
        await client.run("shaky", {}, timeout=WAIT)
        asked = (await client.run("ask", {}, timeout=WAIT)).flow_key
        await client.resume(asked, "yes")
        await client.await_(asked, WAIT)
        await client.run("call", {}, timeout=WAIT)
    for name, workflow, nodes in (("try", "shaky", 2), ("question", "ask", 2)):
        root = spans.one("workflow", workflow=workflow)
        dispatches = spans.ended("task", workflow=workflow)
        assert [parent_of(span) for span in dispatches] == [id_of(root)] * nodes
        assert [parent_of(span) for span in spans.ended(name)] == [id_of(span) for span in dispatches]
    caller = spans.ended("task", workflow="call")[0]
    child = spans.one("workflow", workflow="line")
    assert parent_of(child) == id_of(caller)
    work = spans.one("task", task="work")
    assert (parent_of(work), parent_of(spans.one("code"))) == (id_of(child), id_of(work))
    assert trace_of(spans.one("code")) == trace_of(spans.one("workflow", workflow="call"))


async def test_a_client_within_a_span_is_linked_to(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str, spans: Spans
) -> None:
    async with deployed(nats_server.url, sqlite_dsn, prefix, spans) as (client, _):
        with spans.provider.get_tracer("shop").start_as_current_span("order") as order:
            await client.run("line", {}, timeout=WAIT)
        await client.run("line", {}, timeout=WAIT)
    linked, unlinked = spans.ended("workflow")
    assert links_of(linked) == [order.get_span_context().span_id]
    assert links_of(unlinked) == []
    assert linked.parent is None
    assert order.get_span_context().trace_id not in {trace_of(span) for span in spans.ended("task")}


async def test_any_language_sends_and_gets_the_two_headers(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str, spans: Spans
) -> None:
    """By the wire alone; what is malformed is as if it were not there."""
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    running = replica(settings(nats_server.url, sqlite_dsn, prefix), tracer_provider=spans.provider)
    async with running, connected(nats_server.url) as nc:
        caller = Caller(nc, prefix)
        requests = await caller.holds("work")
        for context in (given, "nonsense", ""):
            headers = {"traceparent": context, "tracestate": "shop=1"} if context else None
            await caller.ok("flow.create_task", headers, task="work", start=True)
            request = await take(requests)
            assert request.headers is not None
            dispatched = request.headers["traceparent"]
            root = spans.ended("workflow")[-1]
            assert dispatched[3:35] == f"{trace_of(root):032x}" != given[3:35]
            assert "tracestate" not in request.headers
            assert links_of(root) == ([0xB7AD6B7169203331] if context == given else [])
            assert [link.context.trace_state.to_header() for link in root.links] == ["shop=1"] * (context == given)
            await caller.answer(request)


async def test_without_telemetry_the_headers_are_not_there(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    async with replica(settings(nats_server.url, sqlite_dsn, prefix)), connected(nats_server.url) as nc:
        caller = Caller(nc, prefix)
        requests = await caller.holds("work")
        await caller.ok(
            "flow.create_task", {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}, task="work", start=True
        )
        request = await take(requests)
        assert request.headers is not None
        assert "traceparent" not in request.headers
        await caller.answer(request)


@pytest.mark.slow
async def test_two_replicas_make_one_trace(nats_server: NatsServer, pg_dsn: str, prefix: str) -> None:
    """One makes the flow and begins it, the other ends it; each with an exporter of its own."""
    held = Held()
    one, two = Spans(), Spans()
    worker = Worker(nats_server.url, task_prefix=f"{prefix}task")
    worker.add_task("hold", held)
    worker.add_task("work", lambda: None)
    graph = Graph("relay")
    graph.add_chain("hold", "work", "END")
    async with worker, Client(nats_server.url, prefix=prefix) as client:
        first = replica(settings(nats_server.url, pg_dsn, prefix), tracer_provider=one.provider)
        async with first:
            await client.put_graph(graph)
            key = await client.create("relay", start=True)
            await held.entered()
        # It has drained: the step is pending again.
        async with replica(settings(nats_server.url, pg_dsn, prefix), tracer_provider=two.provider):
            await held.entered()
            held.release.set()
            await client.await_(key, WAIT)
    root = one.one("workflow")
    assert [(span.attributes or {})["dwarf.outcome"] for span in one.ended("task")] == ["given_back"]
    assert [(span.attributes or {})["dwarf.task"] for span in two.ended("task")] == ["hold", "work"]
    for span in (*one.ended("task"), *two.ended("task")):
        assert (trace_of(span), parent_of(span)) == (trace_of(root), id_of(root))
