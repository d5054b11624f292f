"""Fan-out and fan-in through the real engine, on both databases (F1-F7, X7-X9, S4, S5)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError


def diamond(*reducers: tuple[str, str]) -> Graph:
    """a → b, c, d → m → END."""
    graph = Graph("diamond")
    graph.add_fan_out("a", "b", "c", "d")
    for name in "bcd":
        graph.add_transition(name, "m")
    graph.set_fan_in("m")
    graph.add_transition("m", END)
    for field, kind in reducers:
        graph.set_reducer(field, kind)
    return graph


def each(field: str = "items") -> Graph:
    """split → work per element → join → END."""
    graph = Graph("each")
    graph.add_for_each("split", "work", field)
    graph.add_transition("work", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("done", "append")
    graph.set_reducer("total", "add")
    return graph


def idle(*names: str) -> TaskProxy:
    proxy = TaskProxy()
    for name in names:
        proxy.handle_task(name, lambda: None)
    return proxy


async def run(dsn: str, graph: Graph, proxy: TaskProxy, state: dict[str, Any]) -> tuple[Outcome, list[Step]]:
    async with workflow_engine(dsn, proxy=proxy) as (engine, _):
        outcome = await engine.run(graph, state, timeout=60)
        return outcome, await engine.history(outcome.flow_key)


async def test_f3_branches_merge_in_ordinal_order_whatever_finishes_first(dsn: str) -> None:
    """F3: plain fields by the last branch, reduced ones in ordinal order; the branches finish in reverse."""
    proxy = idle("a", "m")
    turns = {name: asyncio.Event() for name in "bcd"}
    turns["d"].set()
    before = {"d": "c", "c": "b"}

    async def branch(flow: Flow) -> dict[str, Any]:
        await turns[flow.task].wait()
        if flow.task in before:
            turns[before[flow.task]].set()
        return {"order": [flow.task], "last": flow.task, "n": 1}

    for name in "bcd":
        proxy.handle_task(name, branch)
    outcome, steps = await run(dsn, diamond(("order", "append"), ("n", "add")), proxy, {"n": 10, "order": ["s"]})
    assert outcome.status is Status.COMPLETED
    assert outcome.state == {"n": 13, "order": ["s", "b", "c", "d"], "last": "d"}
    assert sorted(step.task for step in steps) == ["a", "b", "c", "d", "m"]


async def test_f7_edges_are_recorded(dsn: str) -> None:
    """F7: fan-out on each child; every exit member points to the fan-in, and it to the last to arrive."""
    outcome, steps = await run(dsn, diamond(), idle(*"abcdm"), {})
    by = {step.task: step for step in steps}
    assert outcome.status is Status.COMPLETED
    assert {by[name].predecessor_id for name in "bcd"} == {by["a"].step_id}
    assert {by[name].successor_id for name in "bcd"} == {by["m"].step_id}
    assert by["m"].predecessor_id in {by[name].step_id for name in "bcd"}
    assert by["m"].depth == 3


async def test_x7_for_each_gives_each_branch_its_element_and_position(dsn: str) -> None:
    """X7: item, index and count, without the source array."""
    proxy = idle("split", "join")
    proxy.handle_task("work", lambda flow: {"done": [dict(flow.state)], "total": flow.get("item")})
    outcome, _ = await run(dsn, each(), proxy, {"items": [5, 6, 7], "x": 1})
    assert outcome.status is Status.COMPLETED
    assert outcome.state["done"] == [
        {"x": 1, "item": element, "itemIndex": index, "itemCount": 3} for index, element in enumerate([5, 6, 7])
    ]
    assert outcome.state["total"] == 18
    assert outcome.state["items"] == [5, 6, 7]
    assert not {"item", "itemIndex", "itemCount"} & set(outcome.state)  # F3


@pytest.mark.parametrize("items", [[], None, "absent"])
async def test_f5_an_empty_fan_out_goes_straight_to_the_fan_in(dsn: str, items: Any) -> None:
    state = {"x": 1} if items == "absent" else {"x": 1, "items": items}
    outcome, steps = await run(dsn, each(), idle("split", "work", "join"), state)
    assert [step.task for step in steps] == ["split", "join"]
    assert outcome.state == state


async def test_x7_for_each_over_what_is_no_array_fails_the_step(dsn: str) -> None:
    outcome, _ = await run(dsn, each(), idle("split", "work", "join"), {"items": {"a": 1}})
    assert outcome.error is not None
    assert "requires an array, got object" in outcome.error.message


async def test_x7_a_fan_out_by_condition_takes_every_branch_that_holds(dsn: str) -> None:
    graph = Graph("some")
    for name, condition in (("b", "n > 1"), ("c", "n > 2"), ("d", "n > 3")):
        graph.add_when("a", name, condition)
        graph.add_transition(name, "m")
    graph.set_fan_in("m")
    graph.add_transition("m", END)
    some, steps = await run(dsn, graph, idle(*"abcdm"), {"n": 3})
    assert sorted(step.task for step in steps) == ["a", "b", "c", "m"]
    none, steps = await run("sqlite://", graph, idle(*"abcdm"), {"n": 0})
    assert [step.task for step in steps] == ["a", "m"]
    assert some.status is none.status is Status.COMPLETED


async def test_f6_fan_outs_nest(dsn: str) -> None:
    """F3, F6: the inner cohort reaches its own fan-in; further out only what that fan-in writes."""
    graph = Graph("nested")
    graph.add_for_each("a", "b", "rows", "row")
    graph.add_for_each("b", "c", "row", "cell")
    graph.add_transition("c", "inner")
    graph.set_fan_in("inner")
    graph.add_transition("inner", "outer")
    graph.set_fan_in("outer")
    graph.add_transition("outer", END)
    graph.set_reducer("sum", "add")
    graph.set_reducer("sums", "append")
    proxy = idle("a", "b", "outer")
    proxy.handle_task("c", lambda flow: {"sum": flow.get("cell")})
    proxy.handle_task("inner", lambda flow: {"sums": [flow.get("sum")]})
    rows = [[1, 2], [3], [], [4, 5, 6]]
    outcome, steps = await run(dsn, graph, proxy, {"rows": rows, "sum": 0})
    assert outcome.status is Status.COMPLETED
    assert outcome.state["sums"] == [3, 3, 0, 15]
    assert outcome.state["sum"] == 0  # the cells' deltas were the inner cohorts' affair
    assert len([step for step in steps if step.task == "c"]) == 6
    assert len([step for step in steps if step.task == "inner"]) == 4


async def test_x8_a_failed_branch_fails_the_flow_once_the_whole_cohort_has_resolved(dsn: str) -> None:
    """X8, X9, F4: the siblings go on, the fan-in does not run, the failed branch contributes nothing."""
    proxy = idle("a", "m")
    failed = asyncio.Event()

    async def b() -> None:
        failed.set()
        raise TaskError("broken", code=422)

    async def other(flow: Flow) -> dict[str, Any]:
        await failed.wait()
        return {"order": [flow.task]}

    proxy.handle_task("b", b)
    proxy.handle_task("c", other)
    proxy.handle_task("d", other)
    outcome, steps = await run(dsn, diamond(("order", "append")), proxy, {"x": 1})
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert (outcome.error.message, outcome.error.code) == ("broken", 422)
    assert outcome.state == {"x": 1, "order": ["c", "d"]}
    assert {step.task: step.status.value for step in steps} == {
        "a": "completed",
        "b": "failed",
        "c": "completed",
        "d": "completed",
    }


async def test_x8_a_failure_goes_outward_through_nested_cohorts(dsn: str) -> None:
    graph = Graph("nested")
    graph.add_for_each("a", "b", "rows", "row")
    graph.add_for_each("b", "c", "row", "cell")
    graph.add_transition("c", "inner")
    graph.set_fan_in("inner")
    graph.add_transition("inner", "outer")
    graph.set_fan_in("outer")
    graph.add_transition("outer", END)
    graph.set_reducer("seen", "append")
    proxy = idle("a", "b", "outer")

    def c(flow: Flow) -> None:
        if flow.get("cell") == 2:
            raise TaskError("two")

    proxy.handle_task("c", c)
    proxy.handle_task("inner", lambda flow: {"seen": [flow.get("row")]})
    outcome, steps = await run(dsn, graph, proxy, {"rows": [[1, 2], [3]]})
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert outcome.error.message == "two"
    assert outcome.state["seen"] == [[3]]
    assert len([step for step in steps if step.task == "inner"]) == 1
    assert not [step for step in steps if step.task == "outer"]


async def test_f4_an_error_edge_inside_a_branch_is_no_failure(dsn: str) -> None:
    graph = diamond(("order", "append"))
    graph.add_on_error("b", "mend")
    graph.add_transition("mend", "m")
    proxy = idle("a", "m")

    def b() -> None:
        raise TaskError("broken")

    proxy.handle_task("b", b)
    for name in ("c", "d", "mend"):
        proxy.handle_task(name, lambda flow: {"order": [flow.task]})
    outcome, _ = await run(dsn, graph, proxy, {})
    assert outcome.status is Status.COMPLETED
    assert outcome.state["order"] == ["mend", "c", "d"]
    assert "onErr" not in outcome.state


@pytest.mark.parametrize("before", [{}, {"onErr": "from before", "item": 7, "itemIndex": 8}])
async def test_f3_what_carried_an_error_or_an_element_is_as_it_was_before_the_fan_out(
    dsn: str, before: dict[str, Any]
) -> None:
    """A handler in a branch, a task that writes these fields itself, and both in a nested fan-out."""
    graph = Graph("nested")
    graph.add_for_each("rows", "row", "matrix", "cells")
    graph.add_for_each("row", "cell", "cells")
    graph.add_on_error("cell", "mend")
    graph.add_transition("mend", "inner")
    graph.add_chain("cell", "inner", "outer", END)
    graph.set_fan_in("inner")
    graph.set_fan_in("outer")
    graph.set_reducer("seen", "append")
    proxy = idle("rows", "row", "outer")

    def cell(flow: Flow) -> dict[str, Any]:
        if flow.get("item") == 2:
            raise TaskError("broken")
        return {"onErr": {"message": "its own", "code": 1, "task": "cell"}, "item": 0, "itemCount": 0}

    def mend(flow: Flow) -> dict[str, Any]:
        return {"seen": [flow.get("onErr")["message"]], "itemIndex": 0}

    proxy.handle_task("cell", cell)
    proxy.handle_task("mend", mend)
    proxy.handle_task("inner", lambda flow: {"seen": [*flow.get("seen", []), flow.get("onErr")], "cells": 0})
    outcome, _ = await run(dsn, graph, proxy, {"matrix": [[1, 2], [3]], **before})
    assert outcome.status is Status.COMPLETED
    was = before.get("onErr")
    assert outcome.state == {"matrix": [[1, 2], [3]], "seen": ["broken", was, was], **before}


async def test_f3_an_error_edge_into_the_fan_in_brings_the_error_along(dsn: str) -> None:
    """Only from the step whose error edge it was, and only if that was the edge taken."""
    graph = diamond(("order", "append"))
    for name in ("b", "c"):
        graph.add_on_error(name, "m")
    proxy = idle("a", "m", "d")

    def b() -> None:
        raise TaskError("broken", code=402)

    proxy.handle_task("b", b)
    proxy.handle_task("c", lambda: {"onErr": "written by c"})
    outcome, _ = await run(dsn, graph, proxy, {"onErr": "from before"})
    assert outcome.status is Status.COMPLETED
    assert outcome.state["onErr"] == {"message": "broken", "code": 402, "task": "b"}
    proxy.handle_task("b", lambda: None)
    outcome, _ = await run(dsn, graph, proxy, {"onErr": "from before"})
    assert outcome.state["onErr"] == "from before"


async def test_s4_a_value_that_cannot_be_merged_fails_the_fan_in(dsn: str) -> None:
    """F3: the fan-in step fails; the final state is the spawn step's state and changes."""
    proxy = idle("m", "c", "d")
    proxy.handle_task("a", lambda: {"a": 1})
    proxy.handle_task("b", lambda: {"n": "text"})
    outcome, steps = await run(dsn, diamond(("n", "add")), proxy, {"n": 1})
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert outcome.error.message == "`add` reducer on field `n` requires a number, got string"
    assert outcome.state == {"n": 1, "a": 1}
    assert {step.task: step.status.value for step in steps}["m"] == "failed"
    assert "m" not in proxy.calls


