"""Completed steps are compensated before a flow fails or is cancelled (N9), on both databases."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from dwarf_nats.errors import Conflict
from dwarf_nats.workflow.compensated import CompensatedStep
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import Compensation, RetryPolicy
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.flows import Bench, bench, call, each, line

QUICK = RetryPolicy(max_attempts=3, initial_delay_ms=1)


def undone_by(graph: Graph, *nodes: str, retry: RetryPolicy | None = None) -> Graph:
    """The graph with nodes that are compensated by the task `undo-<node>`."""
    for name in nodes:
        graph.nodes[name].compensate = Compensation(url=f"undo-{name}")
        graph.nodes[name].retry = retry
    return graph


class Journal:
    """Tasks that note what they do and undo, in its order."""

    def __init__(self, it: Bench) -> None:
        self.it = it
        self.done: list[str] = []
        self.seen: list[tuple[dict[str, Any], CompensatedStep]] = []

    def does(self, *nodes: str) -> None:
        """Tasks that set a field of their name, and the tasks that undo that."""
        for node in nodes:
            self.it.tasks(**{node: self._do(node), f"undo-{node}": self._undo(node)})

    def fails(self, *nodes: str) -> None:
        for node in nodes:
            self.it.tasks(**{node: self._fail(node)})

    def _do(self, node: str) -> Callable[..., Any]:
        def task() -> dict[str, Any]:
            self.done.append(node)
            return {node: "done"}

        return task

    def _undo(self, node: str) -> Callable[..., Any]:
        def task(flow: Flow) -> dict[str, Any]:
            assert flow.compensating is not None
            self.done.append(f"undo {node}")
            self.seen.append((dict(flow.state), flow.compensating))
            return {node: "undone"}

        return task

    def _fail(self, node: str) -> Callable[..., Any]:
        def task() -> None:
            raise TaskError(f"{node} failed", 422)

        return task


async def test_n9_completed_steps_are_compensated_in_reverse_before_the_flow_fails(dsn: str) -> None:
    """The state of a compensation is what the node was given; its changes go into the final state."""
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a", "b", "c")
        journal.fails("d")
        outcome = await it.run(undone_by(line("saga", "a", "b", "c", "d"), "a", "c"), {"x": 1})
        assert outcome.status is Status.FAILED
        assert not outcome.compensating
        assert outcome.error is not None
        assert (outcome.error.message, outcome.error.code) == ("d failed", 422)
        assert journal.done == ["a", "b", "c", "undo c", "undo a"]
        assert outcome.state == {"x": 1, "a": "undone", "b": "done", "c": "undone"}
        steps = await it.steps(outcome.flow_key)
        assert [state for state, _ in journal.seen] == [{"x": 1, "a": "done", "b": "done"}, {"x": 1}]
        for (_, undone), node in zip(journal.seen, ("c", "a"), strict=True):
            assert undone.step_key == steps[node].step_key
            assert dict(undone.changes) == {node: "done"}
            assert undone.error is not None
            assert undone.error.message == "d failed"
            assert undone.cancel_reason is None
        assert list(steps) == ["a", "b", "c", "d", "c:compensate", "a:compensate"]
        assert steps["c:compensate"].predecessor_id == steps["c"].step_id
        assert {steps[name].status for name in ("c:compensate", "a:compensate")} == {Status.COMPLETED}


async def test_n9_the_flow_runs_and_says_so_while_it_is_compensated(dsn: str) -> None:
    """It is announced once, at its end; a waiter returns then; nothing else can be done to it meanwhile."""
    async with bench(dsn) as it:
        journal, entered, go_on = Journal(it), asyncio.Event(), asyncio.Event()
        journal.does("a")
        journal.fails("b")

        async def undo() -> None:
            entered.set()
            await go_on.wait()

        it.tasks(**{"undo-a": undo})
        key = await it.engine.create(undone_by(line("saga", "a", "b"), "a"), start=True)
        waiting = asyncio.create_task(it.stopped(key))
        await entered.wait()
        shown = await it.engine.snapshot(key)
        assert (shown.status, shown.compensating, shown.error, shown.state) == (Status.RUNNING, True, None, {})
        ((summary,), _) = await it.engine.list(Query(workflow="saga"))
        assert summary.compensating
        assert summary.error is None
        assert summary.task == "a:compensate"
        steps = await it.steps(key)
        for refused in (
            it.engine.cancel(key),
            it.engine.delete(key),
            it.engine.restart(key),
            it.engine.restart_from(steps["b"].step_key),
            it.engine.fork(steps["b"].step_key),
        ):
            with pytest.raises(Conflict):
                await refused
        assert not waiting.done()
        go_on.set()
        outcome = await waiting
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "b failed"
        changes = [one.status for one in it.heard.changes if one.workflow == "saga"]
        assert changes == [Status.CREATED, Status.RUNNING, Status.FAILED]
        ((summary,), _) = await it.engine.list(Query(workflow="saga"))
        assert not summary.compensating
        assert summary.error is not None
        assert summary.task == "b"


async def test_n9_a_compensation_is_retried_and_the_others_go_on_when_it_fails_for_good(dsn: str) -> None:
    async with bench(dsn) as it:
        journal, tried = Journal(it), [0, 0]
        journal.does("a", "b", "c")
        journal.fails("d")

        def flaky(flow: Flow) -> None:
            tried[0] += 1
            if flow.attempt < 2:
                raise TaskError("not now")

        def hopeless() -> None:
            tried[1] += 1
            raise TaskError("never")

        it.tasks(**{"undo-c": flaky, "undo-b": hopeless})
        graph = undone_by(line("saga", "a", "b", "c", "d"), "a", "b", "c", retry=QUICK)
        outcome = await it.run(graph)
        assert outcome.status is Status.FAILED
        assert tried == [3, 3]
        assert journal.done[-1] == "undo a"
        steps = await it.steps(outcome.flow_key)
        assert steps["c:compensate"].status is Status.COMPLETED
        assert steps["c:compensate"].attempt == 2
        failed = steps["b:compensate"]
        assert failed.status is Status.FAILED
        assert failed.error is not None
        assert failed.error.message == "never (tried 3 times)"
        assert outcome.error is not None
        assert outcome.error.message == "d failed"


async def test_n9_a_node_without_a_policy_has_ten_attempts(dsn: str) -> None:
    """Its own reply's retry beats that, and a final error is not retried (L2)."""
    async with bench(dsn) as it:
        tried = {"a": 0, "b": 0}

        def undo_a(flow: Flow) -> None:
            tried["a"] += 1
            flow.retry(max_attempts=12, initial_delay=0)
            raise TaskError("no")

        def undo_b() -> None:
            tried["b"] += 1
            raise TaskError("no", final=True)

        it.idle("a", "b")
        Journal(it).fails("c")
        it.tasks(**{"undo-a": undo_a, "undo-b": undo_b})
        graph = undone_by(line("saga", "a", "b", "c"), "a", "b")
        assert graph.compensations["a:compensate"].retry == RetryPolicy(max_attempts=10)
        assert (await it.run(graph)).status is Status.FAILED
        assert tried == {"a": 12, "b": 1}


