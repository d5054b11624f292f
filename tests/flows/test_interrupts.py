"""Interrupts, breakpoints and what continues them (P2, P3, O5, O11, O12, X3, X4, B4), on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, Conflict, NotFound
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.flows import Bench, ask, bench, call, each, line


async def test_p2_an_interrupt_pauses_the_flow_and_resume_hands_over_the_data(dsn: str) -> None:
    """P2, O5, O11: the payload is shown with the paused step's merged state; the data goes to the task, not into the state."""
    async with bench(dsn) as it:
        it.idle("a", "c")

        def b(flow: Flow) -> None:
            flow.set("seen", flow.get("seen", 0) + 1)
            flow.set("got", flow.interrupt({"question": "ok?"}))

        it.tasks(b=b)
        outcome = await it.run(line("x", "a", "b", "c"), {"n": 1})
        assert outcome.status is Status.INTERRUPTED
        assert outcome.interrupt_payload == {"question": "ok?"}
        assert outcome.state == {"n": 1, "seen": 1}
        assert outcome == await it.engine.snapshot(outcome.flow_key)
        steps = await it.steps(outcome.flow_key)
        assert steps["b"].status is Status.INTERRUPTED
        assert (await it.engine.step(steps["b"].step_key)).interrupt_json == b'{"question":"ok?"}'
        await it.engine.resume(outcome.flow_key, {"yes": True})
        after = await it.stopped(outcome.flow_key)
        assert after.status is Status.COMPLETED
        assert after.state == {"n": 1, "seen": 2, "got": {"yes": True}}
        assert after.interrupt_payload is None
        assert it.proxy.calls == {"a": 1, "b": 2, "c": 1}
        assert (await it.steps(outcome.flow_key))["b"].attempt == 0


@pytest.mark.parametrize("data", [None, 0, "", [], {"a": None}, 2**63 - 1])
async def test_o11_any_json_resumes_null_included(data: Any) -> None:
    async with bench("sqlite://") as it:
        it.tasks(a=lambda flow: {"got": [flow.interrupt(None)]})
        outcome = await it.run(line("x", "a"))
        assert (outcome.interrupt_json, outcome.status) == (b"null", Status.INTERRUPTED)
        await it.engine.resume(outcome.flow_key, data)
        assert (await it.stopped(outcome.flow_key)).state == {"got": [data]}


async def test_b4_each_pause_and_the_end_are_announced(dsn: str) -> None:
    """B4: announcements and events are made when the status becomes what it is."""
    async with bench(dsn) as it:
        it.tasks(a=ask(1), b=ask(2))
        outcome = await it.run(line("x", "a", "b"), options=FlowOptions(notify="me"))
        for number in (1, 2):
            assert outcome.interrupt_payload == number
            await it.engine.resume(outcome.flow_key, number)
            outcome = await it.stopped(outcome.flow_key)
        await it.heard.until(lambda: len(it.heard.announced) == 3)
        assert [(to, one.status, one.interrupt_payload) for to, one in it.heard.announced] == [
            ("me", Status.INTERRUPTED, 1),
            ("me", Status.INTERRUPTED, 2),
            ("me", Status.COMPLETED, None),
        ]
        told = list(it.heard.changes)
        assert [one.status.value for one in told] == [
            "created", "running", "interrupted", "running", "interrupted", "running", "completed",
        ]  # fmt: skip
        assert [one.sequence for one in told] == sorted({one.sequence for one in told})