async def test_x4_the_fan_ins_error_edge_catches_what_cannot_be_merged(dsn: str) -> None:
    graph = diamond(("n", "add"))
    graph.add_on_error("m", "mend")
    graph.add_transition("mend", END)
    proxy = idle("a", "m", "c", "d", "mend")
    proxy.handle_task("b", lambda: {"n": "text"})
    outcome, steps = await run(dsn, graph, proxy, {"n": 1})
    assert outcome.status is Status.COMPLETED
    assert "reducer" in outcome.state["onErr"]["message"]
    assert steps[-1].task == "mend"


async def test_s5_the_step_that_fans_out_may_write_the_field_whole(dsn: str) -> None:
    """A loop starts each round afresh."""
    graph = each()
    graph.add_goto("join", "split")
    proxy = TaskProxy()
    proxy.handle_task("split", lambda flow: {"total": 0, "round": flow.get("round", 0) + 1})
    proxy.handle_task("work", lambda item: {"total": item})

    def join(flow: Flow) -> None:
        if flow.get("round") < 3:
            flow.goto("split")

    proxy.handle_task("join", join)
    outcome, _ = await run(dsn, graph, proxy, {"items": [1, 2, 3]})
    assert outcome.status is Status.COMPLETED
    assert (outcome.state["total"], outcome.state["round"]) == (6, 3)