async def test_n9_a_compensation_can_only_change_the_state_or_fail(dsn: str) -> None:
    async with bench(dsn) as it:
        it.idle("a")
        Journal(it).fails("b")
        it.tasks(**{"undo-a": lambda flow: flow.interrupt("may I?")})
        outcome = await it.run(undone_by(line("saga", "a", "b"), "a", retry=RetryPolicy(max_attempts=1)))
        assert outcome.status is Status.FAILED
        error = (await it.steps(outcome.flow_key))["a:compensate"].error
        assert error is not None
        assert "asked for interrupt: it can only change the state, or fail" in error.message


async def test_n9_a_step_that_took_its_error_edge_is_not_compensated(dsn: str) -> None:
    graph = Graph("saga")
    graph.add_chain("a", "b", "c", END)
    graph.add_on_error("b", "c")
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a")
        journal.fails("b", "c")
        it.idle("undo-b")
        outcome = await it.run(undone_by(graph, "a", "b"))
        assert outcome.status is Status.FAILED
        assert journal.done == ["a", "undo a"]
        assert "undo-b" not in it.proxy.calls
        assert (await it.steps(outcome.flow_key))["b"].error is None  # it completed


async def test_n9_a_flow_that_completes_is_not_compensated(dsn: str) -> None:
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a", "b")
        assert (await it.run(undone_by(line("saga", "a", "b"), "a", "b"))).status is Status.COMPLETED
        assert journal.done == ["a", "b"]