async def test_p3_branches_pause_while_others_go_on_and_each_resume_continues_the_oldest(dsn: str) -> None:
    """P3, O11: the flow is running again only when none is left; a second pause is no second event."""
    async with bench(dsn) as it:
        it.idle("split", "join")
        order: list[int] = []

        async def work(flow: Flow) -> dict[str, Any]:
            if (item := flow.get("item")) < 3:
                while len(order) < item:
                    await asyncio.sleep(0)
                if len(order) == item:
                    order.append(item)
                return {"done": [flow.interrupt({"item": item})]}
            return {"done": ["free"]}

        it.tasks(work=work)
        key = await it.engine.create(each(), {"items": [0, 1, 2, 3]}, start=True)
        await it.until_steps(
            key,
            lambda steps: (
                sorted(step.status.value for step in steps)
                == ["completed", "completed", "interrupted", "interrupted", "interrupted"]
            ),
        )
        for item in (0, 1, 2):
            outcome = await it.engine.snapshot(key)
            assert outcome.status is Status.INTERRUPTED
            assert outcome.interrupt_payload == {"item": item}
            assert outcome.state["item"] == item
            await it.engine.resume(key, f"r{item}")
        outcome = await it.stopped(key)
        assert outcome.status is Status.COMPLETED
        assert outcome.state["done"] == ["r0", "r1", "r2", "free"]
        flow = key.rsplit("-", 1)[0]
        await it.heard.until(lambda: it.heard.of(flow)[-1] is Status.COMPLETED)
        assert [one.value for one in it.heard.of(flow)] == ["created", "running", "interrupted", "running", "completed"]


async def test_x8_a_failure_beside_a_pause_waits_for_the_cohort(dsn: str) -> None:
    """X8, P3: the flow fails when the paused sibling has been resumed and has ended."""
    async with bench(dsn) as it:
        it.idle("split", "join")

        def work(flow: Flow) -> dict[str, Any]:
            if flow.get("item") == 0:
                raise TaskError("broken")
            return {"done": [flow.interrupt("go?")]}

        it.tasks(work=work)
        key = await it.engine.create(each(), {"items": [0, 1]}, start=True)
        await it.until_steps(
            key, lambda steps: {one.status.value for one in steps} == {"completed", "failed", "interrupted"}
        )
        assert (await it.engine.snapshot(key)).status is Status.INTERRUPTED
        await it.engine.resume(key, "on")
        outcome = await it.stopped(key)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "broken"
        assert outcome.state["done"] == ["on"]


async def test_x4_a_second_interrupt_in_the_same_step_is_an_error(dsn: str) -> None:
    async with bench(dsn) as it:

        def a(flow: Flow) -> None:
            flow.interrupt(1)
            flow.interrupt(2)

        it.tasks(a=a)
        outcome = await it.run(line("x", "a"))
        await it.engine.resume(outcome.flow_key)
        outcome = await it.stopped(outcome.flow_key)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert "a step waits once" in outcome.error.message


async def test_x5_a_retry_forgets_the_resume_so_the_interrupt_happens_again(dsn: str) -> None:
    """X5: changes made so far are kept."""
    async with bench(dsn) as it:

        def a(flow: Flow) -> None:
            flow.set("asked", [*flow.get("asked", []), flow.attempt])
            answer = flow.interrupt(f"try {flow.attempt}")
            if answer == "again":
                flow.retry(max_attempts=3, initial_delay=0)
            else:
                flow.set("answer", answer)

        it.tasks(a=a)
        outcome = await it.run(line("x", "a"))
        assert outcome.interrupt_payload == "try 0"
        await it.engine.resume(outcome.flow_key, "again")
        outcome = await it.stopped(outcome.flow_key)
        assert outcome.interrupt_payload == "try 1"
        await it.engine.resume(outcome.flow_key, "fine")
        outcome = await it.stopped(outcome.flow_key)
        assert outcome.state == {"asked": [0, 0, 1, 1], "answer": "fine"}


