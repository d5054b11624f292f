"""Sub-workflows in sub-workflows, far deeper than Python's stack (P4): every operation works, on both databases."""

from __future__ import annotations

import sys

import pytest

from dwarf_nats.engine.projections import nested_history
from dwarf_nats.render.history import history_mermaid
from dwarf_nats.wire.steps import step_message, step_record
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from tests.support.flows import Bench, bench, line

pytestmark = pytest.mark.slow

DEPTH = 1_500


async def deep_flow(it: Bench, depth: int) -> str:
    """A flow that calls itself so deep and is paused at the bottom; its key."""

    def call(flow: Flow) -> None:
        left = flow.state["left"]
        if left:
            flow.subgraph("deep", {"left": left - 1})
        flow.set("end", None if left else flow.interrupt("?"))

    it.tasks(call=call)
    key = await it.engine.create("deep", {"left": depth}, FlowOptions(), start=True)
    assert (await it.engine.await_(key)).status is Status.INTERRUPTED
    return key


async def bottom(it: Bench, key: str) -> Step:
    (step,) = await it.engine.history(key)
    while step.sub_history:
        (step,) = step.sub_history
    return step


async def test_p4_every_operation_on_a_flow_that_is_deeper_than_the_stack(dsn: str) -> None:
    assert sys.getrecursionlimit() < DEPTH
    async with bench(dsn, line("deep", "call")) as it:
        engine = it.engine
        key = await deep_flow(it, DEPTH)
        (top,) = await engine.history(key)
        last = await bottom(it, key)
        assert (last.status, top.sub_workflow) == (Status.INTERRUPTED, "deep")
        paused = await engine.snapshot(key)
        assert (paused.state, paused.interrupt_payload) == ({"left": 0}, "?")
        assert f"{DEPTH + 1 - 6:,} steps" in await engine.mermaid(key)
        (steps, cursor) = await engine.history_page(key)
        assert (len(steps), cursor, steps[0].sub_flow_key) == (1, "", top.sub_flow_key)
        before, _ = await engine.fingerprint(key)
        ((summary,), _) = await engine.list(Query(status=Status.INTERRUPTED))
        assert (summary.flow_key, summary.task) == (key, "call")
        await engine.break_before(key, "elsewhere")

        await engine.resume(key, "down here")
        done = await engine.await_(key)
        assert done.status is Status.COMPLETED
        assert done.state == {"left": DEPTH}
        assert await engine.fingerprint(key) != (before, Status.INTERRUPTED)
        assert (await engine.step(last.step_key)).prev_key is None
        assert (await engine.step(top.step_key)).next_key == last.step_key

        copy = await engine.fork(last.step_key)
        assert (await engine.await_(copy)).status is Status.INTERRUPTED
        await engine.cancel(copy, "enough")
        assert (await engine.snapshot(copy)).cancel_reason == "enough"
        assert (await bottom(it, copy)).status is Status.CANCELLED

        await engine.restart_from(last.step_key)
        assert (await engine.await_(key)).status is Status.INTERRUPTED
        await engine.restart(key, {"left": 1})
        assert (await engine.await_(key)).status is Status.INTERRUPTED
        assert await engine.purge(Query(status=Status.CANCELLED)) == 1
        await engine.delete(key)
        assert await engine.shards[1].store.flows.size() == (0, 0)


async def test_p4_the_history_of_a_flow_that_is_deeper_than_the_stack_travels_and_is_drawn(sqlite_dsn: str) -> None:
    """O7, O8: records, messages and diagrams are made level by level, and so are the records of a client."""
    async with bench(sqlite_dsn, line("deep", "call")) as it:
        key = await deep_flow(it, 3)
        store = it.engine.shards[1].store
        root = await store.flows.by_id(int(key.split("-")[1]))
        assert root is not None
        flows = await store.flows.called(root)
        steps = await store.flows.steps([flow.flow_id for flow in flows])
    for number in range(4, DEPTH):
        flow, step = type(flows[-1]), type(steps[-1])
        values = {name: getattr(flows[-1], name) for name in flow.__slots__}
        values |= {"flow_id": 10_000 + number, "surgraph_step_id": steps[-1].step_id}
        flows.append(flow(**values))
        values = {name: getattr(steps[-1], name) for name in step.__slots__}
        values |= {"step_id": 10_000 + number, "flow_id": 10_000 + number}
        steps.append(step(**values))
    (top,) = nested_history(1, root.flow_id, flows=flows, steps=steps, graphs={})
    (again,) = [step_record(step_message(top))]
    depth = 0
    while again.sub_history:
        (again,) = again.sub_history
        depth += 1
    assert depth == DEPTH - 1
    assert "flowchart" in history_mermaid([top], "deep")