async def test_n9_nothing_to_compensate_fails_at_once(dsn: str) -> None:
    async with bench(dsn) as it:
        Journal(it).fails("a")
        outcome = await it.run(undone_by(line("saga", "a", "b"), "a", "b"))
        assert outcome.status is Status.FAILED
        assert len(await it.engine.history(outcome.flow_key)) == 1


# -- fan-outs


def order_of(steps: list[Step]) -> list[str]:
    """The compensations in the order in which they ran, with the ordinal of what they compensate."""
    return [step.task for step in sorted(steps, key=lambda one: one.started_at or 0) if ":compensate" in step.task]


async def test_n9_branches_are_compensated_in_the_reverse_order_of_their_completion(dsn: str) -> None:
    """Also those that the failure of another branch came before; the step that fanned out comes last (X8)."""
    async with bench(dsn) as it:
        undone: list[Any] = []
        turn = [asyncio.Event() for _ in range(4)]
        turn[0].set()

        async def work(flow: Flow) -> None:
            at = flow.get("itemIndex")
            await turn[flow.get("item")].wait()
            if at == 1:
                raise TaskError("broken")

        it.idle("split")
        it.tasks(work=work)

        def undo(flow: Flow) -> None:
            undone.append(flow.get("itemIndex", "split"))

        it.tasks(**{"undo-work": undo, "undo-split": undo})
        key = await it.engine.create(undone_by(each("saga"), "work", "split"), {"items": [2, 1, 0]}, start=True)
        for number in range(
            2
        ):  # the last branch completes first, then the middle one fails, then the first one completes
            ended = number + 1
            await it.until_steps(key, lambda steps, n=ended: sum(one.status.terminal for one in steps) == n + 1)  # type: ignore[misc]
            turn[number + 1].set()
        outcome = await it.stopped(key)
        assert outcome.status is Status.FAILED
        assert undone == [0, 2, "split"]


async def test_n9_nested_branches_are_compensated_too(dsn: str) -> None:
    graph = Graph("saga")
    graph.add_for_each("split", "outer", "rows", "row")
    graph.add_for_each("outer", "inner", "row", "cell")
    graph.add_chain("inner", "in", "out", "last", END)
    graph.set_fan_in("in")
    graph.set_fan_in("out")
    async with bench(dsn) as it:
        undone: list[tuple[str, Any]] = []

        def undo(flow: Flow) -> None:
            undone.append((flow.task, flow.get("cell")))

        it.idle("split", "outer", "inner", "in", "out")
        Journal(it).fails("last")
        it.tasks(**{"undo-inner": undo, "undo-in": undo, "undo-out": undo})
        outcome = await it.run(undone_by(graph, "inner", "in", "out"), {"rows": [[1, 2], [3]]})
        assert outcome.status is Status.FAILED
        assert undone[0] == ("out:compensate", None)
        assert sorted(undone[1:], key=str) == sorted(
            [("inner:compensate", 1), ("inner:compensate", 2), ("inner:compensate", 3), *[("in:compensate", None)] * 2],
            key=str,
        )


# -- sub-workflows


async def test_n9_a_completed_child_is_compensated_before_the_step_that_called_it(dsn: str) -> None:
    """At any depth, and also if only the child's graph has compensations. The child is completed again afterwards."""
    inner = undone_by(line("inner", "i1", "i2"), "i1", "i2")
    middle = line("middle", "m1", "m2")
    async with bench(dsn, inner, middle) as it:
        journal = Journal(it)
        journal.does("i1", "i2", "p1", "p3")
        it.tasks(m1=call("inner", deep=True), p2=call("middle"))
        it.idle("m2", "undo-p2")
        it.tasks(**{"undo-p2": lambda: journal.done.append("undo p2")})
        journal.fails("p4")
        outcome = await it.run(undone_by(line("saga", "p1", "p2", "p3", "p4"), "p1", "p2", "p3"))
        assert outcome.status is Status.FAILED
        assert journal.done == ["p1", "i1", "i2", "p3", "undo p3", "undo i2", "undo i1", "undo p2", "undo p1"]
        assert journal.seen[1][0] == {"deep": True, "i1": "done"}
        error = journal.seen[1][1].error
        assert error is not None
        assert error.message == "p4 failed"
        flows = await it.engine.shards[1].store.flows.tree(int(outcome.flow_key.split("-")[1]))
        assert {one.workflow: one.status for one in flows.values()} == {
            "saga": Status.FAILED,
            "middle": Status.COMPLETED,
            "inner": Status.COMPLETED,
        }
        states = {one.workflow: one.final_state for one in flows.values()}
        assert states["inner"] == '{"deep":true,"i1":"undone","i2":"undone"}'
        ended = [(one.workflow, one.status) for one in it.heard.changes if one.status.terminal]
        assert ended == [("inner", Status.COMPLETED), ("middle", Status.COMPLETED), ("saga", Status.FAILED)]