async def test_x6_a_goto_out_of_the_source_bypasses_the_fan_out(dsn: str) -> None:
    graph = each()
    graph.add_goto("split", "join")
    proxy = idle("work", "join")
    proxy.handle_task("split", lambda flow: flow.goto("join"))
    outcome, steps = await run(dsn, graph, proxy, {"items": [1, 2]})
    assert outcome.status is Status.COMPLETED
    assert [step.task for step in steps] == ["split", "join"]


async def test_x7_a_branch_that_can_go_nowhere_fails(dsn: str) -> None:
    narrow = Graph("narrow")
    narrow.add_fan_out("a", "b", "c")
    narrow.add_when("b", "m", "false")
    narrow.add_transition("c", "m")
    narrow.set_fan_in("m")
    narrow.add_transition("m", END)
    outcome, _ = await run(dsn, narrow, idle(*"abcm"), {})
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert "cannot reach its fan-in" in outcome.error.message


async def test_o10_cancel_in_the_middle_of_a_fan_out_keeps_what_the_fan_in_would_have_received(dsn: str) -> None:
    """O10, X9."""
    proxy = idle("a", "m")
    started = asyncio.Event()

    async def stuck() -> None:
        started.set()
        await asyncio.Event().wait()

    for name in "bc":
        proxy.handle_task(name, lambda flow: {"order": [flow.task]})
    proxy.handle_task("d", stuck)
    async with workflow_engine(dsn, proxy=proxy) as (engine, _):
        key = await engine.create(diamond(("order", "append")), {"x": 1}, start=True)
        await started.wait()
        await _until_completed(engine, key, {"b", "c"})
        await engine.cancel(key, "enough")
        outcome = await engine.snapshot(key)
        steps = {step.task: step.status.value for step in await engine.history(key)}
    assert outcome.status is Status.CANCELLED
    assert outcome.state == {"x": 1, "order": ["b", "c"]}
    assert steps == {"a": "completed", "b": "completed", "c": "completed", "d": "cancelled"}