async def test_o11_refusals_say_what_the_flow_waits_for(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("b")
        it.tasks(a=ask())
        key = await it.engine.create(line("x", "a", "b"))
        with pytest.raises(Conflict, match="the flow is created"):
            await it.engine.resume(key)
        await it.engine.break_before(key, "b")
        await it.engine.start(key)
        await it.until(key, Status.INTERRUPTED)
        with pytest.raises(Conflict, match="paused by an interrupt.*resume and data"):
            await it.engine.resume_break(key)
        with pytest.raises(BadRequest):
            await it.engine.resume(key, float("nan"))
        with pytest.raises(BadRequest):
            await it.engine.resume("nonsense")
        with pytest.raises(NotFound):
            await it.engine.resume(key[:-1] + ("a" if key[-1] != "a" else "b"))
        await it.engine.resume(key, 1)
        await it.until_steps(key, lambda steps: len(steps) == 2 and steps[1].status is Status.INTERRUPTED)
        with pytest.raises(Conflict, match="paused by a breakpoint.*resume_break"):
            await it.engine.resume(key)
        await it.engine.resume_break(key)
        await it.stopped(key)
        with pytest.raises(Conflict, match="the flow is completed"):
            await it.engine.resume(key)
        with pytest.raises(Conflict, match="a breakpoint needs one"):
            await it.engine.break_before(key, "a")


async def test_o12_a_breakpoint_pauses_once_before_the_task_runs_and_overrides_replace_fields(dsn: str) -> None:
    """O12, O5: no payload, the state the task would see; overrides replace fields and a null removes one."""
    async with bench(dsn) as it:
        it.tasks(a=lambda: {"x": 1, "y": 2, "z": 3}, b=lambda flow: {"seen": dict(flow.state)})
        key = await it.engine.create(line("x", "a", "b"), {"n": 0})
        await it.engine.break_before(key, "b")
        await it.engine.start(key, "me")
        outcome = await it.until(key, Status.INTERRUPTED)
        assert (outcome.interrupt_json, outcome.state) == (None, {"n": 0, "x": 1, "y": 2, "z": 3})
        assert it.proxy.calls == {"a": 1}
        await it.engine.resume_break(key, {"x": 10, "y": None})
        outcome = await it.ended(key)
        assert outcome.state["seen"] == {"n": 0, "x": 10, "z": 3}
        assert "y" not in outcome.state
        assert it.proxy.calls == {"a": 1, "b": 1}
        await it.heard.until(lambda: len(it.heard.announced) == 2)


async def test_o12_by_url_cleared_set_while_running_and_for_a_retried_step(dsn: str) -> None:
    """O12: by url if one node has it; cleared again; set while the flow runs; once per step, retries included."""
    graph = Graph("x")
    graph.add_task("one", "a")
    graph.add_task("two", "b")
    graph.add_chain("one", "two", END)
    async with bench(dsn) as it:
        gate = asyncio.Event()

        async def a() -> None:
            await gate.wait()

        def b(flow: Flow) -> None:
            if flow.attempt < 2:
                flow.retry(max_attempts=5, initial_delay=0)

        it.tasks(a=a, b=b)
        key = await it.engine.create(graph, start=True)
        await it.until_steps(key, lambda _: it.proxy.calls.get("a") == 1)  # else it stops before its first node, too
        await it.engine.break_before(key, "b")
        await it.engine.break_before(key, "unknown")
        await it.engine.break_before(key, "one")
        await it.engine.break_before(key, "unknown", enabled=False)
        gate.set()
        outcome = await it.until(key, Status.INTERRUPTED)
        assert outcome.interrupt_json is None
        await it.engine.resume_break(key)
        assert (await it.ended(key)).status is Status.COMPLETED
        assert it.proxy.calls == {"a": 1, "b": 3}
        key = await it.engine.create(graph)
        await it.engine.break_before(key, "b")
        await it.engine.break_before(key, "b", enabled=False)
        await it.engine.start(key)
        assert (await it.stopped(key)).status is Status.COMPLETED


async def test_o12_a_breakpoint_before_an_interrupting_step_pauses_it_twice(dsn: str) -> None:
    """O11: each pause has its own way on; O5: the outcome shows the oldest."""
    async with bench(dsn) as it:
        it.tasks(a=ask("now"))
        key = await it.engine.create(line("x", "a"))
        await it.engine.break_before(key, "a")
        await it.engine.start(key)
        assert (await it.until(key, Status.INTERRUPTED)).interrupt_json is None
        await it.engine.resume_break(key, {"more": 1})
        await it.until_steps(key, lambda steps: it.proxy.calls.get("a") == 1 and steps[0].status is Status.INTERRUPTED)
        outcome = await it.engine.snapshot(key)
        assert (outcome.interrupt_payload, outcome.state) == ("now", {"more": 1})
        await it.engine.resume(key, "yes")
        assert (await it.ended(key)).state == {"more": 1, "answer": "yes"}


async def test_o12_breakpoints_hold_in_the_branches_of_a_fan_out(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("split", "join")
        it.tasks(work=lambda item: {"total": item})
        key = await it.engine.create(each(), {"items": [1, 2, 3]})
        await it.engine.break_before(key, "work")
        await it.engine.start(key)
        for left in (3, 2, 1):
            await it.until_steps(
                key,
                lambda steps, left=left: (
                    sum(one.status is Status.INTERRUPTED for one in steps) == left  # type: ignore[misc]
                    and all(one.status.stopped for one in steps)
                ),
            )
            await it.engine.resume_break(key, {"item": 10})
        assert (await it.ended(key)).state["total"] == 30


async def test_p2_an_interrupt_two_levels_down_pauses_every_flow_up_to_the_root(dsn: str) -> None:
    """P2, O11: the payload is seen at each level; any flow of the chain resumes the leaf; announced from the root."""
    graphs = line("top", "t"), line("mid", "m"), line("low", "l")
    async with bench(dsn, *graphs) as it:
        it.tasks(t=call("mid", a=1), m=call("low", b=2), l=ask({"ok": "?"}))
        for level in range(3):
            outcome = await it.run("top", options=FlowOptions(notify="me"))
            assert (outcome.status, outcome.interrupt_payload) == (Status.INTERRUPTED, {"ok": "?"})
            assert outcome.state == {"b": 2}
            keys = await _chain(it, outcome.flow_key)
            for key in keys:
                assert await it.engine.snapshot(key) == await it.engine.await_(key, 0)
                assert (await it.engine.snapshot(key)).interrupt_payload == {"ok": "?"}
            await it.engine.resume(keys[level], "yes")
            outcome = await it.ended(outcome.flow_key)
            assert outcome.state == {"child": {"a": 1, "child": {"b": 2, "answer": "yes"}}}
            await it.heard.until(lambda level=level: len(it.heard.announced) == 2 * level + 2)  # type: ignore[misc]
        assert {to for to, _ in it.heard.announced} == {"me"}


async def _chain(it: Bench, key: str) -> list[str]:
    """The keys of a flow and of those below it, as the engine knows them."""
    store = it.engine.shards[1].store
    root = int(key.split("-")[1])
    flows = await store.flows.tree(root)
    return [f"1-{one.flow_id}-{one.token}" for one in sorted(flows.values(), key=lambda one: one.flow_id)]


async def test_o10_cancel_of_a_paused_flow(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(a=ask("?"))
        outcome = await it.run(line("x", "a"), {"n": 1})
        await it.engine.cancel(outcome.flow_key, "never mind")
        outcome = await it.engine.snapshot(outcome.flow_key)
        assert (outcome.status, outcome.cancel_reason, outcome.state) == (Status.CANCELLED, "never mind", {"n": 1})
        with pytest.raises(Conflict, match="the flow is cancelled"):
            await it.engine.resume(outcome.flow_key)


async def test_o6_the_fingerprint_changes_with_pauses_and_breakpoints(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(a=ask("?"), b=ask("!"))
        key = await it.engine.create(line("x", "a", "b"))
        seen = [await it.engine.fingerprint(key)]
        await it.engine.break_before(key, "b")
        seen.append(await it.engine.fingerprint(key))
        await it.engine.start(key)
        await it.until(key, Status.INTERRUPTED)
        seen.append(await it.engine.fingerprint(key))
        await it.engine.resume(key)
        await it.until_steps(key, lambda steps: len(steps) == 2 and steps[1].status is Status.INTERRUPTED)
        seen.append(await it.engine.fingerprint(key))
        assert len({digest for digest, _ in seen}) == 4
