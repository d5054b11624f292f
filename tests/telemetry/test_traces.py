"""Spans: a root for every flow, a child of it for every dispatch, whoever dispatches (T2)."""

from __future__ import annotations

import re

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import crash
from tests.support.telemetry import (
    WAIT,
    Held,
    Spans,
    Watched,
    id_of,
    line,
    links_of,
    parent_of,
    shown,
    trace_of,
    until,
    watched,
)

KEY = re.compile(r"\d+-\d+-[A-Za-z0-9]{16}")


def outcomes(spans: list[ReadableSpan]) -> list[object]:
    return [(span.attributes or {}).get("dwarf.outcome") for span in spans]


async def test_a_flow_has_a_root_and_a_child_for_every_dispatch(on: Watched) -> None:
    flow = await on.run("line")
    root = on.spans.one("workflow", flow_id=flow)
    assert (root.parent, links_of(root)) == (None, [])
    assert dict(root.attributes or {}) == {"dwarf.flow_id": flow, "dwarf.workflow": "line"}
    dispatches = on.spans.ended("task")
    assert [parent_of(span) for span in dispatches] == [id_of(root)] * 2
    assert {trace_of(span) for span in dispatches} == {trace_of(root)}
    steps = await on.engine.history((await on.engine.list())[0][0].flow_key)
    for span, step, node in zip(dispatches, steps, ("add", "add2"), strict=True):
        assert dict(span.attributes or {}) == {
            "dwarf.flow_id": flow, "dwarf.step_id": shown(step.step_key), "dwarf.workflow": "line", "dwarf.task": node,
            "dwarf.url": node, "dwarf.attempt": 0, "dwarf.outcome": "completed",
        }  # fmt: skip
        assert span.status.status_code is StatusCode.UNSET
    assert on.spans.ended() == [root, *dispatches]


async def test_a_root_is_detached_from_its_caller_and_linked_to_it(on: Watched) -> None:
    tracer = on.spans.provider.get_tracer("caller")
    with tracer.start_as_current_span("calling") as caller:
        flow = await on.run("line")
    root = on.spans.one("workflow", flow_id=flow)
    assert root.parent is None
    assert trace_of(root) != caller.get_span_context().trace_id
    assert links_of(root) == [caller.get_span_context().span_id]
    assert {trace_of(span) for span in on.spans.ended("task")} == {trace_of(root)}


async def test_errors_are_the_status_of_their_dispatch(on: Watched) -> None:
    await on.run("bad")
    span = on.spans.one("task")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no money")
    assert outcomes([span]) == ["failed"]


async def test_an_error_that_the_engine_finds_is_one_too(on: Watched) -> None:
    on.proxy.handle_task("bad", lambda flow: flow.goto("nowhere"))
    await on.run("bad")
    span = on.spans.one("task")
    assert span.status.status_code is StatusCode.ERROR
    assert "nowhere" in str(span.status.description)


async def test_a_retry_is_a_dispatch_of_its_own(on: Watched) -> None:
    flow = await on.run("shaky")
    root = on.spans.one("workflow", flow_id=flow)
    first, second = on.spans.ended("task")
    assert outcomes([first, second]) == ["retried", "completed"]
    assert [(span.attributes or {})["dwarf.attempt"] for span in (first, second)] == [0, 1]
    assert [span.status.status_code for span in (first, second)] == [StatusCode.ERROR, StatusCode.UNSET]
    assert [parent_of(span) for span in (first, second)] == [id_of(root)] * 2


async def test_a_resumed_step_goes_on_in_its_flow_s_trace(on: Watched) -> None:
    key = (await on.engine.run("asking", {}, timeout=WAIT)).flow_key
    await on.engine.resume(key, "yes")
    await on.engine.await_(key, WAIT)
    root = on.spans.one("workflow", flow_id=shown(key))
    spans = on.spans.ended("task")
    assert outcomes(spans) == ["interrupted", "completed"]
    assert [parent_of(span) for span in spans] == [id_of(root)] * 2


async def test_a_subgraph_hangs_below_the_step_that_called_it(on: Watched) -> None:
    flow = await on.run("calling")
    root = on.spans.one("workflow", flow_id=flow)
    before, after = on.spans.ended("task", task="calling")
    assert outcomes([before, after]) == ["waiting", "completed"]
    child = on.spans.one("workflow", workflow="line")
    assert parent_of(child) == id_of(before)
    assert parent_of(before) == parent_of(after) == id_of(root)
    below = on.spans.ended("task", workflow="line")
    assert [parent_of(span) for span in below] == [id_of(child)] * 2
    assert {trace_of(span) for span in on.spans.ended()} == {trace_of(root)}


async def test_every_branch_of_a_fan_out_is_a_child_of_the_root(on: Watched) -> None:
    flow = await on.run("wide")
    root = on.spans.one("workflow", flow_id=flow)
    assert [parent_of(span) for span in on.spans.ended("task")] == [id_of(root)] * 4


async def test_a_flow_that_runs_again_keeps_its_trace_and_a_copy_has_its_own(on: Watched) -> None:
    key = (await on.engine.run("line", {}, timeout=WAIT)).flow_key
    root = on.spans.one("workflow")
    await on.engine.restart(key)
    await on.engine.await_(key, WAIT)
    assert [parent_of(span) for span in on.spans.ended("task")] == [id_of(root)] * 4
    copy = await on.engine.fork((await on.engine.history(key))[1].step_key)
    await on.engine.await_(copy, WAIT)
    forked = on.spans.one("workflow", flow_id=shown(copy))
    assert (forked.parent, links_of(forked)) == (None, [id_of(root)])
    assert parent_of(on.spans.ended("task")[-1]) == id_of(forked)
    following = await on.engine.continue_(key, start=True)
    await on.engine.await_(following, WAIT)
    continued = on.spans.one("workflow", flow_id=shown(following))
    assert (continued.parent, links_of(continued)) == (None, [id_of(root)])
    assert parent_of(on.spans.ended("task")[-1]) == id_of(continued)


