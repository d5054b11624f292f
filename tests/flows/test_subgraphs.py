"""Flows that call flows (P1, P4, X4, X5, X8, O7, O9, O10), on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, Conflict, DwarfError, Unavailable
from dwarf_nats.ports import SourceAway
from dwarf_nats.sdk import SubgraphError
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.flows import ask, bench, call, count_rows, each, line


async def test_p1_the_child_gets_exactly_its_input_and_its_final_state_comes_back(dsn: str) -> None:
    """P1: nothing crosses implicitly; baggage and scheduling are inherited; changes before the wait are kept."""
    async with bench(dsn, line("child", "c", "d")) as it:
        seen: dict[str, Any] = {}

        def a(flow: Flow) -> None:
            flow.transform("runs", lambda n: n + 1, 0)
            flow.set("result", flow.subgraph("child", {"x": 1}))

        def c(flow: Flow) -> dict[str, Any]:
            seen["state"], seen["baggage"], seen["workflow"] = dict(flow.state), flow.baggage, flow.workflow
            return {"y": 2}

        it.tasks(a=a, c=c, d=lambda: {"z": 3})
        it.idle("b")
        options = FlowOptions(baggage={"tenant": "t"}, priority=7, fairness_key="k", fairness_weight=2.5)
        outcome = await it.run(line("parent", "a", "b"), {"secret": 1}, options=options)
        assert outcome.status is Status.COMPLETED
        assert outcome.state == {"secret": 1, "runs": 2, "result": {"x": 1, "y": 2, "z": 3}}
        assert seen == {"state": {"x": 1}, "baggage": {"tenant": "t"}, "workflow": "child"}
        rows = await it.engine.shards[1].store.flows.tree(int(outcome.flow_key.split("-")[1]))
        assert {(one.priority, one.fairness_key, one.fairness_weight) for one in rows.values()} == {(7, "k", 2.5)}
        child = next(one for one in rows.values() if one.surgraph_flow_id is not None)
        assert (child.thread_id, child.notify) == (child.flow_id, "")
        assert it.proxy.calls == {"a": 2, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize("budget", [None, 7_000])
async def test_p1_a_child_inherits_the_time_budget_of_its_flow(dsn: str, budget: int | None) -> None:
    """At any depth, in the child of a retry, and after a restart of the caller."""
    async with bench(dsn, line("child", "c"), line("leaf", "d")) as it:
        seconds: dict[str, list[int]] = {}

        def note(flow: Flow) -> None:
            left = (flow.deadline - flow.updated_at).total_seconds()
            seconds.setdefault(flow.task, []).append(7 if left < 100 else 120)

        def a(flow: Flow) -> None:
            flow.subgraph("child")
            if flow.attempt == 0:
                flow.retry(initial_delay=0)

        def c(flow: Flow) -> None:
            note(flow)
            flow.subgraph("leaf")

        it.tasks(a=a, c=c, d=note)
        key = await it.engine.create(line("parent", "a"), options=FlowOptions(time_budget_ms=budget), start=True)
        assert (await it.stopped(key)).status is Status.COMPLETED
        rows = await it.engine.shards[1].store.flows.tree(int(key.split("-")[1]))
        assert {row.time_budget_ms for row in rows.values()} == {budget}
        steps = await it.steps(key)
        await it.engine.restart_from(steps["a"].step_key)
        await it.stopped(key)
        rows = await it.engine.shards[1].store.flows.tree(int(key.split("-")[1]))
        assert [row.time_budget_ms for row in rows.values()] == [budget] * 3
        assert {one for found in seconds.values() for one in found} == {7 if budget else 120}


async def test_p1_input_left_out_is_an_empty_state(dsn: str) -> None:
    async with bench(dsn, line("child", "c")) as it:
        it.tasks(a=lambda flow: {"got": flow.subgraph("child")}, c=lambda flow: {"saw": dict(flow.state)})
        assert (await it.run(line("parent", "a"))).state == {"got": {"saw": {}}}


async def test_x8_a_failed_child_wakes_the_step_with_its_error_text(dsn: str) -> None:
    """P1, X8: the waiting step decides."""
    async with bench(dsn, line("child", "c")) as it:

        def a(flow: Flow) -> dict[str, Any]:
            try:
                flow.subgraph("child")
            except SubgraphError as error:
                return {"caught": str(error)}
            return {}

        def c() -> None:
            raise TaskError("no luck", code=418)

        it.tasks(a=a, c=c, b=call("child"))
        outcome = await it.run(line("parent", "a"))
        assert outcome.state == {"caught": "no luck"}
        outcome = await it.run(line("parent", "b"))
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "no luck"


async def test_x8_a_child_that_fails_inside_its_fan_out(dsn: str) -> None:
    """The end of a cohort ends the child; the error edge of the caller catches it."""
    graph = Graph("parent")
    graph.add_chain("a", END)
    graph.add_on_error("a", "mend")
    graph.add_transition("mend", END)
    async with bench(dsn, each("child")) as it:
        it.idle("split", "join", "mend")

        def work(item: int) -> dict[str, Any]:
            if item == 2:
                raise TaskError("two")
            return {"total": item}

        it.tasks(a=call("child", items=[1, 2, 3]), work=work)
        outcome = await it.run(graph)
        assert outcome.status is Status.COMPLETED
        assert outcome.state["onErr"]["message"] == "two"


@pytest.mark.parametrize(
    ("workflow", "said"), [("missing", "no workflow 'missing'"), ("no such name", "sub-workflow"), ("bad", "bad")]
)
async def test_x4_a_child_that_cannot_be_loaded_is_an_error_of_the_step(dsn: str, workflow: str, said: str) -> None:
    bad = Graph("bad")
    bad.add_task("lonely")
    async with bench(dsn, bad) as it:
        it.tasks(a=lambda flow: flow.subgraph(workflow), b=lambda flow: None)
        graph = Graph("parent")
        graph.add_chain("a", END)
        graph.add_on_error("a", "b")
        graph.add_transition("b", END)
        outcome = await it.run(graph)
        assert outcome.status is Status.COMPLETED
        assert said in outcome.state["onErr"]["message"]
        assert outcome.state["onErr"]["code"] in (400, 404)


@pytest.mark.parametrize("error", [SourceAway("it knew it a moment ago"), Unavailable("nobody says anything")])
async def test_b6_a_child_whose_graph_source_is_away_is_waited_for(
    dsn: str, monkeypatch: pytest.MonkeyPatch, error: DwarfError
) -> None:
    """A source that knew the workflow and is gone for the moment does not fail the flow, nor does one that is silent."""
    async with bench(dsn, line("child", "c")) as it:
        asked: list[str] = []
        load = it.proxy.load

        async def restarting(workflow: str, baggage: Raw) -> Graph | None:
            asked.append(workflow)
            if len(asked) < 3:
                raise error
            return await load(workflow, baggage)

        monkeypatch.setattr(it.proxy, "load", restarting)
        it.tasks(a=call("child"))
        it.idle("c")
        outcome = await it.run(line("parent", "a"))
        assert (outcome.status, asked) == (Status.COMPLETED, ["child"] * 3)


async def test_x4_a_second_park_after_a_child_is_an_error(dsn: str) -> None:
    async with bench(dsn, line("child", "c")) as it:

        def a(flow: Flow) -> None:
            flow.subgraph("child")
            flow.interrupt("?")

        it.tasks(a=a)
        it.idle("c")
        outcome = await it.run(line("parent", "a"))
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert "a step waits once" in outcome.error.message


async def test_x5_a_retry_runs_a_new_child_and_removes_the_first(dsn: str) -> None:
    async with bench(dsn, line("child", "c"), line("grand", "g")) as it:
        runs: list[int] = []

        def a(flow: Flow) -> None:
            try:
                flow.set("result", flow.subgraph("child", {"attempt": flow.attempt}))
            except SubgraphError:
                flow.retry(max_attempts=5, initial_delay=0)
                raise

        def c(flow: Flow) -> None:
            runs.append(flow.get("attempt"))
            flow.subgraph("grand")
            if flow.get("attempt") < 2:
                raise TaskError("not yet")

        it.tasks(a=a, c=c)
        it.idle("g")
        outcome = await it.run(line("parent", "a"))
        assert outcome.state == {"result": {"attempt": 2}}
        assert runs == [0, 0, 1, 1, 2, 2]
        assert await count_rows(it.engine) == (3, 3)
        steps = await it.engine.history(outcome.flow_key)
        assert (steps[0].attempt, len(steps[0].sub_history)) == (2, 1)


async def test_p4_children_in_the_branches_of_a_fan_out_and_deep_nesting(dsn: str) -> None:
    """P1, P4."""
    async with bench(dsn, each("outer"), line("deep", "d")) as it:
        it.idle("split", "join")

        def d(flow: Flow) -> dict[str, Any]:
            depth = flow.get("depth")
            return {"sum": depth + (flow.subgraph("deep", {"depth": depth - 1})["sum"] if depth else 0)}

        it.tasks(work=lambda flow: {"total": flow.subgraph("deep", {"depth": flow.get("item")})["sum"]}, d=d)
        outcome = await it.run("outer", {"items": [0, 1, 2, 12]})
        assert outcome.state["total"] == 0 + 1 + 3 + 78


async def test_o7_histories_nest_and_steps_are_walked_into_and_out_of_children(dsn: str) -> None:
    """O7: the waiting step itself skipped."""
    async with bench(dsn, line("child", "c", "d"), line("grand", "g")) as it:
        it.tasks(p=call("child"), d=call("grand"))
        it.idle("a", "b", "c", "g")
        outcome = await it.run(line("parent", "a", "p", "b"))
        steps = await it.engine.history(outcome.flow_key)
        assert [one.task for one in steps] == ["a", "p", "b"]
        p = steps[1]
        assert (p.subgraph, p.sub_workflow) == (True, "child")
        assert [one.task for one in p.sub_history] == ["c", "d"]
        d = p.sub_history[1]
        assert (d.sub_workflow, [one.task for one in d.sub_history]) == ("grand", ["g"])
        assert all(one.state_json is None and one.changes_json is None for one in [*steps, *p.sub_history])
        keys = {one.task: one.step_key for one in [*steps, *p.sub_history, *d.sub_history]}
        names = {key: task for task, key in keys.items()}

        async def around(task: str) -> tuple[str | None, str | None]:
            step = await it.engine.step(keys[task])
            return names.get(step.prev_key or ""), names.get(step.next_key or "")

        assert await around("a") == (None, "c")
        assert await around("c") == ("a", "g")
        assert await around("g") == ("c", "b")
        assert await around("b") == ("g", None)
        assert await around("p") == ("a", "c")
        assert await around("d") == ("c", "g")
        whole = await it.engine.step(keys["p"])
        assert (whole.subgraph, whole.sub_workflow, whole.changes_json) == (True, "child", b'{"child":{"child":{}}}')


async def test_o7_the_next_of_a_spawn_step_is_its_first_branch_and_before_a_fan_in_the_last_to_arrive(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("split", "join")
        turn = asyncio.Event()

        async def work(flow: Flow) -> None:
            if flow.get("item") == 0:
                await turn.wait()
            else:
                turn.set()

        it.tasks(work=work)
        outcome = await it.run(each(), {"items": [0, 1]})
        steps = await it.engine.history(outcome.flow_key)
        split, join = steps[0], steps[-1]
        assert (await it.engine.step(split.step_key)).next_key == steps[1].step_key
        last = (await it.engine.step(join.step_key)).prev_key
        assert last in {steps[1].step_key, steps[2].step_key}
        assert steps[1].successor_id == join.step_id


async def test_o10_cancel_takes_every_flow_above_and_below(dsn: str) -> None:
    """O10: from the root, from the middle and from the leaf; each gets a final state, the task is told."""
    async with bench(dsn, line("top", "t"), line("mid", "m"), line("low", "l")) as it:
        for level in range(3):
            began = asyncio.Event()

            async def stuck(began: asyncio.Event = began) -> None:
                began.set()
                await asyncio.Event().wait()

            it.tasks(t=call("mid", a=1), m=call("low", b=2), l=stuck)
            root = await it.engine.create("top", {"r": 0}, start=True)
            await began.wait()
            flows = sorted((await _tree(it, root)).values(), key=lambda one: one.flow_id)
            keys = [f"1-{one.flow_id}-{one.token}" for one in flows]
            told = len(it.proxy.cancelled)
            await it.engine.cancel(keys[level], "stop")
            outcomes = [await it.engine.snapshot(key) for key in keys]
            assert {(one.status, one.cancel_reason) for one in outcomes} == {(Status.CANCELLED, "stop")}
            assert [one.state for one in outcomes] == [{"r": 0}, {"a": 1}, {"b": 2}]
            assert len(it.proxy.cancelled) == told + 1
            steps = await it.engine.history(root)
            assert _statuses(steps) == ["cancelled"] * 3
            with pytest.raises(Conflict):
                await it.engine.cancel(keys[level])


async def _tree(it: Any, key: str) -> Any:
    return await it.engine.shards[1].store.flows.tree(int(key.split("-")[1]))


def _statuses(steps: list[Step]) -> list[str]:
    return [status for one in steps for status in (one.status.value, *_statuses(one.sub_history))]


async def test_o9_subgraph_flows_are_not_listed_and_go_with_their_root(dsn: str) -> None:
    async with bench(dsn, line("child", "c")) as it:
        it.tasks(a=call("child"))
        it.idle("c")
        first = (await it.run(line("parent", "a"))).flow_key
        await it.run(line("parent", "a"))
        flows, _ = await it.engine.list()
        assert [one.workflow for one in flows] == ["parent", "parent"]
        assert await count_rows(it.engine) == (4, 4)
        await it.engine.delete(first)
        assert await count_rows(it.engine) == (2, 2)
        assert await it.engine.purge(Query(workflow="child")) == 0
        assert await it.engine.purge(Query(status=Status.COMPLETED)) == 1
        assert await count_rows(it.engine) == (0, 0)


async def test_operations_on_a_subgraphs_flow(dsn: str) -> None:
    """Semantics: keys-of-child-flows; reading works; delete, restart, continue and joining name the root; start is a 409."""
    async with bench(dsn, line("child", "c")) as it:
        it.tasks(a=call("child"), c=ask("?"))
        outcome = await it.run(line("parent", "a"))
        flows = await _tree(it, outcome.flow_key)
        child = next(f"1-{one.flow_id}-{one.token}" for one in flows.values() if one.surgraph_flow_id is not None)
        root = outcome.flow_key.rsplit("-", 1)[0]
        assert (await it.engine.snapshot(child)).workflow == "child"
        assert [one.task for one in await it.engine.history(child)] == ["c"]
        assert (await it.engine.fingerprint(child))[1] is Status.INTERRUPTED
        with pytest.raises(Conflict):
            await it.engine.start(child)
        with pytest.raises(BadRequest, match=f"use the key of {root}"):
            await it.engine.delete(child)
        with pytest.raises(BadRequest, match=f"use the key of {root}"):
            await it.engine.restart(child)
        with pytest.raises(BadRequest, match=f"use the key of {root}"):
            await it.engine.continue_(child)
        with pytest.raises(BadRequest, match=f"use the key of {root}"):
            await it.engine.create(line("x", "c"), options=FlowOptions(thread=child))
        await it.engine.resume(child, 1)
        assert (await it.ended(outcome.flow_key)).status is Status.COMPLETED


async def test_o12_breakpoints_are_inherited_and_reach_a_running_child(dsn: str) -> None:
    """O12: set before the child's graph is loaded, and set while the child runs."""
    async with bench(dsn, line("child", "c", "d")) as it:
        began, gate = asyncio.Event(), asyncio.Event()

        async def c() -> None:
            began.set()
            await gate.wait()

        it.tasks(a=call("child"), c=c)
        it.idle("d", "b")
        key = await it.engine.create(line("parent", "a", "b"), start=True)
        await began.wait()
        await it.engine.break_before(key, "d")
        gate.set()
        await it.until(key, Status.INTERRUPTED)
        await it.engine.resume_break(key)
        assert (await it.ended(key)).status is Status.COMPLETED
        key = await it.engine.create(line("parent", "a", "b"))
        await it.engine.break_before(key, "c")
        await it.engine.start(key)
        await it.until(key, Status.INTERRUPTED)
        (parent,) = await it.engine.history(key)
        assert [(one.task, one.status) for one in parent.sub_history] == [("c", Status.INTERRUPTED)]
        await it.engine.resume_break(key, {"o": 1})
        assert (await it.ended(key)).state == {"child": {"o": 1}}


