"""Explanations (Q2): each reason brought about in a real engine, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.workflow.explanation import Explanation, Reason
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import Gate, until_rows
from tests.support.explaining import explained, leaves, only_wait
from tests.support.flows import Bench, ask, bench, call, each, line

HOUR = 3_600_000_000


async def step_of(it: Bench, key: str, task: str) -> Step:
    return (await it.steps(key))[task]


def fails(message: str = "card declined", code: int = 402) -> Any:
    def task() -> None:
        raise TaskError(message, code)

    return task


async def test_a_flow_that_is_not_started(dsn: str) -> None:
    """Q2, `created`."""
    async with bench(dsn) as it:
        key = await it.engine.create(line("x", "a"), {})
        wait = await only_wait(it.engine, key, "created")
        step = await step_of(it, key, "a")
        assert (wait.step_key, wait.step_id, wait.task, wait.url) == (step.step_key, step.step_id, "a", "a")
        assert wait.since == step.created_at
        assert wait.until is None
        found = await it.engine.explain(key)
        assert wait.remedy == found.remedy == f"dwarf-nats flow start {key}"
        assert (found.flow_key, found.status, found.truncated, found.counts) == (key, Status.CREATED, False, {})
        assert found.text == "a: Its flow is created and not started."


async def test_a_start_time(dsn: str) -> None:
    """Q2, `scheduled`: by the option."""
    async with bench(dsn) as it:
        at = datetime.now(UTC) + timedelta(hours=1)
        key = await it.engine.create(line("x", "a"), {}, FlowOptions(start_at=at), start=True)
        wait = await only_wait(it.engine, key, "scheduled")
        assert wait.until is not None
        assert abs(wait.until - int(at.timestamp() * 1_000_000)) < 10
        assert "start time" in wait.text
        assert wait.since == (await step_of(it, key, "a")).updated_at


async def test_a_node_that_sleeps(dsn: str) -> None:
    """Q2, `scheduled`: N7."""
    async with bench(dsn) as it:
        graph = Graph("x")
        graph.add_sleep("nap", 3600)
        graph.add_transition("nap", END)
        key = await it.engine.create(graph, {}, start=True)
        wait = await only_wait(it.engine, key, "scheduled")
        assert wait.text == "Sleeps until its time has come."
        assert wait.until is not None
        assert HOUR - 10_000_000 < wait.until - wait.since <= HOUR


async def test_a_task_that_asked_for_a_pause(dsn: str) -> None:
    """Q2, `scheduled`: X6."""

    def first(flow: Flow) -> None:
        flow.sleep(3600)

    async with bench(dsn) as it:
        it.tasks(a=first)
        key = await it.engine.create(line("x", "a", "b"), {}, start=True)
        wait = await only_wait(it.engine, key, "scheduled")
        assert (wait.task, wait.text) == ("b", "Is not due yet: the step before it asked for a pause.")
        assert wait.until == (await step_of(it, key, "b")).due_at


async def test_a_task_at_work(dsn: str) -> None:
    """Q2, `running`: with the deadline of its node, and the replica that has it."""
    gate = Gate()
    async with bench(dsn) as it:
        it.tasks(a=gate)
        graph = line("x", "a")
        graph.set_timeout("a", 60)
        key = await it.engine.create(graph, {}, start=True)
        await gate.began()
        wait = await only_wait(it.engine, key, "running")
        assert wait.text == "Runs: its task has been asked and has not answered yet."
        assert wait.deadline is not None
        assert abs(wait.deadline - wait.since - 60_000_000) < 20_000_000
        assert wait.replica == it.engine.replica.name
        assert wait.since == (await step_of(it, key, "a")).updated_at
        gate.open()
        await it.stopped(key)


async def test_an_attempt_that_is_still_to_come(dsn: str) -> None:
    """Q2, `retry`: of how many, the last error, when the next one is due (L3)."""
    async with bench(dsn) as it:
        it.tasks(a=fails())
        graph = line("x", "a")
        graph.set_retry("a", 5, 3600, max_delay=3600)
        key = await it.engine.create(graph, {}, start=True)
        wait = await only_wait(it.engine, key, "retry")
        assert (wait.attempt, wait.max_attempts) == (1, 5)
        assert wait.error is not None
        assert (wait.error.message, wait.error.code) == ("card declined", 402)
        assert wait.text == "Attempt 1 of 5 failed: card declined (402). The next attempt follows."
        step = await step_of(it, key, "a")
        assert (wait.since, wait.until) == (step.updated_at, step.due_at)


async def test_a_retry_that_the_task_asked_for(dsn: str) -> None:
    """Q2, `retry`: X5; nothing says how often at most, and there is no error."""

    def again(flow: Flow) -> None:
        flow.retry(initial_delay=3600, max_delay=3600)

    async with bench(dsn) as it:
        it.tasks(a=again)
        key = await it.engine.create(line("x", "a"), {}, start=True)
        wait = await only_wait(it.engine, key, "retry")
        assert (wait.attempt, wait.max_attempts, wait.error) == (1, None, None)
        assert wait.text == "Attempt 1 asked for another one. The next attempt follows."


async def test_somebody_must_answer(dsn: str) -> None:
    """Q2, `interrupt`: payload and deadline (P6); the remedy continues exactly this pause."""
    async with bench(dsn) as it:
        graph = Graph("x")
        graph.add_ask("approve", {"question": "ok?"}, timeout=3600)
        graph.add_transition("approve", END)
        key = await it.engine.create(graph, {}, start=True)
        wait = await only_wait(it.engine, key, "interrupt")
        assert wait.payload == {"question": "ok?"}
        (pause,) = (await it.engine.snapshot(key)).pauses
        assert (wait.step_key, wait.since, wait.until) == (pause.step_key, pause.since, pause.until)
        assert wait.remedy == f"dwarf-nats flow resume {wait.step_key} --data '…'"
        assert (await it.engine.explain(key)).status is Status.INTERRUPTED


async def test_a_breakpoint(dsn: str) -> None:
    """Q2, `breakpoint`."""
    async with bench(dsn) as it:
        key = await it.engine.create(line("x", "a"), {})
        await it.engine.break_before(key, "a")
        await it.engine.start(key)
        wait = await only_wait(it.engine, key, "breakpoint")
        assert wait.text == "Stopped at a breakpoint before a."
        assert wait.remedy == f"dwarf-nats flow resume-break {wait.step_key}"
        assert wait.payload_json is None


async def test_an_event(dsn: str) -> None:
    """Q2, `event`: its name and key, and the deadline of the wait; the remedy quotes what a shell would split."""
    async with bench(dsn) as it:
        graph = Graph("x")
        graph.add_wait("paid", "order.paid", "order 7", timeout=3600)
        graph.add_transition("paid", END)
        key = await it.engine.create(graph, {}, start=True)
        wait = await only_wait(it.engine, key, "event")
        assert (wait.event, wait.key) == ("order.paid", "order 7")
        assert wait.text == "Waits for the event order.paid with the key order 7."
        assert wait.remedy == "dwarf-nats flow signal order.paid 'order 7'"
        assert wait.until is not None
        assert abs(wait.until - wait.since - HOUR) < 10_000_000


async def test_sub_workflows_are_nested_and_explained_by_their_steps(dsn: str) -> None:
    """Q2, `subgraph`: through two levels; a key of the flow in the middle begins there."""
    async with bench(dsn, line("middle", "inner"), line("leaf", "ask")) as it:
        it.tasks(outer=call("middle"), inner=call("leaf"), ask=ask({"question": 1}))
        key = await it.engine.create(line("x", "outer"), {}, start=True)
        await it.until(key, Status.INTERRUPTED)
        found = await explained(it.engine, key, "interrupt")
        (outer,) = found.waits
        (inner,) = outer.waits
        (leaf,) = inner.waits
        assert [wait.reason for wait in (outer, inner, leaf)] == [Reason.SUBGRAPH, Reason.SUBGRAPH, Reason.INTERRUPT]
        assert [outer.workflow, inner.workflow, leaf.workflow] == ["middle", "leaf", ""]
        assert (outer.task, inner.task, leaf.task) == ("outer", "inner", "ask")
        assert outer.text == "Waits for the end of the workflow middle."
        assert found.text == "ask: Waits until somebody answers."
        assert found.remedy == leaf.remedy
        middle = await it.engine.explain(outer.flow_key)
        assert middle.waits == [inner]


@pytest.mark.parametrize(("code", "reason"), [(503, Reason.UNAVAILABLE), (529, Reason.OVERLOADED)])
async def test_a_task_that_cannot_serve(dsn: str, code: int, reason: Reason) -> None:
    """Q2: since the breaker tripped, until the next probe (V4); what the probes write does not begin it anew."""
    async with bench(dsn) as it:
        it.tasks(a=fails("no", code))
        key = await it.engine.create(line("x", "a"), {}, start=True)
        await until_rows(it.engine, [("a",)], "select url from dwarf_tripped")  # the replica knows it before
        wait = await only_wait(it.engine, key, reason.value)
        ((tripped_at,),) = await it.engine.shards[1].store.database.fetch("select tripped_at from dwarf_tripped")
        assert wait.since == tripped_at
        assert wait.until is not None
        assert wait.remedy == "dwarf-nats tasks a"
        assert f"({code})" in wait.text
        calls = it.proxy.calls["a"]
        while it.proxy.calls["a"] == calls:
            await it.engine.shard_info()
        assert (await only_wait(it.engine, key, reason.value)).since == tripped_at


async def test_a_fan_in_is_explained_by_the_branches_that_live(dsn: str) -> None:
    """Q2: finished branches are not listed; the oldest wait is first."""

    def work(flow: Flow, item: int) -> None:
        if item:
            flow.interrupt(item)

    async with bench(dsn) as it:
        it.idle("split", "join")
        it.tasks(work=work)
        key = await it.engine.create(each(), {"items": [0, 1, 2, 0]}, start=True)
        await it.until(key, Status.INTERRUPTED)
        found = await explained(it.engine, key, "interrupt", "interrupt")
        assert {wait.payload for wait in found.waits} == {1, 2}
        assert {wait.branch.label for wait in found.waits if wait.branch is not None} == {"2/4", "3/4"}
        assert found.waits[0].since <= found.waits[1].since
        assert found.text.startswith("Paused: 2 steps (2 interrupt). The oldest is work: Waits until")
        assert not found.truncated


async def test_ten_thousand_branches_are_counted_and_the_oldest_listed(dsn: str) -> None:
    """Q2: at most 100 are listed, and the reply stays small."""

    def split(flow: Flow) -> None:
        flow.sleep(3600)

    async with bench(dsn) as it:
        it.idle("join", "work")
        it.tasks(split=split)
        key = await it.engine.create(each(), {"items": list(range(10_000))}, start=True)
        await until_rows(it.engine, [(10_001,)], "select count(*) from dwarf_steps")
        found = await it.engine.explain(key)
        assert found.truncated
        assert found.counts == {Reason.SCHEDULED: 10_000}
        ids = [wait.step_id for wait in found.waits]
        assert len(ids) == 100
        assert ids == sorted(ids)


async def test_a_failed_flow_says_where_and_what_to_do(dsn: str) -> None:
    """Q2: the step that failed first, down through the flows that were called; the remedy runs it again."""
    async with bench(dsn, line("pay", "charge")) as it:
        it.tasks(outer=call("pay"), charge=fails())
        key = await it.engine.create(line("x", "outer"), {}, start=True)
        await it.stopped(key)
        found = await it.engine.explain(key)
        (outer,) = await it.engine.history(key)
        (charge,) = outer.sub_history
        assert found == Explanation(
            flow_key=key,
            status=Status.FAILED,
            text="Failed at outer › charge: card declined (402).",
            remedy=f"dwarf-nats flow restart-from {charge.step_key}",
        )
        it.tasks(charge=lambda: None)
        await it.engine.restart_from(charge.step_key)
        assert (await it.stopped(key)).status is Status.COMPLETED
        found = await it.engine.explain(key)
        assert (found.text, found.remedy, found.waits) == ("Completed.", "", [])


async def test_a_failed_fan_out_names_the_first_of_several(dsn: str) -> None:
    """Q2: and how many more there are."""

    def work(item: int) -> None:
        raise TaskError(f"no {item}", 400)

    async with bench(dsn) as it:
        it.idle("split", "join")
        it.tasks(work=work)
        key = await it.engine.create(each(), {"items": [1, 2, 3]}, start=True)
        await it.stopped(key)
        text = (await it.engine.explain(key)).text
        assert text.startswith("Failed at work: no ")
        assert text.endswith("2 other steps have failed, too.")


async def test_a_cancelled_flow_gives_the_reason(dsn: str) -> None:
    """Q2."""
    async with bench(dsn) as it:
        key = await it.engine.create(line("x", "a"), {})
        await it.engine.cancel(key, "changed my mind")
        found = await it.engine.explain(key)
        assert (found.text, found.remedy) == ("Cancelled: changed my mind.", f"dwarf-nats flow restart {key}")


async def test_a_flow_that_is_compensated_says_what_comes_after(dsn: str) -> None:
    """Q2, N9: the compensation under way is explained, those that wait for their turn are not listed."""
    gate = Gate()
    graph = line("x", "a", "b", "c")
    graph.compensate("a", "undo")
    graph.compensate("b", "undo")
    async with bench(dsn) as it:
        it.idle("a", "b")
        it.tasks(c=fails(), undo=gate)
        key = await it.engine.create(graph, {}, start=True)
        await gate.began()
        wait = await only_wait(it.engine, key, "running")
        assert wait.task == "b:compensate"
        found = await it.engine.explain(key)
        assert found.text.startswith(
            "What it did is being compensated before it fails: card declined (402). b:compensate: "
        )
        gate.open()
        await it.ended(key)


async def test_a_completed_child_is_compensated_in_the_explanation_of_its_caller(dsn: str) -> None:
    """Q2, N9: its caller is over, so the compensation stands among the waits of the flow itself."""
    gate = Gate()
    child = line("child", "book")
    child.compensate("book", "undo")
    async with bench(dsn, child) as it:
        it.idle("book")
        it.tasks(outer=call("child"), c=fails(), undo=gate)
        key = await it.engine.create(line("x", "outer", "c"), {}, start=True)
        await gate.began()
        found = await explained(it.engine, key, "running")
        assert [wait.task for wait in found.waits] == ["book:compensate"]
        gate.open()
        await it.ended(key)


async def test_keys_that_name_nothing_are_refused(dsn: str) -> None:
    """Q2: as everywhere."""
    async with bench(dsn) as it:
        with pytest.raises(NotFound):
            await it.engine.explain("1-42-a1B2c3D4e5F6g7H8")
        with pytest.raises(BadRequest):
            await it.engine.explain("no key")


async def test_a_list_says_what_each_living_flow_waits_for(dsn: str) -> None:
    """Q2, `waitsFor`: of flows that have ended there is none."""
    async with bench(dsn) as it:
        it.tasks(a=ask(), b=fails())
        graphs = {"asks": line("asks", "a"), "new": line("new", "a"), "failed": line("failed", "b")}
        keys = {name: await it.engine.create(graph, {}, start=name != "new") for name, graph in graphs.items()}
        await it.stopped(keys["asks"])
        await it.stopped(keys["failed"])
        flows, _ = await it.engine.list()
        found = {flow.workflow: flow.waits_for for flow in flows}
        assert found["failed"] is None
        assert found["new"] is not None
        assert found["new"].reason is Reason.CREATED
        assert found["asks"] is not None
        (wait,) = leaves((await it.engine.explain(keys["asks"])).waits)
        shown = found["asks"]
        assert (shown.step_id, shown.task, shown.reason) == (wait.step_id, wait.task, wait.reason)
        assert (shown.since, shown.until, shown.text) == (wait.since, wait.until, wait.text)