async def test_a_copy_made_inside_a_subgraph_has_a_span_for_every_flow_that_runs(on: Watched) -> None:
    key = (await on.engine.run("calling", {}, timeout=WAIT)).flow_key
    inner = (await on.engine.history(key))[0].sub_history[1]
    copy = await on.engine.fork(inner.step_key)
    await on.engine.await_(copy, WAIT)
    forked = on.spans.one("workflow", flow_id=shown(copy))
    below = [span for span in on.spans.ended("workflow") if parent_of(span) == id_of(forked)]
    assert [(span.attributes or {})["dwarf.workflow"] for span in below] == ["line"]
    assert parent_of(on.spans.ended("task", task="add2")[-1]) == id_of(below[0])


async def test_a_flow_that_was_made_before_has_no_second_root(on: Watched) -> None:
    from dwarf_nats.workflow.options import FlowOptions

    once = FlowOptions(idempotency_key="once")
    assert await on.engine.create("line", options=once) == await on.engine.create("line", options=once)
    assert len(on.spans.ended("workflow")) == 1


async def test_what_came_of_a_step_that_nobody_wanted_any_more(on: Watched) -> None:
    held = Held()
    on.proxy.handle_task("bad", held)
    key = await on.engine.create("bad", start=True)
    await held.entered()
    await on.engine.cancel(key)
    await until(lambda: bool(on.spans.ended("task")), on.engine)
    assert outcomes(on.spans.ended("task")) == ["cancelled"]
    await on.engine.create("bad", start=True)
    await held.entered()
    await on.engine.shards[1].store.database.fetch("update dwarf_steps set lease_seq = 9 where status = 'running'")  # type: ignore[attr-defined]
    held.release.set()
    await until(lambda: len(on.spans.ended("task")) == 2, on.engine)
    assert outcomes(on.spans.ended("task")) == ["cancelled", "fenced"]


async def test_another_replica_goes_on_in_the_same_trace(dsn: str, proxy: TaskProxy) -> None:
    """The context is in the database: it outlives whoever made it."""
    held = Held()
    proxy.handle_task("add2", held)
    async with watched(dsn, proxy) as first:
        key = await first.engine.create("line", start=True)
        await held.entered()
        await crash(first.engine)
    root = first.spans.one("workflow")
    assert [parent_of(span) for span in first.spans.ended("task", task="add")] == [id_of(root)]
    proxy.handle_task("add2", lambda: {"n": 2})
    async with watched(dsn, proxy) as second:
        shard = second.engine.shards[1]
        await shard.store.database.fetch(
            "update dwarf_replicas set seen_at = 1 where name <> $1", second.engine.replica.name
        )  # type: ignore[attr-defined]
        await second.engine._lifecycle.maintenance[1].lease_reaper.sweep()
        await second.engine.await_(key, WAIT)
        span = second.spans.one("task")
        assert (trace_of(span), parent_of(span)) == (trace_of(root), id_of(root))


async def test_a_task_in_this_process_runs_within_its_span(on: Watched) -> None:
    seen: list[tuple[int, str]] = []

    async def look(flow: Flow) -> None:
        seen.append((trace.get_current_span().get_span_context().span_id, flow.traceparent))

    on.proxy.handle_task("bad", look)
    await on.run("bad")
    span = on.spans.one("task")
    assert seen == [
        (id_of(span), f"00-{trace_of(span):032x}-{id_of(span):016x}-{span.get_span_context().trace_flags:02x}")
    ]


async def test_no_key_stands_in_a_span(on: Watched) -> None:
    """Not even one that a task put into its error."""

    async def talk(flow: Flow) -> None:
        raise TaskError(f"no money for {flow.step_key} of {flow.flow_key}", code=402)

    on.proxy.handle_task("bad", talk)
    for workflow in ("bad", "line", "calling", "shaky", "wide", "asking"):
        await on.run(workflow)
    told = "\n".join(span.to_json() for span in on.spans.ended())
    assert "no money for 1-" in told
    assert not KEY.search(told)


async def test_what_the_sampler_passes_over_is_passed_over_as_a_whole(proxy: TaskProxy) -> None:
    spans = Spans()
    spans.provider.sampler = ALWAYS_OFF
    seen: list[str] = []
    proxy.handle_graph(line("looking", "look"))
    proxy.handle_task("look", lambda flow: seen.append(flow.traceparent))
    async with open_engine(
        "sqlite://", tasks=proxy, graphs=proxy, tracer_provider=spans.provider, settings=EngineSettings(drain_ms=0)
    ) as engine:
        await engine.run("looking", {}, timeout=WAIT)
        assert spans.ended() == []
        assert [int(one[-2:], 16) & 1 for one in seen] == [0]


@pytest.mark.parametrize("provider", [None, "not listening"])
async def test_without_a_provider_a_task_gets_no_context(proxy: TaskProxy, provider: str | None) -> None:
    seen: list[str] = []
    proxy.handle_graph(line("looking", "look"))
    proxy.handle_task("look", lambda flow: seen.append(flow.traceparent))
    given = None if provider is None else trace.NoOpTracerProvider()
    async with open_engine("sqlite://", tasks=proxy, graphs=proxy, tracer_provider=given) as engine:
        await engine.run("looking", {}, timeout=WAIT)
    assert seen == [""]
    assert isinstance(Spans().provider, TracerProvider)
