"""Requests and messages of graphs are traced and measured like calls of tasks (N3, N4, T1, T2)."""

from __future__ import annotations

import json

from opentelemetry.trace import StatusCode

from dwarf_nats.library import open_engine
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.services import ServiceReply
from tests.support.services import LocalServices
from tests.support.telemetry import WAIT, Spans, id_of, parent_of


def order(subject: str) -> Graph:
    """A request and a message."""
    nodes = [
        {"name": "quote", "request": {"subject": subject}},
        {"name": "tell", "publish": {"subject": "told"}},
    ]
    edges = [{"from": "quote", "to": "tell"}, {"from": "tell", "to": "END"}]
    graph = {"name": "order", "entryPoint": "quote", "tasks": nodes, "transitions": edges}
    return Graph.from_json(json.dumps(graph).encode())


async def test_each_request_and_message_has_a_span_which_it_carries_on() -> None:
    """T2: a child of the flow's root, with the subject as written; an error is its status."""
    spans = Spans()
    services = LocalServices(quote=lambda _: 7, broken=lambda _: ServiceReply(error=ErrorInfo("sold out", 409)))
    async with open_engine("sqlite://", tasks=TaskProxy(), services=services, tracer_provider=spans.provider) as engine:
        await engine.run(order("='quo' + 'te'"), timeout=WAIT)
        await engine.run(order("broken"), timeout=WAIT)
        executed = dict(engine.replica.counters.executed)
    root = spans.ended("workflow")[0]
    quote, told, broken = spans.ended("task")
    assert [parent_of(span) for span in (quote, told)] == [id_of(root)] * 2
    assert [(span.attributes or {})["dwarf.url"] for span in (quote, told, broken)] == [
        "='quo' + 'te'",
        "told",
        "broken",
    ]
    assert (broken.status.status_code, broken.status.description) == (StatusCode.ERROR, "sold out")
    sent = [services.requests[0], services.published[0][0]]
    for call, span in zip(sent, (quote, told), strict=True):
        assert span.context is not None
        assert call.traceparent.split("-")[1:3] == [f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"]
    assert executed == {("='quo' + 'te'", "completed"): 1, ("told", "completed"): 1, ("broken", "failed"): 1}


async def test_without_telemetry_nothing_is_carried() -> None:
    services = LocalServices(quote=lambda _: 7)
    async with open_engine("sqlite://", tasks=TaskProxy(), services=services) as engine:
        await engine.run(order("quote"), timeout=WAIT)
    assert {call.traceparent for call in services.requests} == {""}