async def test_events_of_subgraph_flows_are_made_too(dsn: str) -> None:
    """Wire section 5: every change of a flow's status, subgraph flows included."""
    async with bench(dsn, line("child", "c")) as it:
        it.tasks(a=call("child"), c=ask("?"))
        outcome = await it.run(line("parent", "a"))
        await it.engine.resume(outcome.flow_key)
        await it.ended(outcome.flow_key)
        root = outcome.flow_key.rsplit("-", 1)[0]
        await it.heard.until(lambda: it.heard.of(root)[-1] is Status.COMPLETED)
        expected = ["created", "running", "interrupted", "running", "completed"]
        assert [one.value for one in it.heard.of(root)] == expected
        child = next(one.flow_id for one in it.heard.changes if one.flow_id != root)
        assert [one.value for one in it.heard.of(child)] == expected


async def test_s1_a_child_input_over_the_limit_fails_the_step(dsn: str) -> None:
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.testing import TaskProxy, workflow_engine

    proxy = TaskProxy()
    proxy.handle_graph(line("child", "c"))
    proxy.handle_task("a", lambda flow: flow.subgraph("child", {"big": "x" * 500}))
    async with workflow_engine(dsn, proxy=proxy, settings=EngineSettings(max_state_bytes=200)) as (engine, _):
        outcome = await engine.run(line("parent", "a"), timeout=30)
    assert outcome.error is not None
    assert outcome.error.code == 413