async def test_n9_only_the_childs_graph_has_compensations(dsn: str) -> None:
    async with bench(dsn, undone_by(line("inner", "i1"), "i1")) as it:
        journal = Journal(it)
        journal.does("i1")
        it.tasks(p1=call("inner"))
        journal.fails("p2")
        outcome = await it.run(line("plain", "p1", "p2"))
        assert outcome.status is Status.FAILED
        assert journal.done == ["i1", "undo i1"]


async def test_n9_only_the_graph_of_a_branchs_child_has_compensations(dsn: str) -> None:
    """The branch that fails last was claimed before the child of another had completed."""
    async with bench(dsn, undone_by(line("inner", "i1"), "i1")) as it:
        journal = Journal(it)
        journal.does("i1")
        child_is_over = asyncio.Event()

        async def work(flow: Flow) -> None:
            if flow.get("item") == "calls":
                flow.subgraph("inner")
                child_is_over.set()
            else:
                await child_is_over.wait()
                raise TaskError("broken")

        it.idle("split", "join")
        it.tasks(work=work)
        outcome = await it.run(each("plain"), {"items": ["calls", "fails"]})
        assert outcome.status is Status.FAILED
        assert journal.done == ["i1", "undo i1"]


async def test_n9_a_failing_child_compensates_itself_before_its_caller_sees_the_error(dsn: str) -> None:
    """It is not compensated again when its caller's flow fails."""
    async with bench(dsn, undone_by(line("inner", "i1", "i2"), "i1")) as it:
        journal = Journal(it)
        journal.does("i1", "p1")
        journal.fails("i2")

        def p2(flow: Flow) -> None:
            try:
                flow.subgraph("inner")
            finally:
                if flow.get("p1"):
                    journal.done.append("p2")

        it.tasks(p2=p2)
        outcome = await it.run(undone_by(line("saga", "p1", "p2"), "p1"))
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert "i2 failed" in outcome.error.message
        assert journal.done == ["p1", "p2", "i1", "undo i1", "p2", "undo p1"]
        ended = [(one.workflow, one.status) for one in it.heard.changes if one.status.terminal]
        assert ended == [("inner", Status.FAILED), ("saga", Status.FAILED)]


# -- cancel


class Stuck:
    """A task that never answers."""

    def __init__(self, it: Bench, name: str) -> None:
        self.entered = asyncio.Event()
        it.tasks(**{name: self._wait})

    async def _wait(self) -> None:
        self.entered.set()
        await asyncio.Event().wait()


async def test_n9_a_cancelled_flow_is_compensated_with_the_reason(dsn: str) -> None:
    async with bench(dsn) as it:
        journal, stuck = Journal(it), Stuck(it, "b")
        journal.does("a")
        key = await it.engine.create(undone_by(line("saga", "a", "b"), "a", "b"), {"x": 1}, start=True)
        await stuck.entered.wait()
        await it.engine.cancel(key, "changed my mind")
        outcome = await it.stopped(key)
        assert (outcome.status, outcome.cancel_reason) == (Status.CANCELLED, "changed my mind")
        assert outcome.state == {"x": 1, "a": "undone"}
        assert outcome.error is None
        assert journal.done == ["a", "undo a"]
        ((_, undone),) = journal.seen
        assert undone.cancel_reason == "changed my mind"
        assert undone.error is None
        steps = await it.steps(key)
        assert steps["b"].status is Status.CANCELLED
        assert [one.status for one in it.heard.changes if one.workflow == "saga"][-1:] == [Status.CANCELLED]
        with pytest.raises(Conflict, match="the flow is cancelled"):
            await it.engine.cancel(key)