async def _until_completed(engine: Engine, key: str, tasks: set[str]) -> None:
    async with asyncio.timeout(30):
        while True:
            done = {step.task for step in await engine.history(key) if step.status is Status.COMPLETED}
            if tasks <= done:
                return
            await asyncio.sleep(0)


@pytest.mark.slow
async def test_f6_ten_thousand_branches_from_one_step(dsn: str) -> None:
    proxy = idle("split", "join")
    proxy.handle_task("work", lambda item: {"total": item})
    outcome, steps = await run(dsn, each(), proxy, {"items": list(range(10_000))})
    assert outcome.status is Status.COMPLETED
    assert outcome.state["total"] == sum(range(10_000))
    assert len(steps) == 10_002


@pytest.mark.slow
async def test_f2_a_hundred_flows_of_a_hundred_branches_at_once(dsn: str) -> None:
    """Each fan-in runs once and merges each branch once."""
    proxy = idle("split", "join")
    proxy.handle_task("work", lambda item: {"total": item, "done": [item]})
    async with workflow_engine(dsn, proxy=proxy) as (engine, _):
        outcomes = await asyncio.gather(
            *(engine.run(each(), {"items": list(range(n, n + 100))}, timeout=120) for n in range(100))
        )
    for n, outcome in enumerate(outcomes):
        assert outcome.status is Status.COMPLETED
        assert outcome.state["done"] == list(range(n, n + 100))
        assert outcome.state["total"] == sum(range(n, n + 100))
    assert proxy.calls == {"split": 100, "work": 10_000, "join": 100}
