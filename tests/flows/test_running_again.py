"""Restart, restart_from, fork and continue (O13-O15), on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, Conflict, NotFound
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.flows import Bench, ask, bench, call, count_rows, each, line


def grid() -> Graph:
    """rows → row per row → cells → cell per cell → inner → outer → END."""
    graph = Graph("grid")
    graph.add_for_each("rows", "row", "matrix", "cells")
    graph.add_for_each("row", "cell", "cells", "value")
    graph.add_transition("cell", "inner")
    graph.set_fan_in("inner")
    graph.add_transition("inner", "outer")
    graph.set_fan_in("outer")
    graph.add_transition("outer", END)
    graph.set_reducer("sum", "add")
    graph.set_reducer("sums", "append")
    return graph


class Broken:
    """Tasks that fail for some values until mended."""

    def __init__(self, *values: Any) -> None:
        self.values = set(values)
        self.runs: list[Any] = []

    def cell(self, flow: Flow) -> dict[str, Any]:
        value = flow.get("value")
        self.runs.append(value)
        if value in self.values:
            raise TaskError(f"value {value}")
        return {"sum": value}


def step_of(steps: list[Step], task: str, status: Status) -> Step:
    (found,) = [one for one in steps if (one.task, one.status) == (task, status)]
    return found


def of_grid(it: Bench, broken: Broken) -> None:
    it.idle("rows", "row", "outer")
    it.tasks(cell=broken.cell, inner=lambda flow: {"sums": [flow.get("sum", 0)]})


# -- restart


async def test_o13_restart_runs_a_stopped_flow_again_in_place(dsn: str) -> None:
    """O13: same key, later steps and subgraph flows removed, overrides merged, a null removes; a `running` event only."""
    async with bench(dsn, line("child", "c")) as it:
        it.tasks(a=lambda flow: {"saw": dict(flow.state)}, b=call("child"))
        it.idle("c")
        outcome = await it.run(line("x", "a", "b"), {"n": 1, "gone": True}, options=FlowOptions(notify="me"))
        before = await it.engine.history(outcome.flow_key)
        (listed,), _ = await it.engine.list()
        await it.engine.restart(outcome.flow_key, {"n": 2, "gone": None})
        after = await it.ended(outcome.flow_key)
        assert after.state["saw"] == {"n": 2}
        assert await count_rows(it.engine) == (2, 3)
        steps = await it.engine.history(outcome.flow_key)
        assert steps[0].step_key == before[0].step_key
        assert steps[1].step_id != before[1].step_id
        (again,), _ = await it.engine.list()
        assert again.created_at > listed.created_at
        assert again.started_at is not None
        assert again.started_at >= again.created_at
        flow = outcome.flow_key.rsplit("-", 1)[0]
        await it.heard.until(lambda: it.heard.of(flow).count(Status.COMPLETED) == 2 and len(it.heard.announced) == 2)
        assert [one.value for one in it.heard.of(flow)] == ["created", "running", "completed", "running", "completed"]


async def test_o13_restart_of_failed_cancelled_and_interrupted_flows(dsn: str) -> None:
    async with bench(dsn) as it:
        mended = False

        def a() -> None:
            if not mended:
                raise TaskError("broken")

        it.tasks(a=a, b=ask("?"))
        failed = (await it.run(line("x", "a"), {"n": 1})).flow_key
        mended = True
        await it.engine.restart(failed)
        outcome = await it.ended(failed)
        assert (outcome.status, outcome.error, outcome.state) == (Status.COMPLETED, None, {"n": 1})
        key = (await it.run(line("x", "b"))).flow_key
        await it.engine.restart(key)
        await it.until_steps(key, lambda steps: it.proxy.calls["b"] == 2 and steps[0].status is Status.INTERRUPTED)
        await it.engine.cancel(key, "enough")
        await it.engine.restart(key)
        outcome = await it.until(key, Status.INTERRUPTED)
        assert outcome.cancel_reason is None
        await it.engine.resume(key, "x")
        assert (await it.ended(key)).state == {"answer": "x"}


async def test_o13_restart_refuses_what_has_not_stopped(dsn: str) -> None:
    async with bench(dsn) as it:
        gate, began = asyncio.Event(), asyncio.Event()

        async def a() -> None:
            began.set()
            await gate.wait()

        it.tasks(a=a)
        key = await it.engine.create(line("x", "a"))
        with pytest.raises(
            Conflict,
            match="the flow is created: to be restarted it must be interrupted, completed, failed or cancelled",
        ):
            await it.engine.restart(key)
        await it.engine.start(key)
        await began.wait()
        with pytest.raises(Conflict, match="the flow is running"):
            await it.engine.restart(key)
        with pytest.raises(BadRequest, match="overrides must be a JSON object"):
            await it.engine.restart(key, b"[]")
        gate.set()
        await it.stopped(key)


async def test_small_print_restart_of_an_interrupted_flow_drops_what_still_runs(dsn: str) -> None:
    """O13: the results of branches that still run are dropped; the restarted flow is not disturbed by them."""
    async with bench(dsn) as it:
        gate = asyncio.Event()
        began = asyncio.Event()

        async def work(flow: Flow) -> dict[str, Any]:
            if flow.get("item") == "wait" and flow.get("round") == 1:
                began.set()
                await gate.wait()
                return {"done": ["stale"]}
            if flow.get("item") == "ask" and flow.get("round") == 1:
                flow.interrupt("?")
            return {"done": [flow.get("round")]}

        it.tasks(work=work)
        it.idle("split", "join")
        key = await it.engine.create(each(), {"items": ["wait", "ask"], "round": 1}, start=True)
        await it.until(key, Status.INTERRUPTED)
        await began.wait()
        await it.engine.restart(key, {"round": 2})
        gate.set()
        outcome = await it.ended(key)
        assert (outcome.status, outcome.state["done"]) == (Status.COMPLETED, [2, 2])
        assert len(await it.engine.history(key)) == 4


async def test_o13_breakpoints_survive_a_restart_and_pause_again(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("a")
        key = await it.engine.create(line("x", "a"))
        await it.engine.break_before(key, "a")
        await it.engine.start(key)
        await it.until(key, Status.INTERRUPTED)
        await it.engine.resume_break(key)
        await it.ended(key)
        await it.engine.restart(key)
        await it.until(key, Status.INTERRUPTED)


# -- restart_from


async def test_o13_restart_from_inside_a_nested_cohort_runs_only_the_failed_cell_again(dsn: str) -> None:
    """O13: the cohort counts are taken back outward; siblings that succeeded are not run again."""
    broken = Broken(4)
    async with bench(dsn) as it:
        of_grid(it, broken)
        outcome = await it.run(grid(), {"matrix": [[1, 2], [3, 4, 5], [6]]})
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "value 4"
        bad = step_of(await it.engine.history(outcome.flow_key), "cell", Status.FAILED)
        broken.values.clear()
        broken.runs.clear()
        await it.engine.restart_from(bad.step_key)
        after = await it.ended(outcome.flow_key)
        assert after.status is Status.COMPLETED
        assert after.state["sums"] == [3, 12, 6]
        assert broken.runs == [4]
        steps = await it.engine.history(outcome.flow_key)
        assert sorted(one.task for one in steps) == ["cell"] * 6 + ["inner"] * 3 + ["outer"] + ["row"] * 3 + ["rows"]
        assert {one.status for one in steps} == {Status.COMPLETED}


async def test_o13_two_failed_cells_of_two_rows_are_mended_one_after_the_other(dsn: str) -> None:
    """The flow fails again with the error that is left, and completes when both are mended."""
    broken = Broken(1, 4, 5)
    async with bench(dsn) as it:
        of_grid(it, broken)
        outcome = await it.run(grid(), {"matrix": [[1, 2], [3, 4, 5], [6]]})
        for left in ({4, 5}, {5}, set()):
            broken.values = set(left)
            bad = next(
                one for one in await it.engine.history(outcome.flow_key)
                if one.status is Status.FAILED and one.error is not None
                and int(one.error.message.split()[1]) not in left
            )  # fmt: skip
            await it.engine.restart_from(bad.step_key)
            outcome = await it.ended(outcome.flow_key)
            if left:
                assert outcome.status is Status.FAILED
                assert outcome.error is not None
                assert int(outcome.error.message.split()[1]) in left
        assert outcome.status is Status.COMPLETED
        assert outcome.state["sums"] == [3, 12, 6]


async def test_o13_restart_from_a_step_removes_exactly_what_it_led_to(dsn: str) -> None:
    """A row run again in full: its cells and fan-ins go, other rows stay; overrides replace its input."""
    broken = Broken()
    async with bench(dsn) as it:
        of_grid(it, broken)
        outcome = await it.run(grid(), {"matrix": [[1, 2], [3, 4], []]})
        assert outcome.state["sums"] == [3, 7, 0]
        steps = await it.engine.history(outcome.flow_key)
        kept = {one.step_id for one in steps if one.task == "cell"}
        second = [one for one in steps if one.task == "row"][1]
        broken.runs.clear()
        await it.engine.restart_from(second.step_key, {"cells": [10, 20, 30]})
        outcome = await it.ended(outcome.flow_key)
        assert outcome.state["sums"] == [3, 60, 0]
        assert sorted(broken.runs) == [10, 20, 30]
        steps = await it.engine.history(outcome.flow_key)
        assert len([one for one in steps if one.task == "cell" and one.step_id in kept]) == 2
        assert len([one for one in steps if one.task == "outer"]) == 1
        await it.engine.restart_from(steps[0].step_key, {"matrix": [[7]]})
        assert (await it.ended(outcome.flow_key)).state["sums"] == [7]


async def test_o13_restart_from_while_other_branches_live(dsn: str) -> None:
    """The flow may still be running; a step that has not ended, or has led to one, is a 409."""
    async with bench(dsn) as it:
        gate, began = asyncio.Event(), asyncio.Event()
        mended = False

        async def work(flow: Flow) -> dict[str, Any]:
            if flow.get("item") == 0:
                began.set()
                await gate.wait()
            elif not mended:
                raise TaskError("broken")
            return {"done": [flow.get("item")]}

        it.tasks(work=work)
        it.idle("split", "join")
        key = await it.engine.create(each(), {"items": [0, 1]}, start=True)
        await began.wait()
        steps = await it.until_steps(key, lambda steps: any(one.status is Status.FAILED for one in steps))
        with pytest.raises(Conflict, match="is running: wait until"):
            await it.engine.restart_from(step_of(steps, "split", Status.COMPLETED).step_key)
        with pytest.raises(Conflict, match="is running: wait until"):
            await it.engine.restart_from(step_of(steps, "work", Status.RUNNING).step_key)
        mended = True
        await it.engine.restart_from(step_of(steps, "work", Status.FAILED).step_key)
        await it.until_steps(key, lambda steps: sum(one.status is Status.COMPLETED for one in steps) == 2)
        assert (await it.engine.snapshot(key)).status is Status.RUNNING
        gate.set()
        outcome = await it.stopped(key)
        assert (outcome.status, outcome.state["done"]) == (Status.COMPLETED, [0, 1])
        flow = key.rsplit("-", 1)[0]
        await it.heard.until(lambda: it.heard.of(flow)[-1] is Status.COMPLETED)
        assert [one.value for one in it.heard.of(flow)] == ["created", "running", "completed"]


async def test_o13_restart_from_inside_a_subgraph_parks_its_callers_again(dsn: str) -> None:
    """O13: up to the root; what the callers led to is removed; their changes are those from before the wait."""
    async with bench(dsn, line("mid", "m", "m2"), line("low", "l", "l2")) as it:
        mended = False

        def t(flow: Flow) -> None:
            flow.transform("runs", lambda n: n + 1, 0)
            flow.set("got", flow.subgraph("mid"))

        def l2() -> dict[str, Any]:
            return {"ok": mended}

        it.tasks(t=t, m=call("low"), l2=l2, end=lambda flow: {"end": flow.get("got")["child"]["ok"]})
        it.idle("l", "m2")
        outcome = await it.run(line("top", "t", "end"))
        assert (outcome.state["end"], outcome.state["runs"]) == (False, 2)
        steps = await it.engine.history(outcome.flow_key)
        leaf = steps[0].sub_history[0].sub_history[1]
        assert leaf.task == "l2"
        mended = True
        await it.engine.restart_from(leaf.step_key)
        outcome = await it.ended(outcome.flow_key)
        assert (outcome.state["end"], outcome.state["runs"]) == (True, 2)
        assert it.proxy.calls == {"t": 3, "m": 3, "l": 1, "l2": 2, "m2": 2, "end": 2}
        assert await count_rows(it.engine) == (3, 6)
        again = await it.engine.history(outcome.flow_key)
        assert again[0].sub_history[0].sub_history[1].step_key == leaf.step_key


async def test_o13_restart_from_a_failed_leaf_in_a_fan_out_of_children(dsn: str) -> None:
    """A failed child in one branch of a running fan-out of children; the flow above is still alive."""
    async with bench(dsn, line("child", "c")) as it:
        mended = False

        def c(flow: Flow) -> dict[str, Any]:
            if flow.get("item") == 1 and not mended:
                raise TaskError("broken")
            return {"ok": flow.get("item")}

        def work(flow: Flow) -> dict[str, Any]:
            return {"done": [flow.subgraph("child", {"item": flow.get("item")})["ok"]]}

        it.tasks(work=work, c=c)
        it.idle("split", "join")
        outcome = await it.run(each(), {"items": [0, 1, 2]})
        assert outcome.status is Status.FAILED
        steps = await it.engine.history(outcome.flow_key)
        leaf = next(inner for one in steps for inner in one.sub_history if inner.status is Status.FAILED)
        mended = True
        await it.engine.restart_from(leaf.step_key)
        outcome = await it.ended(outcome.flow_key)
        assert outcome.state["done"] == [0, 1, 2]
        assert it.proxy.calls["c"] == 4


async def test_o13_restart_from_a_paused_step_and_refusals(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(a=ask("?"))
        it.idle("b")
        outcome = await it.run(line("x", "a", "b"))
        (step,) = await it.engine.history(outcome.flow_key)
        await it.engine.restart_from(step.step_key, {"x": 1})
        await it.until_steps(
            outcome.flow_key, lambda steps: it.proxy.calls["a"] == 2 and steps[0].status is Status.INTERRUPTED
        )
        assert (await it.engine.snapshot(outcome.flow_key)).state == {"x": 1}
        await it.engine.resume(outcome.flow_key, 1)
        await it.ended(outcome.flow_key)
        wrong = step.step_key[:-1] + ("a" if step.step_key[-1] != "a" else "b")
        with pytest.raises(NotFound):
            await it.engine.restart_from(wrong)
        key = (await it.run(line("x", "a"))).flow_key
        await it.engine.cancel(key)
        (step,) = await it.engine.history(key)
        with pytest.raises(Conflict, match="the flow is cancelled"):
            await it.engine.restart_from(step.step_key)


def inner_in_outer() -> Graph:
    """a → b and z, which meet at outer; b → c and d, which meet at inner → outer → END."""
    graph = Graph("inner_in_outer")
    graph.add_fan_out("a", "b", "z")
    graph.add_fan_out("b", "c", "d")
    for name in ("c", "d"):
        graph.add_transition(name, "inner")
    for name in ("inner", "z"):
        graph.add_transition(name, "outer")
    graph.add_transition("outer", END)
    graph.set_fan_in("inner")
    graph.set_fan_in("outer")
    return graph


@pytest.mark.parametrize("how", ["restart_from", "fork"])
async def test_o13_a_rewound_fan_out_takes_back_the_failure_its_cohort_had_passed_outward(dsn: str, how: str) -> None:
    """O13, X8: the outer cohort counts the branch as outstanding again, and its error is forgotten."""

    def fails(flow: Flow) -> None:
        if not flow.get("mended"):
            raise TaskError("broken")

    async with bench(dsn) as it:
        it.idle("a", "b", "d", "z", "inner", "outer")
        it.tasks(c=fails)
        outcome = await it.run(inner_in_outer())
        assert outcome.status is Status.FAILED
        source = (await it.steps(outcome.flow_key))["b"]
        key = outcome.flow_key
        if how == "restart_from":
            await it.engine.restart_from(source.step_key, {"mended": True})
        else:
            key = await it.engine.fork(source.step_key, {"mended": True})
        again = await it.stopped(key)
        assert (again.status, again.error) == (Status.COMPLETED, None)
        assert sorted(step.task for step in await it.engine.history(key)) == sorted(
            ["a", "b", "c", "d", "z", "inner", "outer"]
        )


# -- fork


async def test_o14_fork_runs_a_copy_on_from_a_step_and_leaves_the_original_alone(dsn: str) -> None:
    """O14: graph, baggage, scheduling and time budget are inherited; a thread of its own; finished subgraphs come along."""
    async with bench(dsn, line("child", "c")) as it:
        it.tasks(p=call("child"), c=lambda: {"deep": 1}, b=lambda flow: {"b": flow.get("n")}, e=lambda flow: {"e": 1})
        options = FlowOptions(baggage=[1], priority=3, fairness_key="f", time_budget_ms=9_000, notify="me")
        outcome = await it.run(line("x", "p", "b", "e"), {"n": 1}, options=options)
        steps = await it.engine.history(outcome.flow_key)
        fingerprint = await it.engine.fingerprint(outcome.flow_key)
        key = await it.engine.fork(steps[1].step_key, {"n": 2, "child": None})
        forked = await it.ended(key)
        assert forked.state == {"n": 2, "b": 2, "e": 1}
        assert it.proxy.calls == {"p": 2, "c": 1, "b": 2, "e": 2}
        copied = await it.engine.history(key)
        assert [one.task for one in copied] == ["p", "b", "e"]
        assert [one.task for one in copied[0].sub_history] == ["c"]
        assert copied[0].created_at == steps[0].created_at
        assert {one.step_id for one in copied}.isdisjoint({one.step_id for one in steps})
        assert await it.engine.fingerprint(outcome.flow_key) == fingerprint
        assert [one.step_key for one in await it.engine.history(outcome.flow_key)] == [one.step_key for one in steps]
        store = it.engine.shards[1].store
        row = await store.flows.by_id(int(key.split("-")[1]))
        assert row is not None
        assert (row.priority, row.fairness_key, row.time_budget_ms, row.baggage, row.notify, row.thread_id) == (
            3, "f", 9_000, "[1]", "", row.flow_id,
        )  # fmt: skip
        walked = await it.engine.step(copied[1].step_key)
        assert walked.prev_key == copied[0].sub_history[0].step_key
        await it.heard.until(lambda: Status.COMPLETED in it.heard.of(key.rsplit("-", 1)[0]))
        assert [one.value for one in it.heard.of(key.rsplit("-", 1)[0])] == ["created", "running", "completed"]


async def test_o14_fork_from_a_failed_cell_of_a_nested_cohort(dsn: str) -> None:
    broken = Broken(4)
    async with bench(dsn) as it:
        of_grid(it, broken)
        outcome = await it.run(grid(), {"matrix": [[1, 2], [3, 4, 5], [6]]})
        bad = step_of(await it.engine.history(outcome.flow_key), "cell", Status.FAILED)
        broken.runs.clear()
        key = await it.engine.fork(bad.step_key, {"value": 40})
        forked = await it.ended(key)
        assert (forked.status, forked.state["sums"]) == (Status.COMPLETED, [3, 48, 6])
        assert broken.runs == [40]
        assert (await it.engine.snapshot(outcome.flow_key)).status is Status.FAILED


async def test_o14_in_a_fork_of_a_cancelled_flow_the_branches_that_were_cut_off_run_on(dsn: str) -> None:
    """In the inner cohort and in the outer one."""
    async with bench(dsn) as it:
        hung = asyncio.Event()
        waiting: set[int] = set()

        async def cell(flow: Flow) -> dict[str, Any]:
            value = flow.get("value")
            if value > 100 and not hung.is_set():
                waiting.add(value)
                await asyncio.Event().wait()
            return {"sum": value}

        it.idle("rows", "row", "outer")
        it.tasks(cell=cell, inner=lambda flow: {"sums": [flow.get("sum", 0)]})
        key = await it.engine.create(grid(), {"matrix": [[1, 101], [3, 102], [6]]}, start=True)
        await it.until_steps(
            key, lambda steps: sum(one.task == "cell" and one.status is Status.COMPLETED for one in steps) == 3
            and any(one.task == "inner" and one.status is Status.COMPLETED for one in steps) and len(waiting) == 2
        )  # fmt: skip
        await it.engine.cancel(key)
        steps = await it.engine.history(key)
        hung.set()
        first, second = [one for one in steps if one.task == "cell" and one.status is Status.CANCELLED]
        sums = []
        for cut in (first, second):
            forked = await it.ended(await it.engine.fork(cut.step_key, {"value": 7}))
            assert forked.status is Status.COMPLETED
            sums.append(forked.state["sums"])
        assert sorted(sums) == [[8, 105, 6], [102, 10, 6]]


async def test_o14_a_step_inside_a_subgraph_clones_the_whole_tree(dsn: str) -> None:
    async with bench(dsn, line("child", "c", "d"), line("other", "o")) as it:
        it.tasks(q=call("other"), p=call("child"), d=lambda flow: {"d": flow.get("x", 0)})
        it.idle("c", "o", "end")
        outcome = await it.run(line("x", "q", "p", "end"))
        steps = await it.engine.history(outcome.flow_key)
        inner = steps[1].sub_history[1]
        key = await it.engine.fork(inner.step_key, {"x": 5})
        forked = await it.ended(key)
        assert forked.workflow == "x"
        assert forked.state["child"] == {"x": 5, "d": 5}
        assert it.proxy.calls == {"q": 2, "o": 1, "p": 3, "c": 1, "d": 2, "end": 2}
        copied = await it.engine.history(key)
        assert [[inner.task for inner in one.sub_history] for one in copied] == [["o"], ["c", "d"], []]
        assert (await it.engine.snapshot(outcome.flow_key)).state["child"] == {"d": 0}


async def test_o14_refusals(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(a=ask())
        outcome = await it.run(line("x", "a"))
        (step,) = await it.engine.history(outcome.flow_key)
        with pytest.raises(Conflict, match="the flow is interrupted: only one that has ended can be forked"):
            await it.engine.fork(step.step_key)
        with pytest.raises(BadRequest, match="malformed step key"):
            await it.engine.fork("x")


# -- continue


async def test_o15_continue_merges_through_the_reducers_into_a_new_flow_of_the_thread(dsn: str) -> None:
    """O15, S4: same graph and thread; any flow key of the thread names it."""
    graph = line("chat", "a")
    graph.set_reducer("messages", "append")
    graph.set_reducer("turns", "add")
    async with bench(dsn) as it:
        it.tasks(
            a=lambda flow: {
                "messages": [*flow.get("messages"), f"re {flow.get('messages')[-1]}"],
                "mood": flow.get("mood"),
            }
        )
        options = FlowOptions(baggage={"who": "ada"}, priority=2, notify="me")
        first = await it.run(graph, {"messages": ["one"], "turns": 1, "mood": "good", "old": 1}, options=options)
        second = await it.engine.continue_(first.flow_key, {"messages": ["two"], "turns": 1, "old": None})
        assert (await it.engine.snapshot(second)).status is Status.CREATED
        await it.engine.start(second)
        outcome = await it.ended(second)
        assert outcome.state == {"messages": ["one", "re one", "two", "re two"], "turns": 2, "mood": "good"}
        third = await it.engine.continue_(first.flow_key, {"messages": ["three"]}, FlowOptions(priority=5), start=True)
        assert (await it.ended(third)).state["messages"][-1] == "re three"
        flows, _ = await it.engine.list(Query(thread=second))
        assert [one.flow_key for one in flows] == [third, second, first.flow_key]
        assert [one.priority for one in flows] == [5, 100, 2]
        assert {one.thread_key for one in flows} == {first.flow_key}
        row = await it.engine.shards[1].store.flows.by_id(int(third.split("-")[1]))
        assert row is not None
        assert (row.baggage, row.notify) == ('{"who":"ada"}', "")


async def test_o15_only_a_completed_latest_flow_is_continued(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("a")
        it.tasks(b=ask())
        first = await it.run(line("x", "a"))
        second = await it.engine.continue_(first.flow_key)
        with pytest.raises(Conflict, match="latest flow of the thread is created"):
            await it.engine.continue_(first.flow_key)
        await it.engine.start(second)
        await it.ended(second)
        await it.engine.continue_(first.flow_key, start=True)
        with pytest.raises(BadRequest, match="threadKey"):
            await it.engine.continue_(first.flow_key, options=FlowOptions(thread=first.flow_key))
        paused = await it.run(line("x", "b"))
        with pytest.raises(Conflict, match="is interrupted"):
            await it.engine.continue_(paused.flow_key)


async def test_o15_a_reducer_that_cannot_merge_is_a_400_and_makes_no_flow(dsn: str) -> None:
    graph = line("x", "a")
    graph.set_reducer("n", "add")
    async with bench(dsn) as it:
        it.idle("a")
        first = await it.run(graph, {"n": 1})
        with pytest.raises(BadRequest, match="`add` reducer on field `n` requires a number, got string"):
            await it.engine.continue_(first.flow_key, {"n": "x"})
        assert await count_rows(it.engine) == (1, 1)


async def test_o15_of_two_at_once_one_continues(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("a")
        first = await it.run(line("x", "a"))
        found = await asyncio.gather(*(it.engine.continue_(first.flow_key) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(one, str) for one in found) == 1
        assert sum(isinstance(one, Conflict) for one in found) == 4


async def test_o15_the_idempotency_key_is_compared_by_thread_and_state(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("a")
        first = await it.run(line("x", "a"), {"n": 1})
        other = await it.run(line("x", "a"), {"n": 1})
        options = FlowOptions(idempotency_key="k")
        second = await it.engine.continue_(first.flow_key, {"m": 2}, options, start=True)
        await it.ended(second)
        assert await it.engine.continue_(second, {"m": 2}, options) == second
        with pytest.raises(Conflict, match="used before"):
            await it.engine.continue_(first.flow_key, {"m": 3}, options)
        with pytest.raises(Conflict, match="used before"):
            await it.engine.continue_(other.flow_key, {"m": 2}, options)


@pytest.mark.parametrize("what", ["deleted", "restarted", "deleted before its tree is read"])
async def test_a_flow_that_changes_while_it_is_copied_is_not_copied(
    dsn: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O14: what was read of it in several statements need not go together."""
    async with bench(dsn) as it:
        it.idle("a", "b", "c")
        first = await it.run(line("abc", "a", "b", "c"))
        step = (await it.steps(first.flow_key))["b"]
        flows: Any = it.engine.shards[1].store.flows
        read = flows.tree if "tree" in what else flows.complete_steps

        async def meanwhile(*args: Any, **more: Any) -> Any:
            monkeypatch.undo()
            if what == "restarted":
                await it.engine.restart(first.flow_key)
                await it.stopped(first.flow_key)
            else:
                await it.engine.delete(first.flow_key)
            return await read(*args, **more)

        monkeypatch.setattr(flows, read.__name__, meanwhile)
        with pytest.raises(Conflict if what == "restarted" else NotFound):
            await it.engine.fork(step.step_key)
        assert (await count_rows(it.engine))[0] == (1 if what == "restarted" else 0)