async def test_n9_a_cancel_compensates_the_whole_tree_from_the_leaves_on(dsn: str) -> None:
    """A grandchild that runs, and the flows above it; whichever of them was named (O10)."""
    inner = undone_by(line("inner", "i1", "i2"), "i1")
    middle = undone_by(line("middle", "m1", "m2"), "m1")
    async with bench(dsn, inner, middle) as it:
        journal, stuck = Journal(it), Stuck(it, "i2")
        journal.does("i1", "m1", "p1")
        it.tasks(m2=call("inner"), p2=call("middle"))
        key = await it.engine.create(undone_by(line("saga", "p1", "p2", "p3"), "p1"), start=True)
        await stuck.entered.wait()
        await it.engine.cancel(key, "no more")
        outcome = await it.stopped(key)
        assert outcome.status is Status.CANCELLED
        assert journal.done == ["p1", "m1", "i1", "undo i1", "undo m1", "undo p1"]
        flows = await it.engine.shards[1].store.flows.tree(int(key.split("-")[1]))
        assert {(one.status, one.cancel_reason, one.compensating) for one in flows.values()} == {
            (Status.CANCELLED, "no more", None)
        }
        ended = sorted(one.workflow for one in it.heard.changes if one.status is Status.CANCELLED)
        assert ended == ["inner", "middle", "saga"]


async def test_n9_a_paused_flow_that_is_cancelled_runs_for_its_compensation(dsn: str) -> None:
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a")
        it.tasks(b=lambda flow: flow.interrupt("?"))
        key = await it.engine.create(undone_by(line("saga", "a", "b"), "a"), start=True)
        await it.until(key, Status.INTERRUPTED)
        await it.engine.cancel(key)
        outcome = await it.ended(key)
        assert outcome.status is Status.CANCELLED
        assert journal.done == ["a", "undo a"]
        changes = [one.status for one in it.heard.changes if one.workflow == "saga"]
        assert changes[-3:] == [Status.INTERRUPTED, Status.RUNNING, Status.CANCELLED]


async def test_n9_a_cancel_while_a_child_compensates_itself_goes_on_with_that(dsn: str) -> None:
    """The child's compensation is not cut off, nor done twice; its caller's steps follow when it is over."""
    async with bench(dsn, undone_by(line("inner", "i1", "i2", "i3"), "i1", "i2")) as it:
        journal, entered, go_on = Journal(it), asyncio.Event(), asyncio.Event()
        journal.does("i1", "i2", "p1")
        journal.fails("i3")

        async def undo() -> None:
            entered.set()
            await go_on.wait()
            journal.done.append("undo i2")

        it.tasks(p2=call("inner"), **{"undo-i2": undo})
        key = await it.engine.create(undone_by(line("saga", "p1", "p2"), "p1"), start=True)
        await entered.wait()
        await it.engine.cancel(key, "enough")
        assert (await it.engine.snapshot(key)).compensating
        with pytest.raises(Conflict, match="is being compensated, and will be cancelled"):
            await it.engine.cancel(key)
        go_on.set()
        outcome = await it.stopped(key)
        assert outcome.status is Status.CANCELLED
        assert outcome.cancel_reason == "enough"
        assert journal.done == ["p1", "i1", "i2", "undo i2", "undo i1", "undo p1"]
        flows = await it.engine.shards[1].store.flows.tree(int(key.split("-")[1]))
        assert {one.workflow: one.status for one in flows.values()} == {
            "inner": Status.FAILED,
            "saga": Status.CANCELLED,
        }


async def test_n9_nothing_to_compensate_is_cancelled_at_once(dsn: str) -> None:
    async with bench(dsn) as it:
        stuck = Stuck(it, "a")
        key = await it.engine.create(undone_by(line("saga", "a", "b"), "a"), start=True)
        await stuck.entered.wait()
        await it.engine.cancel(key)
        assert (await it.engine.snapshot(key)).status is Status.CANCELLED


# -- afterwards


async def test_n9_a_step_that_runs_again_is_compensated_again(dsn: str) -> None:
    """A restart removes the compensations; restart_from those of the steps that it removes or runs again (O13)."""
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a", "b")
        journal.fails("c")
        key = (await it.run(undone_by(line("saga", "a", "b", "c"), "a", "b"))).flow_key
        once = ["a", "b", "undo b", "undo a"]
        assert journal.done == once
        await it.engine.restart(key)
        await it.stopped(key)
        assert journal.done == [*once, *once]
        journal.done.clear()
        await it.engine.restart_from((await it.steps(key))["b"].step_key)
        assert (await it.stopped(key)).status is Status.FAILED
        assert journal.done == ["b", "undo b"]  # the compensation of `a` stands
        names = [step.task for step in await it.engine.history(key)]
        assert sorted(names) == ["a", "a:compensate", "b", "b:compensate", "c"]
        journal.done.clear()
        it.idle("c")
        await it.engine.restart_from((await it.steps(key))["c"].step_key)
        assert (await it.stopped(key)).status is Status.COMPLETED
        assert journal.done == []
        await it.engine.delete(key)


async def test_n9_nothing_runs_again_from_a_compensation(dsn: str) -> None:
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a")
        journal.fails("b")
        key = (await it.run(undone_by(line("saga", "a", "b"), "a"))).flow_key
        step = (await it.steps(key))["a:compensate"].step_key
        for refused in (it.engine.restart_from(step), it.engine.fork(step)):
            with pytest.raises(Conflict, match="'a:compensate' is a compensation: run again from the step of 'a'"):
                await refused


async def test_n9_a_fork_compensates_only_what_it_did_itself(dsn: str) -> None:
    """O14: the original stays untouched, so what its steps did is not undone with the copy."""
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a", "b", "c")
        it.idle("d")
        graph = undone_by(line("saga", "a", "b", "c", "d"), "a", "b", "c")
        key = (await it.run(graph)).flow_key
        journal.fails("d")
        journal.done.clear()
        copy = await it.engine.fork((await it.steps(key))["c"].step_key)
        assert (await it.stopped(copy)).status is Status.FAILED
        assert journal.done == ["c", "undo c"]
        assert (await it.engine.snapshot(key)).status is Status.COMPLETED


async def test_n9_a_fork_of_a_compensated_flow_has_the_compensations_of_the_steps_it_keeps(dsn: str) -> None:
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a", "b")
        journal.fails("c")
        key = (await it.run(undone_by(line("saga", "a", "b", "c"), "a", "b"))).flow_key
        it.idle("c")
        copy = await it.engine.fork((await it.steps(key))["b"].step_key)
        assert (await it.stopped(copy)).status is Status.COMPLETED
        assert sorted((await it.steps(copy)).keys()) == ["a", "a:compensate", "b", "c"]
        assert journal.done == ["a", "b", "undo b", "undo a", "b"]


async def test_n9_a_breakpoint_does_not_stop_a_compensation(dsn: str) -> None:
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a")
        journal.fails("b")
        key = await it.engine.create(undone_by(line("saga", "a", "b"), "a"))
        await it.engine.break_before(key, "a:compensate", True)
        await it.engine.start(key)
        assert (await it.ended(key)).status is Status.FAILED
        assert journal.done == ["a", "undo a"]


async def test_n9_the_diagram_ties_a_compensation_to_its_step(dsn: str) -> None:
    """By a dotted line; END follows on the step that failed, not on what came after it. A spawn step gains no branch."""
    async with bench(dsn) as it:
        journal = Journal(it)
        journal.does("a", "split", "work")
        journal.fails("b", "join")
        key = (await it.run(undone_by(line("saga", "a", "b"), "a"))).flow_key
        drawn = await it.engine.mermaid(key)
        nodes = {label.split("<br/>")[0]: name for name, label in re.findall(r'(n\d+)[\[(]+"([^"]*)"', drawn)}
        a, b, undo, end = (nodes[name] for name in ("a", "b", "a#58;compensate", "END"))
        assert f"{a} -.-> {undo}" in drawn
        assert f"{b} --> {end}" in drawn
        assert f"{undo} --> {end}" not in drawn
        key = (await it.run(undone_by(each("fan"), "split", "work"), {"items": [1, 2]})).flow_key
        drawn = await it.engine.mermaid(key)
        assert "work 1/2" in drawn
        assert "work 2/2" in drawn
        assert "3/3" not in drawn
        assert drawn.count("-.->") == 3
